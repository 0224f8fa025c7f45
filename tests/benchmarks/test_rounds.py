"""Turns: who comes when, who is left out, and what the answer of a process is."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
from llmc.benchmarks.peer_bench.cases import Contender, Group
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
    return Processes(1, {}, Path(), under, timeout).compile([sys.executable, "-c", code])


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
    ],
)
def test_a_process_that_fails_says_why(code: str, reason: str) -> None:
    assert reason in run(code)["error"]


def test_a_process_that_hangs_is_ended() -> None:
    began = time.monotonic()
    assert run("import time; time.sleep(60)", timeout=1)["error"] == "took longer than 1 s"
    assert time.monotonic() - began < 30
