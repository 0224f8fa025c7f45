"""Steps one after the other: what a scheduler plans is executed at once.

In: a scheduler with what waits and runs. Out: who has got which tokens, told to `note`. This is the
whole way of a step for a program that computes while it is called; `ahead.py` is the one for a
program that works by itself.
"""

from collections.abc import Callable
from time import perf_counter
from typing import Protocol

from ...artifact.program import Program, StepInputs
from ...artifact.stateful_program import keeps_state
from .cache.hold import NO_COPIES, Copies
from .forking import Forks, note_scheduled
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

    def leads(self, leader: Running) -> None:
        """One more request waits for the prompt of this one, among its followers."""
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
        self._forks = Forks(scheduler, sampler, counters)
        self._keeps_state = keeps_state(program)

    def added(self, running: Running) -> None:
        self._with_state += running.state is not None

    def ended(self, running: Running) -> None:
        self._with_state -= running.state is not None
        self._forks.ended(running)

    def leads(self, leader: Running) -> None:
        self._forks.add(leader)

    def compute(self, note: Note) -> None:
        plan = self._scheduler.schedule()
        if not plan.sequences:
            return
        inputs = begin(plan, self._program, self._counters, state=self._keeps_state)
        if self._with_state:
            self._sampler.prepare([running.state for running in plan.sequences])
        began = perf_counter()
        outputs = self._program.step(inputs)
        observe(plan, perf_counter() - began, self._scheduler, self._counters)
        forks = self._forks.of(plan, outputs) if self._forks.leaders else ()
        taken, accepted = take_next(plan, outputs, self._sampler, greedy=not self._with_state)
        self._scheduler.advance(plan, accepted)
        for fork in forks:
            taken += self._forks.take(fork, outputs)
        note(taken)

    def settle(self, note: Note) -> None:
        """Nothing is under way."""

    def before_end(self, note: Note) -> None:
        """Nothing is under way."""


def begin(
    plan: StepPlan[Running], program: Program, counters: EngineCounters, *, state: bool = False
) -> StepInputs:
    """Does what comes before a step, and gives its inputs. `state`: whether the program keeps
    some."""
    if plan.copies is not NO_COPIES:
        make_copies(plan.copies, program)
    for running in plan.admitted:
        note_scheduled(running, counters)
    for _ in range(plan.preempted):
        counters.preempted()
    return step_inputs(plan, len(program.cache_groups), state=state)


def make_copies(copies: Copies, program: Program) -> None:
    """Makes what sequences have instead of what they share with others, and snapshots."""
    for block in copies.blocks:
        program.copy_block(*block)
    if copies.slots:
        assert keeps_state(program)
        for slot in copies.slots:
            program.copy_slot(*slot)


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
