"""A program that computes nothing: what is left of a step is the engine's own work.

It has the limits, cache groups and vocabulary of a real artifact, and answers with the tokens of a
real text, so that turning them into text is real work, too. Each row of logits is spread as a
language model's: a few likely tokens and a long tail.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from llmc.artifact.manifest import Variant
from llmc.artifact.program import CacheGroup, Draw, Limits, Program, StepInputs, StepOutputs

TEXT = (
    "A compiler reads a program in one language and writes it in another. Most of its work lies "
    "between the two: it must know what the text means, what the machine can do, and which of the "
    "many ways is the fastest. Ωραία — naïve café, 東京タワー, “quotes” and 🙂 emoji take several "
    "tokens each; def f(x: int) -> int:\n    return x * 2  # and so does code.\n\n"
)
_TOP_LOGIT, _FALL = 12.0, 1.6
"""The k-th likeliest token is `_FALL * ln(k)` below the likeliest: a perplexity of about ten."""


@dataclass(frozen=True)
class Logits:
    """Rows of logits f32 [rows, vocab], to be written. `draw`: the code of a real program for them,
    None for numpy's. `owner`: whom both belong to."""

    rows: Any
    draw: Draw | None = None
    owner: Program | None = None

    @classmethod
    def of(cls, program: Program, rows: int) -> Logits:
        """The rows of a real program, which draws from nowhere else."""
        places = list(range(rows))
        table = list(range(-(-rows // program.limits.block_size)))
        tables = [[table] for _ in program.cache_groups]
        outputs = program.step(StepInputs(places, places, [0, rows], [rows], places, tables))
        return cls(outputs.logits, outputs.draw, program)

    @classmethod
    def new(cls, rows: int, vocab: int) -> Logits:
        """Rows of their own, for numpy to draw from."""
        return cls(np.empty((rows, vocab), np.float32))


class NullProgram:
    """Implements `Program`. `ids`: the tokens it answers with, one behind the other. `logits`:
    where its rows of logits are, and what draws from them; without them every answer is an argmax.
    """

    def __init__(
        self,
        variant: Variant,
        ids: list[int],
        *,
        sequences: int,
        blocks: int,
        logits: Logits | None = None,
    ) -> None:
        self.limits: Limits = variant.limits
        self.cache_groups: tuple[CacheGroup, ...] = tuple(variant.cache_groups)
        self.cache_blocks = (blocks,) * len(self.cache_groups)
        self.vocab_size = variant.vocab_size
        self.seconds = 0.0
        """What `step` itself took, all calls together."""
        self._answers = _answers(ids, sequences)
        self._steps = 0
        self._logits = logits
        if logits is not None:
            self._rows = _rows(self._answers[0], self.vocab_size)

    def step(self, inputs: StepInputs) -> StepOutputs:
        began = perf_counter()
        self._steps += 1
        count, logits = len(inputs.logits_rows), self._logits
        if logits is None:
            argmax = self._answers[self._steps % len(self._answers)][:count]
            outputs = StepOutputs(_none, argmax)
        else:  # rows are written anew, as a step does, since drawing may change them
            rows = logits.rows[:count]
            rows[:] = self._rows[:count]
            outputs = StepOutputs(lambda: rows, self._answers[0][:count], logits.draw)
        self.seconds += perf_counter() - began
        return outputs

    def copy_block(self, group: int, source: int, target: int) -> None:
        """There is nothing to copy."""

    def close(self) -> None:
        """There is nothing to free."""


def _none() -> Any:
    raise AssertionError("there are no logits")


def _answers(ids: list[int], sequences: int) -> list[list[int]]:
    """For each step of a cycle the tokens of all rows; each row reads the text at another place."""
    count = len(ids)
    return [[ids[(step + 7 * row) % count] for row in range(sequences)] for step in range(count)]


def _rows(likeliest: list[int], vocab: int) -> Any:
    """f32 [rows, vocab]: in row r the likeliest token is `likeliest[r]`, others fall behind it."""
    source = np.random.default_rng(0)
    falling = (_TOP_LOGIT - _FALL * np.log(np.arange(1, vocab + 1))).astype(np.float32)
    rows = np.empty((len(likeliest), vocab), np.float32)
    for row, first in zip(rows, likeliest, strict=True):
        row[:] = source.permutation(falling)
        best = int(row.argmax())
        row[best], row[first] = row[first], row[best]
    return rows
