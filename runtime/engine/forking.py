"""Continuations of one prompt (`n` > 1): the first computes it, the others go on from there.

In: a step that gives a request its first token, while *followers* wait for its prompt. Out: those
for whom there is room, with a first token each. They share the blocks of the prompt, get a copy of
its state, and draw from the same row of logits. Whoever can't be forked queues as others do, and
goes on from what the prefix cache has.
"""

from time import monotonic
from typing import TYPE_CHECKING

from msgspec import Struct

from ...artifact.program import StepOutputs
from .metrics.counters import EngineCounters
from .running import Running, Taken
from .sampling.sampler import Sampler
from .schedule.scheduler import Scheduler
from .schedule.step_plan import StepPlan

if TYPE_CHECKING:
    from ...base.arrays import Float32Array


class Fork(Struct, frozen=True, eq=False):
    """A leader that is due, and its row of logits as it was before a token was drawn, which may
    change it: `argmax` for those who take that, `logits` for those who draw. None: nobody does."""

    leader: Running
    row: int
    argmax: int | None
    logits: "Float32Array | None"


class Forks:
    """`leaders`: by identity, the requests whose first token is waited for."""

    def __init__(
        self, scheduler: Scheduler[Running], sampler: Sampler, counters: EngineCounters
    ) -> None:
        self._scheduler, self._sampler, self._counters = scheduler, sampler, counters
        self.leaders: dict[int, Running] = {}

    def add(self, leader: Running) -> None:
        """Somebody waits for its prompt."""
        self.leaders[id(leader)] = leader

    def ended(self, running: Running) -> None:
        """A request has ended; nobody waits for it any more."""
        self.leaders.pop(id(running), None)

    def of(self, plan: StepPlan[Running], outputs: StepOutputs) -> list[Fork]:
        """The leaders that get their first token from this step, of which nothing is drawn yet."""
        found = []
        for place, row in plan.due:
            leader = self.leaders.pop(id(plan.sequences[place]), None)
            if leader is not None:
                states = [follower.state for follower in leader.followers]
                argmax = outputs.argmax[row] if None in states else None
                draws = any(state is not None for state in states)
                logits = outputs.logits[row].copy() if draws else None
                found.append(Fork(leader, row, argmax, logits))
        return found

    def take(self, fork: Fork, outputs: StepOutputs) -> list[Taken]:
        """Runs the followers for whom there is room, and gives them their first tokens. Comes after
        the leader has got its own, and the step is recorded."""
        leader, taken = fork.leader, []
        for follower in [one for one in leader.followers if _can_be_forked(one, leader)]:
            if not self._scheduler.fork(leader, follower):
                break
            leader.followers.remove(follower)
            note_scheduled(follower, self._counters)
            taken.append((follower, 1, follower.take(self._first_token(follower, fork, outputs))))
        return taken

    def _first_token(self, follower: Running, fork: Fork, outputs: StepOutputs) -> int:
        if follower.state is None:
            assert fork.argmax is not None
            return fork.argmax
        assert fork.logits is not None
        outputs.logits[fork.row] = fork.logits
        return self._sampler.sample([follower.state], outputs, [fork.row])[0]


def _can_be_forked(follower: Running, leader: Running) -> bool:
    """Whether a follower is still there, and needs nothing of its prompt but what was computed."""
    request, other = follower.request, leader.request
    is_same = request.prompt == other.prompt and request.namespace == other.namespace
    return is_same and request.finish_reason is None and not follower.wants_all_rows


def note_scheduled(running: Running, counters: EngineCounters) -> None:
    """Notes when a request was first scheduled, and what of it was there already."""
    request = running.request
    if not request.timings.scheduled:
        request.timings.scheduled = monotonic()
        request.cached_tokens = running.cached
        counters.scheduled(request)
