"""A run on a fake GPU: checks that see what is wrong, figures, and whatever is left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from fake_gpu import Bind, FakeKernel
from gpu_suites import CASES, FakeSide, by_references, lowered_shape
from llmc.benchmarks.gpu_bench import report
from llmc.benchmarks.gpu_bench.budget import Budget
from llmc.benchmarks.gpu_bench.numerics import guarded
from llmc.benchmarks.gpu_bench.opened import opened
from llmc.benchmarks.gpu_bench.peer import PeerLost
from llmc.benchmarks.gpu_bench.results import read
from llmc.benchmarks.gpu_bench.session import PARTS, Session
from llmc.benchmarks.gpu_bench.suite import Blobs, BuiltProgram, Suite
from llmc.benchmarks.gpu_bench.tiny import Tiny, lower_tiny

SUITE = Suite(90, {"triton": "3.9", "ptxas": "13.1"}, "", [], [])
TINY_BLOCKS = 11


class FakePeer:
    """Ten times as slow as it says; lost at its second case."""

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
    program, expected = lower_tiny(Tiny("llama", "bf16"), 90, blobs)
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


def test_a_right_program_passes_every_check(tiny: Any) -> None:
    results = session_of(tiny).run()
    assert [check.claim for check in results.checks if not check.passed] == []
    assert len(results.checks) == 6
    assert results.passed
    assert not results.left_out


def test_wrong_logits_and_choices_are_seen(tiny: Any) -> None:
    """Expected logits in the wrong order of tokens."""
    built, blobs, bind = tiny
    vocab = built.variant.vocab_size
    pieces = list(blobs.pieces)
    for text in built.expected.rounded:
        rows = np.frombuffer(pieces[text.logits], np.float32).reshape(-1, vocab)
        pieces[text.logits] = rows[:, ::-1].tobytes()
    (wrong,) = [
        check.claim
        for check in session_of((built, Blobs(pieces), bind)).run().checks
        if not check.passed
    ]
    assert wrong == "the compiled graph in f32"


def test_what_depends_on_company_is_seen(tiny: Any) -> None:
    """A kernel that adds the number of tokens of its step to a logit."""
    built, blobs, bind = tiny
    last = max(
        number
        for number, launch in enumerate(built.variant.options.plan.launches)
        if any(getattr(a, "space", "") == "kept" for a in launch.arguments)
        and "argmax" not in launch.label
        and launch.label != "step"
    )

    def disturbed() -> Bind:
        kernels = bind()

        def found(cubin: bytes, name: str) -> FakeKernel:
            kernel = kernels(cubin, name)
            if name != f"launch{last}":
                return kernel

            def run(launch: Any) -> None:
                kernel.run(launch)
                argument = next(
                    i
                    for i, a in enumerate(built.variant.options.plan.launches[last].arguments)
                    if getattr(a, "space", "") == "kept"
                )
                launch.array(launch.args[argument], np.float32, 1)[0] += 1e-3 * launch.args[-3]

            return FakeKernel(kernel.types, run)

        return found

    with opened(built, blobs, FakeSide(disturbed), TINY_BLOCKS) as program:
        wrong = [c.claim for c in guarded(built, blobs, program.executor) if not c.passed]
    assert "rows alone and in company" in wrong
    assert "4 query tokens and 4 steps" in wrong


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
    for choice in ({"models": ["8b"]}, {"schemes": ["int4"]}, {"only": ["numerics"]}):
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
