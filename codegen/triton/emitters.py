"""The registry of what the triton target has launches for; the emitters are in `emit_*.py`."""

from __future__ import annotations

from ...ir.graph import Node
from ..emitting import Emitters
from .program import Program

EMITTERS: Emitters[Program, Node, None] = Emitters(__name__, "emit_*")
emits = EMITTERS.emits


def emit_node(program: Program, node: Node) -> None:
    """Add the launches of one node.

    Raises:
        LlmcError: LLMC-E0401, the op or this use of it isn't supported.
    """
    program.nodes = (node,)
    emitter = EMITTERS.find(node.op)
    if emitter is None:
        raise program.refuse("there is no kernel for it")
    emitter(program, node, node.op)
