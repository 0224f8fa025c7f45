"""Log-probabilities of prompt tokens, of the sequences of a step that want logits of all rows."""

from collections.abc import Sequence
from itertools import accumulate

from ....artifact.choice import Choice
from ....artifact.program import StepOutputs
from ..request import TokenLogprob
from ..running import Running
from ..schedule.step_plan import StepPlan
from .drawing import draw, logprob_of


def read_prompt_logprobs(plan: StepPlan[Running], outputs: StepOutputs) -> None:
    """Adds them to the requests. To be called before tokens are chosen, which changes rows."""
    for running, rows, end in zip(plan.sequences, plan.rows, accumulate(plan.rows), strict=True):
        if running.wants_all_rows:
            # Row i tells about the token behind position computed + i.
            request, first = running.request, running.computed + 1
            targets = request.prompt[first : first + rows]
            places = range(end - rows, end - rows + len(targets))
            del request.prompt_logprobs[first:]  # a second time after a preemption
            top = request.params.prompt_logprobs or 0
            request.prompt_logprobs += of_step(outputs, places, targets, top)
            running.wants_all_rows = first + rows < len(request.prompt)


def of_step(
    outputs: StepOutputs, rows: Sequence[int], targets: Sequence[int], top: int
) -> list[TokenLogprob]:
    """What the model thought of `targets[i]` in logits row `rows[i]`, and its `top` most likely
    tokens there."""
    pairs = zip(rows, targets, strict=True)
    choices = [Choice(row, target=target, top=top) for row, target in pairs]
    draw(outputs, choices)
    return [logprob_of(choice) for choice in choices]
