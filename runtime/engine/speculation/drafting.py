"""A plan with drafts in what it leaves free: query tokens, rows of logits and blocks.

In: the plan of a step without drafts, and a proposer. Out: the same plan with drafts behind
sequences that decode. Nobody else gets less for it: drafts come last, take no block that a prompt
was promised, and `Scheduler.advance` gives back the blocks of those that turn out wrong.
"""

from typing import Any

from msgspec.structs import replace

from ....artifact.program import Limits
from ..cache.manager import CacheManager
from ..schedule.sequence import Sequence
from ..schedule.step_plan import StepPlan
from .proposer import Proposer


def add_drafts(
    plan: StepPlan[Any], proposer: Proposer, limits: Limits, cache: CacheManager
) -> StepPlan[Any]:
    """The plan with all drafts that fit, first come, first served; itself if there are none."""
    free = min(limits.max_tokens - plan.tokens, limits.max_logits_rows - sum(plan.rows))
    if free < 1 or not plan.decoding:
        return plan
    most = [min(free, _useful(sequence)) for sequence in plan.sequences]
    asked = [place for place, count in enumerate(most) if count > 0]
    if not asked:
        return plan
    proposals = proposer.propose(
        [plan.sequences[place] for place in asked], [most[place] for place in asked]
    )
    drafts: list[tuple[int, ...]] = [()] * len(most)
    for place, proposal in zip(asked, proposals, strict=True):
        count = _room(plan.sequences[place], min(len(proposal), most[place], free), cache)
        drafts[place] = tuple(proposal[:count])
        free -= count
    if not any(drafts):
        return plan
    rows = tuple(own + len(guessed) for own, guessed in zip(plan.rows, drafts, strict=True))
    return replace(plan, rows=rows, drafts=tuple(drafts))


def _useful(sequence: Sequence) -> int:
    """How many drafts could be accepted: the last token that it may get needs none after it."""
    return sequence.max_length - len(sequence.tokens) if sequence.decodes else 0


def _room(sequence: Sequence, count: int, cache: CacheManager) -> int:
    """For how many of `count` drafts there are blocks."""
    own = sequence.computed + 1
    if not count or sequence.hold is None:
        return 0
    return max(0, cache.grow_spare(sequence.hold, own + count) - own)
