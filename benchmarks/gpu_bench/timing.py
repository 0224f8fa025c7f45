"""Times of steps: one behind the other as a server submits them, and the host's share of one.

A turn takes a fraction of a second; turns of everybody alternate, and medians over turns count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import msgspec
import numpy as np
from llmc.artifact.program import StepInputs

from .opened import Opened
from .shapes import Case
from .steps import blocks_for, case_inputs

TURN_SECONDS = 0.12
MOST_STEPS, FEWEST_STEPS = 100, 2
HOST_STEPS = 30

Now = Callable[[], float]


def room_of(case: Case) -> int:
    """Tokens that each sequence of a case has in the cache."""
    return case.context


def blocks_of(cases: list[Case], block: int) -> int:
    """Blocks of cache that the largest of these cases needs."""
    return max(blocks_for(case.sequences, room_of(case), block) for case in cases)


class Runner:
    """Steps of one case on an opened program."""

    def __init__(self, opened: Opened, case: Case, now: Now = time.perf_counter) -> None:
        self.opened, self.case, self._now = opened, case, now
        self.inputs = case_inputs(opened.executor, case, room_of(case))
        self.times: list[float] = []

    def warm_up(self) -> bool:
        """Run it twice, which records its graph. Whether its logits are numbers."""
        self.opened.executor.step(self.inputs)
        return bool(np.isfinite(self.opened.executor.step(self.inputs).logits).all())

    def turn(self) -> None:
        """Add the time of a step, from as many as a turn takes."""
        once = self._steps(FEWEST_STEPS)
        count = int(TURN_SECONDS / max(once, 1e-6))
        self.times.append(self._steps(min(max(count, FEWEST_STEPS), MOST_STEPS)))

    def _steps(self, count: int) -> float:
        """Seconds of a step, of `count` that are submitted while the one before runs. A decode step
        takes its tokens from the one before, as in serving."""
        executor = self.opened.executor
        pending = executor.submit(self.inputs)
        following = self._following()
        begin = self._now()
        for _ in range(count):
            step = executor.submit(following)
            pending.outputs()
            pending = step
        pending.outputs()
        # The first one was already under way: its time is counted, a step too many.
        return (self._now() - begin) / (count + 1)

    def _following(self) -> StepInputs:
        if self.case.query > 1:
            return self.inputs
        ids = [-1 - row for row in range(self.case.sequences)]
        return msgspec.structs.replace(self.inputs, token_ids=ids)

    @property
    def median(self) -> float:
        return median(self.times)

    def host_seconds(self) -> float:
        """What a step costs the host: to submit it, and to take its tokens when they are there."""
        executor, device, times = self.opened.executor, self.opened.device, []
        following = self._following()
        executor.step(self.inputs)
        for _ in range(HOST_STEPS):
            begin = self._now()
            step = executor.submit(following)
            submitted = self._now()
            device.synchronize()
            done = self._now()
            step.outputs()
            times.append(submitted - begin + self._now() - done)
        return median(times)
