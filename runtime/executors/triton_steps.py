"""What a step brings to the GPU and takes back: its arrays as one block, its tokens as a few ints.

Arrays go through pinned memory, of which there is more than one piece: the next step's are written
while the GPU still reads the last one's. A step may be padded to the sizes of a recorded graph:
tokens and positions with 0, `query_start` with the number of tokens (sequences without any),
`context_len` and logits rows with 0, block tables with -1. Block tables stay on the GPU from step
to step, so only what has changed in them is sent.
"""

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ...artifact.launch_plan import LaunchPlan, Region
from ...artifact.program import CheckedTable, StepInputs
from .gpu_device import Event, GpuDevice
from .triton_launches import StepSizes

_I32 = 4
_NO_BLOCK = -1
_ARRAYS = "token_ids", "positions", "query_start", "context_len", "logits_rows"
_WIDE_GAP = 32 << 10
"""Bytes between two used parts from which on a second copy is cheaper than copying them too."""


class _Piece(NamedTuple):
    data: memoryview
    read: Event


class _Table:
    """A block table in the step's memory, of which only rows that change are written. `known`:
    its rows, which have been checked; `begin`: its first i32; `filled`: rows that aren't empty.
    `unsent`: bytes [begin, end) that the GPU doesn't have."""

    def __init__(self, known: CheckedTable, region: Region, ints: memoryview, columns: int) -> None:
        self._known, self._ints, self._columns = known, ints, columns
        self._begin = region.offset // _I32
        self._filled = region.nbytes // _I32 // columns
        self.unsent: tuple[int, int] | None = None

    def write(self) -> None:
        """Writes the rows that have changed."""
        known = self._known
        rows, count, filled = known.rows, len(known.rows), self._filled
        if not known.changed and count == filled:
            return
        changed = known.take_changed()
        columns, ints = self._columns, self._ints
        for place in changed:
            at = self._begin + place * columns
            ints[at : at + len(rows[place])] = array("i", rows[place])
        if count < filled:
            at, end = self._begin + count * columns, self._begin + filled * columns
            ints[at:end] = array("i", [_NO_BLOCK]) * (end - at)
            changed += (count, filled - 1)
        self._filled = count
        if changed:
            self._add(
                self._begin + min(changed) * columns, self._begin + (max(changed) + 1) * columns
            )

    def _add(self, begin: int, end: int) -> None:
        first, last = self.unsent or (begin * _I32, end * _I32)
        self.unsent = min(first, begin * _I32), max(last, end * _I32)


