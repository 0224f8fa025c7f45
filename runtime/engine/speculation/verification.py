"""Which drafts are right: those that the sequence's own choice equals, one after the other.

In: a step's plan with drafts, and its outputs. Out: how many tokens each sequence has got, and why
it ends with the last of them, if it does.

Each choice is made as it would be without drafts: from the same logits, with the same random
number, after penalties, grammar and stop strings have seen all tokens before. So the text is the
same, and a draft decides only whether the row behind it tells anything. Rows are read in rounds:
the first ones of all sequences together, then the second ones of those whose first draft was right,
and so on.
"""

from msgspec import Struct

from ....artifact.program import StepOutputs
from ..request import FinishReason
from ..running import Running, Taken
from ..sampling.sampler import Sampler
from ..schedule.step_plan import StepPlan


class _Reading(Struct, eq=False):
    """The rows of the plan's sequence `place` from `row` on, and how many tokens they gave so far
    (`count`)."""

    place: int
    running: Running
    row: int
    drafts: tuple[int, ...]
    count: int = 0
    reason: FinishReason | None = None

    def take(self, token: int) -> bool:
        """Gives the sequence its next token. True if the row after this one tells about the next:
        the draft there is this token, and the sequence goes on."""
        self.reason = self.running.take(token)
        draft = self.drafts[self.count] if self.count < len(self.drafts) else None
        self.count += 1
        return self.reason is None and draft == token


def verify(
    plan: StepPlan[Running], outputs: StepOutputs, sampler: Sampler
) -> tuple[list[Taken], list[int]]:
    """Gives every sequence that is due its tokens. Returns them, and for each sequence of the plan
    how many of its drafts were accepted."""
    every = [_Reading(i, plan.sequences[i], row, plan.drafts[i]) for i, row in plan.due]
    reading = every
    while reading:
        states = [one.running.state for one in reading]
        tokens = sampler.sample(states, outputs, [one.row + one.count for one in reading])
        reading = [one for one, token in zip(reading, tokens, strict=True) if one.take(token)]
        sampler.prepare([one.running.state for one in reading])
    accepted = [0] * len(plan.sequences)
    for one in every:
        accepted[one.place] = one.count - 1
    return [(one.running, one.count, one.reason) for one in every], accepted
