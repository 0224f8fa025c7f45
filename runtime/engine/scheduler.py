"""Which tokens of which sequences the next step computes.

There is no prefill or decode mode: each sequence has tokens, some of them computed, and every step
lets the computed ones catch up under one budget. Running sequences come first, in the order they
were admitted, so that a long prompt never keeps others from their next token; then waiting ones
are admitted, first come first served, while the cache can promise them their blocks.
"""

from collections import deque
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

from ..program import Limits
from .blocks import CacheHold, CacheManager


@dataclass(slots=True, eq=False)
class Sequence:
    """One sequence: its tokens, how many of them are in the cache, and the length it may reach.

    `max_length` counts tokens that are ever computed: the last sampled token isn't.
    """

    tokens: list[int]
    max_length: int
    computed: int = 0
    hold: CacheHold | None = None

    @property
    def uncomputed(self) -> int:
        """Tokens that are not yet in the cache."""
        return len(self.tokens) - self.computed


@dataclass(frozen=True, slots=True)
class ScheduledSequence:
    """`count` query tokens of a sequence from position `start` on; logits after the last one?"""

    sequence: Sequence
    start: int
    count: int
    wants_logits: bool


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What one step computes. Immutable: the engine executes it, nobody amends it."""

    scheduled: tuple[ScheduledSequence, ...] = ()

    @property
    def tokens(self) -> int:
        """T, the query tokens of the step."""
        return sum(s.count for s in self.scheduled)


@dataclass(slots=True)
class Scheduler:
    """Keeps the running and the waiting sequences and plans steps within the limits."""

    limits: Limits
    cache: CacheManager
    running: list[Sequence] = field(default_factory=list)
    waiting: deque[Sequence] = field(default_factory=deque)

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence; the caller has made sure that it can ever be admitted."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forgets a finished or aborted sequence and takes its blocks back."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        if sequence.hold is not None:
            self.cache.release(sequence.hold)
            sequence.hold = None

    def schedule(self) -> StepPlan:
        """The next step; empty if there is nothing to do."""
        self._admit()
        budget, rows = self.limits.max_tokens, self.limits.max_logits_rows
        scheduled = []
        # A sequence that needs one token is served before one that needs many, so that prompts
        # share what the decoding sequences leave over.
        for sequence in sorted(self.running, key=lambda s: s.uncomputed > 1):
            count = min(sequence.uncomputed, budget)
            wants_logits = count == sequence.uncomputed
            if count == 0 or (wants_logits and rows == 0):
                continue
            scheduled.append(ScheduledSequence(sequence, sequence.computed, count, wants_logits))
            budget -= count
            rows -= wants_logits
        return self._reserve(scheduled)

    def _admit(self) -> None:
        """Moves waiting sequences to the running ones while there is room for them."""
        while self.waiting and len(self.running) < self.limits.max_sequences:
            if not self.cache.can_admit(self.waiting[0].max_length):
                break
            sequence = self.waiting.popleft()
            sequence.hold = self.cache.admit(sequence.max_length)
            self.running.append(sequence)

    def _reserve(self, scheduled: SequenceOf[ScheduledSequence]) -> StepPlan:
        """Makes the cache ready for what the plan writes."""
        for item in scheduled:
            assert item.sequence.hold is not None
            self.cache.grow(item.sequence.hold, item.start, item.start + item.count)
        return StepPlan(tuple(scheduled))

    def advance(self, plan: StepPlan) -> None:
        """Records that a plan was executed."""
        for item in plan.scheduled:
            item.sequence.computed = item.start + item.count
