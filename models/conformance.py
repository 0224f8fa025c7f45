"""The conformance schedule: one program, several sequences, compared row by row with a reference.

In: anything with the `Program` protocol, and per sequence its token ids and the reference logits
after each of them. Out: the largest difference, as a share of the reference's range.

The schedule is built to meet what single-step checks miss: sequences of different length in one
step, decode steps behind a past, a longer prompt that joins in chunks while others decode, one that
leaves early and whose blocks and slot go to another, blocks and slots that are copied elsewhere,
contexts beyond windows and rope thresholds. Block tables are shuffled, entries that must not be
read are -1, and every block and slot holds another text's state before it is handed out. Tokens are
given, not chosen by the program, so one wrong row does not hide the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..artifact.program import Program, StepInputs
from ..artifact.stateful_program import keeps_state

DECODE_STEPS = 16
JOIN_AT = 4
MOVE_AT = 7
LEAVE_AT = 10
TOLERANCE = 1e-4
"""Of the reference's range: float32 sums in another order, over a few layers, stay far below."""


@dataclass(frozen=True)
class Text:
    """One sequence: all its tokens (prompt and what follows) and the reference's logits.

    `logits[i]`, float32 `[vocab]`, is what the model says after `token_ids[: i + 1]`.
    """

    token_ids: np.ndarray
    logits: np.ndarray


@dataclass
class Report:
    """What a schedule found: rows compared, the worst of them, and each one's difference."""

    rows: int = 0
    worst: float = 0.0
    where: str = "no row was compared"
    argmax_errors: list[str] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    def add(self, share: float, where: str) -> None:
        """Count one compared row; NaN counts as infinitely wrong."""
        self.rows += 1
        self.shares.append(share)
        if not share <= self.worst:
            self.worst, self.where = (share if share == share else float("inf")), where

    def check(self, tolerance: float = TOLERANCE) -> None:
        """Raise `AssertionError` that names the worst row if the program doesn't conform."""
        if self.rows == 0 or self.worst > tolerance:
            raise AssertionError(f"logits differ by {self.worst:.2e} of their range: {self.where}")
        if self.argmax_errors:
            raise AssertionError(self.argmax_errors[0])


