"""Structured output: tokens that keep to a JSON schema, regular expression, grammar or choice.

    grammar = Grammar.json_schema({"type": "object", ...})      # checked; E0211
    compiled = GrammarCompiler(tokenizer_json, vocab_size, eos_ids).compile(grammar)
    request = Request(..., grammar=compiled)

The work is done by `llguidance` with the GIL released. Both steps belong on the thread that
takes the request, not on the engine's. Each request has a `Matcher` (`matcher.py`), which follows
its tokens.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ....base.errors import LlmcError
from ...text.grammar_limits import (
    check_lark,
    check_regex,
    check_schema,
    check_text,
    parse_schema,
    refused,
)
from ...text.schema_translation import translated
from .matcher import Matcher, brief, unless_stopping

if TYPE_CHECKING:
    from llguidance import LLTokenizer

MAX_TRIAL_SECONDS = 1.0
"""A grammar whose first mask takes longer is refused."""
_REMEMBERED = 32

# Measured on hostile grammars: at most about a second to make one, and some 20 ms for a mask. A
# state takes up to 2 kB, so a matcher at most 40 MB.
_LIMITS = {
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 50_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 100_000,
    "verbose_errors": False,
}
# White space is bounded: a model that has nothing to say would go on with it until the last token.
_JSON_OPTIONS: Any = {"whitespace_pattern": r"[ \t\r\n]{0,32}"}


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise LlmcError(
            "LLMC-E0703",
            "structured output needs the package llguidance, which isn't installed",
            "pip install 'llmc-compiler[serve]'",
        ) from error
    return llguidance


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the output must be. Made by the functions below; all raise E0211 for what is invalid or
    larger than is accepted (`grammar_limits.py`), and E0703 without llguidance."""

    text: str

    @staticmethod
    def json_schema(schema: dict[str, Any] | str | bool) -> "Grammar":
        """JSON that the schema (draft 2020-12, or its text) accepts. A keyword that isn't supported
        is refused, not ignored; a `format` that nobody defines is an annotation."""
        parsed = parse_schema(schema)
        check_schema(parsed)
        parsed = translated(parsed)
        make = _llguidance().LLMatcher.grammar_from_json_schema
        return _checked(lambda: make(parsed, overrides=_JSON_OPTIONS))

    @staticmethod
    def json_object() -> "Grammar":
        """Any JSON object."""
        return Grammar.json_schema({"type": "object"})

    @staticmethod
    def regex(pattern: str) -> "Grammar":
        """Text that matches from beginning to end, in the syntax of Rust's regex crate (no
        look-around, no back references)."""
        check_text(pattern, "the regular expression")
        check_regex(pattern)
        return _checked(lambda: _llguidance().LLMatcher.grammar_from_regex(pattern))

    @staticmethod
    def lark(text: str) -> "Grammar":
        """A context-free grammar as llguidance's dialect of Lark; it begins with `start`."""
        check_lark(text)
        return _checked(lambda: _llguidance().LLMatcher.grammar_from_lark(text))

    @staticmethod
    def gbnf(text: str) -> "Grammar":
        """A context-free grammar as llama.cpp writes it; it begins with `root`."""
        check_text(text, "the grammar")
        _llguidance()
        from llguidance.gbnf_to_lark import any_to_lark

        try:
            return Grammar.lark(any_to_lark(text))
        except LlmcError:
            raise
        except Exception as error:  # whatever the converter runs into, deep recursion included
            raise refused(f"the grammar can't be read: {brief(str(error))}") from error

    @staticmethod
    def choice(choices: Sequence[str]) -> "Grammar":
        """One of these texts."""
        if isinstance(choices, str) or not choices:
            raise refused("a choice needs a list of at least one text")
        if not all(isinstance(choice, str) for choice in choices):
            raise refused("a choice is between texts")
        pattern = "|".join(map(_literally, choices))
        check_text(pattern, "the list of choices")
        return _checked(lambda: _llguidance().LLMatcher.grammar_from_regex(f"(?:{pattern})"))


def _literally(text: str) -> str:
    """A regular expression that matches this text only."""
    return "".join(c if c.isalnum() or ord(c) > 127 else f"\\x{{{ord(c):x}}}" for c in text)


def _checked(make: Any) -> Grammar:
    """The grammar that `make` makes, if llguidance finds no fault with it."""
    library = _llguidance()
    try:
        text = make()
        limits = library.LLParserLimits(**_LIMITS)
        message = library.LLMatcher.validate_grammar(text, None, limits=limits)
    except BaseException as error:  # a panic in Rust is no Exception
        raise unless_stopping(error) from error
    if message and not message.startswith("WARNING"):
        raise refused(brief(message))
    return Grammar(text)


class GrammarCompiler:
    """Compiles grammars for one tokenizer, which it prepares when it is first needed (0.3 s for
    49,152 tokens). Remembers the latest. May be used by several threads.

    `vocab_size`: logits of a row, which may be more than the tokenizer knows.
    """

    def __init__(self, tokenizer_json: bytes, vocab_size: int, eos_ids: Iterable[int]) -> None:
        self._json = tokenizer_json
        self._vocab_size = vocab_size
        self._eos_ids = sorted(eos_ids)
        self._tokenizer: LLTokenizer | None = None
        self._preparing = threading.Lock()
        self._remembered: OrderedDict[str, CompiledGrammar] = OrderedDict()
        self._remembering = threading.Lock()

    def compile(self, grammar: Grammar) -> "CompiledGrammar":
        """Raises E0211 if it doesn't go with the tokenizer or takes too long."""
        with self._remembering:
            if known := self._remembered.get(grammar.text):
                self._remembered.move_to_end(grammar.text)
                return known
        compiled = CompiledGrammar(self._prepared(), grammar)
        with self._remembering:
            self._remembered[grammar.text] = compiled
            if len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        return compiled

    def _prepared(self) -> "LLTokenizer":
        with self._preparing:
            if self._tokenizer is None:
                self._tokenizer = self._prepare()
            return self._tokenizer

    def _prepare(self) -> "LLTokenizer":
        make, text = _llguidance().LLTokenizer, self._json.decode()
        eos = self._eos_ids or None
        try:
            try:
                return make(text, n_vocab=self._vocab_size, eos_token=eos)
            except ValueError:  # it knows more tokens than the model has logits
                return make(text, eos_token=eos)
        except BaseException as error:
            raise unless_stopping(error) from error


class CompiledGrammar:
    """A grammar ready for a tokenizer; what a `Request` holds."""

    def __init__(self, tokenizer: "LLTokenizer", grammar: Grammar) -> None:
        library = _llguidance()
        self.grammar = grammar
        self._words = -(-tokenizer.vocab_size // 32)
        started = time.monotonic()
        try:
            limits = library.LLParserLimits(**_LIMITS)
            self._start = library.LLMatcher(tokenizer, grammar.text, log_level=0, limits=limits)
            trial = self.matcher()
            trial.mask()
        except BaseException as error:
            raise unless_stopping(error) from error
        if time.monotonic() - started > MAX_TRIAL_SECONDS:
            raise refused("the grammar is too complex")

    def matcher(self) -> "Matcher":
        """A follower of one output, at its beginning."""
        return Matcher(self._start.deep_copy(), self._words)
