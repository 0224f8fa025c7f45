"""The conformance schedule, driven against a program that is right and many that are not.

The right one is `transformers` eager behind the `Program` protocol: its cache holds token ids, so
it sees only what block tables and context lengths let it see.
"""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from llmc.artifact.program import CacheGroup, Limits, StepInputs, StepOutputs, check_inputs
from llmc.models.conformance import (
    Driver,
    Report,
    Text,
    blocks_needed,
    prompt_lengths,
    run_schedule,
    text_lengths,
)
from llmc.models.eager import eager_logits
from transformers import PreTrainedModel
from zoo import find

pytestmark = pytest.mark.fast

BLOCK = 8
CONTEXT = 64
WINDOW = 8


def group(name: str, window: int) -> CacheGroup:
    return CacheGroup(
        name=name,
        kind="sliding" if window else "full",
        window=window,
        layers=1,
        kv_heads=1,
        key_dim=1,
        value_dim=1,
        dtype="f32",
        block_size=BLOCK,
        bytes_per_block=8 * BLOCK,
    )


def as_arrays(inputs: StepInputs) -> SimpleNamespace:
    """The same with numpy arrays, to index by."""
    flat = ("token_ids", "positions", "query_start", "context_len", "logits_rows")
    tables = [np.array(table, np.int32) for table in inputs.block_tables]
    arrays = {name: np.array(getattr(inputs, name), np.int32) for name in flat}
    return SimpleNamespace(**arrays, block_tables=tables)


