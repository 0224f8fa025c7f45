"""The registries of what the onnx target can emit, one for each dialect.

Operators of ONNX alone (any conforming runtime) are emitted by `emit_*.py`, ONNX Runtime's own,
where they are faster, by `ort_*.py`.
"""

from __future__ import annotations

from ...ir.graph import Node
from ..emitting import Emitters
from .model import Model

STANDARD: Emitters[Model, Node, None] = Emitters(__name__, "emit_*")
ORT: Emitters[Model, Node, None] = Emitters(__name__, "ort_*", fallback=STANDARD)
_DIALECTS = {"ort": ORT, "standard": STANDARD}
emits, emits_ort = STANDARD.emits, ORT.emits


def emit_node(model: Model, node: Node, dialect: str) -> None:
    """Add the nodes of one node.

    Raises:
        LlmcError: LLMC-E0401, the op or this use of it isn't supported.
    """
    model.node = node
    emitter = _DIALECTS[dialect].find(node.op)
    if emitter is None:
        raise model.refuse("there is no ONNX operator for it")
    emitter(model, node, node.op)
