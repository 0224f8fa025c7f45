"""What a call of `generate` may say, and the requests that it becomes.

One list of options for `Model.generate` and `AsyncEngine.generate`. In: a model, the ids of a
prompt, options. Out: `Request`s, one for each continuation. Errors: E0205 for a wrong value.
"""

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec

from ...base.errors import LlmcError
from ..engine.request import Request
from ..engine.sampling.parameters import SamplingParams

if TYPE_CHECKING:
    from ..engine.sampling.grammar import Grammar
    from .model import Model


class GenerateOptions(TypedDict, total=False):
    """Options of `generate`; see `SamplingParams` for those that choose tokens."""

    max_tokens: int
    """Most tokens to generate; 256."""
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    bad_words: Sequence[str | Sequence[int]]
    """Never to be generated: words as text, also with a space before them, or as ids."""
    min_tokens: int
    """No end of the text before so many."""
    seed: int | None
    """Continuation i of `n` has seed + i."""
    logprobs: int | None
    prompt_logprobs: int | None
    n: int
    """Continuations to make of one prompt, which is computed once. Their chunks come mixed, as
    they are made: `Chunk.index` tells which is which."""
    stop: str | Sequence[str]
    """The text ends before any of these."""
    stop_token_ids: Sequence[int]
    """Ids that end it like the end-of-text id."""
    ignore_eos: bool
    """Go on after the end-of-text id."""
    keep_special: bool
    """Let special tokens appear in the text."""
    grammar: "str | Grammar | None"
    """Only text of this grammar, in Lark or GBNF; at most one of these four."""
    json_schema: Mapping[str, Any] | str | None
    regex: str | None
    choice: Sequence[str] | None
    priority: int
    """Smaller is served earlier; 0."""
    client: str
    """Requests of one client share its turn while others wait."""
    namespace: str
    """Cached prompts are shared only within one."""
    timeout: float | None
    """Seconds after which it ends with reason "timeout"."""
    raw: bool
    """Continue the text itself, not through the chat template."""


_SAMPLING = frozenset(SamplingParams.__struct_fields__) - {"bad_words"}
GRAMMARS = ("grammar", "json_schema", "regex", "choice")
_KNOWN = frozenset(GenerateOptions.__annotations__)


def requests_of(model: "Model", prompt: Any, options: GenerateOptions) -> list[Request]:
    """The requests of a call, which has been checked by `check_options`."""
    given: dict[str, Any] = dict(options)
    timeout, bad_words = given.pop("timeout", None), given.pop("bad_words", ())
    deadline = None if timeout is None else monotonic() + timeout
    prompt_ids = model.encode(prompt, raw=given.pop("raw", False))
    sampling = {name: given.pop(name) for name in _SAMPLING & given.keys()}
    params = SamplingParams(**sampling, bad_words=_ids_of_words(model, bad_words))
    grammar = _grammar(given)
    return model.make_requests(prompt_ids, params, grammar=grammar, deadline=deadline, **given)


def check_options(options: GenerateOptions) -> None:
    """Raises what is wrong whatever the prompt is: TypeError for an unknown name, else E0205."""
    unknown = sorted(options.keys() - _KNOWN)
    if unknown:
        raise TypeError(f"generate() got an unexpected keyword argument {unknown[0]!r}")
    timeout = options.get("timeout")
    if timeout is not None and not timeout > 0:
        raise LlmcError("LLMC-E0205", f"timeout cannot be {timeout}")
    given: dict[str, Any] = dict(options)
    SamplingParams(**{name: given[name] for name in _SAMPLING & given.keys()})
    if sum(options.get(name) is not None for name in GRAMMARS) > 1:
        raise LlmcError("LLMC-E0205", f"only one of {', '.join(GRAMMARS)} can be given")


def _ids_of_words(
    model: "Model", words: Sequence[str | Sequence[int]]
) -> tuple[tuple[int, ...], ...]:
    """A word has other ids at the start of a text than after a space: both are meant."""
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        if isinstance(word, str):
            for text in (word, f" {word}"):
                found[tuple(model.tokenizer.encode(text, add_special_tokens=False))] = None
        else:
            found[tuple(word)] = None
    return tuple(found)


def _grammar(given: dict[str, Any]) -> "Grammar | None":
    """The grammar that the options ask for, which are taken out of them."""
    asked = {name: given.pop(name) for name in GRAMMARS if name in given}
    for name, value in asked.items():
        if value is not None:
            from ..engine.sampling.grammar import Grammar

            if isinstance(value, Grammar):
                return value
            if name == "grammar":
                name = "gbnf" if "::=" in value else "lark"
            return getattr(Grammar, name)(value)
    return None


def seeded(params: SamplingParams, index: int) -> SamplingParams:
    """The parameters of continuation `index`: another seed, or each its own entropy."""
    if params.seed is None or not index:
        return params
    return msgspec.structs.replace(params, seed=(params.seed + index) % 2**64)
