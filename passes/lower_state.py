"""Lower mixers to writes and reads of state: what a sequence keeps gets inputs of its own.

    mixer(x, …)   =>   parts = write(x, …, parts, step arrays, table)
                       read(x, …, parts, step arrays, table)

One algorithm over all state kinds (`ir/state.py`). Adds the step arrays that a kind asks for, a
table for each group if it has them, and the parts of each site. Sites of equal geometry are one
group; mixers that keep the same share a site. After: no mixer of these kinds is left.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from ..ir.graph import Graph, Node, StateGroup, Value
from ..ir.roles import State, Table
from ..ir.state import Site, StateKind
from ..ir.types import DType


def lower_state(graph: Graph, kinds: Iterable[StateKind], cache: DType) -> bool:
    """Replace every mixer of `kinds`, kept in elements of `cache`; True if there was one."""
    by_mixer = {kind.mixer: kind for kind in kinds}
    mixers = [node for node in graph.nodes if type(node.op) in by_mixer]
    written: dict[tuple[StateKind, Hashable], tuple[Site, tuple[Value, ...]]] = {}
    for mixer in mixers:
        kind = by_mixer[type(mixer.op)]
        key = kind, kind.content(mixer)
        if key not in written:
            site = _add_site(graph, kind, mixer, cache)
            written[key] = site, kind.write(graph, mixer, site)
        graph.replace_uses(mixer.output, kind.read(graph, mixer, *written[key]))
    graph.erase_dead()
    return bool(mixers)


def _add_site(graph: Graph, kind: StateKind, mixer: Node, cache: DType) -> Site:
    """The inputs of one more site, those that all sites share made where they are new."""
    arrays = tuple(
        graph.input_as(array) or graph.add_input(array.value, type, array)
        for array, type in kind.arrays
    )
    number = _group(graph, kind, kind.geometry_of(mixer, cache))
    group = graph.groups[number]
    table = None
    if kind.table is not None:
        name = f"block_table.{group.name}"
        table = graph.input_as(Table(number)) or graph.add_input(name, kind.table, Table(number))
    site = sum(len(group.sites) for group in graph.groups)
    group.sites.append(site)
    parts = tuple(
        graph.add_input(f"{part}.{site}", type, State(part, site))
        for part, type in kind.parts(group).items()
    )
    return Site(arrays, table, parts)


def _group(graph: Graph, kind: StateKind, geometry: object) -> int:
    """The number of the group of such sites, made if it is new."""
    for number, group in enumerate(graph.groups):
        if (group.kind, group.geometry) == (kind.name, geometry):
            return number
    graph.groups.append(StateGroup(str(len(graph.groups)), kind.name, geometry, []))
    return len(graph.groups) - 1
