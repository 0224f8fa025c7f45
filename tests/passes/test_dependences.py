"""Dependences of a schedule: hazards, shared memory, the heaviest chain."""

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llmc.ir.plan import Access, Buffer, MemoryPlan, Placement, Schedule, Step
from llmc.passes.dependences import critical_path, dependence_graph, may_overlap

pytestmark = pytest.mark.fast


def schedule(*steps: tuple[str, str], sizes: dict[str, int] | None = None) -> Schedule:
    """Steps as (letters of what is read, letters of what is written)."""
    made = Schedule("f")
    for name in {letter for step in steps for text in step for letter in text}:
        made.buffers[name] = Buffer(name, (sizes or {}).get(name, 1))
    for number, (reads, writes) in enumerate(steps):
        made.steps.append(Step(f"s{number}", tuple(map(Access, reads)), tuple(map(Access, writes))))
    return made


def test_reads_wait_for_writes_and_writes_for_reads() -> None:
    graph = dependence_graph(schedule(("", "a"), ("a", "b"), ("a", "c"), ("bc", "d"), ("", "a")))
    assert set(graph.edges) == {(0, 1), (0, 2), (1, 3), (2, 3), (1, 4), (2, 4)}
    assert may_overlap(graph, 1, 2)
    assert may_overlap(graph, 3, 4)
    assert not may_overlap(graph, 0, 3)


def test_buffers_in_the_same_place_depend_on_one_another() -> None:
    steps = schedule(("", "a"), ("a", "x"), ("", "b"))
    assert may_overlap(dependence_graph(steps), 1, 2)
    placed = {"a": Placement(0, 64, 0, 1), "b": Placement(0, 64, 2, 2)}
    assert not may_overlap(dependence_graph(steps, MemoryPlan(placed, 64, 64)), 1, 2)


def test_the_critical_path_moves_the_most_bytes() -> None:
    steps = schedule(("", "a"), ("a", "b"), ("a", "c"), ("bc", "d"), sizes={"c": 100})
    assert critical_path(dependence_graph(steps)) == [0, 2, 3]


LETTERS = st.text("abcd", max_size=2)


@given(st.lists(st.tuples(LETTERS, LETTERS), min_size=1, max_size=8))
def test_any_order_that_the_graph_allows_computes_the_same(steps: list[tuple[str, str]]) -> None:
    """Each write stores what was read and who wrote; what is there last is always the same."""
    made = schedule(*steps)

    def run(order: list[int]) -> dict[str, object]:
        memory: dict[str, object] = {}
        for number in order:
            read = tuple(memory.get(a.buffer) for a in made.steps[number].reads)
            memory |= {a.buffer: (number, read) for a in made.steps[number].writes}
        return memory

    graph = dependence_graph(made)
    expected = run(list(range(len(steps))))
    for order in (nx.lexicographical_topological_sort(graph, key=lambda n: -n),):
        assert run(list(order)) == expected
