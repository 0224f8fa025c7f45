"""Which tokens of which sequences the next step computes.

There is no prefill or decode mode: each sequence has tokens, some of them computed, and every step
lets the computed ones catch up under one budget (`step_shape.py` says how it is shared). Waiting
sequences are admitted in the order of their keys while a place is free and the cache has room for
their tokens. Blocks are taken as they are needed; when there are none left, the newest running
sequence gives its own back and waits to be computed again, mostly from the prefix cache. The oldest
one is never asked to, so there is always progress. What a step has left over goes to drafts.

Where programs keep state, chunks of prompts also end where a snapshot of it is taken, and who is
admitted goes on from one. A sequence that begins as another one does can be forked from that.
"""

from bisect import insort
from collections.abc import Sequence as SequenceOf
from operator import add, attrgetter
from typing import Any, Generic

from msgspec import Struct, field

from ....artifact.program import Limits
from ..cache.hold import NO_COPIES
from ..cache.manager import CacheManager
from ..speculation.drafting import add_drafts
from ..speculation.proposer import Proposer
from .sequence import AnySequence
from .step_plan import Decodes, StepPlan
from .step_shape import MixedSteps, StepShape
from .waiting_queue import WaitingQueue

_BY_KEY = attrgetter("key")


class Scheduler(Struct, Generic[AnySequence]):
    """Keeps the running and the waiting sequences and plans steps within the limits."""

    limits: Limits
    cache: CacheManager
    shape: StepShape = field(default_factory=lambda: MixedSteps(None))
    proposer: Proposer | None = None
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
            self.leave(sequence)
        if self.proposer is not None:
            self.proposer.finished(sequence)

    def leave(self, sequence: AnySequence) -> None:
        """Takes the blocks back of a running sequence that no further step computes."""
        self.running.remove(sequence)
        self._release(sequence)

    def schedule(self) -> StepPlan[AnySequence]:
        """The next step; empty if there is nothing to do."""
        admitted = self._admit() if len(self.waiting) else ()
        plan = None if admitted or self.cache.copying else self._decode_step()
        plan = plan or self._mixed_step(admitted)
        if self.proposer is not None:
            plan = add_drafts(plan, self.proposer, self.limits, self.cache)
        return plan

    def _decode_step(self) -> StepPlan[AnySequence] | None:
        """The plan in which everybody decodes, if that is so and nobody has to give way: most
        steps, and the shortest ones."""
        running, limits = self.running, self.limits
        count = len(running)
        if count > min(limits.max_tokens, limits.max_logits_rows):
            return None
        tokens, positions, holds = [], [], []
        for sequence in running:
            hold, position, own = sequence.hold, sequence.computed, sequence.tokens
            if hold is None or len(own) - position != 1:
                return None
            if position >= hold.capacity and not self.cache.grow(hold, position, position + 1):
                return None
            tokens.append(own[position])
            positions.append(position)
            holds.append(hold)
        decodes = Decodes(tokens, positions, holds)
        ones = (1,) * count
        return StepPlan(tuple(running), ones, ones, decoding=count, decodes=decodes)

    def _mixed_step(self, admitted: tuple[AnySequence, ...]) -> StepPlan[AnySequence]:
        """The plan by the policy of the step's shape."""
        running, preempted, decoding = tuple(self.running), 0, 0
        shares = self.shape.counts(running, self.limits.max_tokens)
        free_rows = self.limits.max_logits_rows
        sequences, counts, rows = [], [], []
        for sequence, count in zip(running, shares, strict=True):
            if sequence.wants_all_rows:
                count = wanted = min(count, free_rows)
            else:
                wanted = int(count == sequence.uncomputed)
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
            decoding += sequence.decodes
        copies = self.cache.take_copies() if sequences else NO_COPIES
        plan = tuple(sequences), tuple(counts), tuple(rows), (), copies
        return StepPlan(*plan, admitted, preempted, decoding)

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
            sequence.cuts = self.cache.cuts(sequence.tokens, sequence.computed)
            insort(self.running, sequence, key=_BY_KEY)
            admitted.append(sequence)
        return tuple(admitted)

    def fork(self, leader: AnySequence, sequence: AnySequence) -> bool:
        """Lets a new sequence run whose tokens are those that are computed of `leader`, which runs.
        False, and nothing done, if there is no room for it, or more is computed (right drafts). It
        doesn't wait behind others: what it shares is there now."""
        if leader.hold is None or len(self.running) >= self.limits.max_sequences:
            return False
        if leader.computed != len(sequence.tokens):
            return False
        hold = self.cache.fork(leader.hold, leader.computed, reserve=len(self.running))
        if hold is None:
            return False
        sequence.hold, sequence.computed = hold, leader.computed
        sequence.cached = sequence.computed
        self.waiting.join(sequence, leader)
        insort(self.running, sequence, key=_BY_KEY)
        return True

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

    def _cut(self, sequence: AnySequence) -> None:
        del sequence.cuts[0]
        if sequence.hold is not None:
            self.cache.snapshot(sequence.hold, sequence.tokens, sequence.computed)

    def share_prompt(self, sequence: AnySequence) -> None:
        """Lets others find all that a running sequence has computed, to the last token."""
        if sequence.hold is not None:
            self.cache.record_end(sequence.hold, sequence.tokens, sequence.computed)

    def advance(self, plan: StepPlan[Any], accepted: SequenceOf[int] = ()) -> None:
        """Records that a plan was executed. `accepted`: of each sequence, how many of its drafts
        have become tokens of it; only then is anything of them recorded."""
        size = self.cache.block_size
        if plan.decodes is not None and not plan.drafts:
            for sequence, position in zip(plan.sequences, plan.decodes.positions, strict=True):
                sequence.computed = computed = position + 1
                if not computed % size:
                    self.cache.record(sequence.hold, sequence.tokens, computed)
            return
        counts = map(add, plan.counts, accepted) if accepted else plan.counts
        for sequence, count in zip(plan.sequences, counts, strict=True):
            sequence.computed += count
            if count > 1 or sequence.computed % size == 0:
                self.cache.record(sequence.hold, sequence.tokens, sequence.computed)
            if sequence.cuts and sequence.cuts[0] == sequence.computed:
                self._cut(sequence)
        if plan.drafts:
            for sequence, drafts in zip(plan.sequences, plan.drafts, strict=True):
                if drafts and sequence.hold is not None:
                    self.cache.trim(sequence.hold, sequence.computed)
