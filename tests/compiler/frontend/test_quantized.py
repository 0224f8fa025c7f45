"""Quantized checkpoints: values as their methods define them, and codes kept where a format can."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quantized_models as qm
import torch
import transformers
from llmc.compiler.frontend.model_source import ModelSource
from llmc.compiler.frontend.names import bind
from llmc.compiler.frontend.sources import open_source
from llmc.ir.types import DType
from llmc.weights.formats.registry import dequantize
from llmc.weights.held_blocks import held_formats
from llmc.weights.recipes import Recipe, Take, transpose
from llmc.weights.values import RecipeValues
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.fast

QUERY = "model.layers.0.self_attn.q_proj.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"


def bound(path: Path) -> tuple[ModelSource, dict[str, Recipe]]:
    source = open_source(str(path))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(source.config)
    return source, bind(model, source).recipes


def gptq_settings(**fields: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False} | fields


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
GROUP = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}
CHANNEL = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}
FP8 = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}
BNB = {"quant_method": "bitsandbytes"}
I4S, I4A, I8B, I8C, F8C = DType.I4S, DType.I4A, DType.I8B, DType.I8C, DType.F8C


def compressed(format: str, **weights: Any) -> tuple[qm.Packer, dict[str, Any]]:
    return qm.compressed(format, **weights), qm.compressed_config(format, **weights)


CASES: dict[str, tuple[qm.Packer, Mapping[str, Any], tuple[DType, ...]]] = {
    "gptq": (qm.gptq(), gptq_settings(), (I4S, I4A, I8B)),
    "gptq v2": (qm.gptq(version=2), gptq_settings(checkpoint_format="gptq_v2"), (I4S, I4A, I8B)),
    "gptq asymmetric": (qm.gptq(symmetric=False), gptq_settings(sym=False), (I4A, I8B)),
    "gptq one group": (qm.gptq(group=-1), gptq_settings(group_size=-1), (I4S, I4A, I8B)),
    "gptq 2 bits": (qm.gptq(bits=2), gptq_settings(bits=2), (I4S, I4A, I8B)),
    "gptq 3 bits": (qm.gptq(3, 32, False), gptq_settings(bits=3), (I4A, I8B)),
    "gptq 8 bits": (qm.gptq(bits=8), gptq_settings(bits=8), (I8B,)),
    "gptq 8 bits by row": (qm.gptq(8, -1), gptq_settings(bits=8, group_size=-1), (I8C,)),
    "gptq 8 bits asymmetric": (qm.gptq(8, 32, False), gptq_settings(bits=8), ()),
    "gptq groups of 16": (qm.gptq(group=16), gptq_settings(group_size=16), ()),
    "awq": (qm.awq(), AWQ, (I4A, I8B)),
    "awq symmetric": (qm.awq(symmetric=True), AWQ, (I4S, I4A, I8B)),
    "packed": (*compressed("pack-quantized", **GROUP), (I4S, I4A, I8B)),
    "packed asymmetric": (
        *compressed("pack-quantized", **GROUP | {"symmetric": False}), (I4A, I8B)
    ),
    "packed 8 bits": (*compressed("pack-quantized", **GROUP | {"num_bits": 8}), (I8B,)),
    "packed 3 bits": (*compressed("pack-quantized", **GROUP | {"num_bits": 3}), (I4S, I4A, I8B)),
    "packed by row": (
        *compressed("pack-quantized", **CHANNEL | {"num_bits": 4}), (I4S, I4A, I8B)
    ),
    "int8 by row": (*compressed("int-quantized", **CHANNEL), (I8C,)),
    "int8 by tensor": (*compressed("int-quantized", **CHANNEL | {"strategy": "tensor"}), (I8C,)),
    "int8 asymmetric": (*compressed("int-quantized", **CHANNEL | {"symmetric": False}), ()),
    "int4 in bytes": (*compressed("naive-quantized", **GROUP), (I4S, I4A, I8B)),
    "float8 by row": (*compressed("float-quantized", **FP8), (F8C,)),
    "float8 by tensor": (*compressed("float-quantized", **FP8 | {"strategy": "tensor"}), (F8C,)),
    "float8 by block": (
        *compressed("naive-quantized", **FP8 | {"strategy": "block", "block_structure": [32, 16]}),
        (),
    ),
    "bitsandbytes 8 bits": (qm.bitsandbytes_rows, BNB | {"load_in_8bit": True}, (I8C,)),
    "nf4": (qm.bitsandbytes_nf4(False), BNB | {"load_in_4bit": True}, ()),
    "nf4 nested": (qm.bitsandbytes_nf4(True), BNB | {"load_in_4bit": True}, ()),
    "mlx": (qm.mlx(), {"group_size": 32, "bits": 4}, (I4A,)),
    "mlx 3 bits": (qm.mlx(3, 64), {"group_size": 32, "bits": 3}, (I4A,)),
    "mlx 6 bits": (qm.mlx(6), {"group_size": 32, "bits": 6}, ()),
    "mlx 8 bits": (qm.mlx(8), {"group_size": 32, "bits": 8}, ()),
    "fp8 blocks": (
        qm.float8((32, 48)), {"quant_method": "fp8", "weight_block_size": [32, 48]}, ()
    ),
    "fp8": (
        qm.float8(None, "weight_scale"), {"quant_method": "modelopt", "quant_algo": "FP8"}, (F8C,)
    ),
}  # fmt: skip
CASES["mlx 3 bits"] = (qm.mlx(3, 32), {"group_size": 32, "bits": 3}, (I4A,))


@pytest.mark.parametrize("case", CASES)
def test_values_and_the_formats_that_keep_them(tmp_path: Path, case: str) -> None:
    pack, settings, formats = CASES[case]
    model = qm.write_checkpoint(tmp_path / "m", qm.random_model(), pack, settings)
    source, recipes = bound(tmp_path / "m")
    values = RecipeValues(source.reader)
    for name, tensor in model.state_dict().items():
        found = values.value(recipes[name])
        assert np.abs(found - tensor.numpy()).max() <= 1e-6 * np.abs(tensor.numpy()).max(), name
    for name in (QUERY, DOWN):
        assert held_formats(recipes[name]) == formats
        exact = model.state_dict()[name].double().numpy()
        for format in formats:
            kept = dequantize(values.quantized_rows(recipes[name], format))
            assert np.abs(kept - exact).max() <= np.abs(exact).max() * 2**-10, format
            part = dequantize(values.quantized_rows(recipes[name], format, 17, 42))
            assert np.array_equal(part, kept[17:42])


def test_act_order_is_kept_as_an_order_of_columns(tmp_path: Path) -> None:
    pack, settings = qm.gptq(act_order=True), gptq_settings(desc_act=True)
    model = qm.write_checkpoint(tmp_path / "m", qm.random_model(), pack, settings)
    source, recipes = bound(tmp_path / "m")
    values, recipe = RecipeValues(source.reader), recipes[DOWN]
    assert isinstance(recipe, Take)
    assert (np.diff(recipe.index.value) < 0).any()
    assert held_formats(recipe.arg)[0] is I4S
    exact = model.state_dict()[DOWN].numpy()
    np.testing.assert_allclose(values.value(recipe), exact, rtol=1e-6)
    kept = dequantize(values.quantized_rows(recipe.arg, I4S))
    np.testing.assert_allclose(kept[:, recipe.index.value], exact, rtol=1e-6)


def test_groups_that_are_uneven_are_dequantized(tmp_path: Path) -> None:
    """No order of columns makes blocks of them."""

    def pack(w: np.ndarray) -> qm.Packed:
        groups = np.minimum(np.arange(w.shape[1]) // 20, w.shape[1] // 32 - 1)
        codes, scales, zeros, exact = qm.integers(w, 4, 32, True, groups)
        parts = {
            "qweight": torch.from_numpy(qm.bit_stream(codes, 4).T.copy()),
            "qzeros": torch.from_numpy(qm.bit_stream(zeros.T - 1, 4)),
            "scales": torch.from_numpy(scales.T.copy()),
            "g_idx": torch.from_numpy(groups.astype(np.int32)),
        }
        return parts, exact

    model = qm.write_checkpoint(tmp_path / "m", qm.random_model(), pack, gptq_settings())
    source, recipes = bound(tmp_path / "m")
    exact = model.state_dict()[DOWN].numpy()
    np.testing.assert_allclose(RecipeValues(source.reader).value(recipes[DOWN]), exact, rtol=1e-6)
    assert held_formats(recipes[DOWN]) == ()


def test_mxfp4_is_what_transformers_reads_and_is_kept(tmp_path: Path) -> None:
    model = qm.write_mxfp4(tmp_path / "m")
    source, recipes = bound(tmp_path / "m")
    values = RecipeValues(source.reader)
    for name, tensor in model.state_dict().items():
        assert np.array_equal(values.value(recipes[name]), tensor.numpy()), name
    name = "model.layers.1.mlp.experts.gate_up_proj"
    recipe = transpose(recipes[name])
    assert held_formats(recipe) == (DType.I5S,)
    kept = dequantize(values.quantized_rows(recipe, DType.I5S, 100, 300))
    exact = model.state_dict()[name].transpose(1, 2).reshape(-1, 64)[100:300]
    assert np.array_equal(kept, exact.numpy())


def test_mxfp4_scales_beyond_float16_are_not_held(tmp_path: Path) -> None:
    model = qm.write_mxfp4(tmp_path / "m")
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    scales = tensors["model.layers.1.mlp.experts.down_proj_scales"]
    before = int(scales[0, 0, 0])
    scales[0, 0, 0] = 90
    save_file(tensors, tmp_path / "m" / "model.safetensors")
    source, recipes = bound(tmp_path / "m")
    name = "model.layers.1.mlp.experts.down_proj"
    assert held_formats(transpose(recipes[name])) == ()
    found = RecipeValues(source.reader).value(recipes[name])
    exact = model.state_dict()[name].numpy().copy()
    exact[0, :32, 0] *= np.float32(2.0 ** (90 - before))
    assert np.array_equal(found, exact)


EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}


@pytest.mark.parametrize(
    ("pack", "settings", "format"),
    [
        (qm.gptq(), gptq_settings(), I4S),
        (qm.awq(), AWQ, I4A),
        (*compressed("pack-quantized", **GROUP), I4S),
        (*compressed("int-quantized", **CHANNEL), I8C),
        (qm.float8((32, 32)), {"quant_method": "fp8", "weight_block_size": [32, 32]}, None),
    ],
    ids=["gptq", "awq", "packed", "int8", "fp8"],
)
def test_experts_are_stacked(
    tmp_path: Path, pack: qm.Packer, settings: dict[str, Any], format: DType | None
) -> None:
    """Checkpoints have a module an expert, the model one tensor for all."""
    folder = tmp_path / "m"
    model = qm.write_experts(folder, qm.random_model("Qwen3MoeConfig", **EXPERTS), pack, settings)
    source, recipes = bound(folder)
    values = RecipeValues(source.reader)
    for name, tensor in model.state_dict().items():
        np.testing.assert_allclose(values.value(recipes[name]), tensor.numpy(), atol=1e-6)
    recipe = recipes["model.layers.0.mlp.experts.gate_up_proj"]
    assert recipe.shape == (4, 128, 64)
    assert held_formats(recipe)[:1] == (() if format is None else (format,))


def test_fused_experts_in_float8(tmp_path: Path) -> None:
    """As transformers saves them: a scale an expert, or blocks of each."""
    model = qm.random_model("Qwen3MoeConfig", **EXPERTS)
    qm.write_checkpoint(tmp_path / "m", model, lambda name: None, {"quant_method": "fp8"})
    state = {name: value.clone() for name, value in model.state_dict().items()}
    name = "model.layers.1.mlp.experts.down_proj"
    scales = state[name].reshape(4, 2, 32, 2, 32).abs().amax(dim=(2, 4)) / 448
    spread = scales.repeat_interleave(32, 1).repeat_interleave(32, 2)
    state[name] = (state[name] / spread).to(torch.float8_e4m3fn)
    state[f"{name}_scale_inv"] = scales
    expected = state[name].float() * spread
    save_file(state, tmp_path / "m" / "model.safetensors")
    source, recipes = bound(tmp_path / "m")
    found = RecipeValues(source.reader).value(recipes[name])
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6)


def test_config_groups_by_name_expression_and_class(tmp_path: Path) -> None:
    """4 bits for the MLP, 8 for queries, float8 for the rest; one layer isn't quantized."""
    eight = CHANNEL
    groups = {
        "rest": {"targets": ["Linear"], "weights": FP8},
        "mlp": {"targets": ["re:.*mlp.*"], "weights": GROUP, "format": "pack-quantized"},
        "one": {"targets": ["model.layers.0.self_attn.q_proj"], "weights": eight},
        "activations": {"targets": ["re:.*"], "weights": None},
    }
    settings = {"quant_method": "compressed-tensors", "format": "mixed-precision",
                "config_groups": groups, "ignore": ["lm_head", "re:.*1.mlp.up_proj"]}  # fmt: skip
    packers = {
        "mlp": qm.compressed("pack-quantized", **GROUP),
        "q": qm.compressed("int-quantized", **eight),
        "rest": qm.compressed("float-quantized", **FP8),
    }

    def pack(name: str) -> qm.Packer | None:
        if name == "model.layers.1.mlp.up_proj.weight":
            return None
        return packers["q" if name == QUERY else "mlp" if ".mlp." in name else "rest"]

    model = qm.write_checkpoint(tmp_path / "m", qm.random_model(), pack, settings)
    source, recipes = bound(tmp_path / "m")
    values = RecipeValues(source.reader)
    for name, tensor in model.state_dict().items():
        np.testing.assert_allclose(values.value(recipes[name]), tensor.numpy(), atol=1e-6)
    assert held_formats(recipes[QUERY]) == (I8C,)
    assert held_formats(recipes[DOWN])[0] is I4S
    assert held_formats(recipes[QUERY.replace("q_proj", "k_proj")]) == (F8C,)
    assert held_formats(recipes["model.layers.1.mlp.up_proj.weight"]) == ()


