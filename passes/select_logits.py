"""Compute logits only for the rows that are wanted.

    head(norm(x))[T, vocab]   =>   head(norm(logits_rows(x, rows)))[R, vocab]

The selection moves up from the output past every op that works row by row and has one
operand that depends on tokens, so that a prefill of 512 tokens pays for one row of logits.
"""

from __future__ import annotations

from dataclasses import fields, replace

from ..ir.graph import Graph, Node
from ..ir.ops import Linear, LogitsRows, Norm, Op
from ..ir.roles import StepArray
from ..ir.types import DType, R, Sym, TensorType


def select_logits(graph: Graph) -> bool:
    """Insert the selection; False if there is one."""
    role = StepArray.LOGITS_ROWS
    if graph.input_as(role) is not None:
        return False
    rows = graph.add_input(role.value, TensorType(DType.I32, (R,)), role)
    chain: list[Node] = []
    value = graph.outputs[0]
    while (node := value.producer) is not None and _row_wise(node):
        chain.append(node)
        value = next(v for v in node.inputs if not v.is_constant)
    chain.reverse()
    anchor = chain[0] if chain else None
    if anchor is None:
        selected = graph.append(LogitsRows(), [value, rows]).output
        graph.outputs[0] = selected
        return True
    selected = graph.insert_before(anchor, LogitsRows(), [value, rows]).output
    new = {value: selected}
    for node in chain:
        operands = [new.get(v, v) for v in node.inputs]
        made = graph.insert_before(node, _for_rows(node.op), operands)
        new.update(zip(node.outputs, made.outputs, strict=True))
    graph.outputs[0] = new[graph.outputs[0]]
    graph.erase_dead()
    return True


def _row_wise(node: Node) -> bool:
    """One token operand, a token-first result, and nothing that looks at other rows."""
    if node.op.mixes_tokens or len(node.outputs) != 1:
        return False
    if isinstance(node.op, Linear) and node.op.residual:
        return False
    if isinstance(node.op, Norm) and node.op.add:
        return False
    operands = [v for v in node.inputs if not v.is_constant]
    shapes = [operands[0].type.shape, node.output.type.shape] if len(operands) == 1 else []
    return bool(shapes) and all(s and isinstance(s[0], Sym) and s[0].scale == 1 for s in shapes)


def _for_rows(op: Op) -> Op:
    """The op with T in its shape attributes replaced by R."""
    changes = {}
    for field in fields(op):
        value = getattr(op, field.name)
        if isinstance(value, tuple) and any(isinstance(d, Sym) for d in value):
            changes[field.name] = tuple(R if isinstance(d, Sym) else d for d in value)
    return replace(op, **changes) if changes else op
