"""The weight stream: valid safetensors, exact bytes at their offsets, bounded and deterministic."""

import io
from dataclasses import dataclass

import numpy as np
import pytest
from llmc.base.errors import LlmcError
from llmc.codegen.cpu import packing
from llmc.ir.types import DType
from llmc.weights import stream as weights
from llmc.weights.formats.elements import to_bf16
from llmc.weights.formats.number_format import Quantized
from llmc.weights.formats.registry import dequantize, quantize
from llmc.weights.layout import section_offsets, total_bytes
from llmc.weights.recipes import (
    Cast,
    CheckpointTensor,
    Concat,
    InterleavePanels,
    Pack,
    Quantize,
    Recipe,
    mul,
    stack,
)
from llmc.weights.row_layout import RowLayout
from llmc.weights.stream import DATA_ALIGNMENT, WeightStream
from safetensors.numpy import load

pytestmark = pytest.mark.fast


@dataclass(frozen=True)
class Entry:
    name: str
    recipe: Recipe
    offset: int
    nbytes: int


class Reader:
    """Random tensors; `bad` makes every read of that tensor fail."""

    def __init__(self, bad: str = "") -> None:
        self.bad = bad
        self.largest = 0

    def value(self, tensor: CheckpointTensor) -> np.ndarray:
        seed = sum(map(ord, tensor.name))
        return np.random.default_rng(seed).standard_normal(tensor.of).astype(np.float32)

    def rows(self, tensor: CheckpointTensor, rows: np.ndarray) -> np.ndarray:
        if tensor.name == self.bad:
            raise LlmcError("LLMC-E0408", f"tensor {tensor.name} holds NaN")
        self.largest = max(self.largest, len(rows))
        columns = tensor.of[-1] if len(tensor.of) > 1 else 1
        return self.value(tensor).reshape(-1, columns)[rows]

    def blocks(self, tensor: CheckpointTensor, rows: np.ndarray) -> Quantized:
        raise NotImplementedError


A, B = CheckpointTensor("a", "f32", (50, 96)), CheckpointTensor("b", "f32", (50, 96))
NORM = CheckpointTensor("norm", "f32", (96,))