def test_scales_of_activations_are_left_out_with_a_note(tmp_path: Path) -> None:
    pack, settings = compressed("float-quantized", **FP8 | {"strategy": "tensor"})
    qm.write_checkpoint(tmp_path / "m", qm.random_model(), pack, settings)
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    for name in [n for n in tensors if n.endswith("weight_scale")]:
        tensors[name.replace("weight_scale", "input_scale")] = torch.tensor([0.5])
    tensors["model.layers.0.self_attn.k_proj.k_scale"] = torch.tensor([0.5])
    save_file(tensors, tmp_path / "m" / "model.safetensors")
    source, _ = bound(tmp_path / "m")
    assert any(note.startswith("15 scales of activations") for note in source.notes)


def test_gptq_with_sizes_of_their_own(tmp_path: Path) -> None:
    """GPTQModel's `dynamic`: other bits and groups for some layers, none for others."""

    def pack(name: str) -> qm.Packer | None:
        if "layers.0.mlp" in name:
            return qm.gptq(8, 64 if "down" not in name else 96)
        return None if "k_proj" in name else qm.gptq()

    settings = gptq_settings(dynamic={"+:.*layers.0.mlp.*": {"bits": 8}, "-:.*k_proj": {}})
    model = qm.write_checkpoint(tmp_path / "m", qm.random_model(), pack, settings)
    source, recipes = bound(tmp_path / "m")
    values = RecipeValues(source.reader)
    for name, tensor in model.state_dict().items():
        np.testing.assert_allclose(values.value(recipes[name]), tensor.numpy(), atol=1e-6)
    assert held_formats(recipes[QUERY])[0] is I4S
    assert held_formats(recipes["model.layers.0.mlp.up_proj.weight"]) == (I8C,)


@pytest.mark.parametrize(
    ("pack", "settings", "theirs"),
    [
        (*compressed("pack-quantized", **GROUP | {"symmetric": False}), "CompressedTensorsConfig"),
        (*compressed("int-quantized", **CHANNEL), "CompressedTensorsConfig"),
        (
            qm.float8((32, 32)),
            {"quant_method": "fp8", "weight_block_size": [32, 32]},
            "FineGrainedFP8Config",
        ),
    ],
    ids=["packed", "int8", "fp8"],
)
def test_transformers_reads_the_same(
    tmp_path: Path, pack: qm.Packer, settings: dict[str, Any], theirs: str
) -> None:
    qm.write_checkpoint(tmp_path / "m", qm.random_model(), pack, settings)
    fields = {name: value for name, value in settings.items() if name != "quant_method"}
    read = getattr(transformers, theirs)(**fields, dequantize=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the checkpoint has settings, too
        model = AutoModelForCausalLM.from_pretrained(
            tmp_path / "m", dtype=torch.float32, quantization_config=read
        )
    source, recipes = bound(tmp_path / "m")
    values = RecipeValues(source.reader)
    for name, tensor in model.state_dict().items():
        assert np.array_equal(values.value(recipes[name]), tensor.numpy()), name
