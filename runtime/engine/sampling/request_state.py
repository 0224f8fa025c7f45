"""What is remembered of one request's choices: penalties, its random numbers, its grammar.

Everything follows from the request and its output so far, so a request may be preempted, moved to
another place of the batch or given a new state, and goes on the same. Needs no numpy.
"""

import os
from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING

from ....artifact.choice import Choice, Edits
from ....base.errors import LlmcError
from ..request import Request, TokenLogprob
from .drawing import logprob_of

if TYPE_CHECKING:
    from .matcher import Matcher

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


def sampling_state(request: Request) -> "SamplingState | None":
    """None if the largest logit is all that is asked for, as the program reports it itself."""
    if request.params.is_argmax and request.grammar is None:
        return None
    return SamplingState(request)


class SamplingState:
    """Makes the `Choice` of a request's next token, and takes note of what was chosen. The token
    is to be in the request's output before the next choice is made.

    After a token was chosen: `last_logprob`, if the request asks; `ended`, if its grammar is
    complete and allows nothing more; `error`, if no token can be chosen, and then the chosen one
    means nothing.
    """

    __slots__ = (
        "_bad_words",
        "_counted",
        "_may_forbid",
        "_present",
        "_seed",
        "_single_bad_words",
        "choice",
        "ended",
        "error",
        "last_logprob",
        "matcher",
        "request",
    )

    def __init__(self, request: Request) -> None:
        params = request.params
        self.request = request
        self.last_logprob: TokenLogprob | None = None
        self.ended = False
        self.error: LlmcError | None = None
        self._seed = mix(params.seed if params.seed is not None else _entropy())
        self._single_bad_words = [word[0] for word in params.bad_words if len(word) == 1]
        self._bad_words = [word for word in params.bad_words if len(word) > 1]
        self._may_forbid = bool(params.bad_words or params.min_tokens)
        self._counted = 0
        self._present: set[int] = set()
        self.choice = Choice(
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
            typical_p=params.typical_p,
            edits=_first_edits(request),
            top=-1 if params.logprobs is None else params.logprobs,
        )
        self.matcher: Matcher | None = request.grammar.matcher() if request.grammar else None
        if self.matcher is not None:
            for token in request.output:
                self._match(token)

    def next_choice(self, row: int) -> Choice:
        """The choice of the request's next token, from logits row `row`; `take` reads its result.
        It is the same object each time."""
        choice, output = self.choice, self.request.output
        choice.row = row
        if choice.temperature:
            choice.uniform = uniform(self._seed, len(output))
        if choice.edits is not None:
            for token in output[self._counted :]:
                self._count(choice.edits, token)
            self._counted = len(output)
        choice.forbidden = self._forbidden(len(output), output)
        if self.matcher is not None:
            try:
                choice.allowed = self.matcher.mask()
            except LlmcError as error:
                self.error, choice.allowed = error, None
        return choice

    @property
    def needs_tokens(self) -> bool:
        """Whether a choice depends on which tokens came before, and not on their number alone."""
        params = self.request.params
        penalties = params.presence_penalty or params.frequency_penalty
        penalized = bool(penalties) or params.repetition_penalty != 1
        return penalized or bool(self._bad_words) or self.matcher is not None

    def choice_ahead(self, row: int, index: int) -> Choice:
        """The choice of output token `index`, from logits row `row`, of a state that needs no
        tokens: those before may be unknown. A new object each time."""
        choice = copy(self.choice)
        choice.row = row
        if choice.temperature:
            choice.uniform = uniform(self._seed, index)
        if self._may_forbid:
            choice.forbidden = self._forbidden(index, ())
        return choice

    def take(self, choice: Choice | None = None) -> int:
        """Notes what was chosen (by the latest `next_choice`, or by this one), and returns it."""
        choice = self.choice if choice is None else choice
        token = choice.token
        if token < 0:
            self.error = self.error or _nothing_left(self.request)
            return 0
        if choice.top >= 0:
            self.last_logprob = logprob_of(choice)
        if self.matcher is not None and self.error is None:
            self._match(token)
        return token

    def _match(self, token: int) -> None:
        assert self.matcher is not None
        try:
            self.ended = self.matcher.accept(token)
        except LlmcError as error:
            self.error = error

    def _count(self, edits: Edits, token: int) -> None:
        """A token of the output, for the penalties."""
        params = self.request.params
        place = edits.at(token)
        edits.penalty[place] = params.repetition_penalty
        if token not in self._present:
            self._present.add(token)
            edits.minus[place] += params.presence_penalty
        edits.minus[place] += params.frequency_penalty

    def _forbidden(self, index: int, output: Sequence[int]) -> Sequence[int]:
        if not self._may_forbid:
            return ()
        if index < self.request.params.min_tokens:
            return [*self._single_bad_words, *self.request.eos_ids, *self._completed(output)]
        if self._bad_words:
            return [*self._single_bad_words, *self._completed(output)]
        return self._single_bad_words

    def _completed(self, output: Sequence[int]) -> list[int]:
        """The last ids of the bad words whose other ids the sequence ends with."""
        if not self._bad_words:
            return []
        longest = max(map(len, self._bad_words)) - 1
        tail = tuple(output[-longest:])
        if len(tail) < longest:
            tail = self.request.prompt[len(tail) - longest :] + tail
        return [word[-1] for word in self._bad_words if tail[1 - len(word) :] == word[:-1]]


def _first_edits(request: Request) -> Edits | None:
    """Bias, and the repetition penalty of the prompt; None if the request has no such thing."""
    params = request.params
    penalized = params.repetition_penalty != 1
    if not (penalized or params.presence_penalty or params.frequency_penalty or params.logit_bias):
        return None
    edits = Edits()
    for token, bias in params.logit_bias.items():
        edits.bias[edits.at(token)] = bias
    if penalized:
        edits.penalize(dict.fromkeys(request.prompt), params.repetition_penalty)
    return edits


def _nothing_left(request: Request) -> LlmcError:
    if request.grammar is not None:
        return LlmcError("LLMC-E0211", "the grammar allows only tokens that are forbidden")
    if request.params.bad_words or request.params.min_tokens or request.params.logit_bias:
        return LlmcError("LLMC-E0205", "every token is forbidden, so none can be chosen")
    return LlmcError("LLMC-E0102", "the program gave no usable logits")


def _entropy() -> int:
    return int.from_bytes(os.urandom(8), "little")


def mix(x: int) -> int:
    """The finalizer of SplitMix64: 64 bits to 64 well-mixed bits."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def uniform(seed: int, index: int) -> float:
    """The random number in [0, 1) of output token `index`: entry `index` of SplitMix64's stream.

    Nothing is carried from token to token, so batch, preemption and recomputing change nothing.
    `seed`: already mixed, so that neighbouring seeds have unrelated streams.
    """
    return (mix((seed + (index + 1) * _GOLDEN) & _MASK) >> 11) * 2.0**-53
