"""In which element type each value lies in memory.

Values are f32 in the graph. One whose readers all multiply it with a matrix in 16 bits is rounded
to that type once, when it is written: readers would round each element themselves otherwise, and
read twice the bytes. The residual stream and whatever else is added up stays f32.
"""

from __future__ import annotations

from ...ir.graph import Graph, Node, Value
from ...ir.ops import Linear, LogitsRows, Reshape
from ...ir.ops.linear import GroupedLinear
from ...ir.types import DType
from ...passes.quantize import Scheme


def compute_type(scheme: Scheme) -> DType:
    """What matrices are multiplied in: the element type of a scheme's weights, else bf16."""
    return scheme.weight if scheme.weight in (DType.F32, DType.F16) else DType.BF16


def stored_types(graph: Graph, compute: DType) -> dict[Value, DType]:
    """The values that are stored as `compute` in place of f32."""
    if compute is DType.F32:
        return {}
    found: dict[Value, DType] = {}
    for node in reversed(graph.nodes):
        for value in node.outputs:
            if value.type.dtype is not DType.F32 or value in graph.outputs or not value.users:
                continue
            if all(_multiplies(user, value, found) for user in value.users):
                found[value] = compute
    return found


def _multiplies(user: Node, value: Value, found: dict[Value, DType]) -> bool:
    """Whether a reader takes the value as rows of a product, maybe after moving whole rows."""
    op, inputs = user.op, user.inputs
    if isinstance(op, Linear | GroupedLinear):
        reads = [i for i, other in enumerate(inputs) if other is value]
        return reads == [0] and inputs[1].type.dtype is not DType.F32
    moves = isinstance(op, Reshape | LogitsRows) and inputs[0] is value
    return moves and user.outputs[0] in found
