"""How checkpoints say that they are quantized, or that they aren't, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quantized_models as qm
import torch
from llmc.base.errors import LlmcError
from llmc.compiler.frontend.quantized.registry import METHODS, REFUSED
from llmc.compiler.frontend.sources import open_source
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.fast

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
QUERY = "model.layers.0.self_attn.q_proj"


def refusal(path: Path) -> LlmcError:
    with pytest.raises(LlmcError) as caught:
        open_source(str(path))
    assert "\n" not in caught.value.message
    return caught.value


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPTQ checkpoint; its settings are in `config.json`."""
    folder = tmp_path_factory.mktemp("quantized") / "gptq"
    qm.write_checkpoint(folder, qm.random_model(), qm.gptq(), GPTQ)
    return folder


def changed(
    saved: Path, folder: Path, *, config: dict[str, Any] | None = None,
    tensors: Callable[[dict[str, torch.Tensor]], Any] = lambda t: None,
) -> Path:  # fmt: skip
    """A copy of `saved` whose settings or tensors are others."""
    folder.mkdir()
    raw = json.loads((saved / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | (config or {})))
    held = load_file(saved / "model.safetensors")
    tensors(held)
    save_file({name: t.contiguous() for name, t in held.items()}, folder / "model.safetensors")
    return folder


OFF: list[Any] = [
    None, {}, {"quant_method": None}, {"load_in_4bit": False, "load_in_8bit": False},
    {"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": False,
     "bnb_4bit_compute_dtype": "float32", "llm_int8_threshold": 6.0},
]  # fmt: skip


@pytest.mark.parametrize("settings", OFF, ids=str)
def test_all_off_is_no_quantization(tmp_path: Path, settings: Any) -> None:
    model = qm.random_model()
    qm.write_checkpoint(tmp_path / "m", model, lambda name: None, None)
    raw = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(raw | {"quantization_config": settings}))
    source = open_source(str(tmp_path / "m"))
    assert source.quantization is None
    assert set(source.tensors) == set(model.state_dict())
    assert not hasattr(source.config, "quantization_config")
    assert not source.notes


@pytest.mark.parametrize(
    ("file", "settings", "pack", "method"),
    [
        ("quantize_config.json", {"bits": 4, "group_size": 32, "desc_act": False, "sym": True,
                                  "model_name_or_path": None}, qm.gptq(), "gptq"),
        ("quant_config.json", {"zero_point": True, "q_group_size": 32, "w_bit": 4,
                               "version": "GEMM"}, qm.awq(), "awq"),
        ("quantize_config.json", {"quant_method": "awq", "bits": 4, "group_size": 32}, qm.awq(),
         "awq"),
        ("hf_quant_config.json", {"producer": {"name": "modelopt"}, "quantization": {
            "quant_algo": "FP8", "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"]}},
         qm.float8(None, "weight_scale"), "modelopt"),
    ],
)  # fmt: skip
def test_settings_beside_the_config(
    tmp_path: Path, file: str, settings: dict[str, Any], pack: qm.Packer, method: str
) -> None:
    model = qm.write_checkpoint(tmp_path / "m", qm.random_model(), pack, settings, separate=file)
    source = open_source(str(tmp_path / "m"))
    assert source.quantization == method
    tensor = source.tensors[f"{QUERY}.weight"]
    found = source.reader.rows(tensor, np.arange(64))
    np.testing.assert_allclose(found, model.state_dict()[tensor.name].numpy(), rtol=1e-6)
    assert "14 weights" in source.notes[0]
    assert source.unread == ()


def test_mlx_says_it_twice_and_layer_by_layer(tmp_path: Path) -> None:
    """A layer with other bits, and one that isn't quantized."""

    def pack(name: str) -> qm.Packer | None:
        if name.endswith("layers.1.mlp.up_proj.weight"):
            return None
        return qm.mlx(8) if name.endswith("layers.0.mlp.down_proj.weight") else qm.mlx()

    settings = {"group_size": 32, "bits": 4, "mode": "affine",
                "model.layers.0.mlp.down_proj": {"group_size": 32, "bits": 8},
                "model.layers.1.mlp.up_proj": False}  # fmt: skip
    model = qm.write_checkpoint(tmp_path / "m", qm.random_model(), pack, settings)
    raw = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(raw | {"quantization": settings}))
    source = open_source(str(tmp_path / "m"))
    assert source.quantization == "mlx"
    assert source.unread == ()
    for name in ("layers.0.mlp.down_proj", "layers.0.mlp.up_proj", "layers.1.mlp.up_proj"):
        tensor = source.tensors[f"model.{name}.weight"]
        found = source.reader.rows(tensor, np.arange(tensor.of[0]))
        np.testing.assert_allclose(found, model.state_dict()[tensor.name].numpy(), atol=1e-6)


@pytest.mark.parametrize("method", sorted(REFUSED))
def test_other_methods_are_refused_as_what_they_are(tmp_path: Path, method: str) -> None:
    settings = {"quant_method": method.replace("-", "_"), "bits": 4}
    qm.write_checkpoint(tmp_path / "m", qm.random_model(), lambda name: None, settings)
    error = refusal(tmp_path / "m")
    assert error.id == "LLMC-E0419"
    assert method in error.message
    assert REFUSED[method] in error.message
    assert error.hint


def test_no_method_is_both_read_and_refused() -> None:
    assert not METHODS.keys() & REFUSED.keys()


