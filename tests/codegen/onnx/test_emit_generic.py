"""Generic ops through ONNX Runtime against their references: odd shapes, views, every dtype."""

from __future__ import annotations

import pytest
import torch
from generic_cases import CASES, TOLERANCE, graph_of, inputs_of
from onnx_harness import expected, run

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("name", CASES)
def test_matches_reference(name: str) -> None:
    graph = graph_of(name)
    inputs = inputs_of(name, graph)
    results = zip(run(graph, inputs), expected(graph, inputs), graph.outputs, strict=True)
    for got, want, value in results:
        assert got.dtype == want.dtype
        tolerance = TOLERANCE.get(value.type.dtype, 0)
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance, equal_nan=True)
