"""The executor of torch's libraries, with one of a single attention layer."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from configured import configured
from llmc.artifact.manifest import Limits, Variant
from llmc.artifact.program import StepInputs
from llmc.base.errors import LlmcError
from llmc.base.machine import machine
from llmc.codegen.inductor.build import build_library
from llmc.ir.interpreted_slots import InterpretedSlots
from llmc.ir.parser import parse
from llmc.runtime.executors.inductor import InductorExecutor, _widened
from llmc.runtime.executors.slots import SlotRun
from llmc.weights.row_layout import RowLayout
from llmc.weights.table import WeightTable

pytestmark = pytest.mark.skipif(machine() != "x86_64", reason="the target is for x86-64")
LIMITS = Limits(
    max_tokens=16, max_sequences=3, max_context=20, max_logits_rows=4, block_size=35,
    uniform_query=True,
)  # fmt: skip
GRAPH = """
graph main: SERVING
input token_ids: i32[T] as token_ids
input positions: i32[T] as positions
input logits_rows: i32[R] as logits_rows
input start: i32[S] as start
input key_cache.0: f32[S, 2, L, 4] as state(0, key_cache)
input value_cache.0: f32[S, 2, L, 4] as state(0, value_cache)
group 0: slots {window=0, heads=2, key=4, value=4, dtype=f32} sites=(0,)
const @embed: f32[10, 8] = @embed:f32
const @places: f32[20, 8] = @places:f32
%0: f32[T, 8] = embedding(@embed, token_ids)
%1: f32[T, 8] = embedding(@places, positions)
%2: f32[T, 8] = add(%0, %1)
%3: f32[T, 2, 4] = reshape(%2) {shape=(T, 2, 4)}
%4: f32[S, 2, L, 4], %5: f32[S, 2, L, 4] = slot_write(%3, %3, key_cache.0, value_cache.0, start)
%6: f32[T, 2, 4] = slot_attention(%3, %4, %5, start) {scale=0.5}
%7: f32[T, 8] = reshape(%6) {shape=(T, 8)}
%8: f32[R, 8] = logits_rows(%7, logits_rows)
%9: f32[R, 10] = linear(%8, @embed)
output %9
"""
WEIGHTS = {"embed": (10, 8), "places": (20, 8)}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out: Path = tmp_path_factory.mktemp("inductor") / "out.so"
    build_library(lowered().job(configured("inductor").levels[0]), out)
    return out.read_bytes()


def lowered():
    return configured("inductor").lower(parse(GRAPH), LIMITS, WeightTable(RowLayout()))


def weights() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=random) for name, shape in WEIGHTS.items()}


def data() -> memoryview:
    """The data section: both tables, which happen to be multiples of the alignment."""
    return memoryview(b"".join(weight.numpy().tobytes() for weight in weights().values()))


def variant() -> Variant:
    program = lowered()
    return Variant(
        target="inductor", level="any", program="p", weights="w", limits=LIMITS,
        cache_groups=program.cache_groups, memory_plan=program.memory_plan,
        vocab_size=program.vocab_size, options=program.options("any"),
    )  # fmt: skip


def opened(library: bytes, weights: memoryview | None = None) -> InductorExecutor:
    weights = data() if weights is None else weights
    program = InductorExecutor(variant(), library, weights, threads=2, cache_blocks=(4,))
    for cache in program._caches:
        cache.fill_(float("nan"))
    return program


def step(tokens: list[list[int]], past: list[int], slots: list[int], rows: list[int]) -> StepInputs:
    starts = np.cumsum([0, *map(len, tokens)]).tolist()
    return StepInputs(
        token_ids=[token for own in tokens for token in own],
        positions=[p + j for p, own in zip(past, tokens, strict=True) for j in range(len(own))],
        query_start=starts,
        context_len=[p + len(own) for p, own in zip(past, tokens, strict=True)],
        logits_rows=rows,
        block_tables=([[slot] for slot in slots],),
    )


STEPS = (
    step([[1, 2, 3], [4], [5, 6]], [0, 0, 0], [2, 0, 3], [2, 3, 5, 0]),
    step([[7], [8]], [3, 1], [2, 0], [1, 0]),
    step([[9]], [2], [3], []),
    step([[0, 1, 2], [3]], [3, 4], [3, 2], [3, 2]),
)
"""Prompts of several lengths, decoding, no logits wanted, and both beside one another."""


def test_it_computes_what_the_interpreter_computes(library: bytes) -> None:
    known = weights()
    graph = parse(GRAPH)
    oracle = InterpretedSlots(graph, LIMITS, 4, lambda value: known[value.name])
    program = opened(library)
    for inputs in STEPS:
        outputs, expected = program.step(inputs), oracle.step(inputs)
        assert outputs.logits.shape == (len(inputs.logits_rows), 10)
        np.testing.assert_allclose(outputs.logits, expected.logits, rtol=1e-5, atol=1e-5)
        assert outputs.argmax == expected.argmax
    for one in (program, oracle):
        one.copy_block(0, 3, 1)
    moved = step([[4]], [6], [1], [0])
    np.testing.assert_allclose(
        program.step(moved).logits, oracle.step(moved).logits, rtol=1e-5, atol=1e-5
    )
    program.close()
    with pytest.raises(LlmcError, match=r"E0100.*closed"):
        program.step(STEPS[0])
    program.close()


def test_the_last_place_of_the_context(library: bytes) -> None:
    """A token alone is run as two; the second must stay inside of the slot."""
    program = opened(library)
    program.step(step([[1] * 16], [0], [0], [0]))
    program.step(step([[2] * 3], [16], [0], [0]))
    assert np.isfinite(program.step(step([[3]], [19], [0], [0])).logits).all()


def test_caches_and_weights_are_not_copied(library: bytes) -> None:
    program = opened(library)
    addresses = {t.data_ptr() for t in program._runner.extract_constants_map(False).values()}
    assert addresses == {t.data_ptr() for t in program._constants.values()}
    program.step(STEPS[0])
    keys = program._caches[0]
    assert torch.isfinite(keys[2, :, :3]).all()
    assert torch.isnan(keys[2, :, 16:]).all()
    assert torch.isnan(keys[1, :, 3:]).all()


def test_weights_that_are_too_short_are_refused(library: bytes) -> None:
    with pytest.raises(LlmcError, match=r"E0509.*outside of the weights"):
        opened(library, data()[:-4])


@pytest.mark.parametrize("damage", [b"", b"\x7fELF", b"not a library" * 100])
def test_what_is_no_library_is_refused(damage: bytes) -> None:
    with pytest.raises(LlmcError, match=r"E0509.*can't be loaded"):
        opened(damage)


def test_another_interface_is_refused() -> None:
    """Before anything is loaded."""
    other = msgspec.structs.replace(variant(), signature_version=99)
    with pytest.raises(LlmcError, match=r"E0509.*interface"):
        InductorExecutor(other, b"", data(), threads=1, cache_blocks=(4,))


def test_a_row_of_one_token_becomes_two() -> None:
    run = SlotRun(
        first=1, rows=2, query=1, token_ids=[5, 6], positions=[19, 3], start=[34, 3],
        logits_rows=[1], outputs=[0],
    )  # fmt: skip
    wide = _widened(run, LIMITS)
    assert (wide.query, wide.token_ids, wide.logits_rows) == (2, [5, 0, 6, 0], [2])
    assert (wide.start, wide.positions) == ([33, 3], [19, 19, 3, 4])
    assert _widened(wide, LIMITS) is wide