def prompt_lengths(max_context: int) -> tuple[int, int, int, int]:
    """Return four prompt lengths: three for the first step, and a longer one that joins later.

    The first three leave room for `DECODE_STEPS` within `max_context`; the last all but fills it.
    """
    room = max_context - DECODE_STEPS
    return max(1, room // 20), max(2, room // 3), max(3, room // 7), max_context - 7


def text_lengths(max_context: int) -> tuple[int, int, int, int]:
    """Return how many tokens and logits rows each `Text` of the schedule must have."""
    lengths = prompt_lengths(max_context)
    first, second, third, fourth = (min(n + DECODE_STEPS, max_context) for n in lengths)
    return first, second, third, fourth


def blocks_needed(program: Program, max_context: int) -> int:
    """Return how many blocks per cache group the schedule takes: four sequences and some spare."""
    return 4 * _ceil(max_context, program.limits.block_size) + 3


def run_schedule(
    program: Program, texts: Sequence[Text], *, max_context: int, seed: int = 0
) -> Report:
    """Drive `program` through the schedule on four texts of `text_lengths`.

    The program's cache must have at least `blocks_needed` blocks in every group.
    """
    driver = Driver(program, max_context, seed)
    driver.fill_with_garbage()
    prompts = prompt_lengths(max_context)
    report = Report()
    for part in _split(dict(enumerate(prompts[:3])), program.limits.max_tokens):
        driver.step(texts, part, report)
    active = [0, 1, 2]
    for number in range(DECODE_STEPS):
        if number == LEAVE_AT:
            driver.release(1)
            active.remove(1)
        if number == MOVE_AT and not program.limits.uniform_query:
            driver.move_blocks()
        plan = dict.fromkeys(active, 1)
        if number >= JOIN_AT:
            left = prompts[3] - driver.context.get(3, 0)
            plan[3] = max(1, min(left, prompts[3] // 5 + 1, program.limits.max_tokens - 3))
        driver.step(texts, _shuffled(plan, driver.random), report)
    return report


class Driver:
    """Keeps block tables for numbered sequences and turns plans into steps."""

    def __init__(self, program: Program, max_context: int, seed: int) -> None:
        needed = blocks_needed(program, max_context)
        if any(blocks < needed for blocks in program.cache_blocks):
            raise ValueError("the program's cache is too small for the conformance schedule")
        self.program = program
        self.random = np.random.default_rng(seed)
        self.width = _ceil(max_context, program.limits.block_size)
        self.max_context = max_context
        self.free = [self.random.permutation(blocks).tolist() for blocks in program.cache_blocks]
        self.tables: dict[int, list[np.ndarray]] = {}
        self.context: dict[int, int] = {}
        slots = program.state_slots if keeps_state(program) else 0
        self.free_slots = self.random.permutation(slots).tolist()
        self.slots: dict[int, int] = {}

    def start(self, sequence: int) -> None:
        """Give `sequence` an empty context."""
        self.context[sequence] = 0
        self.tables[sequence] = [np.full(self.width, -1, np.int32) for _ in self.free]
        if keeps_state(self.program):
            self.slots[sequence] = self.free_slots.pop()

    def release(self, sequence: int) -> None:
        """Hand back the blocks of `sequence`; they are given out again at random."""
        for group, table in enumerate(self.tables.pop(sequence)):
            self._hand_back(group, table[table >= 0].tolist())
        del self.context[sequence]
        if sequence in self.slots:
            self.free_slots.insert(0, self.slots.pop(sequence))

    def move_blocks(self) -> None:
        """Copy every block and slot that is held to a free one, and hand back the old one."""
        for tables in self.tables.values():
            for group, table in enumerate(tables):
                for column in np.flatnonzero(table >= 0):
                    old, table[column] = int(table[column]), self.free[group].pop()
                    self.program.copy_block(group, old, int(table[column]))
                    self._hand_back(group, [old])
        for sequence, old in self.slots.items():
            assert keeps_state(self.program)
            self.slots[sequence] = self.free_slots.pop()
            self.program.copy_slot(old, self.slots[sequence])
            self.free_slots.insert(0, old)

    def fill_with_garbage(self) -> None:
        """Run random texts through every block, so that none holds zeros when it is handed out."""
        number = -1
        while self._has_room():
            self.start(number)
            for length in _chunks(self.max_context, self.program.limits.max_tokens):
                text = self.random.integers(0, self.program.vocab_size, length).astype(np.int32)
                self.program.step(self._inputs({number: text}, np.zeros(1, np.int32)))
                self.context[number] += length
            number -= 1
        for sequence in list(self.tables):
            self.release(sequence)

    def _has_room(self) -> bool:
        """Whether one more sequence fits, which is as long as any. (No pool: no end of them.)"""
        if keeps_state(self.program) and not self.free_slots:
            return False
        return all(len(free) >= self.width for free in self.free)

    def step(self, texts: Sequence[Text], plan: dict[int, int], report: Report) -> None:
        """Run one step: `plan[i]` new tokens of `texts[i]`, in the plan's order; compare rows."""
        for sequence in plan:
            if sequence not in self.context:
                self.start(sequence)
        tokens = {
            index: texts[index].token_ids[self.context[index] :][:count].astype(np.int32)
            for index, count in plan.items()
        }
        owners = [
            (index, self.context[index] + j) for index in plan for j in range(len(tokens[index]))
        ]
        rows = self._choose_rows([len(tokens[index]) for index in plan])
        outputs = self.program.step(self._inputs(tokens, rows))
        for row, logits, argmax in zip(rows, outputs.logits, outputs.argmax, strict=True):
            index, position = owners[row]
            where = f"sequence {index}, position {position}, step of {list(plan.values())} tokens"
            _compare(logits, argmax, texts[index].logits[position], where, report)
        for index, count in plan.items():
            self.context[index] += count

    def _choose_rows(self, counts: list[int]) -> np.ndarray:
        """Return the last row of each sequence and as many others as the limit allows, shuffled."""
        last = np.cumsum(counts) - 1
        others = np.setdiff1d(np.arange(sum(counts)), last)
        room = max(0, self.program.limits.max_logits_rows - len(last))
        rows = np.concatenate([last, self.random.permutation(others)[:room]])
        return self.random.permutation(rows).astype(np.int32)

    def _inputs(self, tokens: dict[int, np.ndarray], rows: np.ndarray) -> StepInputs:
        starts = np.cumsum([0] + [len(ids) for ids in tokens.values()])
        positions = [self.context[i] + np.arange(len(ids)) for i, ids in tokens.items()]
        for index, ids in tokens.items():
            self._extend(index, len(ids))
        tables = tuple(
            [self.tables[index][group].tolist() for index in tokens]
            for group in range(len(self.free))
        )
        ends = [self.context[index] + len(ids) for index, ids in tokens.items()]
        return StepInputs(
            token_ids=np.concatenate(list(tokens.values())).tolist(),
            positions=np.concatenate(positions).tolist(),
            query_start=starts.tolist(),
            context_len=ends,
            logits_rows=rows.tolist(),
            block_tables=tables,
            state_slots=[self.slots[index] for index in tokens] if self.slots else (),
        )

    def _extend(self, sequence: int, new: int) -> None:
        """Take the blocks for `new` tokens; give up those that no window reaches any more."""
        size, context = self.program.limits.block_size, self.context[sequence]
        for group, table in enumerate(self.tables[sequence]):
            window = self.program.cache_groups[group].window
            if window and context >= window:
                gone = (context - window + 1) // size
                self._hand_back(group, [int(b) for b in table[:gone] if b >= 0])
                table[:gone] = -1
            for block in range(context // size, _ceil(context + new, size)):
                if table[block] < 0:
                    table[block] = self.free[group].pop()

    def _hand_back(self, group: int, blocks: list[int]) -> None:
        self.free[group] = self.random.permutation(self.free[group] + blocks).astype(int).tolist()


def _compare(
    logits: np.ndarray, argmax: int, expected: np.ndarray, where: str, report: Report
) -> None:
    spread = float(expected.max() - expected.min())
    report.add(float(np.abs(logits - expected).max()) / spread, where)
    margin = float(expected.max() - expected[argmax]) / spread
    if margin > 2 * TOLERANCE:
        report.argmax_errors.append(f"argmax is {argmax}, {margin:.2e} of the range off: {where}")


def _split(plan: dict[int, int], max_tokens: int) -> list[dict[int, int]]:
    """Return `plan` as one step if it fits, else one step a sequence and chunk."""
    if sum(plan.values()) <= max_tokens:
        return [plan]
    return [{index: chunk} for index, count in plan.items() for chunk in _chunks(count, max_tokens)]


def _chunks(total: int, most: int) -> list[int]:
    return [min(most, total - start) for start in range(0, total, most)]


def _shuffled(plan: dict[int, int], random: np.random.Generator) -> dict[int, int]:
    keys = list(plan)
    return {keys[i]: plan[keys[i]] for i in random.permutation(len(keys))}


def _ceil(value: int, divisor: int) -> int:
    return -(-value // divisor)
