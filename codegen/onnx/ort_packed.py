"""What GroupQueryAttention can take over from the operators around it.

    q, k, v = slices of y; attention(rotate(q, angles), rotate(k, angles), v)
        =>  GroupQueryAttention(y, tables of all positions)

The projections' result goes in as it is, if queries, keys and values lie in it in this order. The
rotation is the operator's own, if the angles follow from positions alone: then the cosines and
sines of all positions that a slot has are constants, computed here by the ops' references.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from ...ir.graph import Graph, Node, Value
from ...ir.interpreter import scalar_tensor
from ...ir.ops import Reshape, Slice, SlotAttention, SlotWrite
from ...ir.recipe import Computed, Constant
from ...ir.roles import StepArray
from ...ir.types import DType, TensorType
from ...weights.recipes import leaves

_HEAD_MULTIPLE, _PAIR_MULTIPLE = 16, 8
"""What GroupQueryAttention's own rotation asks of a head's size and of the number of its pairs."""
_MOST_BYTES = 1 << 27
"""Of a table: more than that isn't worth it."""


def packed_projections(q: Value, k: Value, v: Value) -> Value | None:
    """The value [T, q | k | v] that these heads [T, H, D] are slices of, if they are all of it."""
    parts = [_slice_of(heads) for heads in (q, k, v)]
    first = parts[0]
    if first is None or any(part is None or part[0] is not first[0] for part in parts):
        return None
    ends = [(part[1], part[2]) for part in parts if part is not None]
    whole = ends[0][0] == 0 and ends[-1][1] == first[0].type.shape[-1]
    return first[0] if whole and all(a[1] == b[0] for a, b in pairwise(ends)) else None


def _slice_of(heads: Value) -> tuple[Value, int, int] | None:
    """(value, start, stop) of a reshaped slice of its last dimension."""
    reshape = heads.producer
    if reshape is None or not isinstance(reshape.op, Reshape):
        return None
    part = reshape.inputs[0].producer
    if part is None or not isinstance(part.op, Slice):
        return None
    op, source = part.op, part.inputs[0]
    plain = op.step == 1 and op.dim in (-1, source.type.rank - 1) and source.type.rank == 2
    return (source, op.start, op.stop) if plain else None


def rotates_inside(attention: Node, write: Node, length: int) -> bool:
    """Whether queries and keys are rotated by the same angles, in a way that the operator has."""
    op, own = attention.op, write.op
    assert isinstance(op, SlotAttention)
    assert isinstance(own, SlotWrite)
    width = attention.inputs[0].type.shape[-1]
    assert isinstance(width, int)
    fits = width % _HEAD_MULTIPLE == 0 and (op.rotary // 2) % _PAIR_MULTIPLE == 0
    same = (op.rotary, op.interleaved) == (own.rotary, own.interleaved)
    angles = attention.inputs[-2:]
    return (
        op.rotary > 0
        and same
        and fits
        and angles == write.inputs[-2:]
        and length * op.rotary // 2 * 4 <= _MOST_BYTES
        and all(_follows_from_positions(value) for value in angles)
    )


def _follows_from_positions(value: Value) -> bool:
    """No token and no weight has a part in it."""
    if value.is_constant:
        if scalar_tensor(value) is not None:
            return True
        return all(isinstance(leaf, Computed | Constant) for leaf in leaves(value.recipe))
    node = value.producer
    if node is None:
        return value.role is StepArray.POSITIONS
    return all(map(_follows_from_positions, node.inputs))


def table_of(value: Value, length: int) -> Value:
    """A constant [length, …]: what `value` [T, …] is for positions 0 to length - 1."""
    rows = _evaluated(value, length, {}).float().numpy()
    recipe = Computed.of(f"{value.producer and value.producer.op.mnemonic} of positions", rows)
    return Graph.constant(f"rotary.{recipe.digest}", recipe, TensorType(DType.F32, rows.shape))


def _evaluated(value: Value, length: int, known: dict[Value, torch.Tensor]) -> torch.Tensor:
    if value in known:
        return known[value]
    node = value.producer
    if value.is_constant:
        known[value] = _constant(value)
    elif node is None:
        known[value] = torch.arange(length, dtype=torch.int32)
    else:
        operands = [_evaluated(v, length, known) for v in node.inputs]
        with torch.no_grad():
            results = node.op.bind({"T": length}).reference(*operands)
        results = results if isinstance(results, tuple) else (results,)
        known.update(zip(node.outputs, results, strict=True))
    return known[value]


def _constant(value: Value) -> torch.Tensor:
    from ...weights.values import RecipeValues

    literal = scalar_tensor(value)
    if literal is not None:
        return literal
    array = RecipeValues(None).value(value.recipe)  # type: ignore[arg-type]  # nothing to read
    return torch.from_numpy(array.copy())
