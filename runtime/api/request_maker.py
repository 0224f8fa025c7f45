"""The engine's requests for one model: options and a prompt's ids in, `Request`s out.

A request carries what its model knows: end-of-text ids, the tokenizer that turns its tokens into
text, and grammars compiled for its vocabulary.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from ...base.errors import LlmcError
from ..engine.request import Request
from ..engine.sampling.parameters import SamplingParams
from ..text.output import OutputText
from ..text.tokenizer import Tokenizer
from .generation_options import GenerateOptions, RequestOptions, parse_options

if TYPE_CHECKING:
    from ..engine.sampling.grammar import CompiledGrammar, Grammar, GrammarCompiler


class RequestMaker:
    """Makes requests for a model, which may have no tokenizer: then they are about ids only."""

    def __init__(
        self, tokenizer: Tokenizer | None, vocab_size: int, eos_ids: frozenset[int]
    ) -> None:
        self._tokenizer, self._vocab_size, self._eos_ids = tokenizer, vocab_size, eos_ids

    @property
    def has_tokenizer(self) -> bool:
        """Whether there is a tokenizer."""
        return self._tokenizer is not None

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; E0210 if there is none."""
        if self._tokenizer is None:
            raise LlmcError("LLMC-E0210", "the artifact has no tokenizer")
        return self._tokenizer

    def options(self, given: GenerateOptions) -> RequestOptions:
        """The options of a call, checked. Errors: E0205, E0208, E0210 for words without a
        tokenizer, E0211."""
        return parse_options(given, self._vocab_size, self._spell)

    def _spell(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def make(self, prompt_ids: Sequence[int], options: RequestOptions) -> list[Request]:
        """`options.n` requests for continuations of one prompt, which is computed once.

        Request i has the seed + i, if there is one. Errors: E0210 for stop strings without a
        tokenizer, E0211.
        """
        if options.grammar is not None:
            options = msgspec.structs.replace(options, grammar=self.compile(options.grammar))
        prompt = tuple(prompt_ids)
        requests = [self._request(prompt, options, index) for index in range(options.n)]
        for request in requests[1:]:
            request.follows = requests[0]
        return requests

    def _request(self, prompt: tuple[int, ...], options: RequestOptions, index: int) -> Request:
        text = None
        if options.stop or self.has_tokenizer:
            text = OutputText(
                self.tokenizer,
                options.stop,
                keep_special=options.keep_special,
                include_stop=options.include_stop,
            )
        eos_ids = frozenset(options.stop_token_ids)
        return Request(
            prompt,
            options.max_tokens,
            _seeded(options.params, index),
            eos_ids if options.ignore_eos else eos_ids | self._eos_ids,
            text=text,
            grammar=options.grammar,  # type: ignore[arg-type]  (compiled by now)
            priority=options.priority,
            client=options.client,
            namespace=options.namespace,
            deadline=options.deadline,
        )

    def compile(self, grammar: "Grammar | CompiledGrammar") -> "CompiledGrammar":
        """A grammar made ready for this model, which may take a while; the latest are remembered.

        Errors: E0210 without a tokenizer, E0211 if it doesn't go with it, E0703.
        """
        from ..engine.sampling.grammar import CompiledGrammar

        if isinstance(grammar, CompiledGrammar):
            return grammar
        return self._grammars.compile(grammar)

    @cached_property
    def _grammars(self) -> "GrammarCompiler":
        from ..engine.sampling.grammar import GrammarCompiler

        return GrammarCompiler(self.tokenizer.data, self._vocab_size, self._eos_ids)


def _seeded(params: SamplingParams, index: int) -> SamplingParams:
    """The parameters of continuation `index`: another seed, or each its own entropy."""
    if params.seed is None or not index:
        return params
    return msgspec.structs.replace(params, seed=(params.seed + index) % 2**64)
