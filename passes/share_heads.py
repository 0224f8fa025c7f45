"""Let attention read a head of keys and values once that a model has repeated for its queries.

    attention(q, repeat(k), repeat(v))           =>   attention(q, k, v)
    attention(q, rotary(repeat(k)), repeat(v))   =>   attention(q, rotary(k), v)

where `repeat` puts G copies of each of H_kv heads behind one another (a reshape of an expand). Else
the cache would hold every copy. Before: MODEL, heads are [T, H, D].
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.graph import Graph, Node, Value
from ..ir.ops import Attention, Expand, Reshape, Rotary


def share_heads(graph: Graph) -> bool:
    """Take repetitions out of every attention's keys and values; True if there was one."""
    changed = False
    for node in list(graph.nodes):
        if not isinstance(node.op, Attention):
            continue
        q, k, v, *by_head = node.inputs
        keys, values = _repeated(k), _repeated(v)
        if keys is None or values is None or keys.times != values.times:
            continue
        operands = [q, keys.once(graph, node), values.once(graph, node), *by_head]
        graph.replace_uses(node.output, graph.insert_before(node, node.op, operands).output)
        changed = True
    return graph.erase_dead() or changed


@dataclass(frozen=True)
class _Repeated:
    """`value` [T, H_kv, 1, D], `times` behind one another for each head, rotated by `rotary`."""

    value: Value
    times: int
    rotary: Node | None

    def once(self, graph: Graph, anchor: Node) -> Value:
        """The heads [T, H_kv, D], rotated."""
        tokens, heads, _, size = self.value.type.shape
        op = Reshape((tokens, heads, size))
        x = graph.insert_before(anchor, op, [self.value]).output
        if self.rotary is None:
            return x
        operands = [x, *self.rotary.inputs[1:]]
        return graph.insert_before(anchor, self.rotary.op, operands).output


def _repeated(value: Value) -> _Repeated | None:
    node, rotary = value.producer, None
    if node is not None and isinstance(node.op, Rotary):
        node, rotary = node.inputs[0].producer, node
    if node is None or not isinstance(node.op, Reshape):
        return None
    wide, shape = node.inputs[0], node.output.type.shape
    if wide.producer is None or not isinstance(wide.producer.op, Expand) or wide.type.rank != 4:
        return None
    (x,) = wide.producer.inputs
    tokens, heads, times, size = wide.type.shape
    if x.type.shape != (tokens, heads, 1, size) or not isinstance(times, int):
        return None
    assert isinstance(heads, int)
    return _Repeated(x, times, rotary) if shape == (tokens, heads * times, size) else None
