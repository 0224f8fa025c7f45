"""Prove that tokens meet only in attention.

The trace is of one sequence; a step packs several behind one another. That is sound only if
every op but attention (and the expert ops, which are declared to keep rows apart) is pointwise
along T: then a token's row doesn't depend on which rows stand beside it. Type rules already
refuse slices, reductions, scans and concatenations along a symbolic dimension; what is left to
check are reshapes that would cut a token's row, and products of tokens with tokens.
"""

from __future__ import annotations

from ..base.errors import LlmcError
from ..ir.graph import Graph, Node
from ..ir.ops import Embedding, Gather, MatMul, Reshape, Scatter, Softmax, TokenCount
from ..ir.types import Dim, Sym
from .raise_attention import why_not_raised


def prove_packing(graph: Graph, tokens: int = 64) -> bool:
    """Check every node; never changes the graph. `tokens`: as many as a sequence may have.

    Raises:
        LlmcError: LLMC-E0412, naming the op, its module and the line of model code.
    """
    found = why_not_raised(graph, tokens)
    if found is not None:
        node, why = found
        raise LlmcError("LLMC-E0412", f"attention in {_where(node)}: {why}")
    for node in graph.nodes:
        why = _mixes(node)
        if why:
            raise LlmcError("LLMC-E0412", f"{node.op.mnemonic} in {_where(node)} {why}")
    return False


def _where(node: Node) -> str:
    return f"{node.scope or 'the model'}" + (f" ({node.source})" if node.source else "")


def _mixes(node: Node) -> str:
    """Why the node isn't pointwise along T, or ""."""
    op = node.op
    symbolic = [_symbols(v.type.shape) for v in node.outputs]
    if any(len(s) > 1 for s in symbolic):
        return "relates tokens with tokens"
    if op.mixes_tokens:
        return ""
    if isinstance(op, TokenCount):
        return "counts the tokens of the step"
    if isinstance(op, Reshape):
        return _reshape(node)
    if isinstance(op, MatMul) and isinstance(node.inputs[1].type.shape[-2], Sym):
        return "sums over tokens"
    if isinstance(op, Softmax) and isinstance(node.inputs[0].type.shape[op.dim], Sym):
        return "normalizes over tokens"
    if isinstance(op, Embedding) and _symbols(node.inputs[0].type.shape):
        return "looks up other tokens"
    if isinstance(op, Gather | Scatter) and isinstance(node.inputs[0].type.shape[op.dim], Sym):
        return "moves values between tokens"
    return ""


def _symbols(shape: tuple[Dim, ...]) -> list[Sym]:
    return [d for d in shape if isinstance(d, Sym)]


def _reshape(node: Node) -> str:
    """A reshape keeps rows whole if as many elements stand before T on both sides."""
    old, new = node.inputs[0].type.shape, node.output.type.shape
    if not _symbols(old):
        return ""
    before_old, before_new = _before(old), _before(new)
    if before_old == before_new == 1:
        return ""
    if before_old != before_new or _symbols(old) != _symbols(new):
        return f"reshapes {list(old)} to {list(new)}, which cuts tokens apart"
    return ""


def _before(shape: tuple[Dim, ...]) -> int:
    count = 1
    for dim in shape:
        if isinstance(dim, Sym):
            return count
        count *= dim
    return count
