"""Requests in, tokens out: many requests share every step.

`add` queues a request; `step` computes one step for whoever is scheduled and returns the news: a
`Delta` for each request that has some. The engine is used by one thread at a time; `thread.py` runs
it for many callers.
"""

import heapq
from collections.abc import Sequence as SequenceOf
from functools import cached_property
from time import monotonic, perf_counter
from typing import TYPE_CHECKING

from msgspec import Struct, field

from ...artifact.program import Program, StepOutputs
from ...base.errors import LlmcError
from .cache.manager import CacheManager
from .metrics.counters import EngineCounters, Gauges
from .request import Delta, FinishReason, Request
from .sampling.parameters import check_params
from .sampling.request_state import SamplingState, sampling_state
from .schedule.scheduler import Scheduler, StepPlan, counts_by_kind
from .schedule.sequence import Sequence
from .schedule.step_inputs import step_inputs
from .schedule.step_shape import MixedSteps, UniformSteps

if TYPE_CHECKING:
    from .sampling.sampler import Sampler

__all__ = ["Engine", "EngineOptions", "FinishReason", "Request", "check_prompt"]


class EngineOptions(Struct, frozen=True):
    """`prefix_cache`: whether requests share the cached beginnings of their prompts.
    `decode_slack`: how many times as long as a step of decoding alone a step may take that also
    computes prompts (None: prompts take all that fits, and decoding sequences wait for them)."""

    prefix_cache: bool = True
    decode_slack: float | None = 1.6


class _Running(Sequence, eq=False, kw_only=True):
    """A request that isn't finished. `state`: None if the program's argmax is the answer."""

    request: Request
    state: SamplingState | None = None
    untold: int = 0
    """How many of the latest output ids are in no delta yet: their text isn't certain."""
    followers: list["_Running"] = field(default_factory=list)


