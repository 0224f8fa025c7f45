"""What a request may say about how its tokens are chosen. `sampler.py` does it."""

import math
from collections.abc import Mapping

from msgspec import Struct, field

from ....base.errors import LlmcError

MAX_LOGPROBS = 20
"""Most alternatives that a request may ask for at each place, as OpenAI's interface has it."""


class SamplingParams(Struct, frozen=True):
    """How tokens are chosen.

    Temperature 0 is greedy; top_k 0, top_p 1, min_p 0 and typical_p 1 are off. `repetition_penalty`
    counts prompt and output, `presence_penalty` and `frequency_penalty` the output only.
    `logit_bias`: added to the logits of these ids. `bad_words`: sequences of ids of which the last
    is never chosen after the others. `min_tokens`: no end-of-text id before so many.
    `logprobs`, `prompt_logprobs`: how many alternatives to report at each place (0: the chosen
    token alone, None: nothing). The same seed gives the same tokens, whatever else is in the batch.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    typical_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    bad_words: tuple[tuple[int, ...], ...] = ()
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0 <= self.temperature < math.inf)
        _check("top_k", self.top_k, self.top_k >= 0)
        _check("top_p", self.top_p, 0 < self.top_p <= 1)
        _check("min_p", self.min_p, 0 <= self.min_p <= 1)
        _check("typical_p", self.typical_p, 0 < self.typical_p <= 1)
        penalty = self.repetition_penalty
        _check("repetition_penalty", penalty, 0 < penalty < math.inf)
        _check("seed", self.seed, self.seed is None or 0 <= self.seed < 2**64)
        for name in ("presence_penalty", "frequency_penalty"):
            _check(name, getattr(self, name), -2 <= getattr(self, name) <= 2)
        for token, bias in self.logit_bias.items():
            _check("logit_bias", f"{token}: {bias}", token >= 0 and -100 <= bias <= 100)
        _check("bad_words", self.bad_words, all(self.bad_words))
        _check("min_tokens", self.min_tokens, self.min_tokens >= 0)
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            _check(name, value, value is None or 0 <= value <= MAX_LOGPROBS)

    @property
    def is_argmax(self) -> bool:
        """Whether the largest of the raw logits is the answer, and nobody asks for more."""
        return (
            self.temperature == 0
            and self.repetition_penalty == 1
            and not (self.presence_penalty or self.frequency_penalty)
            and not (self.logit_bias or self.bad_words or self.min_tokens)
            and self.logprobs is None
        )


def _check(name: str, value: object, ok: bool) -> None:
    if not ok:
        raise LlmcError("LLMC-E0205", f"{name} cannot be {value}")


def check_params(params: SamplingParams, vocab_size: int) -> None:
    """Raises E0208 if an id that the parameters name is outside the vocabulary."""
    for name, ids in (
        ("logit_bias", params.logit_bias),
        ("bad_words", [token for word in params.bad_words for token in word]),
    ):
        for token in ids:
            if not 0 <= token < vocab_size:
                raise LlmcError(
                    "LLMC-E0208", f"{name}: token id {token} is outside 0..{vocab_size - 1}"
                )
