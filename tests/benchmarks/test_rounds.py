"""Turns: who comes when, who is left out, and what the answer of a process is."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
from llmc.benchmarks.peer_bench import disturbance
from llmc.benchmarks.peer_bench.cases import Contender, Group
from llmc.benchmarks.peer_bench.disturbance import others_share
from llmc.benchmarks.peer_bench.rounds import Processes, around, run_group
from peer_reports import LIMITS, answer, group_of

STARTED: list[str] = []


class Scripted(Processes):
    """Processes that only note who would have been started; OpenVINO fails."""

    def limits(self) -> dict[str, Any]:
        STARTED.append("limits")
        return LIMITS

    def measure(self, group: Group, contender: Contender, path: Path) -> dict[str, Any]:
        STARTED.append(contender.label)
        return {"error": "it crashed"} if contender.label == "OpenVINO" else answer()


def test_contenders_take_turns_and_who_fails_is_out() -> None:
    STARTED.clear()
    paths = {label: Path("x") for label in ("llmc", "OpenVINO", "ONNX Runtime")}
    measured = run_group(
        group_of("prompt-512"), paths, 2, Scripted(2, {}, Path()), lambda text: None
    )
    order = [label for label in STARTED if label != "limits"]
    assert order == ["llmc", "OpenVINO", "ONNX Runtime", "llmc", "ONNX Runtime"]
    assert STARTED[::2] == ["limits"] * 6  # before the first turn, and after each
    assert measured.error("OpenVINO") == "it crashed"
    assert measured.error("llmc") is None
    assert len(measured.turns["llmc"]) == 2
    assert "llama.cpp Q4_0" not in measured.turns


def test_limits_around_a_turn() -> None:
    before, after = LIMITS | {"read": 30.0, "int8": 500.0}, LIMITS | {"read": 50.0, "bf16": 1.0}
    assert around(before, after) == LIMITS | {"read": 40.0}


def run(code: str, timeout: float = 60, under: tuple[str, ...] = ()) -> dict[str, Any]:
    processes = Processes(1, {}, Path(), under, patience=0, timeout=timeout)
    return processes.compile([sys.executable, "-c", code])


def test_a_process_answers_in_its_last_line() -> None:
    began = time.monotonic()
    found = run("print('chatter'); print('{\"a\": 1}')")
    assert found["a"] == 1
    assert began < found["started_at"] < found["ended_at"] < time.monotonic()


def test_the_clock_starts_behind_the_words_before_a_process() -> None:
    """A wrapper that waits is not counted."""
    waiting = (
        sys.executable,
        "-c",
        "import os,sys,time; time.sleep(.5); os.execvp(sys.argv[1], sys.argv[1:])",
    )
    began = time.monotonic()
    assert run("print('{}')", under=waiting)["started_at"] > began + 0.5


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise RuntimeError('out of luck')", "RuntimeError: out of luck"),
        ("print('no figures')", "printed no measurement: no figures"),
        ("", "printed no measurement"),
        ("import os; os.kill(os.getpid(), 4)", "ended by SIGILL"),
        ("import sys; print('a reason', file=sys.stderr); sys.exit(200)", "a reason"),
    ],
)
def test_a_process_that_fails_says_why(code: str, reason: str) -> None:
    assert reason in run(code)["error"]


def test_a_process_that_hangs_is_ended() -> None:
    began = time.monotonic()
    assert run("import time; time.sleep(60)", timeout=1)["error"] == "took longer than 1 s"
    assert time.monotonic() - began < 30


class Disturbed(Processes):
    """Every run is disturbed, some more than others."""

    def _run_once(self, command: list[str], *, ours: bool) -> dict[str, Any]:
        STARTED.append("run")
        return {"run": len(STARTED), "others": {1: 0.5, 2: 0.1}.get(len(STARTED), 0.9)}


class Calm(Disturbed):
    """The second run is undisturbed."""

    def _run_once(self, command: list[str], *, ours: bool) -> dict[str, Any]:
        found = super()._run_once(command, ours=ours)
        return found | {"others": 0.02 if found["run"] == 2 else 0.5}


@pytest.mark.parametrize(("kind", "runs"), [(Disturbed, 3), (Calm, 2)])
def test_a_disturbed_measurement_is_made_again(kind: type[Processes], runs: int) -> None:
    STARTED.clear()
    assert kind(1, {}, Path())._run([], ours=True)["run"] == 2
    assert len(STARTED) == runs


def test_shares_of_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert others_share(busy=3.0, own=2.0, seconds=2.0) == 0.25
    assert others_share(busy=1.9, own=2.0, seconds=1.0) == 0.0
    assert others_share(busy=9.0, own=0.0, seconds=1.0) == 1.0


def test_waiting_for_calm_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once without patience; when others stop; after the patience if they don't."""
    seconds = iter(range(100))
    monkeypatch.setattr(disturbance, "_PAUSE", 0.01)
    monkeypatch.setattr(disturbance, "busy_seconds", lambda: float(next(seconds)))
    disturbance.wait_for_calm(0)
    assert next(seconds) == 0
    disturbance.wait_for_calm(0.1)
    assert 1 < next(seconds) < 50
    monkeypatch.setattr(disturbance, "busy_seconds", lambda: 5.0)
    began = time.monotonic()
    disturbance.wait_for_calm(60)
    assert time.monotonic() - began < 30