class Engine:
    """Runs requests on a program. Not thread-safe: one caller steps it at a time."""

    def __init__(
        self,
        program: Program,
        *,
        max_context: int | None = None,
        options: EngineOptions | None = None,
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
        )
        shape = UniformSteps() if limits.uniform_query else MixedSteps(options.decode_slack)
        self.scheduler = Scheduler(limits, self.cache, shape)
        self.counters = EngineCounters()
        self._running: dict[int, _Running] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._news: list[Delta] = []
        self._with_state = 0
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
        running = _Running(
            list(request.prompt),
            self._max_length(request),
            priority=request.priority,
            client=request.client,
            namespace=request.namespace,
            wants_all_rows=request.params.prompt_logprobs is not None,
            request=request,
            state=sampling_state(request),
        )
        request.timings.arrived = request.timings.arrived or monotonic()
        if running.wants_all_rows:
            request.prompt_logprobs.append(None)  # nothing tells about the first token
        self._running[id(request)] = running
        self._with_state += running.state is not None
        self.counters.added(request)
        if request.deadline is not None:
            heapq.heappush(self._deadlines, (request.deadline, id(request)))
        leader = self._running.get(id(request.follows))
        if leader is not None and not leader.request.output and self.cache.prefixes:
            leader.followers.append(running)
        else:
            self.scheduler.add(running)

    def step(self) -> list[Delta]:
        """Computes one step, if there is anything to compute, and returns what is new."""
        if self._deadlines and self._deadlines[0][0] <= monotonic():
            self._expire()
        plan = self.scheduler.schedule()
        if plan.sequences:
            states = self._states(plan)
            self._process(plan, states, self._execute(plan, states))
        news, self._news = self._news, []
        return news

    def _states(self, plan: StepPlan) -> list[SamplingState | None] | None:
        """For each row of logits the state of the request that gets a token from it; None if every
        answer is the argmax."""
        if not self._with_state:
            return None
        states: list[SamplingState | None] = []
        for running, count, rows in zip(plan.sequences, plan.counts, plan.rows, strict=True):
            if rows:
                is_last = running.computed + count == len(running.tokens)
                states += [None] * (rows - 1)
                states.append(running.state if is_last else None)
        return states if any(state is not None for state in states) else None

    def _execute(
        self, plan: StepPlan[_Running], states: list[SamplingState | None] | None
    ) -> StepOutputs:
        for copy in plan.copies:
            self.program.copy_block(*copy)
        for running in plan.admitted:
            self._note_admission(running)
        for _ in range(plan.preempted):
            self.counters.preempted()
        if states is not None:
            self.sampler.prepare(states)
        inputs = step_inputs(plan, len(self.cache.groups))
        decoding, prompt_tokens = counts_by_kind(plan)
        began = perf_counter()
        outputs = self.program.step(inputs)
        seconds = perf_counter() - began
        self.scheduler.shape.observe(decoding, prompt_tokens, seconds)
        self.counters.step(seconds, decoding + prompt_tokens, len(plan.sequences))
        return outputs

    @cached_property
    def sampler(self) -> "Sampler":
        """Chooses tokens where the argmax is not the answer."""
        from .sampling.sampler import Sampler

        return Sampler(self.program.vocab_size)

    def _note_admission(self, running: _Running) -> None:
        request = running.request
        if not request.timings.scheduled:
            request.timings.scheduled = monotonic()
            request.cached_tokens = running.cached
            self.counters.scheduled(request)

    def _process(
        self,
        plan: StepPlan[_Running],
        states: list[SamplingState | None] | None,
        outputs: StepOutputs,
    ) -> None:
        """Gives every sequence whose tokens are all computed its next one."""
        if any(running.wants_all_rows for running in plan.sequences):
            self._read_prompt_logprobs(plan, outputs)
        tokens = outputs.argmax
        if states is not None:
            tokens = self.sampler.sample(states, outputs)
        self.scheduler.advance(plan)
        self._append_tokens(plan, tokens)

    def _append_tokens(self, plan: StepPlan[_Running], tokens: list[int]) -> None:
        now = monotonic()
        previous, self._last_step = self._last_step, now
        row, given, continuing = -1, 0, 0
        for running, rows in zip(plan.sequences, plan.rows, strict=True):
            row += rows
            if not rows or running.computed < len(running.tokens):
                continue
            token, request = tokens[row], running.request
            running.tokens.append(token)
            request.output.append(token)
            given += 1
            if request.timings.last_token == previous:
                continuing += 1  # as nearly all
            else:
                self._note_token(running, now)
            request.timings.last_token = now
            self._tell(running, request, token)
        self.counters.tokens(given)
        if continuing:
            self.counters.inter_token(now - previous, continuing)

    def _note_token(self, running: _Running, now: float) -> None:
        """A token that isn't from the step after the one before: the first, or after a pause."""
        timings = running.request.timings
        if timings.last_token:
            self.counters.inter_token(now - timings.last_token)
            return
        timings.first_token = now
        self.counters.first_token(running.request)
        if running.followers:
            self.scheduler.share_prompt(running)
            self._release_followers(running)

    def _tell(self, running: _Running, request: Request, token: int) -> None:
        """Makes text of a token, and ends the request if it was the last."""
        state, text = running.state, ""
        running.untold += 1
        if state is not None and not self._read_state(running, state):
            return None
        if token in request.eos_ids:
            request.stop_reason = token
            return self._finish(running, "stop")
        if request.text is not None:
            text = request.text.push(token)
            if request.text.stopped:
                request.stop_reason = request.text.stop_string
                return self._finish(running, "stop", text)
        if state is not None and state.ended:
            return self._finish(running, "stop", text)
        if len(running.tokens) > running.max_length:  # it would have to be computed next
            return self._finish(running, "length", text)
        if text or request.text is None:
            ids = (token,) if running.untold == 1 else tuple(request.output[-running.untold :])
            running.untold = 0
            self._news.append(Delta(request, ids, text, None))
        return None

    def _read_state(self, running: _Running, state: SamplingState) -> bool:
        """Takes over what the sampler says beside the token; False if it was an error."""
        request = running.request
        if request.params.logprobs is not None and state.last_logprob is not None:
            request.logprobs.append(state.last_logprob)
        if state.error is not None:
            request.error = state.error
            request.output.pop()  # it means nothing
            running.untold -= 1
            self._finish(running, "error")
        return state.error is None

    def _read_prompt_logprobs(self, plan: StepPlan[_Running], outputs: StepOutputs) -> None:
        from .sampling.logprobs import of_step

        end = 0
        for running, rows in zip(plan.sequences, plan.rows, strict=True):
            end += rows
            if running.wants_all_rows:
                # Row i tells about the token behind position computed + i.
                request, first = running.request, running.computed + 1
                targets = request.prompt[first : first + rows]
                places = range(end - rows, end - rows + len(targets))
                del request.prompt_logprobs[first:]  # a second time after a preemption
                top = request.params.prompt_logprobs or 0
                request.prompt_logprobs += of_step(outputs, places, targets, top)
                running.wants_all_rows = first + rows <= len(request.prompt)

    def _finish(self, running: _Running, reason: FinishReason, text: str = "") -> None:
        request = running.request
        if request.text is not None and reason in ("stop", "length"):
            text += request.text.flush()
            if request.text.stopped and request.stop_reason is None:
                reason, request.stop_reason = "stop", request.text.stop_string
        request.finish_reason = reason
        request.timings.finished = monotonic()
        del self._running[id(request)]
        self._with_state -= running.state is not None
        self.scheduler.remove(running)
        self._release_followers(running)
        self.counters.finished(request)
        ids = tuple(request.output[len(request.output) - running.untold :])
        self._news.append(Delta(request, ids, text, reason))

    def _release_followers(self, running: _Running) -> None:
        """Those who waited for a prompt can find it in the cache now, or must compute it."""
        followers, running.followers = running.followers, []
        for follower in followers:
            if id(follower.request) in self._running:
                self.scheduler.add(follower)

    def _expire(self) -> None:
        now = monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, identity = heapq.heappop(self._deadlines)
            running = self._running.get(identity)
            if running is not None and running.request.deadline == deadline:
                self._finish(running, "timeout")

    def finish(self, request: Request, reason: FinishReason = "aborted") -> None:
        """Ends a request from outside (its reader left); nothing happens if it has ended."""
        running = self._running.get(id(request))
        if running is not None:
            self._finish(running, reason)

    def abort_all(self) -> None:
        """Ends every unfinished request."""
        for request in self.unfinished:
            self.finish(request)

    def close(self) -> None:
        """Frees the program's memory and ends the sampler's threads."""
        if "sampler" in self.__dict__:  # it isn't made for the purpose
            self.sampler.close()
        self.program.close()

    def gauges(self) -> Gauges:
        """How it stands now."""
        pools = self.cache.pools
        return Gauges(
            running=len(self.scheduler.running),
            waiting=len(self._running) - len(self.scheduler.running),
            cache_used=sum(pool.used for pool in pools),
            cache_cached=sum(pool.kept for pool in pools),
            cache_total=sum(pool.size for pool in pools),
        )


def check_prompt(prompt: SequenceOf[int], vocab_size: int) -> None:
    """Raises E0206 if the prompt is empty, E0208 if an id is outside the vocabulary."""
    if not prompt:
        raise LlmcError("LLMC-E0206", "the prompt is empty")
    if min(prompt) < 0 or max(prompt) >= vocab_size:
        token = next(t for t in prompt if not 0 <= t < vocab_size)
        raise LlmcError("LLMC-E0208", f"token id {token} is outside 0..{vocab_size - 1}")
