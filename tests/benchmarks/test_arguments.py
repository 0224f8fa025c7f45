"""What `peers.py` refuses before it makes or measures anything."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from llmc.benchmarks.peer_bench.arguments import EVERYTHING, SHORT, scope
from llmc.benchmarks.peer_bench.cases import CASES, MODELS, Scheme, groups
from llmc.benchmarks.peer_bench.environments import ENVIRONMENTS
from llmc.benchmarks.peer_bench.results import Report
from peer_reports import report
from typer.testing import CliRunner, Result

pytestmark = pytest.mark.fast

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "peers.py"


@pytest.fixture
def made() -> list[object]:
    """What would have been measured; nothing is."""
    return []


def run(made: list[object], *options: str, missing: dict[str, str] | None = None) -> Result:
    """Run the script without measuring; it is told that so many peers are missing."""
    spec = importlib.util.spec_from_file_location("peers_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def measure(asked: object, *_: object) -> Report:
        made.append(asked)
        return report(missing)

    gone = {"torch": "no such thing"}
    vars(script)["run"] = measure
    vars(script)["unresolved"] = lambda names: gone if "torch" in names else {}
    return CliRunner().invoke(script.app, options, env={"COLUMNS": "400", "TERM": "dumb"})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--rounds 0", "--merge"), ("--rounds -1", "--rounds"), ("--rounds x", "--rounds"),
        ("--threads 0", "--threads"), ("--threads -2", "--threads"),
        ("--patience -1", "--patience"), ("--patience nan", "--patience"),
        ("--patience inf", "--patience"),
        ("--models gpt-9", "gpt-9 is none of smollm2-135m"), ("--models ,", "--models"),
        ("--models llama-1b,llama-1b", "named twice"), ("--schemes int3", "int3"),
        ("--cases prompt-7", "prompt-7"), ("--peers vllm", "vllm"), ("--peers ,", "--peers"),
        ("--targets trt", "trt"), ("--targets onnx --schemes bf16 --peers none", "nobody"),
        ("--short --models llama-1b", "--short"), ("--short --cases start", "--short"),
        ("--set-up --cases batch-1", "--set-up"), ("--peer-python torch", "--peer-python"),
        ("--peer-python torch=/no/such/python", "--peer-python"),
        ("--peer-python vllm=/bin/sh", "--peer-python"), ("--under no-such-command", "--under"),
        ("--json /no/such/folder/file", "--json"), ("--picture /", "--picture"),
        ("--merge /no/such/report", "--merge"), (f"--merge {SCRIPT}", "--merge"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_usage_errors(made: list[object], options: str, said: str) -> None:
    done = run(made, *options.split())
    assert done.exit_code == 2, done.output
    assert said in done.output
    assert "Traceback" not in done.output
    assert made == []


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": 1}', '{"format": 1, "rows": [1]}'])
def test_a_report_that_is_none(made: list[object], tmp_path: Path, content: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(content)
    done = run(made, "--rounds", "0", "--merge", str(path))
    assert done.exit_code == 2
    assert "is no report" in done.output


def test_quotes_that_don_t_end(made: list[object]) -> None:
    assert run(made, "--under", "taskset '1").exit_code == 2


def test_an_earlier_report_is_shown_without_measuring(made: list[object], tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    report().write(path)
    done = run(made, "--rounds", "0", "--merge", str(path))
    assert (done.exit_code, made) == (0, []), done.output
    assert "OpenVINO" in done.output


def test_the_short_form_is_the_least_with_every_peer() -> None:
    def taking(schemes: list[Scheme]) -> set[str]:
        found = groups([SHORT.models], schemes, [SHORT.cases], list(ENVIRONMENTS))
        return {contender.peer for group in found for contender in group.contenders}

    schemes = [Scheme(name) for name in SHORT.schemes.split(",")]
    assert set(ENVIRONMENTS) <= taking(schemes)
    for left_out in schemes:
        assert not set(ENVIRONMENTS) <= taking([one for one in schemes if one != left_out])


def test_what_options_choose() -> None:
    everything = scope(None, None, None, short=False, set_up=False)
    assert everything == EVERYTHING == (",".join(MODELS), ",".join(Scheme), ",".join(CASES))
    assert scope(None, None, None, short=True, set_up=False) == SHORT
    assert scope(None, None, None, short=True, set_up=True) == SHORT._replace(cases="start")
    own = scope("llama-1b", None, "batch-1", short=False, set_up=False)
    assert own == EVERYTHING._replace(models="llama-1b", cases="batch-1")


def test_a_set_up_fails_if_anybody_is_missing(made: list[object]) -> None:
    """A measurement goes on without who is missing, and says so."""
    gone = {"openvino": "no such thing"}
    assert run(made, "--short", "--set-up").exit_code == 0
    assert run(made, "--short", "--set-up", missing=gone).exit_code == 1
    assert run(made, "--short", missing=gone).exit_code == 0
    cases = [(asked.cases, asked.rounds) for asked in made]  # type: ignore[attr-defined]
    assert cases == [(["start"], 1), (["start"], 1), (["prompt-512"], 3)]


def test_resolving_says_who_can_t_be_had(made: list[object]) -> None:
    done = run(made, "--resolve", "--peers", "openvino,torch")
    assert done.exit_code == 1
    assert run(made, "--resolve", "--peers", "openvino").exit_code == 0
    assert made == []
