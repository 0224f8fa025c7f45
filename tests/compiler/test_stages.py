"""Graphs on their way: after a phase, through named passes, and everything that a compile dumps."""

import json
from pathlib import Path

import llmc
import networkx as nx
import pytest
from llmc.base.errors import LlmcError
from llmc.cli import opt
from llmc.cli.app import invoke
from llmc.cli.compile_options import PHASES
from llmc.compiler import driver, stages
from llmc.compiler.stages import optimized
from llmc.ir.parser import parse
from llmc.ir.phase import Phase
from zoo import find


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return find("llama").save(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def dumps(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a compile for two targets writes."""
    folder = tmp_path_factory.mktemp("dumped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMC_DUMP", str(folder / "dump"))
        patch.setattr(driver, "probe", lambda *_: "probe: left out")
        llmc.compile(
            str(checkpoint), target="cpu,onnx", scheme="int4", output=folder / "x.llmc",
            levels={"cpu": ("portable",)},
        )  # fmt: skip
    return folder / "dump"


def test_each_target_has_its_own_folder(dumps: Path) -> None:
    assert sorted(p.name for p in dumps.iterdir()) == ["cpu", "onnx"]
    cpu = {p.name for p in (dumps / "cpu").iterdir()}
    assert {"program.cpp", "schedule.txt", "memory-plan.txt", "00-traced.txt"} <= cpu
    assert any(name.endswith("-roll_layers.txt") for name in cpu)
    onnx = {p.name for p in (dumps / "onnx").iterdir()}
    assert "model.onnx.txt" in onnx
    assert not any(name.endswith("-roll_layers.txt") for name in onnx)
    assert "MatMulNBits" in (dumps / "onnx" / "model.onnx.txt").read_text()


def test_the_schedule_names_every_step_and_its_heaviest_chain(dumps: Path) -> None:
    text = (dumps / "cpu" / "schedule.txt").read_text()
    assert "linear" in text
    assert "critical path: " in text
    graph = nx.read_graphml(dumps / "cpu" / "dependences-run.graphml")
    steps = int(text.partition(" steps")[0].rpartition(" ")[2])
    assert len(graph) == steps
    assert nx.is_directed_acyclic_graph(graph)
    arena = int(text.partition("arena ")[2].partition(" ")[0])
    plan = (dumps / "cpu" / "memory-plan.txt").read_text()
    assert f"arena {arena} bytes" in plan


@pytest.mark.parametrize("phase", ["traced", "model", "fused", "quantized", "serving"])
def test_a_compile_stops_after_a_phase(
    checkpoint: Path, phase: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "graph.txt"
    command = ["compile", str(checkpoint), "--int8", "--stop-after", phase]
    assert invoke([*command, "-o", str(out)]) == 0
    graph = parse(out.read_text())
    assert graph.phase == Phase[phase.upper()]
    assert list(tmp_path.iterdir()) == [out]
    capsys.readouterr()
    assert invoke([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"phase": phase, "graph": out.read_text()}


def test_passes_go_on_where_a_dump_stands(dumps: Path) -> None:
    """From the traced text to the fused one, at once or pass by pass, as the compile did it."""
    first = (dumps / "cpu" / "00-traced.txt").read_text()
    files = sorted((dumps / "cpu").glob("[0-9][0-9]-*.txt"))
    fused = next(f for f in files if f.name.endswith("-clean_fused.txt"))
    expected = fused.read_text().partition("\n")[2]
    assert optimized(first, upto="fused") != first
    names = [f.stem.partition("-")[2] for f in files[1 : files.index(fused) + 1]]
    by_name = optimized(first, names)
    # Named passes leave the phase alone; all else is as in the dump.
    assert by_name.replace(": TRACED", ": FUSED") == expected


@pytest.mark.parametrize(
    ("text", "passes"), [("nonsense", ()), ("graph main: TRACED\n", ("no_such_pass",))]
)
def test_what_is_no_graph_or_no_pass_is_refused(text: str, passes: tuple[str, ...]) -> None:
    with pytest.raises(LlmcError) as refused:
        optimized(text, passes)
    assert refused.value.id == "LLMC-E0200"


def test_the_command_names_what_there_is() -> None:
    """Its own lists save it from importing the compiler to print its help."""
    assert list(PHASES) == [phase.name.lower() for phase in Phase]
    assert set(opt.FEATURES) == set(stages.FEATURES)


def test_opt_is_no_verb_of_the_help(
    dumps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(LlmcError):
        invoke(["opt", str(tmp_path / "missing.txt")])
    assert invoke(["--help"]) == 0
    assert " opt " not in capsys.readouterr().out
    traced = dumps / "cpu" / "00-traced.txt"
    assert invoke(["opt", str(traced), "--upto", "model", "--json"]) == 0
    assert parse(json.loads(capsys.readouterr().out)["graph"]).phase == Phase.MODEL
