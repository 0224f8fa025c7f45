"""How one token is to be chosen from a row of logits, in numbers only; and what came out.

The words between the engine's sampler and whatever draws: a program's native code, or the
reference in numpy (`runtime/engine/sampling/numpy_sampling.py`). Plain Python, so that native
drawing needs no numpy.
"""

from array import array
from collections.abc import Iterable, Sequence

from msgspec import Struct, field

NOTHING = -1
"""In place of a token: no token may be chosen (or all logits are NaN)."""


class Edits:
    """Sparse changes of a row before anything else: for each of `ids`,
    `x = penalized(x + bias, penalty) - minus`, where a positive x is divided by the penalty and
    another one multiplied by it. Grows as tokens come."""

    __slots__ = ("_at", "bias", "ids", "minus", "penalty")

    def __init__(self) -> None:
        self._at: dict[int, int] = {}
        self.ids = array("i")
        self.bias, self.penalty, self.minus = array("f"), array("f"), array("f")

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, token: int) -> int:
        """Where `token` lies in the arrays; it is added if it isn't there."""
        place = self._at.setdefault(token, len(self.ids))
        if place == len(self.ids):
            self.ids.append(token)
            self.bias.append(0.0)
            self.penalty.append(1.0)
            self.minus.append(0.0)
        return place

    def penalize(self, tokens: Iterable[int], penalty: float) -> None:
        """Sets the repetition penalty of these tokens."""
        for token in tokens:
            self.penalty[self.at(token)] = penalty


class Choice(Struct):
    """Which token to choose from logits row `row`, which may be changed on the way.

    In this order: `edits`; ids whose bit of `allowed` (bit i % 32 of 32-bit word i // 32) is 0 and
    `forbidden` ids are out; at temperature 0 the largest is taken. Otherwise logits are divided by
    the temperature and top_k (0: off), top_p, min_p and typical_p (1, 0, 1: off) each leave out
    tokens, equally likely ones together; of what is left, by id, the token at `uniform` (in [0, 1))
    of the whole weight is taken. `target`: an id to report on, where nothing is to be drawn.
    `top`: how many alternatives to report (-1: no log-probabilities at all).
    """

    row: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    uniform: float = 0.0
    edits: Edits | None = None
    allowed: memoryview | None = None
    forbidden: Sequence[int] = ()
    target: int = NOTHING
    top: int = -1

    token: int = NOTHING
    """What was chosen."""
    logprob: float = 0.0
    """Of that token, by the unchanged logits."""
    alternatives: list[tuple[int, float]] = field(default_factory=list)
    """The `top` most likely ids by the unchanged logits, best first, equals by id."""
