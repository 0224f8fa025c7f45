"""Steps as runs over ranges of slots: every token arrives once, in its place, and nothing valid is
overwritten, whatever the scheduler asks for."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.artifact.manifest import Limits
from llmc.artifact.program import StepInputs
from llmc.runtime.executors.slots import SlotPlanner

pytestmark = pytest.mark.fast

SLOTS, MAX_TOKENS, MAX_CONTEXT = 9, 12, 20
LIMITS = Limits(
    max_tokens=MAX_TOKENS,
    max_sequences=SLOTS,
    max_context=MAX_CONTEXT,
    max_logits_rows=SLOTS,
    block_size=MAX_CONTEXT + MAX_TOKENS - 1,
    uniform_query=True,
)


@dataclass
class Cache:
    """What a runtime's cache would hold: the token at each place of each slot."""

    places: list[list[int]] = field(
        default_factory=lambda: [[-1] * LIMITS.block_size for _ in range(SLOTS)]
    )

    def run(self, planner: SlotPlanner, inputs: StepInputs) -> dict[int, int]:
        """Play the runs of a step; the token behind each of its logits rows."""
        found: dict[int, int] = {}
        for run in planner.runs(inputs):
            assert len(run.token_ids) == len(run.positions) == run.rows * run.query
            assert run.rows * run.query <= MAX_TOKENS
            assert max(run.positions) < MAX_CONTEXT
            for row, start in enumerate(run.start):
                tokens = run.token_ids[row * run.query :][: run.query]
                assert start + run.query <= LIMITS.block_size
                self.places[run.first + row][start : start + run.query] = tokens
            for row, output in zip(run.logits_rows, run.outputs, strict=True):
                assert output not in found
                found[output] = run.token_ids[row]
        return found


@dataclass
class Sequence:
    slot: int
    tokens: list[int] = field(default_factory=list)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_sequence_keeps_its_own_tokens(data: st.DataObject) -> None:
    planner, cache, free, number = SlotPlanner(LIMITS, SLOTS), Cache(), list(range(SLOTS)), 0
    running: list[Sequence] = []
    for _ in range(data.draw(st.integers(1, 12))):
        while free and data.draw(st.booleans()):
            running.append(Sequence(free.pop(data.draw(st.integers(0, len(free) - 1)))))
        chosen = [s for s in running if len(s.tokens) < MAX_CONTEXT and data.draw(st.booleans())]
        plan, left = [], MAX_TOKENS
        for sequence in data.draw(st.permutations(chosen)):
            room = min(left, MAX_CONTEXT - len(sequence.tokens))
            if room:
                count = data.draw(st.sampled_from([1, data.draw(st.integers(1, room))]))
                new = list(range(number + 1, number + 1 + count))
                number, left = number + count, left - count
                plan.append((sequence, new))
        if plan:
            step(planner, cache, plan)
        for sequence in running:
            assert cache.places[sequence.slot][: len(sequence.tokens)] == sequence.tokens
        if running and data.draw(st.booleans()):
            free.append(running.pop(data.draw(st.integers(0, len(running) - 1))).slot)


def step(planner: SlotPlanner, cache: Cache, plan: list[tuple[Sequence, list[int]]]) -> None:
    """One step of these new tokens, with logits after each sequence's last."""
    tokens, positions, starts, lengths, rows = [], [], [0], [], []
    for sequence, new in plan:
        positions += range(len(sequence.tokens), len(sequence.tokens) + len(new))
        tokens += new
        sequence.tokens += new
        starts.append(len(tokens))
        lengths.append(len(sequence.tokens))
        rows.append(len(tokens) - 1)
    tables = [[[sequence.slot] for sequence, _ in plan]]
    found = cache.run(planner, StepInputs(tokens, positions, starts, lengths, rows, tables))
    assert found == dict(enumerate(new[-1] for _, new in plan))


def test_decoding_neighbours_share_a_run_and_prompts_don_t_carry_them() -> None:
    planner = SlotPlanner(LIMITS, SLOTS)
    cache = Cache()
    first = [(Sequence(slot), [slot + 1]) for slot in (0, 1, 3)]
    step(planner, cache, first)
    sequences = [sequence for sequence, _ in first]
    inputs = StepInputs(
        token_ids=[9, 9, 9, *range(5)],
        positions=[1, 1, 1, *range(5)],
        query_start=[0, 1, 2, 3, 8],
        context_len=[2, 2, 2, 5],
        logits_rows=[0, 1, 2, 7],
        block_tables=[[*([s.slot] for s in sequences), [2]]],
    )
    shapes = [(run.first, run.rows, run.query) for run in planner.runs(inputs)]
    assert shapes == [(0, 4, 1), (2, 1, 5)]


def test_a_copied_slot_is_as_long_as_its_source() -> None:
    planner, cache = SlotPlanner(LIMITS, SLOTS), Cache()
    step(planner, cache, [(Sequence(0), [1, 2, 3])])
    planner.copied(0, 1)
    step(planner, cache, [(Sequence(2), [4])])
    (run,) = planner.runs(StepInputs([5, 6], [3, 1], [0, 1, 2], [4, 2], [0, 1], [[[0], [2]]]))
    assert run.start == [3, 3, 1]  # the slot between them is padded behind its own tokens
