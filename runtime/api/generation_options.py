"""The options of a generation: their names, defaults, ranges and errors, in one place.

What `Model.generate` and `AsyncEngine.generate` take as keywords, and what the server's endpoints
map the fields of their bodies to. In: options by name. Out: `RequestOptions`, checked and in the
engine's words, of which `request_maker.py` makes requests. Ranges of what chooses tokens stand with
`SamplingParams`. Errors: E0205 for a wrong value, `OptionError`s where one option is to blame.
"""

from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, TypedDict

from msgspec import Struct

from ...base.errors import LlmcError
from ..engine.sampling.parameters import SamplingParams

if TYPE_CHECKING:
    from ..engine.sampling.grammar import CompiledGrammar, Grammar

DEFAULT_MAX_TOKENS = 256


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
    include_stop: bool
    """Let it end with what ends it: the stop string, or the stop id's text."""
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


GRAMMARS = ("grammar", "json_schema", "regex", "choice")
"""Of these at most one may be given."""
_SAMPLING = frozenset(SamplingParams.__struct_fields__) - {"bad_words"}
_KNOWN = frozenset(GenerateOptions.__annotations__)


class OptionError(LlmcError):
    """What is wrong with one option; `option` is its name."""

    def __init__(self, id: str, message: str, option: str) -> None:
        super().__init__(id, message)
        self.option = option


class RequestOptions(Struct):
    """What the continuations of one prompt have in common. `deadline`: of `time.monotonic`."""

    params: SamplingParams
    max_tokens: int = DEFAULT_MAX_TOKENS
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop: bool = False
    ignore_eos: bool = False
    keep_special: bool = False
    grammar: "Grammar | CompiledGrammar | None" = None
    priority: int = 0
    client: str = ""
    namespace: str = ""
    deadline: float | None = None


_AS_THEY_ARE = frozenset(RequestOptions.__struct_fields__) & _KNOWN - {
    "stop", "stop_token_ids", "grammar",
}  # fmt: skip


def check_options(given: GenerateOptions) -> None:
    """Raises what is wrong whatever the model and the prompt are: TypeError for an unknown name,
    else E0205."""
    unknown = sorted(given.keys() - _KNOWN)
    if unknown:
        raise TypeError(f"generate() got an unexpected keyword argument {unknown[0]!r}")
    timeout, count = given.get("timeout"), given.get("n", 1)
    if timeout is not None and not timeout > 0:
        raise OptionError("LLMC-E0205", f"timeout cannot be {timeout}", "timeout")
    if count < 1:
        raise OptionError("LLMC-E0205", f"n cannot be {count}", "n")
    if not all(_stop_strings(given)):
        raise OptionError("LLMC-E0205", "a stop string cannot be empty", "stop")
    if not all(len(word) for word in given.get("bad_words", ())):
        raise OptionError("LLMC-E0205", "a bad word cannot be empty", "bad_words")
    SamplingParams(**_sampling(given))
    if sum(given.get(name) is not None for name in GRAMMARS) > 1:
        raise LlmcError("LLMC-E0205", f"only one of {', '.join(GRAMMARS)} can be given")


def parse_options(
    given: GenerateOptions, vocab_size: int, spell: Callable[[str], Sequence[int]]
) -> RequestOptions:
    """The options of a call for one model. `spell`: token ids of a text, without special ones.

    Errors: those of `check_options`; E0208, an id that the vocabulary hasn't; E0211, a grammar.
    """
    check_options(given)
    for token in given.get("logit_bias", ()):
        if token >= vocab_size:
            raise OptionError("LLMC-E0208", f"there is no token {token}", "logit_bias")
    named: Mapping[str, Any] = given
    timeout = given.get("timeout")
    return RequestOptions(
        SamplingParams(
            **_sampling(given), bad_words=_ids_of_words(given.get("bad_words", ()), spell)
        ),
        stop=_stop_strings(given),
        stop_token_ids=tuple(given.get("stop_token_ids", ())),
        grammar=grammar_of(given),
        deadline=None if timeout is None else monotonic() + timeout,
        **{name: named[name] for name in _AS_THEY_ARE & named.keys()},
    )


def _sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in _SAMPLING & given.keys()}


def _stop_strings(given: GenerateOptions) -> tuple[str, ...]:
    stop = given.get("stop", ())
    return (stop,) if isinstance(stop, str) else tuple(stop)


def _ids_of_words(
    words: Sequence[str | Sequence[int]], spell: Callable[[str], Sequence[int]]
) -> tuple[tuple[int, ...], ...]:
    """A word has other ids at the start of a text than after a space: both are meant."""
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        if isinstance(word, str):
            spelled = (tuple(spell(text)) for text in (word, f" {word}"))
            found.update(dict.fromkeys(ids for ids in spelled if ids))
        else:
            found[tuple(word)] = None
    return tuple(found)


def grammar_of(given: GenerateOptions) -> "Grammar | CompiledGrammar | None":
    """The grammar that the options ask for, checked. Errors: E0211, E0703."""
    options: Mapping[str, Any] = given
    asked = next((name for name in GRAMMARS if options.get(name) is not None), None)
    if asked is None:
        return None
    from ..engine.sampling.grammar import CompiledGrammar, Grammar

    value = options[asked]
    if isinstance(value, Grammar | CompiledGrammar):
        return value
    if asked == "grammar":
        asked = "gbnf" if "::=" in value else "lark"  # as llama.cpp writes grammars
    return getattr(Grammar, asked)(value)
