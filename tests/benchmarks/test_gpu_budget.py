"""Parts get their time or a reason; the peer is a process that can be lost."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from llmc.base.errors import LlmcError
from llmc.benchmarks.gpu_bench.budget import Budget, Deadline
from llmc.benchmarks.gpu_bench.peer import Peer, PeerLost
from llmc.benchmarks.gpu_bench.shapes import Shape

SMALL = Shape("small", 64, 96, 2, 4, 2, 16, 96, True, 1e4)


@dataclass
class Clock:
    """A clock that goes when it is told to."""

    at: float = 50.0

    def __call__(self) -> float:
        return self.at


@pytest.mark.fast
def test_parts_end_with_their_own_time_and_with_the_whole() -> None:
    clock = Clock()
    budget = Budget(100, clock)
    ends: list[float] = []

    def work(deadline: Deadline) -> None:
        ends.append(deadline.left)
        clock.at += 30

    assert budget.part("first", 40, work, 5)
    assert budget.part("second", 90, work, 5)
    assert ends == [40, 70]
    assert budget.left == 40
    assert not budget.part("third", 10, work, 41)
    assert "40 s were left" in budget.left_out["third"]


@pytest.mark.fast
def test_what_a_part_has_no_time_for_is_named() -> None:
    clock = Clock()
    budget = Budget(100, clock)

    def work(deadline: Deadline) -> None:
        assert deadline.allows("one", 9)
        clock.at += 5
        assert not deadline.allows("two", 6)
        clock.at += 5
        assert not deadline.allows("three")

    budget.part("part", 10, work, 5)
    assert set(budget.left_out) == {"part: two", "part: three"}


@pytest.mark.fast
@pytest.mark.parametrize(
    "error", [LlmcError("LLMC-E0722", "the GPU failed"), RuntimeError("out of memory"), OSError()]
)
def test_a_failed_part_leaves_a_reason_and_the_others_their_time(error: Exception) -> None:
    budget = Budget(100, Clock())

    def fail(deadline: Deadline) -> None:
        raise error

    assert not budget.part("broken", 10, fail, 5)
    assert budget.left_out["broken"].startswith("failed: ")
    assert len(budget.left_out["broken"]) > len("failed: ")
    assert budget.part("next", 10, lambda deadline: None, 5)


def test_a_peer_takes_turns_and_says_what_it_is() -> None:
    peer = Peer(SMALL.configuration(), 120, device="cpu", mode="none")
    try:
        assert "StaticCache" in peer.what
        assert peer.prepare("decode-1", 1, 20, 60) > 0
        assert peer.turn("decode-1", 60) > 0
        with pytest.raises(PeerLost, match="no-such"):
            peer.turn("no-such", 60)
    finally:
        peer.close()
    peer.close()


def test_a_peer_without_transformers_is_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration that `transformers` refuses stands for its absence."""
    config = SMALL.configuration() | {"hidden_act": "no-such"}
    peer = Peer(config, 120, device="cpu", mode="none")
    try:
        assert "plain torch" in peer.what
        assert peer.prepare("decode-8", 3, 20, 60) > 0
        assert peer.turn("decode-8", 60) > 0
    finally:
        peer.close()


def test_a_peer_that_is_too_slow_is_ended() -> None:
    with pytest.raises(PeerLost, match="no answer"):
        Peer(SMALL.configuration(), 0, device="cpu", mode="none")


def test_a_peer_that_ends_leaves_its_last_words() -> None:
    with pytest.raises(PeerLost, match="it ended: "):
        Peer(SMALL.configuration() | {"hidden_size": "many"}, 120, device="cpu", mode="none")
