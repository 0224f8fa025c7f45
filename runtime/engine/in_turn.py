"""Steps one after the other: what a scheduler plans is executed at once.

In: a scheduler with what waits and runs. Out: who has got which tokens, told to `note`. This is the
whole way of a step for a program that computes while it is called; `ahead.py` is the one for a
program that works by itself.
"""

from collections.abc import Callable
from time import monotonic, perf_counter
from typing import Protocol

from ...artifact.program import Program, StepInputs
from .metrics.counters import EngineCounters
from .next_tokens import take_next
from .running import Running, Taken
from .sampling.sampler import Sampler
from .schedule.scheduler import Scheduler
from .schedule.step_inputs import step_inputs
from .schedule.step_plan import StepPlan

Note = Callable[[list[Taken]], None]
"""Is told who has got tokens in a step, and ends those who have got their last one."""


class Steps(Protocol):
    """How steps follow one another."""

    @property
    def leaving(self) -> int:
        """How many requests wait only for a last token that is being computed."""
        ...

    def added(self, running: Running) -> None:
        """A request was queued."""
        ...

    def ended(self, running: Running) -> None:
        """A request has ended."""
        ...

    def compute(self, note: Note) -> None:
        """Plans a step, if there is anything to compute, and gets the tokens of one."""
        ...

    def settle(self, note: Note) -> None:
        """Waits for what is under way. To be called before anyone else uses the program."""
        ...

    def before_end(self, note: Note) -> None:
        """To be called before requests are ended from outside."""
        ...


class StepsInTurn:
    """Nothing is under way between two calls."""

    leaving = 0

    def __init__(
        self,
        program: Program,
        scheduler: Scheduler[Running],
        sampler: Sampler,
        counters: EngineCounters,
    ) -> None:
        self._program, self._scheduler = program, scheduler
        self._sampler, self._counters = sampler, counters
        self._with_state = 0

    def added(self, running: Running) -> None:
        self._with_state += running.state is not None

    def ended(self, running: Running) -> None:
        self._with_state -= running.state is not None

    def compute(self, note: Note) -> None:
        plan = self._scheduler.schedule()
        if not plan.sequences:
            return
        inputs = begin(plan, self._program, self._counters)
        if self._with_state:
            self._sampler.prepare([running.state for running in plan.sequences])
        began = perf_counter()
        outputs = self._program.step(inputs)
        observe(plan, perf_counter() - began, self._scheduler, self._counters)
        taken, accepted = take_next(plan, outputs, self._sampler, greedy=not self._with_state)
        self._scheduler.advance(plan, accepted)
        note(taken)

    def settle(self, note: Note) -> None:
        """Nothing is under way."""

    def before_end(self, note: Note) -> None:
        """Nothing is under way."""


def begin(plan: StepPlan[Running], program: Program, counters: EngineCounters) -> StepInputs:
    """Does what comes before a step, and gives its inputs."""
    for block in plan.copies:
        program.copy_block(*block)
    for running in plan.admitted:
        request = running.request
        if not request.timings.scheduled:
            request.timings.scheduled = monotonic()
            request.cached_tokens = running.cached
            counters.scheduled(request)
    for _ in range(plan.preempted):
        counters.preempted()
    return step_inputs(plan, len(program.cache_groups))


def observe(
    plan: StepPlan[Running],
    seconds: float,
    scheduler: Scheduler[Running],
    counters: EngineCounters,
) -> None:
    """Tells who learns from it how long a step took."""
    own, decoding, drafted = sum(plan.counts), plan.decoding, plan.drafted
    scheduler.shape.observe(decoding, own - decoding, seconds, drafted)
    counters.step(seconds, own + drafted, len(plan.sequences))
