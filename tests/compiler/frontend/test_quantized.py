"""Quantized checkpoints: values as their methods define them, and codes kept where a format can."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quantized_models as qm
import torch
from llmc.compiler.frontend.model_source import ModelSource
from llmc.compiler.frontend.names import bind
from llmc.compiler.frontend.sources import open_source
from llmc.ir.types import DType
from llmc.weights.formats.registry import dequantize
from llmc.weights.held_blocks import held_formats
from llmc.weights.recipes import Recipe
from llmc.weights.values import RecipeValues
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
I4S, I4A, I8B, I8C = DType.I4S, DType.I4A, DType.I8B, DType.I8C


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
    "float8 by row": (*compressed("float-quantized", **FP8), ()),
    "float8 by tensor": (*compressed("float-quantized", **FP8 | {"strategy": "tensor"}), ()),
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
    "fp8": (qm.float8(None, "weight_scale"), {"quant_method": "modelopt", "quant_algo": "FP8"}, ()),
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
