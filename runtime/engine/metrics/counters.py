"""What an engine counts: plain integers and histograms of fixed buckets, cheap enough for every
step, and what is read from them.

The engine's thread alone writes; anyone may read at any time, and sees each number whole. Times are
`time.monotonic` seconds. The engine calls, in the life of a request: `added`, `scheduled` (when it
is first scheduled), `first_token`, `finished`; and in each step: `step`, `tokens`, `inter_token`,
and `preempted` for each request that had to give its blocks back.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.structs import asdict

from ..cache.state_pool import SnapshotCounts

if TYPE_CHECKING:
    from ..request import Request

STEP_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
STEP_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""Upper bounds of the buckets; the last bucket has none."""

REASONS = ("stop", "length", "aborted", "timeout", "error")
"""Why requests end, in the order in which they are shown."""

_RECENT = 512
"""Values from which quantiles are taken: the last ones."""
_RATE_SECONDS = 10.0
"""Rates are over so many seconds, or since work began again if that is later."""
_MARK_SECONDS = 0.5


class Histogram:
    """How many values fell into each bucket, their sum, and the last few values themselves.

    `counts[i]`: values in (bounds[i - 1], bounds[i]]; the last entry counts those above all bounds.
    """

    __slots__ = ("bounds", "counts", "recent", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.recent: deque[float] = deque(maxlen=_RECENT)

    def observe(self, value: float, count: int = 1) -> None:
        """Adds a value, `count` times (once to the recent ones)."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.sum += value * count
        self.recent.append(value)

    @property
    def count(self) -> int:
        """How many values were added."""
        return sum(self.counts)

    def quantiles(self, *fractions: float) -> list[float]:
        """Of the recent values, by nearest rank; zeros if there are none."""
        recent = _copy_of(self.recent)
        recent.sort()
        last = len(recent) - 1
        return [recent[round(f * last)] if recent else 0.0 for f in fractions]


def _copy_of(recent: deque[Any]) -> list[Any]:
    """A deque's items while its writer goes on: copying fails if it is changed meanwhile."""
    while True:
        try:
            return list(recent)
        except RuntimeError:
            continue


class Gauges(NamedTuple):
    """How an engine stands now. Blocks count all cache groups: `used` ones belong to requests,
    `cached` ones hold prefixes that nobody uses and are given up when others need them. So it is
    with slots of state, if there are any: those of requests, and of snapshots."""

    running: int
    waiting: int
    cache_used: int
    cache_cached: int
    cache_total: int
    state_used: int = 0
    state_snapshots: int = 0
    state_total: int = 0


class _Mark(NamedTuple):
    """The totals at a moment, from which rates are taken."""

    time: float
    prompt_tokens: int
    generated_tokens: int
    steps: int
    finished: int


class EngineCounters:
    """All that one engine counts since `started`."""

    def __init__(self) -> None:
        self.started = monotonic()
        self.requests_added = 0
        self.requests_finished = dict.fromkeys(REASONS, 0)
        self.prompt_tokens = 0
        """Of requests that were scheduled, those found in the prefix cache included."""
        self.cached_tokens = 0
        self.generated_tokens = 0
        self.preemptions = 0
        self.snapshots = SnapshotCounts()
        """Of state; the cache counts them."""
        self.steps = 0
        self.step_seconds = Histogram(STEP_SECONDS)
        self.step_tokens = Histogram(STEP_TOKENS)
        self.step_sequences = Histogram(STEP_TOKENS)
        self.queue_seconds = Histogram(REQUEST_SECONDS)
        self.ttft_seconds = Histogram(REQUEST_SECONDS)
        self.inter_token_seconds = Histogram(TOKEN_SECONDS)
        self.request_seconds = Histogram(REQUEST_SECONDS)
        self._marks: deque[_Mark] = deque([self._mark(self.started)], maxlen=64)
        self._next_mark = self.started + _MARK_SECONDS

    def added(self, request: "Request") -> None:
        """A request was accepted."""
        self._mark_if_due()  # rates begin before its work, not after its first step
        self.requests_added += 1

    def scheduled(self, request: "Request") -> None:
        """A request is scheduled for the first time; its cached tokens are known."""
        timings = request.timings
        self.queue_seconds.observe(timings.scheduled - timings.arrived)
        self.prompt_tokens += len(request.prompt)
        self.cached_tokens += request.cached_tokens

    def first_token(self, request: "Request") -> None:
        """A request has its first token."""
        timings = request.timings
        self.ttft_seconds.observe(timings.first_token - timings.arrived)

    def inter_token(self, seconds: float, count: int = 1) -> None:
        """`count` requests had their last token `seconds` before the one of this step. Once for
        all that also had one in the step before, which are nearly all, costs the least."""
        self.inter_token_seconds.observe(seconds, count)

    def tokens(self, count: int) -> None:
        """A step gave `count` tokens, first ones included."""
        self.generated_tokens += count

    def step(self, seconds: float, tokens: int, sequences: int) -> None:
        """A step computed `tokens` query tokens of `sequences` requests in `seconds`."""
        self.steps += 1
        self.step_seconds.observe(seconds)
        self.step_tokens.observe(tokens)
        self.step_sequences.observe(sequences)
        self._mark_if_due()

    def preempted(self) -> None:
        """A running request gave its blocks to others; it is computed again later."""
        self.preemptions += 1

    def finished(self, request: "Request") -> None:
        """A request has ended; its reason and times are set."""
        if request.finish_reason is not None:
            self.requests_finished[request.finish_reason] += 1
        self.request_seconds.observe(request.timings.finished - request.timings.arrived)

    def _mark_if_due(self) -> None:
        now = monotonic()
        if now >= self._next_mark:
            self._marks.append(self._mark(now))
            self._next_mark = now + _MARK_SECONDS

    def _mark(self, now: float) -> _Mark:
        finished = sum(self.requests_finished.values())
        return _Mark(now, self.prompt_tokens, self.generated_tokens, self.steps, finished)

    def rates(self, now: float | None = None) -> dict[str, float]:
        """Tokens, steps and finished requests per second, lately. Nothing lately: zeros."""
        current = self._mark(monotonic() if now is None else now)
        recent = [m for m in _copy_of(self._marks) if m.time >= current.time - _RATE_SECONDS]
        base = recent[0] if recent else current
        seconds = max(current.time - base.time, _MARK_SECONDS)
        return {
            f"{name}_per_s": (getattr(current, name) - getattr(base, name)) / seconds
            for name in _Mark._fields[1:]
        }

    def snapshot(self, gauges: Gauges, now: float | None = None) -> dict[str, Any]:
        """All of it as plain values, for a status page. Times in seconds, `_per_s` lately."""
        now = monotonic() if now is None else now
        latencies = {
            "queue": self.queue_seconds,
            "ttft": self.ttft_seconds,
            "inter_token": self.inter_token_seconds,
            "request": self.request_seconds,
            "step": self.step_seconds,
        }
        return {
            "uptime": now - self.started,
            **gauges._asdict(),
            "requests_added": self.requests_added,
            "requests_finished": dict(self.requests_finished),
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "generated_tokens": self.generated_tokens,
            "preemptions": self.preemptions,
            "snapshots": asdict(self.snapshots),
            "steps": self.steps,
            "rates": self.rates(now),
            "latency": {
                name: dict(zip(("p50", "p90", "p99"), h.quantiles(0.5, 0.9, 0.99), strict=True))
                for name, h in latencies.items()
            },
        }