BAD_SETTINGS: dict[str, tuple[Any, str, str]] = {
    "no object": ([1], "LLMC-E0418", "quantization_config"),
    "no bits": ({"quant_method": "gptq"}, "LLMC-E0418", "bits"),
    "bits that are text": (GPTQ | {"bits": "4"}, "LLMC-E0418", "bits"),
    "5 bits": (GPTQ | {"bits": 5}, "LLMC-E0418", "bits"),
    "no group": (GPTQ | {"group_size": 0}, "LLMC-E0418", "group_size"),
    "a group that is no number": (GPTQ | {"group_size": [32]}, "LLMC-E0418", "group_size"),
    "packed for a kernel": (GPTQ | {"is_marlin_format": True}, "LLMC-E0419", "marlin"),
    "another packing": (GPTQ | {"checkpoint_format": "marlin"}, "LLMC-E0419", "marlin"),
    "other groups": (GPTQ | {"group_size": 48}, "LLMC-E0406", "scales"),
    "other bits": (GPTQ | {"bits": 8}, "LLMC-E0406", "scales"),
    "unknown method": ({"quant_method": "new\nmethod"}, "LLMC-E0419", "new method"),
    "no name": ({"on": True}, "LLMC-E0419", "unnamed"),
    "awq for kernels": (
        {"quant_method": "awq", "bits": 4, "version": "gemv"}, "LLMC-E0419", "gemv"
    ),
    "no config groups": ({"quant_method": "compressed-tensors"}, "LLMC-E0418", "config_groups"),
    "a group without targets": (
        {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {}}}},
        "LLMC-E0418", "config_groups",
    ),
    "sparse": (
        {"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24-bitmask"}},
        "LLMC-E0419", "sparse-24-bitmask",
    ),
    "rotated": (
        {"quant_method": "compressed-tensors", "transform_config": {"config_groups": {"u": {}}}},
        "LLMC-E0419", "rotated",
    ),
    "marlin": (
        {"quant_method": "compressed-tensors", "format": "marlin-24"}, "LLMC-E0419", "marlin-24"
    ),
    "an algorithm": (
        {"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "LLMC-E0419", "W4A8_AWQ"
    ),
    "a mode": ({"bits": 4, "group_size": 32, "mode": "mxfp8"}, "LLMC-E0419", "mxfp8"),
    "a block of text": (
        {"quant_method": "fp8", "weight_block_size": "128"}, "LLMC-E0418", "weight_block_size"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_bad_settings(tmp_path: Path, saved: Path, case: str) -> None:
    settings, id, named = BAD_SETTINGS[case]
    error = refusal(changed(saved, tmp_path / "m", config={"quantization_config": settings}))
    assert (error.id, named in error.message) == (id, True), error


def put(name: str, tensor: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda tensors: tensors.update({f"{QUERY}.{name}": tensor})


@pytest.mark.parametrize("settings", [None, {"load_in_4bit": False, "load_in_8bit": False}])
def test_quantized_weights_of_which_nothing_is_said(
    tmp_path: Path, saved: Path, settings: Any
) -> None:
    error = refusal(changed(saved, tmp_path / "m", config={"quantization_config": settings}))
    assert error.id == "LLMC-E0419"
    assert ".qweight" in error.message
    assert "quantize_config.json" in error.hint


BAD_PARTS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str, str]] = {
    "scales are missing": (lambda t: t.pop(f"{QUERY}.scales"), "LLMC-E0406", "scales"),
    "zeros are missing": (lambda t: t.pop(f"{QUERY}.qzeros"), "LLMC-E0406", "qzeros"),
    "scales of another shape": (put("scales", torch.ones(2, 32)), "LLMC-E0406", "scales"),
    "scales that are integers": (
        put("scales", torch.ones(2, 64, dtype=torch.int32)), "LLMC-E0407", "scales"
    ),
    "codes that are floats": (put("qweight", torch.ones(8, 64)), "LLMC-E0407", "qweight"),
    "codes in one dimension": (
        put("qweight", torch.ones(8, dtype=torch.int32)), "LLMC-E0406", "qweight"
    ),
    "no codes": (
        put("qweight", torch.ones(0, 64, dtype=torch.int32)), "LLMC-E0406", "qweight"
    ),
    "groups beyond": (
        put("g_idx", torch.full((64,), 2, dtype=torch.int32)), "LLMC-E0406", "g_idx"
    ),
    "groups below": (
        put("g_idx", torch.arange(64, dtype=torch.int32) - 5), "LLMC-E0406", "g_idx"
    ),
    "too few groups": (put("g_idx", torch.zeros(3, dtype=torch.int32)), "LLMC-E0406", "g_idx"),
    "also as it is": (put("weight", torch.ones(64, 64)), "LLMC-E0410", "weight"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_PARTS)
def test_parts_that_do_not_fit(tmp_path: Path, saved: Path, case: str) -> None:
    change, id, named = BAD_PARTS[case]
    error = refusal(changed(saved, tmp_path / "m", tensors=change))
    assert (error.id, named in error.message) == (id, True), error


def test_scales_that_are_not_finite_are_found_when_they_are_read(
    tmp_path: Path, saved: Path
) -> None:
    bad = torch.full((2, 64), torch.inf, dtype=torch.float16)
    error = refusal(changed(saved, tmp_path / "m", tensors=put("scales", bad)))
    assert (error.id, f"{QUERY}.scales" in error.message) == ("LLMC-E0408", True)
