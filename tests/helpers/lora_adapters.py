"""Tiny LoRA adapters, made and merged by `peft`, for bases that `test_*` files save.

In: a saved base, `LoraConfig` arguments. Out: an adapter folder whose tensors are all random, and
the state that `peft` itself merges it into.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM


def base_model(path: Path, auto: Any = AutoModelForCausalLM) -> Any:
    """The saved model in float32."""
    return auto.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()


def save_adapter(
    base: Path, target: Path, seed: int = 3, auto: Any = AutoModelForCausalLM, **settings: Any
) -> Path:
    """An adapter of the model in `base`, in folder `target`."""
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = LoraConfig(task_type="CAUSAL_LM", **settings)
        adapted: Any = get_peft_model(base_model(base, auto), kind)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:  # B is zero after peft's own initialisation
                scale = 1.0 if "magnitude" in name else 0.3
                parameter.data = scale * torch.randn(parameter.shape, generator=generator)
                parameter.data += scale if "magnitude" in name else 0.0
        adapted.save_pretrained(target)
    return target


def merged(base: Path, adapters: Sequence[Path], auto: Any = AutoModelForCausalLM) -> Any:
    """The model after `peft` has merged all of `adapters` into it."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted: Any = PeftModel.from_pretrained(base_model(base, auto), str(adapters[0]), "0")
        for i, adapter in enumerate(adapters[1:], 1):
            adapted.load_adapter(str(adapter), str(i))
        names = [str(i) for i in range(len(adapters))]
        return adapted.merge_and_unload(adapter_names=names)
