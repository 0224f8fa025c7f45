"""One step of a compiled model, whatever runs it: inputs, outputs, and what a program promises.

A step takes T query tokens of S sequences, packed behind one another, writes their keys and
values into the paged cache, and gives logits for R chosen tokens. Prefill, chunked prefill, decode
and mixtures of them differ only in these arrays.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from operator import le, lt, sub
from typing import TYPE_CHECKING, Protocol, TypeGuard

from msgspec import Struct

from ..base.errors import LlmcError
from .choice import Choice
from .manifest import CacheGroup, Limits

__all__ = [
    "CacheGroup",
    "Limits",
    "Program",
    "StepInputs",
    "StepOutputs",
    "SubmittedStep",
    "SubmittingProgram",
    "check_inputs",
    "submits",
]

if TYPE_CHECKING:
    from ..base.arrays import Float32Array

Draw = Callable[[Sequence[Choice]], None]
"""Fills the results of these choices."""

BlockRow = Sequence[int]
"""Blocks of one sequence in one cache group, by position; -1 where a block was freed."""


class StepInputs(Struct, frozen=True):
    """What a step reads: plain integers, of which a decode step has few.

    token_ids, positions: [T]; an id of -1 - k, where a program takes such, is the token that row k
    of the step before got (`SubmittingProgram`). query_start: [S + 1], the tokens of sequence s are
    query_start[s] .. query_start[s + 1]. context_len: [S], tokens in the cache after this step.
    logits_rows: [R], indices into 0 .. T-1. block_tables: per cache group a row for each sequence,
    the blocks that hold positions b * block_size and on.
    """

    token_ids: list[int]
    positions: list[int]
    query_start: list[int]
    context_len: list[int]
    logits_rows: list[int]
    block_tables: Sequence[Sequence[BlockRow]]


class StepOutputs:
    """What a step gives, to be read before the next one, which overwrites it.

    `fetch` brings the logits f32 [R, vocab] to where numpy reads them. It is called when they are
    first asked for, so a program that has its own argmax and its own code for drawing copies no
    logits. `argmax`: [R]; None: to be computed from the logits. `draw` chooses tokens from these
    rows and may change them; None where the program has no code for it.
    """

    __slots__ = ("_argmax", "_fetch", "_logits", "draw")

    def __init__(
        self,
        fetch: "Callable[[], Float32Array]",
        argmax: list[int] | None = None,
        draw: "Draw | None" = None,
    ) -> None:
        self._fetch, self._argmax, self.draw = fetch, argmax, draw
        self._logits: Float32Array | None = None

    @classmethod
    def of(cls, logits: "Float32Array") -> "StepOutputs":
        """Of logits that are in numpy's reach already."""
        return cls(lambda: logits)

    @property
    def logits(self) -> "Float32Array":
        """f32 [R, vocab], which drawing may change. Greedy decoding asks for none, and so needs no
        numpy."""
        if self._logits is None:
            self._logits = self._fetch()
        return self._logits

    @property
    def argmax(self) -> list[int]:
        """[R], the token with the largest logit of each row; to be read before rows are changed."""
        if self._argmax is None:
            self._argmax = self.logits.argmax(axis=1).tolist()
        return self._argmax


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
    def copy_block(self, group: int, source: int, target: int) -> None:
        """Copies what a block of a cache group holds to another one. Between steps only."""
        ...

    def close(self) -> None: ...


class SubmittedStep(Protocol):
    """A step that was handed over. One whose outputs nobody asks for runs all the same."""

    def outputs(self) -> StepOutputs:
        """Waits until the step is done. Its choices are filled in then, and `argmax` can be read
        even if one more step was submitted meanwhile; logits, and what `draw` makes of them, only
        before. Raises whatever went wrong in the step or before it."""
        ...


class SubmittingProgram(Program, Protocol):
    """A program on a device that works by itself: the host prepares a step while another runs.

    Steps and copies of blocks run one after the other, in the order in which they were asked for,
    so a block may be given to somebody else as soon as the last step that needs it was submitted.
    At most two steps are under way. `step` is `submit` and `outputs`; `close` waits for all.
    """

    def submit(self, inputs: StepInputs, choices: Sequence[Choice] = ()) -> SubmittedStep:
        """Hands a step over and returns at once; `inputs` were read by then and may change.

        A token id of -1 - k stands for the token of logits row k of the step submitted before:
        what its choice chose, the argmax of a row without one, any id where none could be chosen.
        `choices`, at most one a row, are filled in on the device; they belong to the program until
        `outputs` returns.
        """
        ...

    def draws(self, choice: Choice) -> bool:
        """Whether `submit` takes such choices. Asked once for a request, of its first choice: later
        ones differ in `row` and `uniform`, and may forbid fewer ids."""
        ...


def submits(program: Program) -> TypeGuard[SubmittingProgram]:
    """Whether steps of this program can be submitted."""
    return hasattr(program, "submit")


def check_inputs(inputs: StepInputs, program: Program, rows_before: int = 0) -> None:
    """Raises E0100 for inputs that native code must not see: they would read or write outside.

    The scheduler never makes such inputs; this is the border where that is certain. `rows_before`:
    logits rows of the step submitted before, for which token ids below 0 may stand.
    """
    limits = program.limits
    tokens, rows = inputs.token_ids, inputs.logits_rows
    starts, lengths = inputs.query_start, inputs.context_len
    if not 0 < len(tokens) <= limits.max_tokens or not 0 < len(lengths) <= limits.max_sequences:
        raise _wrong(f"{len(tokens)} tokens of {len(lengths)} sequences are over the limits")
    if len(rows) > limits.max_logits_rows:
        raise _wrong(f"{len(rows)} logits rows are over the limit")
    if len(starts) != len(lengths) + 1 or starts[0] != 0 or starts[-1] != len(tokens):
        raise _wrong("query_start does not divide the tokens")
    if max(lengths) > limits.max_context:
        raise _wrong("a context length is out of range")
    firsts = list(map(sub, lengths, map(sub, starts[1:], starts)))  # of the step's tokens
    if min(firsts) < 0 or not all(map(lt, firsts, lengths)):
        raise _wrong("a context length is out of range")
    positions = firsts
    if len(tokens) > len(lengths):
        positions = list(chain.from_iterable(map(range, firsts, lengths)))
    if inputs.positions != positions:
        raise _wrong("positions do not follow from the context lengths")
    _check_range("token id", tokens, program.vocab_size, -rows_before)
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
        if len(table) != len(lengths):
            raise _wrong(f"the block table of {group.name} has {len(table)} rows")
        room = [len(row) * size for row in table]
        if not all(map(le, lengths, room)) or max(room) >= program.limits.max_context + size:
            raise _wrong(f"the block table of {group.name} has a wrong length")
        if max(map(max, table)) >= blocks:
            raise _wrong(f"the block table of {group.name} names no block of its pool")
        if not group.window and min(map(min, table)) >= 0:
            continue  # no row has a hole, used or not
        for row, first, length in zip(table, firsts, lengths, strict=True):
            oldest = max(first - (group.window - 1), 0) if group.window else 0
            if min(row[oldest // size : (length - 1) // size + 1]) < 0:
                raise _wrong(f"the block table of {group.name} names no block of its pool")


def _check_range(what: str, values: list[int], end: int, first: int = 0) -> None:
    if values and (min(values) < first or max(values) >= end):
        raise _wrong(f"a {what} is out of range")


def _wrong(cause: str) -> LlmcError:
    return LlmcError("LLMC-E0100", f"step inputs: {cause}")
