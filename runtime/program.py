"""One step of a compiled model, whatever runs it: inputs, outputs, and what a program promises.

A step takes T query tokens of S sequences, packed behind one another, writes their keys and
values into the paged cache, and gives logits for R chosen tokens. Prefill, chunked prefill, decode
and mixtures of them differ only in these arrays.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .artifact import CacheGroup, Limits
from .errors import LlmcError

__all__ = ["CacheGroup", "Limits", "Program", "StepInputs", "StepOutputs", "check_inputs"]

Int32Array = npt.NDArray[np.int32]
Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StepInputs:
    """What a step reads. All arrays are int32 and contiguous.

    token_ids, positions: [T]. query_start: [S + 1], the tokens of sequence s are
    query_start[s] .. query_start[s + 1]. context_len: [S], tokens in the cache after this step.
    logits_rows: [R], indices into 0 .. T-1. block_tables: per cache group [S, B], the block that
    holds positions b * block_size and on; -1 where a block was freed.
    """

    token_ids: Int32Array
    positions: Int32Array
    query_start: Int32Array
    context_len: Int32Array
    logits_rows: Int32Array
    block_tables: tuple[Int32Array, ...]


@dataclass(frozen=True, slots=True)
class StepOutputs:
    """logits: f32 [R, vocab]; argmax: i32 [R]. Views that the next step overwrites."""

    logits: Float32Array
    argmax: Int32Array


class Program(Protocol):
    """A loaded program with its cache. One step at a time; `close` may be called twice."""

    @property
    def limits(self) -> Limits: ...
    @property
    def cache_groups(self) -> tuple[CacheGroup, ...]: ...
    @property
    def cache_blocks(self) -> tuple[int, ...]: ...
    @property
    def vocab_size(self) -> int: ...
    def step(self, inputs: StepInputs) -> StepOutputs: ...
    def close(self) -> None: ...


def check_inputs(inputs: StepInputs, program: Program) -> None:
    """Raises E0100 for inputs that native code must not see: they would read or write outside.

    The scheduler never makes such inputs; this is the border where that is certain. Lists and
    plain integers, because a decode step has few of each and numpy takes longer to start.
    """
    limits = program.limits
    tokens, rows = inputs.token_ids.tolist(), inputs.logits_rows.tolist()
    starts, lengths = inputs.query_start.tolist(), inputs.context_len.tolist()
    if not 0 < len(tokens) <= limits.max_tokens or not 0 < len(lengths) <= limits.max_sequences:
        raise _wrong(f"{len(tokens)} tokens of {len(lengths)} sequences are over the limits")
    if len(rows) > limits.max_logits_rows:
        raise _wrong(f"{len(rows)} logits rows are over the limit")
    if len(starts) != len(lengths) + 1 or starts[0] != 0 or starts[-1] != len(tokens):
        raise _wrong("query_start does not divide the tokens")
    firsts, positions = [], []
    for start, end, length in zip(starts, starts[1:], lengths, strict=False):
        first = length - (end - start)
        if not 0 <= first < length <= limits.max_context:
            raise _wrong("a context length is out of range")
        firsts.append(first)
        positions += range(first, length)
    if inputs.positions.tolist() != positions:
        raise _wrong("positions do not follow from the context lengths")
    _check_range("token id", tokens, program.vocab_size)
    _check_range("logits row", rows, len(tokens))
    _check_tables(inputs, program, firsts, lengths)


def _check_tables(
    inputs: StepInputs, program: Program, firsts: list[int], lengths: list[int]
) -> None:
    """Every position that attention reads or the step writes lies in a block of the pool."""
    if len(inputs.block_tables) != len(program.cache_groups):
        raise _wrong("there must be one block table per cache group")
    size = program.limits.block_size
    for group, blocks, table in zip(
        program.cache_groups, program.cache_blocks, inputs.block_tables, strict=True
    ):
        if table.ndim != 2 or len(table) != len(lengths) or max(lengths) > table.shape[1] * size:
            raise _wrong(f"the block table of {group.name} has a wrong shape")
        for row, first, length in zip(table.tolist(), firsts, lengths, strict=True):
            oldest = max(first - (group.window - 1), 0) if group.window else 0
            used = row[oldest // size : (length - 1) // size + 1]
            if min(used) < 0 or max(row) >= blocks:
                raise _wrong(f"the block table of {group.name} names no block of its pool")


def _check_range(what: str, values: list[int], end: int) -> None:
    if values and (min(values) < 0 or max(values) >= end):
        raise _wrong(f"a {what} is out of range")


def _wrong(cause: str) -> LlmcError:
    return LlmcError("LLMC-E0100", f"step inputs: {cause}")
