"""From rows of logits to token ids, for all sequences of a step at once.

    sampler.prepare(states)          # before the step: masks of grammars are computed meanwhile
    outputs = program.step(inputs)
    tokens = sampler.sample(states, outputs)

A sequence without a state takes the argmax that the program reports. Each of the others has one
`Choice`, whoever fills it in (`drawing.py`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ....artifact.program import StepOutputs
from .drawing import draw
from .request_state import SamplingState, sampling_state

if TYPE_CHECKING:
    from .matcher import MaskWorkers

__all__ = ["Sampler", "States", "sampling_state"]

States = Sequence[SamplingState | None]
"""Of the requests that get a token; None for those that take the argmax."""


class Sampler:
    """Chooses the tokens of a step. Used by one thread; `close` ends the threads it started."""

    def __init__(self) -> None:
        self._workers: MaskWorkers | None = None

    def prepare(self, states: States) -> None:
        """Starts whatever can be computed while the program runs."""
        matchers = [s.matcher for s in states if s is not None and s.matcher is not None]
        if matchers:
            workers = self._workers
            if workers is None:
                from .matcher import MaskWorkers

                workers = self._workers = MaskWorkers()
            workers.start(matchers)

    def sample(
        self, states: States, outputs: StepOutputs, rows: Sequence[int] | None = None
    ) -> list[int]:
        """A token for each state, from logits row `rows[i]` (None: row i). A row may be changed
        when a token is drawn from it: no one reads it after."""
        rows = range(len(states)) if rows is None else rows
        argmax = outputs.argmax if None in states else ()
        choices = [s.next_choice(r) for s, r in zip(states, rows, strict=True) if s is not None]
        if choices:
            draw(outputs, choices)
        return [
            argmax[row] if state is None else state.take()
            for state, row in zip(states, rows, strict=True)
        ]

    def close(self) -> None:
        """Ends the threads that compute masks."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None
