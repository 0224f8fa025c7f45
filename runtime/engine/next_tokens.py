"""What the sequences of a step get from it: their next tokens, and log-probabilities of prompts.

In: a plan that was executed, and its outputs. Out: who has got how many tokens.
"""

from collections.abc import Sequence as SequenceOf

from ...artifact.program import StepOutputs
from .running import Running, Taken
from .sampling.prompt_logprobs import read_prompt_logprobs
from .sampling.sampler import Sampler
from .schedule.step_plan import StepPlan
from .speculation.verification import verify


def take_next(
    plan: StepPlan[Running], outputs: StepOutputs, sampler: Sampler, *, greedy: bool
) -> tuple[list[Taken], SequenceOf[int]]:
    """Gives everybody who is due the next tokens. Returns them and, if there are drafts, how many
    of each sequence's were accepted. `greedy`: nobody has a state."""
    if plan.only_decodes:
        return _take_one(plan.sequences, outputs, None, None if greedy else sampler), ()
    read_prompt_logprobs(plan, outputs)
    if plan.drafts:
        return verify(plan, outputs, sampler)
    due, rows = who_is_due(plan)
    return _take_one(due, outputs, rows, None if greedy else sampler), ()


def who_is_due(plan: StepPlan[Running]) -> tuple[SequenceOf[Running], SequenceOf[int]]:
    """Who gets a token in a step without drafts that isn't recorded yet, and from which logits
    rows."""
    if plan.only_decodes:
        return plan.sequences, range(len(plan.sequences))
    due = plan.due
    return [plan.sequences[place] for place, _ in due], [row for _, row in due]


def _take_one(
    due: SequenceOf[Running],
    outputs: StepOutputs,
    rows: SequenceOf[int] | None,
    sampler: Sampler | None,
) -> list[Taken]:
    """Gives these one token each, from logits row `rows[i]` (None: row i)."""
    if sampler is not None:
        tokens = sampler.sample([running.state for running in due], outputs, rows)
    else:
        tokens = outputs.argmax
        tokens = tokens if rows is None else [tokens[row] for row in rows]
    return [(one, 1, one.take(token)) for one, token in zip(due, tokens, strict=True)]
