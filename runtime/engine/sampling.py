"""What a request may say about how its tokens are chosen. `sampler.py` does it.

Apart from the sampler, because greedy decoding needs no numpy.
"""

import math
from dataclasses import dataclass

from ..errors import LlmcError


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen. Temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 are off."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0 <= self.temperature < math.inf)
        _check("top_k", self.top_k, self.top_k >= 0)
        _check("top_p", self.top_p, 0 < self.top_p <= 1)
        _check("min_p", self.min_p, 0 <= self.min_p <= 1)
        penalty = self.repetition_penalty
        _check("repetition_penalty", penalty, 0 < penalty < math.inf)
        _check("seed", self.seed, self.seed is None or 0 <= self.seed < 2**64)

    @property
    def is_argmax(self) -> bool:
        """Whether the largest of the raw logits is the answer."""
        return self.temperature == 0 and self.repetition_penalty == 1


def _check(name: str, value: object, ok: bool) -> None:
    if not ok:
        raise LlmcError("LLMC-E0205", f"{name} cannot be {value}")
