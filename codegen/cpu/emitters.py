"""The registry of what the cpu target can emit; the emitters are in `emit_*.py` beside it."""

from __future__ import annotations

from ...ir.graph import Node
from ..emitting import Emitters
from .function import Function

EMITTERS: Emitters[Function, Node, None] = Emitters(__name__, "emit_*")
emits = EMITTERS.emits


def emit_node(fn: Function, node: Node) -> None:
    """Add the steps of one node.

    Raises:
        LlmcError: LLMC-E0401, the op or this use of it isn't supported.
    """
    fn.node = node
    emitter = EMITTERS.find(node.op)
    if emitter is None:
        raise fn.refuse("there is no kernel for it")
    emitter(fn, node, node.op)
