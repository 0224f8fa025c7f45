"""Requests in, tokens out: many requests share every step.

`add` queues a request; `step` computes one step for whoever is scheduled and returns the news: a
`Delta` for each request that has some. The engine is used by one thread at a time; `loop/thread.py`
runs it for many callers.
"""

import heapq
from time import monotonic

from msgspec import Struct

from ...artifact.program import Program, submits
from ...artifact.stateful_program import keeps_state
from ...base.errors import LlmcError
from .ahead import StepsAhead
from .cache.manager import CacheManager
from .cache.snapshot_places import SnapshotPlaces
from .in_turn import Steps, StepsInTurn
from .metrics.counters import EngineCounters, Gauges
from .request import Delta, FinishReason, Request, check_prompt
from .running import Running, Taken
from .sampling.parameters import check_params
from .sampling.sampler import Sampler
from .schedule.scheduler import Scheduler
from .schedule.step_shape import MixedSteps, UniformSteps
from .speculation.proposer import Proposer, usable_proposer

__all__ = ["Engine", "EngineOptions", "FinishReason", "Request"]


class EngineOptions(Struct, frozen=True):
    """`prefix_cache`: whether requests share the cached beginnings of their prompts.
    `decode_slack`: how many times as long as a step of decoding alone a step may take that also
    computes prompts (None: prompts take all that fits, and decoding sequences wait for them)."""

    prefix_cache: bool = True
    decode_slack: float | None = 1.6