class TokenCache:
    """A `Program` that keeps token ids in its cache and asks eager about the whole context.

    A second, windowed cache group holds the same ids, so that freed blocks and their reuse are
    exercised; what is within the window is read from there.
    """

    def __init__(self, model: PreTrainedModel, max_tokens: int = 512, max_rows: int = 64) -> None:
        self.model = model
        self.limits = Limits(
            max_tokens=max_tokens,
            max_sequences=8,
            max_context=CONTEXT,
            max_logits_rows=max_rows,
            block_size=BLOCK,
        )
        self.cache_groups = (group("full", 0), group("window", WINDOW))
        self.vocab_size = model.config.vocab_size
        blocks = blocks_needed(self, CONTEXT)
        self.cache_blocks = (blocks, blocks)
        self.pools = [np.full((blocks, BLOCK), -1) for _ in self.cache_groups]

    def step(self, inputs: StepInputs) -> StepOutputs:
        check_inputs(inputs, self)
        arrays = as_arrays(inputs)
        logits = np.empty((len(arrays.token_ids), self.vocab_size), np.float32)
        for pool, table in zip(self.pools, arrays.block_tables, strict=True):
            owner = np.repeat(np.arange(len(table)), np.diff(arrays.query_start))
            blocks = table[owner, arrays.positions // BLOCK]
            pool[blocks, arrays.positions % BLOCK] = arrays.token_ids
        for s, (start, end) in enumerate(
            zip(arrays.query_start, arrays.query_start[1:], strict=False)
        ):
            known = self.read(arrays, s)
            logits[start:end] = eager_logits(self.model, known)[-(end - start) :]
        return StepOutputs.of(logits[arrays.logits_rows])

    def read(self, inputs: SimpleNamespace, s: int) -> list[int]:
        length = inputs.context_len[s]
        new = inputs.query_start[s + 1] - inputs.query_start[s]
        ids = self.pools[0][inputs.block_tables[0][s]].reshape(-1)[:length].copy()
        first = max(0, length - new - WINDOW + 1)
        positions = np.arange(first, length)
        table = inputs.block_tables[1][s]
        ids[first:] = self.pools[1][table[positions // BLOCK], positions % BLOCK]
        return ids.tolist()

    def copy_block(self, group: int, source: int, target: int) -> None:
        self.pools[group][target] = self.pools[group][source]

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return find("llama").build()


@pytest.fixture(scope="module")
def texts(model: PreTrainedModel) -> list[Text]:
    random = np.random.default_rng(1)
    ids = [random.integers(0, 256, length) for length in text_lengths(CONTEXT)]
    return [Text(row, eager_logits(model, row.tolist())) for row in ids]


def test_lengths_fit_every_context() -> None:
    for context in (24, 32, 64, 128, 300):
        for prompt, total in zip(prompt_lengths(context), text_lengths(context), strict=True):
            assert 0 < prompt <= total <= context


@pytest.mark.parametrize("max_tokens", [512, 24])
def test_a_right_program_conforms(
    model: PreTrainedModel, texts: list[Text], max_tokens: int
) -> None:
    report = run_schedule(TokenCache(model, max_tokens), texts, max_context=CONTEXT)
    report.check()
    assert report.rows > 100


def test_few_logits_rows_are_enough(model: PreTrainedModel, texts: list[Text]) -> None:
    report = run_schedule(TokenCache(model, max_rows=4), texts, max_context=CONTEXT)
    report.check()


class ForgetsThePast(TokenCache):
    def read(self, inputs: SimpleNamespace, s: int) -> list[int]:
        first = inputs.context_len[s] - np.diff(inputs.query_start)[s]
        return super().read(inputs, s)[first:]


class ReadsTheNeighbour(TokenCache):
    def read(self, inputs: SimpleNamespace, s: int) -> list[int]:
        known = super().read(inputs, s)
        other = super().read(inputs, (s + 1) % len(inputs.context_len))
        return [other[0], *known[1:]]


class ReadsBlocksInOrder(TokenCache):
    def read(self, inputs: SimpleNamespace, s: int) -> list[int]:
        blocks = np.sort(inputs.block_tables[0][s])
        ids = self.pools[0][blocks[blocks >= 0]].reshape(-1)
        return np.maximum(ids[: inputs.context_len[s]], 0).tolist()


class LosesTheChunkBefore(TokenCache):
    """Right for whole prompts and for single tokens, wrong where a chunk follows a chunk."""

    def read(self, inputs: SimpleNamespace, s: int) -> list[int]:
        known = super().read(inputs, s)
        new = int(np.diff(inputs.query_start)[s])
        if 1 < new < len(known):
            known[0] = (known[0] + 1) % 256
        return known


class ReadsOnePastTheWindow(TokenCache):
    def read(self, inputs: SimpleNamespace, s: int) -> list[int]:
        known = super().read(inputs, s)
        position = len(known) - int(np.diff(inputs.query_start)[s]) - WINDOW - BLOCK
        if position >= 0:
            block = inputs.block_tables[1][s][position // BLOCK]
            known[position] = int(self.pools[1][block, position % BLOCK]) % 256
        return known


class WrongArgmax(TokenCache):
    def step(self, inputs: StepInputs) -> StepOutputs:
        outputs = super().step(inputs)
        worst = outputs.logits.argmin(axis=1).tolist()
        return StepOutputs(lambda: outputs.logits, worst)


class SaysNaN(TokenCache):
    def step(self, inputs: StepInputs) -> StepOutputs:
        outputs = super().step(inputs)
        outputs.logits[-1, 3] = np.nan
        return outputs


class AlmostRight(TokenCache):
    def step(self, inputs: StepInputs) -> StepOutputs:
        outputs = super().step(inputs)
        outputs.logits[:] *= 1.001
        return outputs


class CopiesNothing(TokenCache):
    def copy_block(self, group: int, source: int, target: int) -> None:
        pass


@pytest.mark.parametrize(
    "wrong",
    [
        ForgetsThePast,
        ReadsTheNeighbour,
        ReadsBlocksInOrder,
        LosesTheChunkBefore,
        ReadsOnePastTheWindow,
        WrongArgmax,
        SaysNaN,
        AlmostRight,
        CopiesNothing,
    ],
)
def test_a_wrong_program_is_found_out(
    model: PreTrainedModel, texts: list[Text], wrong: Callable[[PreTrainedModel], TokenCache]
) -> None:
    report = run_schedule(wrong(model), texts, max_context=CONTEXT)
    with pytest.raises(AssertionError, match=r"position \d+"):
        report.check()


def test_nothing_compared_is_no_success() -> None:
    with pytest.raises(AssertionError, match="no row was compared"):
        Report().check()


def test_a_small_cache_is_refused(model: PreTrainedModel) -> None:
    program = TokenCache(model)
    program.cache_blocks = (3, 3)
    with pytest.raises(ValueError, match="too small"):
        Driver(program, CONTEXT, seed=0)


def test_every_block_is_used_before_the_schedule(model: PreTrainedModel) -> None:
    program = TokenCache(model)
    driver = Driver(program, CONTEXT, seed=0)
    driver.fill_with_garbage()
    written = [(pool >= 0).all(axis=1).mean() for pool in program.pools]
    assert min(written) > 0.8  # what is left over is less than one sequence
    assert [len(free) for free in driver.free] == list(program.cache_blocks)
