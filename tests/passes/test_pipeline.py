"""The order of passes, what the manager reports, and the final text of a few models.

The texts in `golden/` are reviewed like code: a change there is a change of what every compile
does. `LLMC_UPDATE_GOLDEN=1 pytest tests/passes/test_pipeline.py` writes them anew.
"""

import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from llmc.base.errors import LlmcError
from llmc.compiler.frontend.importer import import_graph
from llmc.compiler.frontend.lower import LoweredModel, lower_model, own_tensors
from llmc.compiler.frontend.trace import trace
from llmc.ir.graph import Graph
from llmc.ir.parser import parse
from llmc.ir.phase import Phase
from llmc.ir.verifier import verify
from llmc.passes import pipeline
from llmc.passes.features import OWN_KERNELS
from llmc.passes.pipeline import PIPELINE, Context, Step, run_pipeline
from llmc.passes.quantize import SCHEMES
from zoo import find

GOLDEN = Path(__file__).parent / "golden"
PAGED = [step for step in PIPELINE if step.wanted(OWN_KERNELS)]
MODELS = [("llama", "int4"), ("gemma2", "f32"), ("qwen3-moe", "int8")]


@cache
def lowered(name: str, scheme: str) -> LoweredModel:
    model = find(name)
    return lower_model(
        model.configuration(), model.max_context, own_tensors, SCHEMES[scheme], OWN_KERNELS
    )


@cache
def traced(name: str) -> str:
    model = find(name)
    program = trace(model.configuration(), model.max_context)
    return str(import_graph(program, own_tensors(program.model)))


@pytest.mark.parametrize(("name", "scheme"), MODELS)
def test_the_serving_text_is_the_golden_one(name: str, scheme: str) -> None:
    path = GOLDEN / f"{name}-{scheme}.txt"
    text = str(lowered(name, scheme).graph)
    if os.environ.get("LLMC_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), (
        f"the passes make another graph than {path.name}; if that is meant, review the difference "
        "after LLMC_UPDATE_GOLDEN=1 pytest tests/passes/test_pipeline.py"
    )


@pytest.mark.parametrize(("name", "scheme"), MODELS)
def test_the_golden_text_is_a_sound_graph(name: str, scheme: str) -> None:
    """Also the bodies are in phase SERVING: nothing of an earlier phase hides in them."""
    graph = parse((GOLDEN / f"{name}-{scheme}.txt").read_text())
    verify(graph)
    assert {g.phase for g in (graph, *graph.bodies.values())} == {Phase.SERVING}


@pytest.mark.parametrize(("name", "scheme"), [("gemma2", "int4"), ("mixtral-window", "f32")])
def test_lowered_models_are_parsed_back(name: str, scheme: str) -> None:
    """Bodies, calls, cache groups, merged constants: a real serving graph comes back whole."""
    graph = lowered(name, scheme).graph
    text = str(graph)
    again = parse(text)
    assert str(again) == text
    assert again.groups == graph.groups
    assert list(again.bodies) == list(graph.bodies)
    verify(again)


def test_the_head_sees_wanted_rows_only() -> None:
    """A prefill must not compute logits of every token, in any scheme."""
    for name, scheme in MODELS:
        graph = lowered(name, scheme).graph
        vocab = graph.outputs[0].type.shape[-1]
        wide = [v for n in graph.nodes for v in n.outputs if v.type.shape[-1] == vocab]
        assert wide
        assert {str(v.type.shape[0]) for v in wide} == {"R"}


def test_passes_report_truthfully_whether_they_changed_the_graph(monkeypatch) -> None:
    """`changed` is true exactly if the text is another than before."""
    graph = parse(traced("gemma2"))
    texts = [str(graph)]

    def watched(step: Step) -> Step:
        def run(g: Graph, context: Context) -> bool:
            changed = step.run(g, context)
            texts.append(str(g))
            before = texts[-2].replace(f": {_phase(texts[-2])}", f": {_phase(texts[-1])}")
            assert changed == (before != texts[-1]), step.name
            return changed

        return replace(step, run=run)

    monkeypatch.setattr(pipeline, "PIPELINE", tuple(map(watched, PIPELINE)))
    run_pipeline(graph, Context(SCHEMES["f32"], OWN_KERNELS))
    assert len(texts) == len(PAGED) + 1


def _phase(text: str) -> str:
    """The phase of the main graph (bodies come with the last pass)."""
    return text.split("graph main: ")[1].split("\n")[0]


def test_phases_never_go_back() -> None:
    """So `upto` cuts the pipeline at one place."""
    phases = [step.ensures for step in PIPELINE]
    assert phases == sorted(phases)
    assert phases[-1] == Phase.SERVING
    assert len({step.name for step in PIPELINE}) == len(PIPELINE)


@pytest.mark.parametrize("upto", [Phase.TRACED, Phase.MODEL, Phase.FUSED])
def test_upto_stops_after_a_phase(upto: Phase) -> None:
    graph = parse(traced("gemma2"))
    times = run_pipeline(graph, Context(SCHEMES["f32"], OWN_KERNELS), upto)
    assert graph.phase == upto
    assert [t.name for t in times] == [
        s.name for s in PIPELINE if s.ensures <= upto and s.wanted(OWN_KERNELS)
    ]


def test_dumps_and_times(tmp_path: Path, monkeypatch) -> None:
    """One file a pass, numbered, that says name, nodes and time and parses back."""
    monkeypatch.setenv("LLMC_DUMP", str(tmp_path / "dump"))
    graph = parse(traced("gemma2"))
    times = run_pipeline(graph, Context(SCHEMES["int8"], OWN_KERNELS))
    names = sorted(p.name for p in (tmp_path / "dump").iterdir())
    assert names == ["00-traced.txt"] + [f"{i:02}-{t.name}.txt" for i, t in enumerate(times, 1)]
    head, _, text = (tmp_path / "dump" / names[-1]).read_text().partition("\n")
    assert head.startswith(f"# {times[-1].name}: {times[-1].nodes} nodes, ")
    assert text == str(graph) == str(parse(text))
    assert all(t.seconds > 0 for t in times)


def test_a_pass_that_breaks_the_graph_is_named(monkeypatch) -> None:
    def vandal(graph: Graph, _: Context) -> bool:
        graph.nodes.reverse()
        return True

    monkeypatch.setattr(pipeline, "PIPELINE", (Step("vandal", vandal, Phase.TRACED),))
    with pytest.raises(LlmcError, match="after vandal") as caught:
        run_pipeline(parse(traced("gemma2")), Context(SCHEMES["f32"], OWN_KERNELS))
    assert caught.value.id == "LLMC-E0101"
