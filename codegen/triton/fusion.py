"""Which elementwise nodes become one generated kernel: decided before anything is rendered.

In: a graph, and which of its nodes have no hand-written kernel. Out: for each kernel the node whose
results it stores and the nodes that are computed inside it. A node goes into the kernel of its
readers if these are all in one, if as many elements are read as it has (nothing is computed twice
for a broadcast), and if nobody else needs its value in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...ir.graph import Graph, Node, Value
from ...ir.ops import (
    Binary,
    Cast,
    Concat,
    CumSum,
    Gather,
    Iota,
    LogitsRows,
    MatMul,
    Reduce,
    Scatter,
    Softmax,
    TopK,
    Unary,
    Where,
)
from ...ir.types import numel

ELEMENTWISE = (Unary, Binary, Where, Cast, Concat, Gather, LogitsRows)
_ROWS = (Reduce, Softmax, CumSum, TopK)
MOST_NODES = 24
"""Nodes in one kernel at most: each may hold a tile in registers."""


@dataclass(eq=False, slots=True)
class Group:
    """One generated kernel: it stores the results of the last of `nodes`, in the graph's order."""

    nodes: tuple[Node, ...]

    @property
    def last(self) -> Node:
        return self.nodes[-1]

    @property
    def inside(self) -> tuple[Node, ...]:
        """The nodes whose results are not stored."""
        return self.nodes[:-1]


def is_generated(node: Node) -> bool:
    """Whether kernels are generated for this op; views and hand-written kernels do the others."""
    return isinstance(node.op, (*ELEMENTWISE, *_ROWS, Iota, MatMul, Scatter))


def plan_groups(
    graph: Graph, generated: Callable[[Node], bool] = is_generated
) -> dict[Node, Group]:
    """The group of each node of `graph` for which `generated` holds.

    Coordinates (iota) cost nothing, so every kernel that reads them has its own; such a node is in
    the group of one reader, or alone if its value is needed in memory.
    """
    kept = set(graph.outputs)
    groups: dict[Node, Group] = {}
    for node in reversed(graph.nodes):
        if not generated(node):
            continue
        group = _iota_group(node, groups, kept)
        if group is None:
            group = _common_group(node, groups, kept)
        if group is None:
            groups[node] = Group((node,))
            continue
        groups[node] = group
        group.nodes = (node, *group.nodes)
    return groups


def _iota_group(node: Node, groups: dict[Node, Group], kept: set[Value]) -> Group | None:
    readers = node.outputs[0].users
    if not isinstance(node.op, Iota) or node.output in kept or not readers:
        return None
    if not all(_takes(reader, node.output, groups) for reader in readers):
        return None
    return groups[readers[0]]


def _common_group(node: Node, groups: dict[Node, Group], kept: set[Value]) -> Group | None:
    """The group that all readers of `node` are in, if it can be computed there."""
    if not isinstance(node.op, ELEMENTWISE) or node.output in kept:
        return None
    if any(v.state is not None for v in node.inputs):  # written in place later on
        return None
    readers = node.output.users
    if not readers or not all(_reads_once(r, node.output, groups) for r in readers):
        return None
    group, *others = {groups[reader] for reader in readers}
    return None if others or len(group.nodes) >= MOST_NODES else group


def _reads_once(reader: Node, value: Value, groups: dict[Node, Group]) -> bool:
    """`reader` takes `value` as an expression and reads each element once."""
    if not _takes(reader, value, groups):
        return False
    if isinstance(reader.op, (*_ROWS, Concat, Scatter)):
        return True
    return numel(value.type.shape) == numel(reader.output.type.shape)


def _takes(reader: Node, value: Value, groups: dict[Node, Group]) -> bool:
    """`reader`'s kernel can compute `value` itself, everywhere that it reads it."""
    if reader not in groups:
        return False
    slots = [i for i, v in enumerate(reader.inputs) if v is value]
    if isinstance(reader.op, Gather):
        return slots == [1]
    if isinstance(reader.op, Scatter):
        return slots == [0]
    if isinstance(reader.op, LogitsRows):
        return False
    return isinstance(reader.op, (*ELEMENTWISE, *_ROWS))
