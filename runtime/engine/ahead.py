"""One step ahead: while a program computes a step, the next one is planned and submitted.

In: a scheduler, and a program that works by itself (`SubmittingProgram`). Out: who has got which
tokens, told to `note` when they arrive.

A sequence that gets a token from the step under way goes on with a *placeholder*, -1 - k for logits
row k, as its last token: to the scheduler it is a token like others, and the program knows which
one it is. When the step lands, the token takes its place. Nobody else ever sees a placeholder: it
is never computed when the prefix tree is told of a sequence, since the step that computes it
is recorded only after the one that gives it has landed; and it is no part of a request's output.

Who ends with a token that was unknown has a row in the next step already: it is computed in vain.
Whose last token is certain to come by length isn't planned again, and gives its blocks back as
soon as its last step is submitted, as whatever gets them is computed later.

Some requests can't go on without the host: drafts are to be proposed and verified, or a grammar,
penalties, a bad word of several tokens depend on the last token, or log-probabilities of the prompt
are read from logits, or the program can't draw as they ask. As long as one of these is unfinished,
a step lands before the next one is planned, though it still runs while the engine's caller does
something else.
"""

from collections.abc import Sequence
from itertools import repeat
from time import perf_counter

from msgspec import Struct

from ...artifact.choice import Choice
from ...artifact.program import StepOutputs, SubmittedStep, SubmittingProgram
from .in_turn import Note, begin, observe
from .metrics.counters import EngineCounters
from .next_tokens import take_next, who_is_due
from .running import Running, Taken
from .sampling.sampler import Sampler
from .schedule.scheduler import Scheduler
from .schedule.step_plan import StepPlan


class _Flight(Struct, eq=False):
    """A step that was submitted at `began`. `due`: who gets a token; None if the host reads its
    outputs, before anything else is planned. `rows`: from which logits rows; `choices`: by which
    choice, None if it is the argmax, as it is for all if there are none. `in_vain`: everybody in it
    has ended."""

    plan: StepPlan[Running]
    submitted: SubmittedStep
    began: float
    due: Sequence[Running] | None = None
    rows: Sequence[int] = ()
    choices: Sequence[Choice | None] = ()
    in_vain: bool = False


class StepsAhead:
    """At most one step is under way between two calls, at most two within one. `waits`: everybody
    needs the host in each step."""

    def __init__(
        self,
        program: SubmittingProgram,
        scheduler: Scheduler[Running],
        sampler: Sampler,
        counters: EngineCounters,
        *,
        waits: bool = False,
    ) -> None:
        self._program, self._scheduler = program, scheduler
        self._sampler, self._counters = sampler, counters
        self._flight: _Flight | None = None
        self._waits = waits
        self._unfinished = self._with_state = 0
        self._waiting: set[int] = set()
        """Identities of the unfinished requests that can't go on without the host."""
        self._landed = 0.0
        self.leaving = 0

    def added(self, running: Running) -> None:
        self._unfinished += 1
        self._with_state += running.state is not None
        if self._waits or _needs_host(running, self._program):
            self._waiting.add(id(running))

    def ended(self, running: Running) -> None:
        self._unfinished -= 1
        self._with_state -= running.state is not None
        self._waiting.discard(id(running))
        if not self._unfinished and self._flight is not None:
            self._flight.in_vain = True

    def leads(self, leader: Running) -> None:
        """Followers wait until the prefix cache has the prompt: the row of logits that their first
        tokens would be drawn from may be on the device, and the next step planned already."""

    def compute(self, note: Note) -> None:
        if self._waiting or self._must_land_first:
            self.settle(note)
        plan = self._scheduler.schedule()
        before = self._flight
        self._flight = flight = self._submit(plan) if plan.sequences else None
        if before is not None:
            note(self._land(before))
        self.leaving = 0
        if flight is not None and flight.due is not None:
            self._go_on(flight.plan, flight.due, flight.rows)

    @property
    def _must_land_first(self) -> bool:
        return self._flight is not None and self._flight.due is None

    def settle(self, note: Note) -> None:
        flight, self._flight = self._flight, None
        if flight is not None:
            self.leaving = 0
            note(self._land(flight))

    def before_end(self, note: Note) -> None:
        if self._must_land_first:  # its tokens are given to all that it was planned for
            self.settle(note)

    def _submit(self, plan: StepPlan[Running]) -> _Flight:
        inputs = begin(plan, self._program, self._counters)
        if self._waiting:
            if self._with_state:
                self._sampler.prepare([running.state for running in plan.sequences])
            return _Flight(plan, self._program.submit(inputs), perf_counter())
        due, rows = who_is_due(plan)
        if not self._with_state:
            return _Flight(plan, self._program.submit(inputs), perf_counter(), due, rows)
        choices: list[Choice | None] = []
        for running, row in zip(due, rows, strict=True):
            state = running.state
            index = len(running.tokens) - len(running.request.prompt)
            choices.append(None if state is None else state.choice_ahead(row, index))
        made = [choice for choice in choices if choice is not None]
        return _Flight(plan, self._program.submit(inputs, made), perf_counter(), due, rows, choices)

    def _go_on(self, plan: StepPlan[Running], due: Sequence[Running], rows: Sequence[int]) -> None:
        """Records a step that is under way, as if it were done, when all tokens in it are known.
        Who ended meanwhile holds no blocks, so nothing is recorded of it."""
        self._scheduler.advance(plan)
        for running, row in zip(due, rows, strict=True):
            if running.request.finish_reason is None:
                tokens = running.tokens
                tokens.append(-1 - row)
                if len(tokens) > running.max_length:
                    self._scheduler.leave(running)
                    self.leaving += 1

    def _land(self, flight: _Flight) -> list[Taken]:
        """Waits for a step, and gives everybody who is due the next tokens."""
        outputs, plan = flight.submitted.outputs(), flight.plan
        now = perf_counter()
        if flight.in_vain:  # it may have landed long ago
            self._landed = now
            return []
        # It began when it was submitted, or when the one before it was done.
        observe(plan, now - max(flight.began, self._landed), self._scheduler, self._counters)
        self._landed = now
        if flight.due is not None:
            return _take(flight.due, flight.rows, flight.choices, outputs)
        greedy = not self._with_state
        taken, accepted = take_next(plan, outputs, self._sampler, greedy=greedy)
        self._scheduler.advance(plan, accepted)
        return taken


def _needs_host(running: Running, program: SubmittingProgram) -> bool:
    state = running.state
    if running.request.params.prompt_logprobs is not None:
        return True
    if state is None:
        return False
    return state.needs_tokens or not program.draws(state.choice_ahead(0, 0))


def _take(
    due: Sequence[Running],
    rows: Sequence[int],
    choices: Sequence[Choice | None],
    outputs: StepOutputs,
) -> list[Taken]:
    """Tokens in the place of placeholders, for all that haven't ended since."""
    taken: list[Taken] = []
    argmax = outputs.argmax if not choices or None in choices else ()
    for running, row, choice in zip(due, rows, choices or repeat(None), strict=False):
        if running.request.finish_reason is None:
            state = running.state
            token = argmax[row] if choice is None or state is None else state.take(choice)
            del running.tokens[-1]
            taken.append((running, 1, running.take(token)))
    return taken
