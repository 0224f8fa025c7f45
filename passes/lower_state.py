"""Lower mixers to writes and reads of state: what a sequence keeps gets inputs of its own.

    mixer(x, …)   =>   parts = write(x, …, parts, step arrays, table)
                       read(x, …, parts, step arrays, table)

One algorithm over all state kinds (`ir/state.py`), one kind after the other, so that groups and
sites of what grows with tokens have the first numbers. Adds the step arrays that a kind asks for, a
table for each group if it has them, and the parts of each site. Sites of equal geometry are one
group; mixers that keep the same share a site. After: no mixer of these kinds is left.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from ..base.errors import LlmcError
from ..ir.graph import Graph, Node, StateGroup, Value
from ..ir.phase import Phase
from ..ir.roles import State, Table
from ..ir.state import Site, StateKind
from ..ir.types import DType


def lower_state(graph: Graph, kinds: Iterable[StateKind], cache: DType) -> bool:
    """Replace every mixer of `kinds`, kept in elements of `cache`; True if there was one.

    Raises:
        LlmcError: LLMC-E0401, a mixer of another kind.
    """
    by_mixer = {kind.mixer: kind for kind in kinds}
    order = {mixer: place for place, mixer in enumerate(by_mixer)}
    mixers = [node for node in graph.nodes if type(node.op) in by_mixer]
    mixers.sort(key=lambda node: order[type(node.op)])
    written: dict[tuple[StateKind, Hashable], tuple[Site, tuple[Value, ...]]] = {}
    for mixer in mixers:
        kind = by_mixer[type(mixer.op)]
        key = kind, kind.content(mixer)
        if key not in written:
            site = _add_site(graph, kind, mixer, cache)
            written[key] = site, kind.write(graph, mixer, site)
        found = kind.read(graph, mixer, *written[key])
        results = found if isinstance(found, tuple) else (found,)
        for old, new in zip(mixer.outputs, results, strict=True):
            graph.replace_uses(old, new)
    graph.erase_dead()
    _refuse_rest(graph)
    return bool(mixers)


def _refuse_rest(graph: Graph) -> None:
    for node in graph.nodes:
        if node.op.last_phase < Phase.SERVING:
            where = f"{node.scope or 'the model'}" + (f" ({node.source})" if node.source else "")
            raise LlmcError(
                "LLMC-E0401",
                f"the target keeps no state for {node.op.mnemonic} in {where}",
                hint="--target cpu has kernels for every kind of state",
            )


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
