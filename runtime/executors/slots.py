"""Steps on runtimes that don't page: packed inputs become padded runs over ranges of slots.

In: `StepInputs`, in which a sequence's block in the first cache group is its slot. Out: `SlotRun`s,
each one call of the runtime on a contiguous range of slots, and where its rows of logits belong.

Every row of a run brings Q tokens. Padding stands behind a row's own tokens, and rows of slots that
take no part are nothing but padding, behind what their slot holds: either is overwritten before
anything may read it. So a slot has Q - 1 places more than the longest sequence.
"""

from collections.abc import Iterator, Sequence

from msgspec import Struct

from ...artifact.manifest import Limits
from ...artifact.program import StepInputs


class SlotRun(Struct, frozen=True):
    """One call: slots `first` to `first + rows - 1` with `query` tokens each, row after row.

    token_ids, positions: [rows * query]; positions of padding stay below the longest context.
    start: [rows], tokens that each slot held before. logits_rows: rows of the call that logits are
    wanted for; `outputs`: which rows of the step's logits they are.
    """

    first: int
    rows: int
    query: int
    token_ids: list[int]
    positions: list[int]
    start: list[int]
    logits_rows: list[int]
    outputs: list[int]


class _Row(Struct, frozen=True):
    """What one sequence brings: tokens `begin` to `end - 1` of the step, to slot `slot`."""

    slot: int
    begin: int
    end: int
    start: int

    @property
    def count(self) -> int:
        return self.end - self.begin


class SlotPlanner:
    """Makes runs, and remembers how many tokens each slot holds.

    `prompts_alone`: for runtimes that take several rows only of one token each.
    """

    def __init__(self, limits: Limits, slots: int, *, prompts_alone: bool = False) -> None:
        self._limits, self._prompts_alone = limits, prompts_alone
        self._held = [0] * slots

    def runs(self, inputs: StepInputs) -> list[SlotRun]:
        """The runs of a step, in which every sequence's logits rows find their place."""
        starts, lengths, tables = inputs.query_start, inputs.context_len, inputs.block_tables[0]
        rows = [
            _Row(table[0], begin, end, length - (end - begin))
            for table, begin, end, length in zip(tables, starts, starts[1:], lengths, strict=False)
        ]
        for row in rows:
            self._held[row.slot] = row.start
        wanted: dict[int, list[int]] = {}
        for output, index in enumerate(inputs.logits_rows):
            wanted.setdefault(index, []).append(output)
        made = [self._run(part, inputs, wanted) for part in self._parts(rows)]
        for row in rows:
            self._held[row.slot] = row.start + row.count
        return made

    def copied(self, source: int, target: int) -> None:
        """A slot's content went to another one."""
        self._held[target] = self._held[source]

    def _parts(self, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        """Rows that run together: those that decode, and neighbours that bring a prompt."""
        ordered = sorted(rows, key=lambda row: row.slot)
        decoding = [row for row in ordered if row.count == 1]
        prompts = [row for row in ordered if row.count > 1]
        # A row that only fills a gap costs little beside one token's weights, much with a prompt.
        yield from self._ranges(decoding, gap=max(2, len(decoding)))
        yield from self._ranges(prompts, gap=0 if self._prompts_alone else 1)

    def _ranges(self, rows: list[_Row], gap: int) -> Iterator[list[_Row]]:
        """Splits where slots lie more than `gap` apart or the step would be too large."""
        part: list[_Row] = []
        for row in rows:
            if part and (row.slot - part[-1].slot > gap or not self._fits([*part, row])):
                yield part
                part = []
            part.append(row)
        if part:
            yield part

    def _fits(self, part: list[_Row]) -> bool:
        rows = part[-1].slot - part[0].slot + 1
        query = max(row.count for row in part)
        return rows <= self._limits.max_sequences and rows * query <= self._limits.max_tokens

    def _run(self, part: list[_Row], inputs: StepInputs, wanted: dict[int, list[int]]) -> SlotRun:
        first, rows = part[0].slot, part[-1].slot - part[0].slot + 1
        query = max(row.count for row in part)
        last = self._limits.max_context - 1
        start = [min(held, self._limits.block_size - query) for held in self._held[first:][:rows]]
        token_ids = [0] * (rows * query)
        positions = [min(at + j, last) for at in start for j in range(query)]
        logits_rows, outputs = [], []
        for row in part:
            base = (row.slot - first) * query
            token_ids[base : base + row.count] = inputs.token_ids[row.begin : row.end]
            for j in range(row.count):
                for output in wanted.get(row.begin + j, ()):
                    logits_rows.append(base + j)
                    outputs.append(output)
        return SlotRun(first, rows, query, token_ids, positions, start, logits_rows, outputs)