def entries() -> list[Entry]:
    recipes: dict[str, Recipe] = {
        "norm": NORM,
        "gated": Pack(
            "panel16",
            DType.I4A,
            Quantize(DType.I4A, InterleavePanels(A, B)),
        ),
        "experts": Pack("panel16", DType.I8B, stack([A, B, A])),
        "head": Pack("panel16", DType.BF16, Concat((A, B))),
        "short": Cast(mul(NORM, 2.0), DType.BF16),
    }
    found, at = [], 64
    for name, recipe in recipes.items():
        if isinstance(recipe, Pack):
            *lead, n, k = recipe.shape
            size = int(np.prod(lead, dtype=int)) * packing.packed_bytes(recipe.format, n, k)
        else:
            size = int(np.prod(recipe.shape)) * recipe.dtype.itemsize
        found.append(Entry(name, recipe, at, size))
        at = -(-(at + size) // 64) * 64
    return found


def written(stream: WeightStream, reader: Reader | None = None) -> bytes:
    out = io.BytesIO()
    stream.write(out, reader or Reader(), packing.PANEL16)
    return out.getvalue()


def test_the_stream_is_a_safetensors_file_with_everything_in_place() -> None:
    stream = WeightStream(entries(), 1 << 18)
    data = written(stream)
    assert len(data) == stream.size
    start = stream.size - stream.data_bytes
    assert start % DATA_ALIGNMENT == 0
    tensors = load(data)
    for entry in entries():
        piece = np.frombuffer(data, np.uint8)[start + entry.offset :][: entry.nbytes]
        assert np.array_equal(tensors[entry.name], piece)
    padding = [t for name, t in tensors.items() if name.startswith("padding.")]
    assert padding
    assert not any(t.any() for t in padding)
    assert sum(t.nbytes for t in tensors.values()) == stream.data_bytes


def test_values() -> None:
    tensors = load(written(WeightStream(entries())))
    reader = Reader()
    a, b, norm = (reader.value(t) for t in (A, B, NORM))
    assert np.array_equal(tensors["norm"].view(np.float32), norm)
    assert np.array_equal(tensors["short"].view(np.uint16), to_bf16(norm * 2))
    gated = packing.unpack(DType.I4A, tensors["gated"], 128, 96)
    assert isinstance(gated, Quantized)
    rows = dequantize(gated).reshape(-1, 2, 16, 96)
    assert np.array_equal(rows[:, 0].reshape(64, 96)[:50], dequantize(quantize(a, DType.I4A)))
    assert np.array_equal(rows[:, 1].reshape(64, 96)[:50], dequantize(quantize(b, DType.I4A)))
    experts = tensors["experts"].reshape(3, -1)
    for packed, expected in zip(experts, (a, b, a), strict=True):
        expert = packing.unpack(DType.I8B, packed, 50, 96)
        assert isinstance(expert, Quantized)
        assert np.array_equal(dequantize(expert), dequantize(quantize(expected, DType.I8B)))


@pytest.mark.parametrize("elements", [96 * 16, 96 * 40])
def test_bytes_do_not_depend_on_slices(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = written(WeightStream(entries()))
    monkeypatch.setattr(weights, "_SLICE_ELEMENTS", elements)
    reader = Reader()
    assert written(WeightStream(entries()), reader) == whole
    assert reader.largest <= max(elements // 96, 96)


def test_progress_counts_up_to_all_data() -> None:
    seen: list[tuple[int, int]] = []
    stream = WeightStream(entries())
    stream.write(
        io.BytesIO(), Reader(), packing.PANEL16, lambda done, total: seen.append((done, total))
    )
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (stream.data_bytes, stream.data_bytes)


def test_an_error_while_reading_reaches_the_caller() -> None:
    with pytest.raises(LlmcError, match="tensor b holds NaN"):
        written(WeightStream(entries()), Reader(bad="b"))


def test_impossible_layouts_are_refused() -> None:
    with pytest.raises(ValueError, match="overlaps"):
        WeightStream([Entry("x", NORM, 0, 384), Entry("y", NORM, 320, 384)])
    with pytest.raises(ValueError, match="share a name"):
        WeightStream([Entry("x", NORM, 0, 384), Entry("x", NORM, 384, 384)])
    with pytest.raises(ValueError, match="need 384 bytes"):
        WeightStream([Entry("x", NORM, 0, 384)], 100)


@pytest.mark.parametrize("claimed", [320, 448])
def test_a_recipe_of_another_size_than_its_entry_is_refused(claimed: int) -> None:
    with pytest.raises(ValueError, match="gave 384 bytes"):
        written(WeightStream([Entry("x", NORM, 0, claimed)]))


def test_an_unpacked_quantized_constant_is_refused() -> None:
    entry = Entry("x", Quantize(DType.I4A, A), 0, 10)
    with pytest.raises(TypeError, match="must be packed"):
        written(WeightStream([entry]))


def test_later_sections_stand_behind_the_codes_of_all_rows(monkeypatch) -> None:
    """However many slices the rows come in; sections start at multiples of 64."""
    monkeypatch.setattr(weights, "_SLICE_ELEMENTS", 96 * 16)
    layout, shape = RowLayout(), (3, 50, 96)
    recipe = Pack(layout.name, DType.I4A, stack([A, B, A]))
    sizes = layout.sections(DType.I4A, shape)
    entries = [Entry("norm", NORM, 0, 384), Entry("experts", recipe, 384, total_bytes(sizes))]
    out = io.BytesIO()
    WeightStream(entries).write(out, Reader(), layout)
    data = np.frombuffer(load(out.getvalue())["experts"].tobytes(), np.uint8)
    rows = quantize(np.concatenate([Reader().value(t) for t in (A, B, A)]), DType.I4A)
    parts = layout.pack(DType.I4A, rows)
    for offset, part in zip(section_offsets(sizes), parts, strict=True):
        assert np.array_equal(data[offset : offset + part.nbytes], part)
