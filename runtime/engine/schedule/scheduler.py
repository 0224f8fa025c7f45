"""Which tokens of which sequences the next step computes.

There is no prefill or decode mode: each sequence has tokens, some of them computed, and every step
lets the computed ones catch up under one budget (`pacing.py` says how it is shared). Waiting
sequences are admitted in the order of their keys while a place is free and the cache has room for
their tokens. Blocks are taken as they are needed; when there are none left, the newest running
sequence gives its own back and waits to be computed again, mostly from the prefix cache. The oldest
one is never asked to, so there is always progress.
"""

from bisect import insort
from operator import attrgetter
from typing import Any, Generic

from msgspec import Struct, field

from ....artifact.program import Limits
from ..cache.manager import BlockCopy, CacheManager
from .sequence import AnySequence
from .step_shape import MixedSteps, StepShape
from .waiting_queue import WaitingQueue

_BY_KEY = attrgetter("key")


class StepPlan(Struct, Generic[AnySequence], frozen=True):
    """What one step computes. Immutable: the engine executes it, nobody amends it.

    AnySequence i brings `counts[i]` query tokens from its first uncomputed one on, and logits are
    wanted after the last `rows[i]` of them. `copies` are to be made first. `admitted`: who is here
    for the first time or again; `preempted`: how many had to go.
    """

    sequences: tuple[AnySequence, ...] = ()
    counts: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    copies: tuple[BlockCopy, ...] = ()
    admitted: tuple[AnySequence, ...] = ()
    preempted: int = 0

    @property
    def tokens(self) -> int:
        """T, the query tokens of the step."""
        return sum(self.counts)


class Scheduler(Struct, Generic[AnySequence]):
    """Keeps the running and the waiting sequences and plans steps within the limits."""

    limits: Limits
    cache: CacheManager
    shape: StepShape = field(default_factory=lambda: MixedSteps(None))
    running: list[AnySequence] = field(default_factory=list)
    """In the order of their keys."""
    waiting: WaitingQueue[AnySequence] = field(default_factory=WaitingQueue)

    def add(self, sequence: AnySequence) -> None:
        """Queues a sequence; the caller has made sure that it can ever be admitted."""
        self.waiting.push(sequence)

    def remove(self, sequence: AnySequence) -> None:
        """Forgets a finished or aborted sequence and takes its blocks back."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        elif sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence)

    def schedule(self) -> StepPlan[AnySequence]:
        """The next step; empty if there is nothing to do."""
        admitted = self._admit() if len(self.waiting) else ()
        running, preempted = tuple(self.running), 0
        uncomputed = [len(s.tokens) - s.computed for s in running]
        if not admitted and uncomputed.count(1) == len(running) and self._have_room(running):
            ones = (1,) * len(running)  # everybody decodes: most steps, and the shortest ones
            return StepPlan(running, ones, ones)
        shares = self.shape.counts(uncomputed, self.limits.max_tokens)
        free_rows = self.limits.max_logits_rows
        sequences, counts, rows = [], [], []
        for sequence, count, left in zip(running, shares, uncomputed, strict=True):
            if sequence.wants_all_rows:
                count = wanted = min(count, free_rows)
            else:
                wanted = int(count == left)
            if not count or wanted > free_rows:
                continue
            if sequence.hold is not None and sequence.computed + count > sequence.hold.capacity:
                preempted += self._make_room(sequence, sequence.computed + count)
            if sequence.hold is None:  # preempted, just now or by an older one
                continue
            sequences.append(sequence)
            counts.append(count)
            rows.append(wanted)
            free_rows -= wanted
        copies = self.cache.take_copies()
        return StepPlan(tuple(sequences), tuple(counts), tuple(rows), copies, admitted, preempted)

    def _have_room(self, running: tuple[AnySequence, ...]) -> bool:
        """Whether all of them can get their next token as they are."""
        limits = self.limits
        full = [s for s in running if s.hold is None or s.computed >= s.hold.capacity]
        return not full and len(running) <= min(limits.max_tokens, limits.max_logits_rows)

    def _admit(self) -> tuple[AnySequence, ...]:
        """Moves waiting sequences to the running ones while there is room for them."""
        admitted = []
        while len(self.running) < self.limits.max_sequences:
            sequence = self.waiting.peek()
            if sequence is None:
                break
            # A block for each that runs: else the newcomer would be preempted in the next steps.
            granted = self.cache.admit(
                sequence.tokens,
                namespace=sequence.namespace,
                reserve=len(self.running),
                reuse=not sequence.wants_all_rows,
            )
            if granted is None:
                break
            self.waiting.remove(sequence)
            sequence.hold, sequence.computed = granted
            sequence.cached = sequence.computed
            insort(self.running, sequence, key=_BY_KEY)
            admitted.append(sequence)
        return tuple(admitted)

    def _make_room(self, sequence: AnySequence, end: int) -> int:
        """Gets blocks for a sequence up to `end`, from the newest ones and at last from itself.

        Returns how many were preempted.
        """
        assert sequence.hold is not None
        preempted = 0
        while not self.cache.grow(sequence.hold, sequence.computed, end):
            newest = self.running.pop()
            self._release(newest)
            self.waiting.push(newest)
            preempted += 1
            if newest is sequence:
                break
        return preempted

    def _release(self, sequence: AnySequence) -> None:
        if sequence.hold is not None:
            self.cache.release(sequence.hold, sequence.tokens, sequence.computed)
            sequence.hold, sequence.computed = None, 0

    def share_prompt(self, sequence: AnySequence) -> None:
        """Lets others find all that a running sequence has computed, to the last token."""
        if sequence.hold is not None:
            self.cache.record_end(sequence.hold, sequence.tokens, sequence.computed)

    def advance(self, plan: StepPlan[Any]) -> None:
        """Records that a plan was executed."""
        size = self.cache.block_size
        for sequence, count in zip(plan.sequences, plan.counts, strict=True):
            sequence.computed += count
            if count > 1 or sequence.computed % size == 0:
                self.cache.record(sequence.hold, sequence.tokens, sequence.computed)


def counts_by_kind(plan: StepPlan[Any]) -> tuple[int, int]:
    """(decoding sequences, prompt tokens) of a plan, before it is advanced."""
    if plan.tokens == len(plan.sequences):
        return plan.tokens, 0
    decoding = sum(s.uncomputed == 1 for s in plan.sequences)
    return decoding, plan.tokens - decoding
