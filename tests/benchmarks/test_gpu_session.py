"""A run on a fake GPU: checks that see what is wrong, figures, and whatever is left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from fake_gpu import Bind, FakeKernel
from gpu_suites import CASES, FakeSide, by_references, lowered_shape
from llmc.benchmarks.gpu_bench import report, timing
from llmc.benchmarks.gpu_bench.budget import Budget
from llmc.benchmarks.gpu_bench.peer import PeerLost
from llmc.benchmarks.gpu_bench.results import read
from llmc.benchmarks.gpu_bench.session import PARTS, Session
from llmc.benchmarks.gpu_bench.suite import Blobs, BuiltProgram, Suite
from llmc.benchmarks.gpu_bench.tiny import Tiny, lower_tiny

SUITE = Suite(90, {"triton": "3.9", "ptxas": "13.1"}, "", [], [])


@pytest.fixture(autouse=True)
def _short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(timing, "HOST_STEPS", 2)


class FakePeer:
    """Five seconds a step; lost at its second case."""

    what = "a fake"

    def __init__(self, config: dict[str, Any], seconds: float) -> None:
        assert config["hidden_size"] == 2048
        assert 0 < seconds < 100
        self.closed = False

    def prepare(self, name: str, sequences: int, context: int, seconds: float) -> float:
        if name == "decode-64":
            raise PeerLost("no answer within 1 s")
        return 0.1

    def turn(self, name: str, seconds: float = 20) -> float:
        return 5.0

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="module")
def tiny() -> tuple[BuiltProgram, Blobs, Callable[[], Bind]]:
    """A model of the zoo with what is expected of it."""
    blobs = Blobs()
    program, expected = lower_tiny(Tiny("llama", "bf16"), 90, blobs, context=40)
    built, bind = by_references(program, blobs)
    return msgspec.structs.replace(built, expected=expected), blobs, bind


@pytest.fixture(scope="module")
def timed() -> tuple[BuiltProgram, Blobs, Callable[[], Bind]]:
    """A shape in bf16."""
    blobs, program = Blobs(), lowered_shape("bf16")
    built, bind = by_references(program, blobs)
    return program.timed(built, CASES), blobs, bind


def session_of(
    made: tuple[BuiltProgram, Blobs, Callable[[], Bind]], seconds: float = 1000, **options: Any
) -> Session:
    built, blobs, bind = made
    settings: dict[str, Any] = {"make_peer": FakePeer, "cases": CASES, "rounds": 2}
    settings |= {"say": lambda text: None} | options
    return Session(SUITE, [built], blobs, FakeSide(bind), Budget(seconds), **settings)


def test_a_right_program_has_its_logits(tiny: Any) -> None:
    """Torch's products on CPUs depend on the number of rows: its bits are no matter here."""
    results = session_of(tiny).run()
    passed = {check.claim: check.passed for check in results.checks}
    assert len(passed) == 6, results.checks
    for claim in ("a cubin loads", "the compiled graph in f32", "the source model"):
        assert passed[claim], claim
    assert passed["the largest logit is chosen"]
    assert not results.left_out


def test_a_driver_that_refuses_cubins_gets_advice(timed: Any) -> None:
    built, blobs, _ = timed

    def refuse(cubin: bytes, name: str) -> FakeKernel:
        raise KeyError(name)

    results = session_of((built, blobs, lambda: refuse)).run()
    (check,) = results.checks
    assert not check.passed
    assert "--ptxas" in check.error
    assert "13.1" in check.error
    assert not results.figures
    assert "everything else" in results.left_out


def test_figures_goals_and_profiles(timed: Any, tmp_path: Any) -> None:
    results = session_of(timed).run()
    assert {f.case for f in results.figures} == set(CASES)
    for case, cost in timed[0].costs.items():
        step = results.value("1b", "bf16", case, "step")
        assert step is not None
        share = results.value("1b", "bf16", case, "of copy bandwidth")
        assert share == pytest.approx(cost.nbytes / step / 2e9)
        peak = results.value("1b", "bf16", case, "of matrix peak")
        assert peak == pytest.approx(cost.operations / step / 1e12)
    one = results.value("1b", "bf16", "decode-1", "step")
    assert one is not None
    against = results.value("1b", "bf16", "decode-1", "against torch.compile")
    assert against == pytest.approx(5.0 / one)
    judged = {(f.case, f.quantity): f for f in results.figures if f.met is not None}
    assert judged["decode-1", "of copy bandwidth"].at_least == 0.75
    assert judged["verify-4", "times one query token"].at_most == 1.2
    assert judged["decode-64", "host"].at_most == 150e-6
    assert set(results.limits) == {"copy", "matmul"}
    assert len(results.limits["copy"]) == 2
    assert results.left_out == {"1b-bf16: torch.compile, decode-64": "no answer within 1 s"}
    assert {p.case for p in results.profiles} == {"decode-1", "decode-64", "prefill-4096"}
    for profile in results.profiles:
        launches = timed[0].costs[profile.case].launches
        assert sum(kernel.count for kernel in profile.kernels) == launches
    results.write(tmp_path / "gpu.json")
    again = read(tmp_path / "gpu.json")
    assert again == results
    text = report.text(results)
    for word in ("fake", "decode-1", "goal: at least 0.75", "left out", "a fake", "kernels one by"):
        assert word in text


def test_parts_models_and_schemes_are_chosen(timed: Any) -> None:
    results = session_of(timed, only=["timings"]).run()
    assert not results.profiles
    assert not results.peers
    choices: list[dict[str, Any]] = [{"models": ["8b"]}, {"schemes": ["int4"]}]
    choices.append({"only": ["numerics"]})
    for choice in choices:
        assert not session_of(timed, **choice).run().figures
    assert set(PARTS) > {"timings"}


def test_what_there_is_no_time_for_is_left_out(timed: Any) -> None:
    results = session_of(timed, seconds=1).run()
    assert "1b-bf16" in results.left_out
    assert not results.figures
    assert report.text(results).count("left out") == 1


def test_a_gpu_that_fails_leaves_a_reason(timed: Any) -> None:
    built, blobs, bind = timed

    def failing() -> Bind:
        kernels = bind()

        def found(cubin: bytes, name: str) -> FakeKernel:
            def run(launch: Any) -> None:
                raise RuntimeError("an illegal address")

            return FakeKernel(kernels(cubin, name).types, run)

        return found

    results = session_of((built, blobs, failing)).run()
    assert "an illegal address" in results.left_out["1b-bf16"]
