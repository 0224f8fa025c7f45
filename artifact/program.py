"""One step of a compiled model, whatever runs it: inputs, outputs, and what a program promises.

A step takes T query tokens of S sequences, packed behind one another, writes their keys and
values into the paged cache, and gives logits for R chosen tokens. Prefill, chunked prefill, decode
and mixtures of them differ only in these arrays.
"""

from collections.abc import Callable, Sequence
from operator import eq, le
from typing import TYPE_CHECKING, Protocol, TypeGuard

from msgspec import Struct

from ..base.errors import LlmcError
from .checked_slots import CheckedSlots
from .choice import Choice
from .manifest import CacheGroup, Limits

__all__ = [
    "CacheGroup",
    "CheckedTable",
    "InputCheck",
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
    the blocks that hold positions b * block_size and on. state_slots: [S], where each sequence's
    state lies (`stateful_program.py`); none for programs without.
    """

    token_ids: list[int]
    positions: list[int]
    query_start: list[int]
    context_len: list[int]
    logits_rows: list[int]
    block_tables: Sequence[Sequence[BlockRow]]
    state_slots: Sequence[int] = ()


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
    """What `InputCheck.check` does, once."""
    InputCheck(program).check(inputs, rows_before)


class InputCheck:
    """The border of native code: what passes reads and writes nothing outside of its arrays and
    pools. The scheduler never makes other inputs; here that is certain.

    `tables`: per cache group what is known of its block table. Most rows are those of the step
    before, so only others are looked at. `slots`: where the states of sequences stand.
    """

    __slots__ = ("_limits", "_numbers", "_vocab_size", "slots", "tables")

    def __init__(self, program: Program) -> None:
        limits = self._limits = program.limits
        self._vocab_size = program.vocab_size
        self._numbers: list[int] = []  # from 0 on, as far as they were needed
        slots = getattr(program, "state_slots", 0)  # of a `StatefulProgram`
        self.slots = CheckedSlots(slots) if slots else None
        self.tables = [
            CheckedTable(group, blocks, limits)
            for group, blocks in zip(program.cache_groups, program.cache_blocks, strict=True)
        ]

    def check(self, inputs: StepInputs, rows_before: int = 0) -> None:
        """Raises E0100 for inputs that native code must not see. `rows_before`: logits rows of the
        step submitted before, for which token ids below 0 may stand."""
        limits = self._limits
        tokens, rows, lengths = inputs.token_ids, inputs.logits_rows, inputs.context_len
        count = len(lengths)
        if not 0 < len(tokens) <= limits.max_tokens or not 0 < count <= limits.max_sequences:
            raise _wrong(f"{len(tokens)} tokens of {count} sequences are over the limits")
        if len(rows) > limits.max_logits_rows:
            raise _wrong(f"{len(rows)} logits rows are over the limit")
        firsts, numbers = inputs.positions, self._numbers
        if len(numbers) <= count:
            numbers += range(len(numbers), count + 1)
        each_one = len(tokens) == count and inputs.query_start == numbers[: count + 1]
        if not each_one:
            firsts = _first_positions(inputs)
        elif [first + 1 for first in firsts] != lengths:
            raise _wrong("positions do not follow from the context lengths")
        if min(firsts) < 0 or max(lengths) > limits.max_context:
            raise _wrong("a context length is out of range")
        _check_range("token id", tokens, self._vocab_size, -rows_before)
        if not each_one or rows != numbers[:count]:
            _check_range("logits row", rows, len(tokens))
        if len(inputs.block_tables) != len(self.tables):
            raise _wrong("there must be one block table per cache group")
        for known, table in zip(self.tables, inputs.block_tables, strict=True):
            known.check(table, firsts, lengths)
        if self.slots is not None:
            self.slots.check(inputs.state_slots, firsts, lengths)


def _first_positions(inputs: StepInputs) -> list[int]:
    """Of each sequence, the position of its first query token; all others must follow from it."""
    starts, lengths = inputs.query_start, inputs.context_len
    if len(starts) != len(lengths) + 1 or starts[0] != 0 or starts[-1] != len(inputs.token_ids):
        raise _wrong("query_start does not divide the tokens")
    firsts, positions = [], []
    for start, end, length in zip(starts, starts[1:], lengths, strict=False):
        if start >= end:
            raise _wrong("a sequence has no tokens")
        firsts.append(length - (end - start))
        positions += range(firsts[-1], length)
    if inputs.positions != positions:
        raise _wrong("positions do not follow from the context lengths")
    return firsts


class CheckedTable:
    """Copies of the rows of a block table that have passed, and where sequences may be that have
    them. `changed`: places of those that are new since somebody asked.

    Every position that attention reads or a step writes must lie in a block of the pool. So a row
    serves first positions from `_firsts` on, and lengths up to `_ends`.
    """

    __slots__ = (
        "_blocks",
        "_ends",
        "_firsts",
        "_leaves",
        "_limits",
        "_name",
        "_window",
        "changed",
        "rows",
    )

    def __init__(self, group: CacheGroup, blocks: int, limits: Limits) -> None:
        self._name, self._window = group.name, group.window
        self._blocks, self._limits = blocks, limits
        self.rows: list[list[int]] = []
        self.changed: set[int] = set()
        self._firsts: list[int] = []
        self._ends: list[int] = []
        self._leaves = False  # whether any of `_firsts` was ever above 0

    def check(
        self, table: Sequence[BlockRow], firsts: Sequence[int], lengths: Sequence[int]
    ) -> None:
        """Raises E0100 unless `table` has a good row for each sequence."""
        if len(table) != len(lengths):
            raise _wrong(f"the block table of {self._name} has {len(table)} rows")
        same = [*map(eq, table, self.rows)]
        if False in same or len(same) != len(table) or len(same) != len(self.rows):
            self._look_at(table, same, lengths)
        if not self._serve(firsts, lengths):
            self._fit(firsts, lengths)

    def _serve(self, firsts: Sequence[int], lengths: Sequence[int]) -> bool:
        """Whether sequences are within the bounds that are known of their rows."""
        if not all(map(le, lengths, self._ends)):
            return False
        return not self._leaves or all(map(le, self._firsts, firsts))

    def _fit(self, firsts: Sequence[int], lengths: Sequence[int]) -> None:
        """Looks for other bounds of the same rows, which may have holes."""
        for place, length in enumerate(lengths):
            self._note(place, *self._bounds(self.rows[place], length))
        if not self._serve(firsts, lengths):
            raise self._no_block()

    def take_changed(self) -> list[int]:
        """Places of the rows that have changed since this was last called."""
        count = len(self.rows)
        places = [place for place in self.changed if place < count]
        self.changed.clear()
        return places

    def _look_at(self, table: Sequence[BlockRow], same: list[bool], lengths: Sequence[int]) -> None:
        count = len(table)
        del self.rows[count:], self._firsts[count:], self._ends[count:]
        place = -1
        for _ in range(same.count(False)):
            place = same.index(False, place + 1)
            self._take(place, table[place], lengths[place])
        for place in range(len(same), count):
            self._take(place, table[place], lengths[place])

    def _take(self, place: int, row: BlockRow, length: int) -> None:
        row = [*row]
        first, end = self._bounds(row, length)
        self.rows[place : place + 1] = [row]
        self._note(place, first, end)
        self.changed.add(place)

    def _note(self, place: int, first: int, end: int) -> None:
        self._firsts[place : place + 1] = [first]
        self._ends[place : place + 1] = [end]
        self._leaves = self._leaves or first > 0

    def _bounds(self, row: BlockRow, length: int) -> tuple[int, int]:
        """The least first position that `row` serves, and the greatest length, in the run of blocks
        that holds the last position of `length`."""
        size, most = self._limits.block_size, self._limits.max_context
        if not length <= len(row) * size < most + size:
            raise _wrong(f"the block table of {self._name} has a wrong length")
        if max(row) >= self._blocks:
            raise self._no_block()
        if min(row) >= 0:
            return 0, len(row) * size
        last = (length - 1) // size
        before = next((place for place in range(last, -1, -1) if row[place] < 0), -1) + 1
        end = next((place for place in range(last, len(row)) if row[place] < 0), len(row))
        if before > last or (before and not self._window):
            raise self._no_block()
        return before * size + self._window - 1 if before else 0, end * size

    def _no_block(self) -> LlmcError:
        return _wrong(f"the block table of {self._name} names no block of its pool")


def _check_range(what: str, values: list[int], end: int, first: int = 0) -> None:
    if values and (min(values) < first or max(values) >= end):
        raise _wrong(f"a {what} is out of range")


def _wrong(cause: str) -> LlmcError:
    return LlmcError("LLMC-E0100", f"step inputs: {cause}")
