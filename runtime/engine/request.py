"""What is asked of the engine, and what it answers: requests, their news after each step, timings.

A caller makes a `Request` and adds it; every step gives a `Delta` for each request that has
something new. All clock readings are of `time.monotonic`, so a change of the wall clock does
nothing.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from msgspec import Struct, field

from ...base.errors import LlmcError
from .sampling.parameters import SamplingParams

if TYPE_CHECKING:
    from ..text.output import OutputText
    from .sampling.grammar import CompiledGrammar

FinishReason = Literal["stop", "length", "aborted", "timeout", "error"]
"""`stop`: an end-of-text id, a stop id, a stop string, or a grammar that is complete. `length`:
max_tokens or the context. `aborted`: its reader left. `timeout`: its deadline passed. `error`: the
program or the grammar failed; `Request.error` says how."""


class TokenLogprob(NamedTuple):
    """Natural log-probability of a token under the model's own distribution (before temperature,
    penalties, bias and grammar), and the most likely tokens at that place, best first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Timings(Struct):
    """Moments in the life of a request, in seconds of `time.monotonic`; 0 until it happened."""

    arrived: float = 0.0
    scheduled: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0
    finished: float = 0.0


class Request(Struct, eq=False):
    """One continuation to make.

    `eos_ids` (and stop ids, which are the same to the engine) end it with reason "stop"; the id is
    part of `output`. `text` turns its tokens into text and looks for stop strings; without it the
    request is about ids only. `priority`: smaller is served earlier. `client`: requests of one
    client share its turn when others wait. `namespace`: cached prefixes are shared only within one
    (a tenant, an adapter). `deadline`: `time.monotonic()` after which it ends with "timeout".
    `follows`: a request with the same prompt whose cached prompt this one waits for (`n` > 1).
    """

    prompt: tuple[int, ...]
    max_tokens: int
    params: SamplingParams = field(default_factory=SamplingParams)
    eos_ids: frozenset[int] = frozenset()
    text: "OutputText | None" = None
    grammar: "CompiledGrammar | None" = None
    priority: int = 0
    client: str = ""
    namespace: str = ""
    deadline: float | None = None
    follows: "Request | None" = None

    output: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    """The stop id or stop string that ended it."""
    error: LlmcError | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    """One for each output token, if `params.logprobs` asks for them."""
    prompt_logprobs: list[TokenLogprob | None] = field(default_factory=list)
    """One for each prompt token, None for the first, if `params.prompt_logprobs` asks."""
    cached_tokens: int = 0
    """Prompt tokens that were found in the prefix cache when it was first scheduled."""
    timings: Timings = field(default_factory=Timings)


class Delta(Struct, frozen=True, eq=False, gc=False):
    """News of one request after a step. `token_ids`: those that came since its last delta, and
    `text` what has become certain with them. A finish reason makes it the last one."""

    request: Request
    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason | None


def check_prompt(prompt: Sequence[int], vocab_size: int) -> None:
    """Raises E0206 if the prompt is empty, E0208 if an id is outside the vocabulary."""
    if not prompt:
        raise LlmcError("LLMC-E0206", "the prompt is empty")
    if min(prompt) < 0 or max(prompt) >= vocab_size:
        token = next(t for t in prompt if not 0 <= t < vocab_size)
        raise LlmcError("LLMC-E0208", f"token id {token} is outside 0..{vocab_size - 1}")