class Engine:
    """Runs requests on a program. Not thread-safe: one caller steps it at a time.

    `turn_ids`: tokens that end a turn of a conversation, of use where the program keeps state.
    """

    def __init__(
        self,
        program: Program,
        *,
        max_context: int | None = None,
        options: EngineOptions | None = None,
        proposer: Proposer | None = None,
        turn_ids: frozenset[int] = frozenset(),
    ) -> None:
        options = options or EngineOptions()
        limits = program.limits
        self.program = program
        self.max_context = min(max_context or limits.max_context, limits.max_context)
        self.cache = CacheManager(
            program.cache_groups,
            program.cache_blocks,
            limits.max_tokens,
            prefixes=options.prefix_cache and not limits.uniform_query,
            block_size=limits.block_size,
            slots=program.state_slots if keeps_state(program) else 0,
            places=SnapshotPlaces(turn_ids),
        )
        shape = UniformSteps() if limits.uniform_query else MixedSteps(options.decode_slack)
        proposer = usable_proposer(proposer, program)
        self.scheduler = Scheduler(limits, self.cache, shape, proposer)
        self.sampler = Sampler()
        self.counters = EngineCounters()
        if self.cache.state is not None:
            self.counters.snapshots = self.cache.state.counts
        parts = self.scheduler, self.sampler, self.counters
        self._steps: Steps = (
            StepsAhead(program, *parts, waits=proposer is not None)
            if submits(program) and not keeps_state(program)
            else StepsInTurn(program, *parts)
        )
        self._running: dict[int, Running] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._news: list[Delta] = []
        self._last_step = -1.0  # no request has had a token then

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished, or its end not yet told."""
        return bool(self._running or self._news)

    @property
    def unfinished(self) -> list[Request]:
        """The requests that wait or run."""
        return [running.request for running in self._running.values()]

    def check(self, request: Request) -> None:
        """Raises what `add` would raise; may be called by any thread. E0204 prompt longer than the
        context, E0205 a parameter, E0206 empty, E0208 bad ids, E0603 it could never fit the cache.
        """
        check_prompt(request.prompt, self.program.vocab_size)
        check_params(request.params, self.program.vocab_size)
        if len(request.prompt) > self.max_context:
            raise LlmcError(
                "LLMC-E0204",
                f"the prompt has {len(request.prompt)} tokens, the context {self.max_context}",
            )
        if request.max_tokens < 1:
            raise LlmcError("LLMC-E0205", f"max_tokens cannot be {request.max_tokens}")
        if not self.cache.can_ever_admit(self._max_length(request)):
            raise LlmcError(
                "LLMC-E0603",
                f"{self._max_length(request)} tokens need more cache than all of the pool",
            )

    def _max_length(self, request: Request) -> int:
        # The last token is sampled but never computed, so the cache keeps one token less.
        return min(len(request.prompt) + request.max_tokens - 1, self.max_context)

    def add(self, request: Request) -> None:
        """Queues a request; errors as `check` has them."""
        self.check(request)
        running = Running.of(request, self._max_length(request))
        request.timings.arrived = request.timings.arrived or monotonic()
        if request.params.prompt_logprobs is not None:
            request.prompt_logprobs.append(None)  # nothing tells about the first token
        self._running[id(request)] = running
        self._steps.added(running)
        self.counters.added(request)
        if request.deadline is not None:
            heapq.heappush(self._deadlines, (request.deadline, id(request)))
        leader = self._running.get(id(request.follows))
        if leader is not None and not leader.request.output and self.cache.prefixes:
            leader.followers.append(running)
            self._steps.leads(leader)
        else:
            self.scheduler.add(running)

    def step(self) -> list[Delta]:
        """Computes one step, if there is anything to compute, and returns what is new. With a
        program that works by itself, the news are of the step before, and this one runs on."""
        self._expire()
        self._steps.compute(self._note)
        return self.take_news()

    def settle(self) -> None:
        """Waits for what the program computes; its news come with the next step. To be called
        before others use the program."""
        self._steps.settle(self._note)

    def _note(self, taken: list[Taken]) -> None:
        """Notes what is new of those who have got tokens in a step."""
        now = monotonic()
        previous, self._last_step = self._last_step, now
        given, continuing, news = 0, 0, self._news
        for running, count, reason in taken:
            given += count
            timings = running.request.timings
            if timings.last_token == previous and count == 1:
                continuing += 1  # as nearly all
            else:
                self._note_tokens(running, count, now)
            timings.last_token = now
            if reason is not None:
                self._finish(running, reason)
            elif (delta := running.delta()) is not None:
                news.append(delta)
        self.counters.tokens(given)
        if continuing:
            self.counters.inter_token(now - previous, continuing)

    def take_news(self) -> list[Delta]:
        """What no step has returned yet: of those who ended between steps, or were told about by a
        step that had to be waited for."""
        news, self._news = self._news, []
        return news

    def _note_tokens(self, running: Running, count: int, now: float) -> None:
        """Tokens that aren't each from the step after the one before: the first, after a pause, or
        several at once, which are taken to have come one by one since the last."""
        timings = running.request.timings
        if not timings.last_token:
            timings.first_token = timings.last_token = now
            self.counters.first_token(running.request)
            if running.followers:
                self.scheduler.share_prompt(running)
                self._release_followers(running)
            count -= 1
        if count:
            self.counters.inter_token((now - timings.last_token) / count, count)

    def _finish(self, running: Running, reason: FinishReason) -> None:
        request = running.request
        self._news.append(running.last_delta(reason))
        request.timings.finished = monotonic()
        del self._running[id(request)]
        self._steps.ended(running)
        self.scheduler.remove(running)
        self._release_followers(running)
        self.counters.finished(request)

    def _release_followers(self, running: Running) -> None:
        """Those who waited for a prompt can find it in the cache now, or must compute it."""
        followers, running.followers = running.followers, []
        for follower in followers:
            if id(follower.request) in self._running:
                self.scheduler.add(follower)

    def _expire(self) -> None:
        if not self._deadlines or self._deadlines[0][0] > (now := monotonic()):
            return
        self._steps.before_end(self._note)
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, identity = heapq.heappop(self._deadlines)
            running = self._running.get(identity)
            if running is not None and running.request.deadline == deadline:
                self._finish(running, "timeout")

    def finish(self, request: Request, reason: FinishReason = "aborted") -> None:
        """Ends a request from outside (its reader left); nothing happens if it has ended."""
        if id(request) in self._running:
            self._steps.before_end(self._note)
        running = self._running.get(id(request))
        if running is not None:
            self._finish(running, reason)

    def abort_all(self) -> None:
        """Ends every unfinished request."""
        for request in self.unfinished:
            self.finish(request)

    def close(self) -> None:
        """Frees the program's memory and ends the sampler's threads."""
        self.sampler.close()
        self.program.close()

    def gauges(self) -> Gauges:
        """How it stands now."""
        pools, state = self.cache.pools, self.cache.state
        running = len(self.scheduler.running) + self._steps.leaving
        return Gauges(
            running=running,
            waiting=len(self._running) - running,
            cache_used=sum(pool.used for pool in pools),
            cache_cached=sum(pool.kept for pool in pools),
            cache_total=sum(pool.size for pool in pools),
            state_used=state.used if state is not None else 0,
            state_snapshots=state.kept if state is not None else 0,
            state_total=state.size if state is not None else 0,
        )
