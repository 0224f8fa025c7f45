"""From rows of logits to token ids, for all sequences of a step at once.

    sampler.prepare(states)          # before the step: masks of grammars are computed meanwhile
    outputs = program.step(inputs)
    tokens = sampler.sample(states, outputs)

A sequence without a state takes the argmax that the program reports. The others are drawn by the
program's own code where it has it, by numpy (`drawing.py`) otherwise.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ....artifact.program import StepOutputs
from .request_state import SamplingState, sampling_state

if TYPE_CHECKING:
    from .grammar import MaskWorkers

__all__ = ["Sampler", "sampling_state"]

States = Sequence[SamplingState | None]
"""For each row of logits the state of its request, or None."""


class Sampler:
    """Chooses the tokens of a step. Used by one thread; `close` ends the threads it started."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._workers: MaskWorkers | None = None

    def prepare(self, states: States) -> None:
        """Starts whatever can be computed while the program runs."""
        if not any(states):
            return
        matchers = [s.matcher for s in states if s is not None and s.matcher is not None]
        if matchers:
            workers = self._workers
            if workers is None:
                from .grammar import MaskWorkers

                workers = self._workers = MaskWorkers()
            workers.start(matchers)

    def sample(self, states: States, outputs: StepOutputs) -> list[int]:
        """A token for each row. Rows that have a state may be changed: no one reads them after."""
        tokens = list(outputs.argmax)
        if not any(states):
            return tokens
        chosen = [
            (state, state.next_choice(row)) for row, state in enumerate(states) if state is not None
        ]
        choices = [choice for _, choice in chosen]
        if outputs.draw is not None:
            outputs.draw(choices)
        else:
            from .numpy_sampling import draw

            draw(outputs.logits, choices)
        for state, choice in chosen:
            tokens[choice.row] = state.take(choice)
        return tokens

    def close(self) -> None:
        """Ends the threads that compute masks."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None
