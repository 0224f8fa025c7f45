"""From a row of logits to a token id.

Each request has its own `Sampler` with its own random stream, which advances by one draw per
token: the same seed gives the same text, whatever else is in the batch. The order of the filters
and their meaning are those of transformers' logits processors: repetition penalty, temperature,
top-k, top-p, min-p.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from ..arrays import Float32Array
from ..errors import LlmcError
from ..program import StepOutputs
from .request import Request, TokenLogprob
from .sampling import SamplingParams

_FIRST_CANDIDATES = 256


class RowSampler:
    """Chooses the tokens of one request. `prompt`: ids that the repetition penalty also counts."""

    def __init__(self, params: SamplingParams, prompt: Iterable[int] = ()) -> None:
        self._params = params
        self._seen: dict[int, None] = {}
        if params.repetition_penalty != 1:
            self._seen = dict.fromkeys(prompt)
        if params.temperature > 0:
            self._random = np.random.Generator(np.random.PCG64(params.seed))

    def sample(self, logits: Float32Array, argmax: int) -> int:
        """The next token. logits: f32 [vocab], not changed; argmax: index of the largest."""
        params = self._params
        if params.repetition_penalty != 1:
            logits = self._penalized(logits)
            argmax = int(logits.argmax())
        token = argmax if params.temperature == 0 else self._draw(logits, float(logits[argmax]))
        if params.repetition_penalty != 1:
            self._seen[token] = None
        return token

    def _penalized(self, logits: Float32Array) -> Float32Array:
        """Divides (if positive) or multiplies the logits of tokens that came before."""
        seen = np.fromiter(self._seen, np.int64, len(self._seen))
        penalty = np.float32(self._params.repetition_penalty)
        logits = logits.copy()
        chosen = logits[seen]
        logits[seen] = np.where(chosen > 0, chosen / penalty, chosen * penalty)
        return logits

    def _draw(self, logits: Float32Array, largest: float) -> int:
        ids, weights = self._candidates(logits, largest)
        cumulative = np.cumsum(weights, dtype=np.float64)
        position = np.searchsorted(cumulative, self._random.random() * cumulative[-1], "right")
        return int(ids[min(int(position), len(ids) - 1)])

    def _candidates(self, logits: Float32Array, largest: float) -> tuple[np.ndarray, np.ndarray]:
        """Token ids that may be drawn, and their weights (f32, not normalized, at most 1)."""
        params = self._params

        def weigh(x: Float32Array) -> Float32Array:
            return np.exp((x - np.float32(largest)) * np.float32(1 / params.temperature))

        if params.top_k:
            ids = _largest(logits, params.top_k)
            kept = weigh(logits[ids])
            total = kept.sum(dtype=np.float64)
        else:
            weights = weigh(logits)
            if params.top_p == 1 and params.min_p == 0:
                return np.arange(len(weights)), weights
            if params.top_p == 1:  # no filter needs an order
                ids = np.flatnonzero(weights >= params.min_p)
                return ids, weights[ids]
            total = weights.sum(dtype=np.float64)
            ids = _nucleus_candidates(weights, params.top_p * total)
            kept = weights[ids]
        if params.top_p < 1:
            before = np.cumsum(kept, dtype=np.float64) - kept
            kept = kept[: max(1, int(np.searchsorted(before, params.top_p * total, "left")))]
        kept = kept[: max(1, int((kept >= params.min_p).sum()))]
        return ids[: len(kept)], kept


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Ids of the `count` largest values in falling order, ties by id."""
    ids = np.arange(len(values))
    if count < len(values):
        smallest = np.partition(values, len(values) - count)[len(values) - count]
        ids = np.flatnonzero(values >= smallest)
    return ids[np.argsort(-values[ids], kind="stable")][:count]


def _nucleus_candidates(weights: np.ndarray, mass: float) -> np.ndarray:
    """Ids of the largest weights in falling order, at least as many as hold `mass` together.

    Sorting a whole vocabulary is what takes time: so a few are tried first, then more.
    """
    count = _FIRST_CANDIDATES
    while True:
        ids = _largest(weights, count)
        if count >= len(weights) or weights[ids].sum(dtype=np.float64) >= mass:
            return ids
        count *= 8


class SamplingState:
    """What is kept of one request between its tokens."""

    def __init__(self, request: Request) -> None:
        self.row_sampler = RowSampler(request.params, request.prompt)
        self.last_logprob: TokenLogprob | None = None
        self.ended = False
        self.error: LlmcError | None = None


class Sampler:
    """Chooses the tokens of a step."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def prepare(self, states: Sequence[SamplingState | None]) -> None:
        """Called before the step runs."""

    def sample(self, states: Sequence[SamplingState | None], outputs: StepOutputs) -> list[int]:
        """A token for each row of logits; without a state the largest."""
        return [
            token if state is None else state.row_sampler.sample(outputs.logits[row], token)
            for row, (state, token) in enumerate(zip(states, outputs.argmax, strict=True))
        ]
