"""Computed constants are those of the real model."""

import pytest
import torch
from llmc.compiler.frontend.buffers import compute_buffers
from llmc.compiler.frontend.trace import build_on_meta
from transformers import LlamaConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from zoo import find


@pytest.mark.parametrize("name", ["llama", "gemma3", "llama-yarn"])
def test_buffers_equal_those_of_the_real_model(name: str) -> None:
    """Bit for bit: the model's own initialisation runs, on the CPU, in float32."""
    model = find(name)
    meta = build_on_meta(model.configuration())
    buffers, notes = compute_buffers(meta, model.max_context)
    real = model.build()
    saved = real.state_dict()
    wanted = {k: v for k, v in real.named_buffers() if k not in saved}
    assert set(buffers) == set(wanted)
    assert buffers
    for key, value in wanted.items():
        assert torch.equal(buffers[key], value), key
    assert notes == []
    assert all(b.device.type == "meta" for b in meta.buffers())


@pytest.mark.parametrize(("name", "kind"), [("phi3", "longrope"), ("phi3-short", "longrope"),
                                            ("llama-dynamic", "dynamic")])  # fmt: skip
def test_tables_that_depend_on_the_length_are_frozen(name: str, kind: str) -> None:
    """For the longest context compiled for, and the report says so."""
    model = find(name)
    meta = build_on_meta(model.configuration())
    buffers, notes = compute_buffers(meta, model.max_context)
    (key,) = (k for k in buffers if k.endswith("rotary_emb.inv_freq"))
    rotary = meta.get_submodule(key.removesuffix(".inv_freq"))
    expected, scaling = ROPE_INIT_FUNCTIONS[kind](
        rotary.config, torch.device("cpu"), seq_len=model.max_context
    )
    assert torch.equal(buffers[key], expected)
    assert rotary.attention_scaling == scaling
    assert rotary.rope_type == "frozen"
    assert len(notes) == 1
    assert f"{kind} rotary table fixed for a context of {model.max_context} tokens" in notes[0]


def test_a_buffer_that_nobody_sets_is_left_out() -> None:
    """The importer refuses it, if anything reads it (`test_importer.py`)."""
    meta = build_on_meta(find("llama").configuration())
    with torch.device("meta"):
        meta.model.register_buffer("mystery", torch.empty(3), persistent=False)
    buffers, _ = compute_buffers(meta, 64)
    assert [name for name in buffers if "mystery" in name] == []
    assert buffers


def test_a_buffer_may_be_set_by_a_module_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some models compute what their layers hold, in the initialisation of the whole model."""
    meta = build_on_meta(find("llama").configuration())
    with torch.device("meta"):
        for layer in meta.model.layers:
            layer.mlp.register_buffer("factors", torch.empty(3), persistent=False)
    usual = type(meta.model)._init_weights

    def initialise(self: PreTrainedModel, module: torch.nn.Module) -> None:
        usual(self, module)
        if module is meta.model:
            for number, layer in enumerate(meta.model.layers):
                layer.mlp.factors.copy_(torch.arange(3.0) + number)

    monkeypatch.setattr(type(meta.model), "_init_weights", initialise)
    buffers, _ = compute_buffers(meta, 64)
    assert buffers["model.layers.1.mlp.factors"].tolist() == [1.0, 2.0, 3.0]
    assert meta.model.layers[1].mlp.factors.device.type == "meta"


def test_a_buffer_is_set_by_the_innermost_model() -> None:
    """As transformers does it: the outer model's own code would read what only the inner has."""

    class Inner(PreTrainedModel):
        config_class = LlamaConfig

        def __init__(self, config: LlamaConfig) -> None:
            super().__init__(config)
            self.scale = 3.0
            self.register_buffer("scaling", torch.empty(2), persistent=False)

        def _init_weights(self, module: torch.nn.Module) -> None:
            if isinstance(module, Inner):
                module.get_buffer("scaling").fill_(self.scale)

    class Outer(PreTrainedModel):
        config_class = LlamaConfig

        def __init__(self, config: LlamaConfig) -> None:
            super().__init__(config)
            self.inner = Inner(config)

        def _init_weights(self, module: torch.nn.Module) -> None:
            raise AssertionError("the inner model's buffer is not the outer one's")

    with torch.device("meta"):
        model = Outer(LlamaConfig())
    buffers, _ = compute_buffers(model, 64)
    assert torch.equal(buffers["inner.scaling"], torch.full((2,), 3.0))
