"""Choices filled in, by the program's own code where it has some, by numpy otherwise.

In: the outputs of a step and a `Choice` for each row that a token is drawn from or reported on.
Out: the same choices, with their results.
"""

from collections.abc import Sequence

from ....artifact.choice import Choice
from ....artifact.program import StepOutputs
from ..request import TokenLogprob


def draw(outputs: StepOutputs, choices: Sequence[Choice]) -> None:
    """Fills the results of each choice. Rows may be changed, so each is drawn from once."""
    if outputs.draw is not None:
        outputs.draw(choices)
        return
    from .numpy_sampling import draw_row

    for choice in choices:
        draw_row(outputs.logits[choice.row], choice)


def logprob_of(choice: Choice) -> TokenLogprob:
    """What a choice that was filled in says of its token."""
    return TokenLogprob(choice.token, choice.logprob, tuple(choice.alternatives))