class StepBlock:
    """The step's arrays, at `address`, of which `_host` is what the GPU has when all is done that
    was begun. `pieces`: of pinned memory; `tables`: by group, what has been checked."""

    def __init__(
        self,
        gpu: GpuDevice,
        plan: LaunchPlan,
        address: int,
        pieces: int,
        tables: Sequence[CheckedTable],
    ) -> None:
        self._gpu, self._address = gpu, address
        nbytes = -(-plan.step_bytes // _I32) * _I32
        self._host = memoryview(bytearray(nbytes))
        self._ints = ints = self._host.cast("i")
        self._pieces = [
            _Piece(gpu.allocate_pinned(nbytes), gpu.create_event()) for _ in range(pieces)
        ]
        self._next = 0
        self._sizes: StepSizes | None = None
        self._starts: list[int] = []
        self._rows: list[int] = []
        """`query_start` and logits rows of the last step, which was padded to `_sizes`."""
        self._usual: tuple[StepSizes | None, list[tuple[int, int]]] = None, []
        self._offsets = [plan.step[name].offset for name in _ARRAYS]
        self._tables = [
            _Table(known, plan.step[f"table.{group}"], ints, plan.columns)
            for group, known in enumerate(tables)
        ]

    def send(self, inputs: StepInputs, sizes: StepSizes, earlier: int) -> None:
        """Begins the copy of a step's arrays, padded to `sizes`. `earlier`: the address of the
        tokens of the step before, i32 by its rows, which take the place of ids below 0."""
        gpu, piece = self._gpu, self._pieces[self._next]
        self._next = (self._next + 1) % len(self._pieces)
        known = inputs.token_ids
        if has_unknown := min(known) < 0:
            known = [token if token > 0 else 0 for token in known]
        self._write(known, inputs, sizes)
        gpu.wait(piece.read)
        for begin, end in self._spans(sizes):
            data = piece.data[begin:end]
            data[:] = self._host[begin:end]
            gpu.upload(self._address + begin, data)
        for table in self._tables:
            table.unsent = None
        gpu.record(piece.read)
        if has_unknown:
            target = self._address + self._offsets[0]
            for place, row, count in _runs(inputs.token_ids):
                gpu.copy(target + place * _I32, earlier + row * _I32, count * _I32)

    def _write(self, token_ids: list[int], inputs: StepInputs, sizes: StepSizes) -> None:
        tokens, sequences, rows = sizes
        ids, positions, starts, lengths, logits_rows = self._offsets
        self._put(ids, token_ids, tokens)
        self._put(positions, inputs.positions, tokens)
        self._put(lengths, inputs.context_len, sequences)
        same = sizes == self._sizes
        if not same or inputs.query_start != self._starts:
            self._put(starts, inputs.query_start, sequences + 1, len(token_ids))
        if not same or inputs.logits_rows != self._rows:
            self._put(logits_rows, inputs.logits_rows, rows)
        self._sizes = sizes
        self._starts, self._rows = [*inputs.query_start], [*inputs.logits_rows]
        for table in self._tables:
            table.write()

    def _put(self, offset: int, values: list[int], count: int, padding: int = 0) -> None:
        begin, own = offset // _I32, len(values)
        self._ints[begin : begin + own] = array("i", values)
        if own < count:
            self._ints[begin + own : begin + count] = array("i", [padding]) * (count - own)

    def _spans(self, sizes: StepSizes) -> list[tuple[int, int]]:
        """Bytes [begin, end) that must be sent."""
        known_sizes, spans = self._usual
        if sizes != known_sizes:
            tokens, sequences, rows = sizes
            counts = tokens, tokens, sequences + 1, sequences, rows
            spans = _joined([(o, o + n * _I32) for o, n in zip(self._offsets, counts, strict=True)])
            self._usual = sizes, spans
        tables = [table.unsent for table in self._tables if table.unsent is not None]
        return _joined(spans + tables) if tables else spans


def _joined(used: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted parts that together cover all used ones; near ones become one."""
    spans: list[tuple[int, int]] = []
    for begin, end in sorted(used):
        if spans and begin - spans[-1][1] < _WIDE_GAP:
            spans[-1] = spans[-1][0], max(end, spans[-1][1])
        else:
            spans.append((begin, end))
    return spans


def _runs(token_ids: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Places with ids of -1 - row: where a run of rising rows begins, its first row, its length."""
    place, count = 0, len(token_ids)
    if token_ids == [*range(-1, -1 - count, -1)]:  # as in most steps
        yield 0, 0, count
        return
    while place < count:
        first = token_ids[place]
        if first >= 0:
            place += 1
            continue
        end = place + 1
        while end < count and token_ids[end] == first - (end - place):
            end += 1
        yield place, -1 - first, end - place
        place = end


class TokenSlot(NamedTuple):
    """Where the tokens of a step arrive on the host."""

    data: memoryview
    ints: memoryview
    arrived: Event


def token_slots(gpu: GpuDevice, rows: int, count: int) -> list[TokenSlot]:
    """Slots for steps of at most so many logits rows."""
    slots = []
    for _ in range(count):
        data = gpu.allocate_pinned(rows * _I32)
        slots.append(TokenSlot(data, data.cast("i"), gpu.create_event()))
    return slots


def begin_tokens(gpu: GpuDevice, slot: TokenSlot, source: int, rows: int) -> None:
    """Begins the copy of a step's tokens to the host."""
    if rows:
        gpu.download(slot.data[: rows * _I32], source)
    gpu.record(slot.arrived)
