"""Requests in, tokens out: many requests share every step.

`add` queues a request, `step` computes one step for whoever is scheduled, and the new tokens
appear in each request's `output`. Text is not the engine's business: it knows token ids only.
"""

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ..errors import LlmcError
from ..program import Program, StepOutputs
from .batch import step_inputs
from .blocks import CacheManager
from .sampling import SamplingParams
from .scheduler import Scheduler, Sequence, StepPlan

if TYPE_CHECKING:
    from .sampler import Sampler

FinishReason = Literal["stop", "length", "aborted"]


@dataclass(slots=True, eq=False)
class Request:
    """One continuation to make. `output` grows; `finish_reason` is set when it is complete.

    `eos_ids` end it with reason "stop", and the id is part of the output.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    params: SamplingParams = field(default_factory=SamplingParams)
    eos_ids: frozenset[int] = frozenset()
    output: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None


@dataclass(slots=True)
class _Running:
    """What the engine keeps of a request that isn't finished. No sampler: the argmax it is."""

    request: Request
    sequence: Sequence
    sampler: "Sampler | None"


class Engine:
    """Runs requests on a program. Not thread-safe: one caller steps it at a time."""

    def __init__(self, program: Program, *, max_context: int | None = None) -> None:
        self.program = program
        limits = program.limits
        self.max_context = min(max_context or limits.max_context, limits.max_context)
        self.cache = CacheManager(program.cache_groups, program.cache_blocks, limits.max_tokens)
        self.scheduler = Scheduler(limits, self.cache)
        self._by_sequence: dict[int, _Running] = {}

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self._by_sequence)

    def add(self, request: Request) -> None:
        """Queues a request. E0204 prompt longer than the context, E0206 empty, E0208 bad ids,
        E0603 it could never fit the cache."""
        self._check(request)
        # The last token is sampled but never computed, so the cache keeps one token less.
        max_length = min(len(request.prompt) + request.max_tokens - 1, self.max_context)
        if not self.cache.can_ever_admit(max_length):
            raise LlmcError(
                "LLMC-E0603", f"{max_length} tokens need more cache than all of the pool"
            )
        sequence = Sequence(list(request.prompt), max_length)
        self._by_sequence[id(sequence)] = _Running(request, sequence, _sampler_for(request))
        self.scheduler.add(sequence)

    def _check(self, request: Request) -> None:
        check_prompt(request.prompt, self.program.vocab_size)
        if len(request.prompt) > self.max_context:
            raise LlmcError(
                "LLMC-E0204",
                f"the prompt has {len(request.prompt)} tokens, the context {self.max_context}",
            )
        if request.max_tokens < 1:
            raise LlmcError("LLMC-E0205", f"max_tokens cannot be {request.max_tokens}")

    def step(self) -> None:
        """Computes one step, if there is anything to compute."""
        plan = self.scheduler.schedule()
        outputs = self._execute(plan)
        self._process(plan, outputs)

    def _execute(self, plan: StepPlan) -> StepOutputs | None:
        return self.program.step(step_inputs(plan, self.cache)) if plan.scheduled else None

    def _process(self, plan: StepPlan, outputs: StepOutputs | None) -> None:
        """Samples the next token of every sequence whose tokens are all computed."""
        self.scheduler.advance(plan)
        row = 0
        for item in plan.scheduled:
            if item.wants_logits:
                assert outputs is not None
                running = self._by_sequence[id(item.sequence)]
                token = outputs.argmax[row]
                if running.sampler is not None:
                    token = running.sampler.sample(outputs.logits[row], token)
                self._append(running, token)
                row += 1

    def _append(self, running: _Running, token: int) -> None:
        request, sequence = running.request, running.sequence
        request.output.append(token)
        sequence.tokens.append(token)
        if token in request.eos_ids:
            self._finish(running, "stop")
        elif len(sequence.tokens) > sequence.max_length:  # it would have to be computed next
            self._finish(running, "length")

    def _finish(self, running: _Running, reason: FinishReason) -> None:
        running.request.finish_reason = reason
        self.scheduler.remove(running.sequence)
        del self._by_sequence[id(running.sequence)]

    def finish(self, request: Request, reason: FinishReason = "aborted") -> None:
        """Ends a request from outside (its reader left, or a stop string came); idempotent."""
        for running in list(self._by_sequence.values()):
            if running.request is request:
                self._finish(running, reason)

    def abort_all(self) -> None:
        """Ends every unfinished request."""
        for running in list(self._by_sequence.values()):
            self._finish(running, "aborted")


def _sampler_for(request: Request) -> "Sampler | None":
    if request.params.is_argmax:
        return None
    from .sampler import Sampler

    return Sampler(request.params, request.prompt)


def check_prompt(prompt: SequenceOf[int], vocab_size: int) -> None:
    """Raises E0206 if the prompt is empty, E0208 if an id is outside the vocabulary."""
    if not prompt:
        raise LlmcError("LLMC-E0206", "the prompt is empty")
    for token in prompt:
        if not 0 <= token < vocab_size:
            raise LlmcError("LLMC-E0208", f"token id {token} is outside 0..{vocab_size - 1}")
