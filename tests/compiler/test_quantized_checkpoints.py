"""Quantized checkpoints, compiled: what the artifact holds, what it answers, and what it says."""

import re
from pathlib import Path
from typing import Any

import llmc
import numpy as np
import quantized_models as qm
import torch
from llmc.artifact.reader import ArtifactReader
from llmc.codegen.cpu.packing import unpack
from llmc.ir.types import DType
from llmc.weights.formats.number_format import Quantized
from safetensors.numpy import load, load_file

IDS = np.random.default_rng(5).integers(0, 96, 40).tolist()
DOWN = "model.layers.1.mlp.down_proj"
N, K = 64, 96
INT8_INPUTS = 0.03
"""Of the logits' range: what rounding the inputs of 14 layers to int8 moved in these models is
0.014 to 0.018; requantizing the weights to 4 bits moves 0.15."""


def compiled(folder: Path, **options: Any) -> tuple[np.ndarray, list[str], Path]:
    path = folder.with_suffix(f".{options.get('scheme')}.llmc")
    report = llmc.compile(str(folder), output=path, **options)
    with llmc.load(path) as model:
        return np.array(model.logits(IDS)), report.notes, path


def eager(model: Any) -> np.ndarray:
    return model(torch.tensor([IDS])).logits[0].numpy()


def stored(path: Path, format: DType) -> Quantized:
    """The last layer's down projection, as the artifact holds it."""
    tensors = load(bytes(ArtifactReader(path).read("weights/cpu.safetensors")))
    found = unpack(format, tensors[f"{DOWN}.weight"], N, K)
    assert isinstance(found, Quantized)
    return found


def test_gptq_keeps_codes_and_scales_in_the_order_of_its_groups(tmp_path: Path) -> None:
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True}
    pack = qm.gptq(act_order=True)
    model = qm.write_checkpoint(tmp_path / "m", qm.random_model(), pack, settings)
    logits, notes, path = compiled(tmp_path / "m")
    assert "14 tensors keep their bits, int4 as i4s" in " ".join(notes)
    expected = eager(model)
    assert np.abs(logits - expected).max() < INT8_INPUTS * np.ptp(expected)
    parts = load_file(tmp_path / "m" / "model.safetensors")
    words = parts[f"{DOWN}.qweight"].view(np.uint32)
    nibbles = words[:, None, :] >> np.arange(0, 32, 4, dtype=np.uint32)[:, None] & 15
    order = np.argsort(parts[f"{DOWN}.g_idx"], kind="stable")
    assert (np.diff(order) < 0).any()
    kept = stored(path, DType.I4S)
    assert np.array_equal(kept.codes, nibbles.reshape(K, N).T[:, order])
    assert np.array_equal(kept.scales, parts[f"{DOWN}.scales"].T)


def test_schemes_that_are_asked_for_rule(tmp_path: Path) -> None:
    """8 bits a row, as bitsandbytes and compressed-tensors have them: kept, dequantized, 4 bits."""
    settings = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    model = qm.write_checkpoint(tmp_path / "m", qm.random_model(), qm.bitsandbytes_rows, settings)
    expected = eager(model)
    logits, notes, path = compiled(tmp_path / "m")
    assert "14 tensors keep their bits, int8_channel as i8c" in " ".join(notes)
    assert np.abs(logits - expected).max() < INT8_INPUTS * np.ptp(expected)
    parts = load_file(tmp_path / "m" / "model.safetensors")
    kept = stored(path, DType.I8C)
    assert np.array_equal(kept.codes, parts[f"{DOWN}.weight"])
    assert np.array_equal(kept.scales, parts[f"{DOWN}.SCB"] / np.float32(127))
    logits, notes, _ = compiled(tmp_path / "m", scheme="f32")
    assert "14 tensors dequantized, int8_channel as f32" in " ".join(notes)
    assert np.abs(logits - expected).max() < 1e-3
    _, notes, _ = compiled(tmp_path / "m", scheme="int4")
    (note,) = (n for n in notes if "requantized, int8_channel as i4k" in n)
    assert 0.03 < float(note.rpartition(" ")[2]) < 0.12


def test_experts_in_mxfp4_are_kept(tmp_path: Path) -> None:
    model = qm.write_mxfp4(tmp_path / "m")
    expected = eager(model)
    logits, notes, _ = compiled(tmp_path / "m")
    assert "4 tensors keep their bits, mxfp4 as i5s" in " ".join(notes)
    wrong = np.abs(logits - expected).max(axis=1)
    assert np.median(wrong) < INT8_INPUTS * np.ptp(expected)  # a token may take another expert


def test_graph_of_a_quantized_checkpoint(tmp_path: Path) -> None:
    from llmc.compiler.stages import graph_after

    settings = {"quant_method": "awq", "bits": 4, "group_size": 32}
    qm.write_checkpoint(tmp_path / "m", qm.random_model(), qm.awq(), settings)
    asked: dict[str, Any] = {
        "target": ["cpu"], "levels": {}, "target_options": {}, "kv_cache": None,
        "max_context": None, "trust_remote_code": False,
    }  # fmt: skip
    found = {
        scheme: graph_after(str(tmp_path / "m"), "quantized", scheme=scheme, **asked)
        for scheme in (None, "f32", "int8", "as-stored")
    }
    assert found[None] == found["as-stored"]
    formats = {s: set(re.findall(r"_proj\S*: (\w+)\[", text)) for s, text in found.items()}
    assert formats == {None: {"i4a"}, "as-stored": {"i4a"}, "f32": {"f32"}, "int8": {"i8b"}}
