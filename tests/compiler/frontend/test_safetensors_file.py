"""Safetensors: values by rows, and headers that lie."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.base.errors import LlmcError
from llmc.compiler.frontend.row_file import Extent, RowFile
from llmc.compiler.frontend.safetensors_file import SafetensorsFile, SafetensorsReader
from safetensors.torch import save_file

pytestmark = pytest.mark.fast


def stored(
    path: Path, tensors: dict[str, torch.Tensor]
) -> tuple[SafetensorsFile, SafetensorsReader]:
    save_file(tensors, path)
    file = SafetensorsFile(path)
    return file, SafetensorsReader(dict.fromkeys(file.tensors, file))


def raw_file(path: Path, header: object, data: bytes = bytes(64)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_values_by_rows(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tensors = {"w": torch.randn(9, 5).to(dtype), "v": torch.randn(7).to(dtype)}
    file, reader = stored(tmp_path / "m.safetensors", tensors)
    rows = np.array([8, 0, 3, 4])
    assert np.array_equal(reader.rows(file.tensors["w"], rows), tensors["w"][rows].float().numpy())
    vector = reader.rows(file.tensors["v"], np.arange(2, 7))
    assert np.array_equal(vector[:, 0], tensors["v"][2:].float().numpy())
    assert file.tensors["w"].shape == (9, 5)


def test_integers_stay_integers(tmp_path: Path) -> None:
    file, reader = stored(tmp_path / "m.safetensors", {"ids": torch.arange(6).reshape(2, 3) * 7})
    values = reader.rows(file.tensors["ids"], np.arange(2))
    assert values.dtype == np.int64
    assert values[1, 2] == 35


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_that_are_not_finite_are_named(
    tmp_path: Path, value: float, dtype: torch.dtype
) -> None:
    w = torch.randn(64, 32)
    w[50, 3] = value
    file, reader = stored(tmp_path / "m.safetensors", {"layers.3.w": w.to(dtype)})
    assert reader.rows(file.tensors["layers.3.w"], np.arange(50)).shape == (50, 32)
    with pytest.raises(LlmcError, match=r"layers\.3\.w holds") as caught:
        reader.rows(file.tensors["layers.3.w"], np.arange(64))
    assert caught.value.id == "LLMC-E0408"


def test_huge_finite_weights_are_not_taken_for_infinite(tmp_path: Path) -> None:
    file, reader = stored(tmp_path / "m.safetensors", {"w": torch.full((4, 4), 3e38)})
    assert np.isfinite(reader.rows(file.tensors["w"], np.arange(4))).all()


def entry(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64], **changes}


LIES: dict[str, object] = {
    "not json": b"{nope",
    "not an object": [1],
    "no shape": {"w": {"dtype": "F32", "data_offsets": [0, 64]}},
    "shape is text": {"w": entry(shape="4x4")},
    "negative size": {"w": entry(shape=[-4, -4])},
    "boolean size": {"w": entry(shape=[True, 16])},
    "fractional size": {"w": entry(shape=[4.0, 4])},
    "too large": {"w": entry(shape=[1 << 40, 1 << 40])},
    "wrong length": {"w": entry(shape=[4, 3])},
    "outside": {"w": entry(data_offsets=[32, 96])},
    "backwards": {"w": entry(data_offsets=[64, 0])},
    "three offsets": {"w": entry(data_offsets=[0, 1, 64])},
    "overlap": {
        "v": entry(shape=[2, 4], data_offsets=[0, 32]),
        "w": entry(shape=[2, 4], data_offsets=[16, 48]),
    },
}


@pytest.mark.parametrize("lie", LIES)
def test_lying_headers_are_refused(tmp_path: Path, lie: str) -> None:
    with pytest.raises(LlmcError) as caught:
        SafetensorsFile(raw_file(tmp_path / "m.safetensors", LIES[lie]))
    assert caught.value.id == "LLMC-E0417"


def test_unknown_dtype_is_named(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "m.safetensors", {"w": entry(dtype="F4")})
    with pytest.raises(LlmcError, match="w is stored as F4") as caught:
        SafetensorsFile(path)
    assert caught.value.id == "LLMC-E0407"


@settings(max_examples=60)
@given(data=st.binary(max_size=200))
def test_any_bytes_give_an_error(data: bytes, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("any") / "m.safetensors"
    path.write_bytes(data)
    if data.startswith(bytes([2, 0, 0, 0, 0, 0, 0, 0]) + b"{}"):
        assert SafetensorsFile(path).tensors == {}
    else:
        with pytest.raises(LlmcError, match="damaged"):
            SafetensorsFile(path)


def test_a_file_cut_short_after_opening(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    file, reader = stored(path, {"w": torch.randn(64, 64)})
    with path.open("r+b") as f:
        f.truncate(8000)
    with pytest.raises(LlmcError) as caught:
        reader.rows(file.tensors["w"], np.arange(64))
    assert caught.value.id == "LLMC-E0417"


def test_rows_in_any_order(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 255, (100, 7), np.uint8)
    path = tmp_path / "rows"
    path.write_bytes(b"head" + data.tobytes())
    file, extent = RowFile(path), Extent(4, 100, 7)
    for rows in ([5], [0, 99], [3, 4, 5, 80, 81, 2], list(range(20, 60)), [7, 7, 6], []):
        index = np.array(rows, np.int64)
        assert np.array_equal(file.rows(extent, index), data[index])
    with pytest.raises(IndexError):
        file.rows(extent, np.array([100]))
    assert len(file.sha256()) == 64
