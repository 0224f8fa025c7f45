"""The generic path natively against the ops' references: odd shapes, views, every dtype."""

from __future__ import annotations

import pytest
import torch
from generic_cases import CASES, TOLERANCE, graph_of, inputs_of
from graph_harness import NativeGraphs, compile_graphs


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> NativeGraphs:
    graphs = {name: graph_of(name) for name in CASES}
    return compile_graphs(graphs, tmp_path_factory.mktemp("generic"))


@pytest.mark.parametrize("name", CASES)
def test_matches_reference(native: NativeGraphs, name: str) -> None:
    graph = native.graphs[name]
    inputs = inputs_of(name, graph)
    for threads in (1, 3):
        actual = native.run(name, inputs, threads)
        for got, want, value in zip(
            actual, native.expected(name, inputs), graph.outputs, strict=True
        ):
            assert got.dtype == want.dtype
            tolerance = TOLERANCE.get(value.type.dtype, 0)
            torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance, equal_nan=True)


def test_views_cost_nothing(native: NativeGraphs) -> None:
    steps = native.bodies["views"].planned.function.schedule.steps
    assert [s.name for s in steps] == ["sub"]


def test_chain_runs_in_place_without_barriers(native: NativeGraphs) -> None:
    planned = native.bodies["chain_in_place"].planned
    assert not planned.barriers
    row = 33 * 4
    assert planned.plan.arena_bytes <= 64 * row + 64 * 4 + 128  # one value and its row means
