"""A serving graph behind the runtime's protocol: steps, pools that start as NaN, groups."""

import numpy as np
import pytest
import torch
from llmc.artifact.manifest import Limits
from llmc.artifact.program import StepInputs, check_inputs
from llmc.ir.interpreted_program import InterpretedProgram
from llmc.ir.parser import parse
from llmc.ir.states import cache_groups

pytestmark = pytest.mark.fast

TEXT = """
graph main: SERVING
input token_ids: i32[T] as token_ids
input positions: i32[T] as positions
input logits_rows: i32[R] as logits_rows
input query_start: i32[S1] as query_start
input context_len: i32[S] as context_len
input block_table.0: i32[S, B] as table(0)
input key_pool.0: {dtype}[P0, 64, 1, 8] as state(0, key_pool)
input value_pool.0: {dtype}[P0, 64, 1, 8] as state(0, value_pool)
group 0: paged {{window={window}, heads=1, key=8, value=8, dtype={dtype}}} sites=(0,)
const @table: f32[10, 16] = @table:f32
const @head: f32[10, 16] = @head:f32
%0: f32[T, 16] = embedding(@table, token_ids)
%1: f32[T, 2, 8] = reshape(%0) {{shape=(T, 2, 8)}}
%2: f32[T, 1, 8] = slice(%1) {{dim=-2, start=0, stop=1}}
%3: {dtype}[P0, 64, 1, 8], %4: {dtype}[P0, 64, 1, 8] = cache_write(%2, %2, key_pool.0, \
value_pool.0, query_start, context_len, block_table.0)
%5: f32[T, 2, 8] = paged_attention(%1, %3, %4, query_start, context_len, block_table.0) \
{{scale=0.5, window={window}}}
%6: f32[T, 16] = reshape(%5) {{shape=(T, 16)}}
%7: f32[R, 16] = logits_rows(%6, logits_rows)
%8: f32[R, 10] = linear(%7, @head)
output %8
"""
LIMITS = Limits(
    max_tokens=150, max_sequences=4, max_context=192, max_logits_rows=150, block_size=64
)
WEIGHTS = {
    name: torch.randn(10, 16, generator=torch.Generator().manual_seed(i))
    for i, name in enumerate(("table", "head"))
}


def program(window: int = 0, dtype: str = "f32") -> InterpretedProgram:
    graph = parse(TEXT.format(window=window, dtype=dtype))
    return InterpretedProgram(graph, LIMITS, 5, lambda value: WEIGHTS[value.name])


def inputs(ids: list[int], past: int, table: list[int]) -> StepInputs:
    """A step of one sequence with `past` tokens in the cache; logits of all its tokens."""
    n = len(ids)
    positions = list(range(past, past + n))
    return StepInputs(ids, positions, [0, n], [past + n], list(range(n)), [[table]])


IDS = np.random.default_rng(3).integers(0, 10, 140).tolist()


@pytest.mark.parametrize("window", [0, 8])
def test_steps_continue_where_the_last_one_ended(window: int) -> None:
    """140 tokens at once, or in chunks across two block borders, give the same logits."""
    whole, parts = program(window), program(window)
    step = inputs(IDS, 0, [3, 0, 4])
    check_inputs(step, whole)
    expected = whole.step(step).logits
    done, rows = 0, []
    for count in (1, 62, 2, 74, 1):
        step = inputs(IDS[done : done + count], done, [1, 4, 2])
        rows.append(parts.step(step).logits.copy())
        done += count
    # The same sums in the same order per row; matmul of another height may round differently.
    np.testing.assert_allclose(np.concatenate(rows), expected, rtol=1e-5, atol=1e-5)


def test_argmax_belongs_to_the_logits() -> None:
    outputs = program().step(inputs(IDS, 0, [0, 1, 2]))
    assert outputs.logits.shape == (140, 10)
    assert outputs.argmax == outputs.logits.argmax(-1).tolist()


def test_reading_what_was_never_written_shows() -> None:
    """A wrong block table reads NaN, not plausible zeros."""
    served = program()
    served.step(inputs(IDS[:70], 0, [0, 1, -1]))
    assert np.isnan(served.step(inputs(IDS[70:71], 70, [2, 1, -1])).logits).all()


def test_blocks_that_the_window_left_are_not_read() -> None:
    served = program(window=8)
    served.step(inputs(IDS[:128], 0, [0, 1, -1]))
    expected = served.step(inputs(IDS[128:129], 128, [0, 1, 2])).logits
    again = served.step(inputs(IDS[128:129], 128, [-1, 1, 2])).logits
    np.testing.assert_array_equal(again, expected)


def test_a_bf16_cache_rounds_keys_and_values() -> None:
    exact = program().step(inputs(IDS[:9], 0, [0, 1, 2])).logits
    rounded = program(dtype="bf16").step(inputs(IDS[:9], 0, [0, 1, 2])).logits
    error = np.abs(exact - rounded).max() / np.abs(exact).max()
    assert 0 < error < 2**-6  # bf16 keeps 8 bits; scores and values each add an error


def test_groups_as_the_manifest_states_them() -> None:
    graph = parse(TEXT.format(window=8, dtype="bf16"))
    (group,) = cache_groups(graph, 64)
    assert (group.kind, group.window, group.layers, group.dtype) == ("sliding", 8, 1, "bf16")
    assert group.bytes_per_block == group.expected_bytes_per_block() == 64 * 2 * 16 * 2
    assert cache_groups(parse(TEXT.format(window=0, dtype="f32")), 64)[0].kind == "full"
