"""Random decoders through all passes and every target, against their traced graphs.

A failure names the graph's text; tests/helpers/graph_reducer.py makes it small.
"""

import sys
from pathlib import Path

import pytest
from hypothesis import given, note
from llmc.ir.graph import Graph
from random_checks import (
    FORMS,
    as_module,
    as_network,
    check_passes,
    check_program,
    examples,
    in_onnx,
    on_cpu,
    texts_for,
)
from random_models import models

sys.path.insert(0, str(Path(__file__).parent / "tensorrt"))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize(("scheme", "count"), [("f32", 10), ("int4", 4)])
def test_passes_keep_what_is_computed(scheme: str, count: int, form) -> None:
    @examples(count)
    @given(models())
    def check(graph: Graph) -> None:
        note(str(graph))
        check_passes(graph, scheme, form)

    check()


@pytest.mark.parametrize(
    ("opened", "count"),
    [(on_cpu, 3), (in_onnx("ort"), 5), (in_onnx("standard"), 5), (as_network, 5), (as_module, 6)],
    ids=["cpu", "onnx", "onnx standard", "trt", "inductor"],
)
def test_programs_compute_what_the_graph_does(opened, count: int, tmp_path: Path) -> None:
    if opened is as_network:
        pytest.importorskip("tensorrt_rtx_bindings")

    @examples(count)
    @given(models())
    def check(graph: Graph) -> None:
        note(str(graph))
        check_program(opened(graph, tmp_path), texts_for(graph))

    check()
