"""Put what depends on positions alone into the order in which layers read it.

    cos_b; cos_a; layer 0 reads cos_a; layer 5 reads cos_b   =>   cos_a; cos_b; …

A model may make its tables in the order of a set (some go through the set of their kinds of
layers), which Python's hash seed decides: without this, two compiles of it would differ. Tables
that the same layer reads first stay as they were, and all other nodes keep their places.
"""

from __future__ import annotations

from math import inf

from ..ir.graph import Graph, Node, Value
from ..ir.roles import StepArray
from .roll_layers import layer_of


def order_tables(graph: Graph) -> bool:
    """Sort the nodes that read only positions and constants; True if that moved any."""
    tables = _tables(graph)
    first = _first_readers(graph, tables)
    # Stable: what a table is made of is read no later than the table, and stood before it.
    ordered = iter(sorted(tables, key=lambda node: first.get(node, inf)))
    nodes = [next(ordered) if node in tables else node for node in graph.nodes]
    changed = nodes != graph.nodes
    graph.replace_nodes(nodes)
    return changed


def _tables(graph: Graph) -> dict[Node, None]:
    known: set[Value] = {v for v in graph.inputs if v.role is StepArray.POSITIONS}
    tables: dict[Node, None] = {}
    for node in graph.nodes:
        if node.inputs and all(v.is_constant or v in known for v in node.inputs):
            known.update(node.outputs)
            tables[node] = None
    return tables


def _first_readers(graph: Graph, tables: dict[Node, None]) -> dict[Node, int]:
    """Which run of nodes of one layer is the first that reads each table, also through others."""
    first: dict[Node, int] = {}
    run, layer = 0, ""
    for node in graph.nodes:
        if node in tables:
            continue
        if layer_of(node) != layer:
            run, layer = run + 1, layer_of(node)
        pending = [v.producer for v in node.inputs]
        while pending:
            table = pending.pop()
            if table is not None and table in tables and table not in first:
                first[table] = run
                pending += [v.producer for v in table.inputs]
    return first
