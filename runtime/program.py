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

    The scheduler never makes such inputs; this is the border where that is certain. A few
    microseconds for a decode step.
    """
    limits = program.limits
    tokens, sequences = len(inputs.token_ids), len(inputs.context_len)
    if not 0 < tokens <= limits.max_tokens or not 0 < sequences <= limits.max_sequences:
        raise _wrong(f"{tokens} tokens of {sequences} sequences are over the limits")
    if len(inputs.logits_rows) > limits.max_logits_rows:
        raise _wrong(f"{len(inputs.logits_rows)} logits rows are over the limit")
    if len(inputs.positions) != tokens or len(inputs.query_start) != sequences + 1:
        raise _wrong("the arrays' lengths contradict one another")
    lengths = np.diff(inputs.query_start)
    if inputs.query_start[0] != 0 or inputs.query_start[-1] != tokens or (lengths < 1).any():
        raise _wrong("query_start does not divide the tokens")
    first = inputs.context_len - lengths
    if (first < 0).any() or (inputs.context_len > limits.max_context).any():
        raise _wrong("a context length is out of range")
    expected = np.arange(tokens) + np.repeat(first - inputs.query_start[:-1], lengths)
    if (inputs.positions != expected).any():
        raise _wrong("positions do not follow from the context lengths")
    _check_range("token id", inputs.token_ids, program.vocab_size)
    _check_range("logits row", inputs.logits_rows, tokens)
    _check_tables(inputs, program, first)


def _check_tables(inputs: StepInputs, program: Program, first: Int32Array) -> None:
    """Every position that attention reads or the step writes lies in a block of the pool."""
    if len(inputs.block_tables) != len(program.cache_groups):
        raise _wrong("there must be one block table per cache group")
    size = program.limits.block_size
    for group, blocks, table in zip(
        program.cache_groups, program.cache_blocks, inputs.block_tables, strict=True
    ):
        if table.ndim != 2 or table.shape[0] != len(inputs.context_len):
            raise _wrong(f"the block table of {group.name} has a wrong shape")
        if (inputs.context_len > table.shape[1] * size).any():
            raise _wrong(f"the block table of {group.name} is too short")
        oldest = np.maximum(first - (group.window - 1), 0) if group.window else first * 0
        column = np.arange(table.shape[1])
        used = (column >= (oldest // size)[:, None]) & (
            column <= ((inputs.context_len - 1) // size)[:, None]
        )
        if ((table < 0) & used).any() or (table >= blocks).any():
            raise _wrong(f"the block table of {group.name} names no block of its pool")


def _check_range(what: str, values: Int32Array, end: int) -> None:
    if len(values) and (values.min() < 0 or values.max() >= end):
        raise _wrong(f"a {what} is out of range")


def _wrong(cause: str) -> LlmcError:
    return LlmcError("LLMC-E0100", f"step inputs: {cause}")
