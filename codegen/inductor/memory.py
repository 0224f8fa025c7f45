"""How much memory a program takes beside weights and caches, as far as its graph shows.

torch allocates buffers when they are needed and frees them after their last use. What a run at the
limits holds at once is a lower bound that leaves out only what fusion adds or saves.
"""

from __future__ import annotations

from math import prod

from ...artifact.manifest import Limits
from ...ir.graph import Graph, Node, Value
from ...ir.ops import TORCH_DTYPE, GroupedLinear, Linear, SlotAttention
from ...ir.types import bind_dim


def workspace_bytes(graph: Graph, limits: Limits) -> int:
    """The most that values and what an op needs for itself take together."""
    sizes = {
        "T": limits.max_tokens,
        "S": 1,
        "R": limits.max_logits_rows,
        "L": limits.block_size,
    }
    last = {value: at for at, node in enumerate(graph.nodes) for value in node.inputs}
    alive, most = 0, 0
    for at, node in enumerate(graph.nodes):
        alive += sum(_bytes(value, sizes) for value in node.outputs)
        most = max(most, alive + _scratch(node, sizes))
        ended = {value for value in (*node.inputs, *node.outputs) if last.get(value, at) == at}
        alive -= sum(_bytes(value, sizes) for value in ended if value.producer is not None)
    return most


def _bytes(value: Value, sizes: dict[str, int]) -> int:
    shape = value.type.shape
    if value.state is not None:  # it was there before
        return 0
    dtype = TORCH_DTYPE.get(value.type.dtype)
    return prod(bind_dim(d, sizes) for d in shape) * (dtype.itemsize if dtype else 4)


def _scratch(node: Node, sizes: dict[str, int]) -> int:
    """Scores and weights of attention, and a dequantized weight."""
    if isinstance(node.op, SlotAttention):
        heads = node.inputs[0].type.shape[1]
        return 3 * sizes["T"] * bind_dim(heads, sizes) * sizes["L"] * 4
    if isinstance(node.op, Linear | GroupedLinear):
        return sum(_bytes(v, sizes) for v in node.inputs if v.is_constant)
    return 0
