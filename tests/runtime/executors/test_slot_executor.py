"""What all executors of slots have in common, with a runtime of a few lines of numpy."""

from typing import Any

import numpy as np
import pytest
from llmc.artifact.manifest import Limits, Variant, make_cache_group
from llmc.artifact.program import StepInputs
from llmc.base.errors import LlmcError
from llmc.runtime.executors.slot_executor import SlotExecutor, array_of, zeros
from llmc.runtime.executors.slots import SlotRun
from msgspec.structs import replace

VOCAB, LENGTH, SLOTS = 31, 24, 5


class Summing(SlotExecutor):
    """A slot holds its tokens; the logits of a place are its weighted sum of all up to there."""

    def __init__(self, variant: Variant, slots: int = SLOTS, **options: Any) -> None:
        super().__init__(variant, slots, **options)
        self.held = zeros((slots, LENGTH), "int32")
        self.released = 0
        self.failure: Exception | None = None
        self.runs: list[SlotRun] = []

    def _run(self, run: SlotRun) -> None:
        if self.failure is not None:
            raise self.failure
        self.runs.append(run)
        tokens = np.array(run.token_ids).reshape(run.rows, run.query)
        for row in range(run.rows):
            start = run.start[row]
            self.held[run.first + row, start : start + run.query] = tokens[row]
        places = [(at // run.query, at % run.query) for at in run.logits_rows]
        wanted = [
            logits_of(self.held[run.first + row, : run.start[row] + place + 1])
            for row, place in places
        ]
        self._place(run, np.array(wanted).reshape(-1, VOCAB))

    def _copy_slot(self, source: int, target: int) -> None:
        self.held[target] = self.held[source]

    def _release(self) -> None:
        self.released += 1


def logits_of(tokens: Any) -> np.ndarray:
    weighted = sum(int(token) * (place + 1) for place, token in enumerate(tokens))
    return np.roll(np.linspace(0, 1, VOCAB, dtype=np.float32), weighted % VOCAB)


@pytest.fixture
def executor(make_variant) -> Summing:
    limits = Limits(
        max_tokens=16, max_sequences=SLOTS, max_context=LENGTH - 8, max_logits_rows=8,
        block_size=LENGTH, uniform_query=True,
    )  # fmt: skip
    geometry = {"layers": 1, "kv_heads": 1, "key_dim": 16, "value_dim": 16, "dtype": "f32"}
    groups = [
        make_cache_group(name=name, window=0, block_size=LENGTH, **geometry)
        for name in ("one", "two")
    ]
    return Summing(make_variant(limits=limits, cache_groups=groups, vocab_size=VOCAB))


def step(texts: dict[int, list[int]], held: dict[int, int], rows: list[int]) -> StepInputs:
    """`texts`: new tokens by slot, of which `held` are there before."""
    starts = np.cumsum([0, *map(len, texts.values())]).tolist()
    spans = [range(held.get(s, 0), held.get(s, 0) + len(t)) for s, t in texts.items()]
    tables = [[slot] for slot in texts]
    return StepInputs(
        token_ids=[token for text in texts.values() for token in text],
        positions=[place for span in spans for place in span],
        query_start=starts,
        context_len=[span.stop for span in spans],
        logits_rows=rows,
        block_tables=[tables, tables],
    )


def test_rows_find_their_places_however_a_step_is_cut_into_runs(executor: Summing) -> None:
    executor._logits[:] = np.nan
    outputs = executor.step(step({3: [5, 6, 7], 0: [9], 4: [1, 2]}, {}, [3, 2, 5, 0]))
    expected = [logits_of(t) for t in ([9], [5, 6, 7], [1, 2], [5])]
    assert np.array_equal(np.asarray(outputs.logits)[:4], expected)
    assert outputs.argmax == [int(np.argmax(one)) for one in expected]
    assert len(executor.runs) > 1
    outputs = executor.step(step({4: [8], 3: [2]}, {4: 2, 3: 3}, [0, 1]))
    expected = [logits_of([1, 2, 8]), logits_of([5, 6, 7, 2])]
    assert np.array_equal(np.asarray(outputs.logits)[:2], expected)


def test_a_slot_is_copied_once_for_all_groups(executor: Summing) -> None:
    executor.step(step({1: [4, 4, 2]}, {}, [2]))
    executor.copy_block(1, 0, 1)  # the second group says nothing new
    executor.copy_block(0, 1, 2)
    outputs = executor.step(step({2: [3]}, {2: 3}, [0]))
    assert np.array_equal(np.asarray(outputs.logits)[0], logits_of([4, 4, 2, 3]))
    assert executor.cache_blocks == (SLOTS, SLOTS)


def test_failures_of_the_runtime_and_of_ours(executor: Summing) -> None:
    executor.failure = RuntimeError("\n  it   broke\nat some place")
    with pytest.raises(LlmcError) as raised:
        executor.step(step({0: [1]}, {}, [0]))
    assert str(raised.value) == "LLMC-E0102: the compiled program failed: it broke"
    executor.failure = LlmcError("LLMC-E0722", "a copy on the GPU failed")
    with pytest.raises(LlmcError, match="E0722"):
        executor.step(step({0: [1]}, {}, [0]))


def test_the_end_and_what_is_refused(executor: Summing, make_variant) -> None:
    executor.close()
    executor.close()
    assert executor.released == 1
    with pytest.raises(LlmcError, match=r"E0100.*closed"):
        executor.step(step({0: [1]}, {}, [0]))
    with pytest.raises(LlmcError, match="E0509"):
        Summing(replace(make_variant(), signature_version=99))
    with pytest.raises(ValueError, match="reshape"):
        array_of(memoryview(bytes(12)), (2, 2), "float32")
