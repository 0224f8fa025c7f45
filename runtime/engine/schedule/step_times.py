"""How long a step takes, learnt from the steps before: seconds = base + a * decoding + b * prompt.

In: sequences that decode, prompt tokens, and the seconds of each step. Out: what a step of decoding
alone would take, and what each prompt token adds. Least squares of the relative error, so that one
long chunk of a prompt doesn't outweigh many short steps and a step that was disturbed counts less;
older steps count less and less, since prompt tokens cost more the more stands before them. Where
steps of decoding alone were seen with as many sequences, their median is better than any fit.
"""

from collections import deque

_ALONE = 7
"""How many steps of decoding alone are remembered for each number of sequences."""
_FORGET = 0.98
"""The weight of a step against the one after it: about 50 of them are remembered."""
_HOLD = 1e-3
"""How much a coefficient is held where it was, so that what recent steps don't tell apart (a base,
and sequences whose number never changed) stays as older ones told it."""


class StepTimes:
    """The running fit. All coefficients are at least 0."""

    def __init__(self) -> None:
        self._squares = [[0.0] * 3 for _ in range(3)]
        self._products = [0.0] * 3
        self._fit = [0.0] * 3
        self._alone: dict[int, deque[float]] = {}

    @property
    def per_prompt_token(self) -> float:
        """Seconds that each prompt token adds; 0 as long as there was none."""
        return self._fit[2]

    def alone(self, sequences: int) -> float:
        """Seconds of a step in which so many sequences decode, and nothing else."""
        seen = self._alone.get(sequences)
        if seen:
            return sorted(seen)[len(seen) // 2]
        return self.beside_prompts(sequences)

    def beside_prompts(self, sequences: int) -> float:
        """What a step with prompts takes before its prompt tokens are counted."""
        return self._fit[0] + self._fit[1] * sequences

    def add_alone(self, decoding: int, seconds: float) -> None:
        """One step in which so many sequences decoded, and nothing else."""
        alone = self._alone.get(decoding)
        if alone is None:
            alone = self._alone[decoding] = deque(maxlen=_ALONE)
        alone.append(seconds)

    def add(self, decoding: int, prompt_tokens: int, seconds: float) -> None:
        """One step, for the fit."""
        row = [1 / seconds, decoding / seconds, prompt_tokens / seconds]
        for i, left in enumerate(row):
            self._products[i] = _FORGET * self._products[i] + left
            for j, right in enumerate(row):
                self._squares[i][j] = _FORGET * self._squares[i][j] + left * right
        matrix = [list(line) for line in self._squares]
        right_side = list(self._products)
        for i in range(3):
            held = _HOLD * matrix[i][i] + 1e-12
            matrix[i][i] += held
            right_side[i] += held * self._fit[i]
        self._fit = [max(0.0, value) for value in _solve(matrix, right_side)]


def _solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Gauss's elimination, for a symmetric positive matrix: no pivoting is needed."""
    size = len(right)
    for i in range(size):
        for k in range(i + 1, size):
            factor = matrix[k][i] / matrix[i][i]
            right[k] -= factor * right[i]
            for j in range(i, size):
                matrix[k][j] -= factor * matrix[i][j]
    for i in reversed(range(size)):
        right[i] -= sum(matrix[i][j] * right[j] for j in range(i + 1, size))
        right[i] /= matrix[i][i]
    return right
