"""What a step brings to the GPU and takes back: its arrays as one block, its tokens as a few ints.

Arrays go through pinned memory, of which there is more than one piece: the next step's are written
while the GPU still reads the last one's. A step may be padded to the sizes of a recorded graph:
tokens and positions with 0, `query_start` with the number of tokens (sequences without any),
`context_len` and logits rows with 0, block tables with -1.
"""

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ...artifact.launch_plan import LaunchPlan
from ...artifact.program import StepInputs
from .gpu_device import Event, GpuDevice
from .triton_launches import StepSizes

_I32 = 4
_WIDE_GAP = 32 << 10
"""Bytes between two used parts from which on a second copy is cheaper than copying them too."""


class _Piece(NamedTuple):
    data: memoryview
    ints: memoryview
    read: Event


class StepBlock:
    """The step's arrays, at `address`. `pieces`: of pinned memory."""

    def __init__(self, gpu: GpuDevice, plan: LaunchPlan, address: int, pieces: int) -> None:
        self._gpu, self._plan, self._address = gpu, plan, address
        self._pieces = []
        for _ in range(pieces):
            data = gpu.allocate_pinned(-(-plan.step_bytes // _I32) * _I32)
            self._pieces.append(_Piece(data, data.cast("i"), gpu.create_event()))
        self._next = 0
        self._tables = [plan.step[name] for name in _tables(plan)]
        self._no_blocks = array("i", [-1]) * plan.columns

    def send(self, inputs: StepInputs, sizes: StepSizes) -> None:
        """Begins the copy of a step's arrays, padded to `sizes`."""
        piece = self._pieces[self._next]
        self._next = (self._next + 1) % len(self._pieces)
        self._gpu.wait(piece.read)
        for begin, end in _spans(self._write(piece.ints, inputs, sizes)):
            self._gpu.upload(self._address + begin, piece.data[begin:end])
        self._gpu.record(piece.read)

    def _write(
        self, ints: memoryview, inputs: StepInputs, sizes: StepSizes
    ) -> Iterator[tuple[int, int]]:
        """Writes the arrays; yields the bytes [begin, end) that each takes."""
        tokens, sequences = len(inputs.token_ids), sizes.sequences
        known = inputs.token_ids
        if min(known) < 0:
            known = [max(token, 0) for token in known]  # `take_tokens` brings the others
        for name, values, count, padding in (
            ("token_ids", known, sizes.tokens, 0),
            ("positions", inputs.positions, sizes.tokens, 0),
            ("query_start", inputs.query_start, sequences + 1, tokens),
            ("context_len", inputs.context_len, sequences, 0),
            ("logits_rows", inputs.logits_rows, sizes.rows, 0),
        ):
            begin = self._plan.step[name].offset
            numbers = array("i", values) + array("i", [padding]) * (count - len(values))
            ints[begin // _I32 : begin // _I32 + count] = numbers
            yield begin, begin + count * _I32
        for region, table in zip(self._tables, inputs.block_tables, strict=True):
            self._write_table(ints, region.offset // _I32, table, sequences)
            yield region.offset, region.offset + sequences * self._plan.columns * _I32

    def _write_table(
        self, ints: memoryview, begin: int, table: Sequence[Sequence[int]], sequences: int
    ) -> None:
        columns = self._plan.columns
        for row in table:
            ints[begin : begin + len(row)] = array("i", row)
            begin += columns
        for _ in range(sequences - len(table)):
            ints[begin : begin + columns] = self._no_blocks
            begin += columns

    def take_tokens(self, token_ids: Sequence[int], earlier: int) -> None:
        """Puts tokens that only the GPU knows where ids of -1 - k stand. `earlier`: the address of
        the step before's tokens, i32 by their rows."""
        target = self._address + self._plan.step["token_ids"].offset
        for place, row, count in _runs(token_ids):
            self._gpu.copy(target + place * _I32, earlier + row * _I32, count * _I32)


def _tables(plan: LaunchPlan) -> list[str]:
    """Names of the block tables, by group."""
    count = sum(name.startswith("table.") for name in plan.step)
    return [f"table.{group}" for group in range(count)]


def _spans(used: Iterator[tuple[int, int]]) -> list[tuple[int, int]]:
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
