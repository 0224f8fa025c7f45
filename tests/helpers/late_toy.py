"""The toy model on a device that works by itself, and does nothing before it is asked for it.

A step that was submitted is computed when its outputs are waited for, or later still; so whoever
reads before, or relies on a step being done, gets poison. Placeholders are resolved by what the
step before chose, as a device does it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llmc.artifact.choice import Choice
from llmc.artifact.program import StepInputs, StepOutputs, check_inputs
from llmc.runtime.engine.sampling.numpy_sampling import draw_row
from msgspec import convert, to_builtins
from msgspec.structs import replace
from toy_program import Toy

POISON = 1_000_000_007
MOST_UNDER_WAY = 2


class LateStep:
    """A step that is somewhere on the device."""

    def __init__(self, program: "LateToy", inputs: StepInputs, choices: Sequence[Choice]) -> None:
        self.program, self.inputs = program, inputs
        self.choices, self.asked = choices, [replace(choice) for choice in choices]
        for choice in choices:  # whoever reads it now takes what isn't there
            choice.token, choice.logprob = POISON, float("nan")
        self.number = program.submitted
        self.rows = np.empty((0, 0), np.float32)
        self.tokens: list[int] | None = None
        """Of each logits row, once it is computed: what was chosen, or the argmax."""

    def compute(self, before: "LateStep | None") -> None:
        known = (before and before.tokens) or []
        ids = [token if token >= 0 else known[-1 - token] for token in self.inputs.token_ids]
        ids = [max(token, 0) for token in ids]  # where none could be chosen
        self.rows = super(LateToy, self.program).step(replace(self.inputs, token_ids=ids)).logits
        tokens = self.rows.argmax(axis=1).tolist()
        for choice in self.asked:
            draw_row(self.rows[choice.row].copy(), choice)
            tokens[choice.row] = choice.token
        self.tokens = tokens

    def outputs(self) -> StepOutputs:
        self.program.run_until(self.number)
        self.program.landed = max(self.program.landed, self.number)
        for choice, done in zip(self.choices, self.asked, strict=True):
            choice.token, choice.logprob = done.token, done.logprob
            choice.alternatives = done.alternatives

        def fetch() -> np.ndarray:
            assert self.number == self.program.submitted, "a later step has overwritten the logits"
            return self.rows

        return StepOutputs(fetch, self.rows.argmax(axis=1).tolist())


class LateToy(Toy):
    """`SubmittingProgram`. `draws_typical`: whether it can leave out untypical tokens."""

    def __init__(
        self, cache_blocks: tuple[int, ...] = (40, 24), *, draws_typical: bool = True, **limits: Any
    ) -> None:
        super().__init__(cache_blocks, **limits)
        self.draws_typical = draws_typical
        self.submitted = self.landed = 0
        self.under_way: list[int] = []
        """For each step that was submitted, how many were not yet waited for, itself included."""
        self._queue: list[LateStep | Callable[[], None]] = []
        self._last: LateStep | None = None  # computed
        self._newest: LateStep | None = None  # submitted

    def submit(self, inputs: StepInputs, choices: Sequence[Choice] = ()) -> LateStep:
        copied = convert(to_builtins(inputs), StepInputs)  # the sequences' own lists go on changing
        before = len(self._newest.inputs.logits_rows) if self._newest is not None else 0
        check_inputs(copied, self, before)
        assert len({choice.row for choice in choices}) == len(choices)
        self.submitted += 1
        self._newest = LateStep(self, copied, choices)
        self._queue.append(self._newest)
        self.under_way.append(self.submitted - self.landed)
        assert self.under_way[-1] <= MOST_UNDER_WAY
        return self._newest

    def draws(self, choice: Choice) -> bool:
        return self.draws_typical or choice.typical_p == 1

    def step(self, inputs: StepInputs) -> StepOutputs:
        return self.submit(inputs).outputs()

    def copy_block(self, group: int, source: int, target: int) -> None:
        copy = super().copy_block
        self._queue.append(lambda: copy(group, source, target))

    def run_until(self, number: int) -> None:
        """Does what was asked for, in its order, up to this step."""
        while self._last is None or self._last.number < number:
            self._do(self._queue.pop(0))

    def finish(self) -> None:
        """Does all that was asked for."""
        while self._queue:
            self._do(self._queue.pop(0))

    def _do(self, task: "LateStep | Callable[[], None]") -> None:
        if isinstance(task, LateStep):
            task.compute(self._last)
            self._last = task
        else:
            task()
