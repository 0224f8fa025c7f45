"""The probe: before anything is built, a shrunken model must answer as its source does.

A model of the same config, with few layers, narrow MLPs and random weights, goes through trace
and passes; the resulting graph is interpreted on the conformance schedule (several sequences in
a step, chunks, a past beyond window and rope thresholds) and compared with transformers eager.
Packing, masks, positions and every rewrite are thereby checked for each architecture compiled.
A pass is remembered by config, tool versions and llmc's own code.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from ...ir.graph import Value
from ...ir.interpreted_program import InterpretedProgram
from ...ir.ops import CACHE_BLOCK, TORCH_DTYPE
from ...ir.recipe_values import RecipeValues
from ...ir.recipes import CheckpointTensor
from ...models.conformance import Text, blocks_needed, run_schedule
from ...models.eager import fix_rope, reference_texts
from ...models.random_weights import randomize
from ...passes.quantize import SCHEMES
from ...runtime.artifact import Limits
from ...runtime.errors import LlmcError
from .downloads import cache_dir
from .lower import lower_model, own_tensors

CONTEXT = 72
"""Tokens of the probe's longest sequence: more than two cache blocks, the window and threshold."""
WINDOW, THRESHOLD = 8, 32
SEED = 20


def probe(config: Any, config_bytes: bytes) -> str:
    """Check the architecture of `config`; returns a note for the compile's report.

    Raises:
        LlmcError: LLMC-E0415 the logits differ or say nothing; others as the compile itself would.
    """
    stamp = _stamp(config_bytes)
    if stamp.exists():
        return "probe: passed before for this config"
    small = shrink(config)
    if small is None:
        return "probe: skipped, the config can't be shrunk"
    worst, where = compare(small)
    if worst > 1e-4:
        raise LlmcError("LLMC-E0415", f"logits differ by {worst:.1e} of their range: {where}")
    with contextlib.suppress(OSError):  # where nothing can be remembered it runs every time
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()
    return f"probe: a model of this config matches eager to {worst:.1e} of the logits' range"


def compare(config: Any) -> tuple[float, str]:
    """Largest difference, as a share of the logits' range, between graph and eager; and where."""
    lowered = lower_model(copy.deepcopy(config), CONTEXT, own_tensors, SCHEMES["f32"])
    model = _eager_model(config)
    graph = lowered.graph
    values = RecipeValues(StateReader(model.state_dict()))
    limits = Limits(max_tokens=48, max_sequences=8, max_context=CONTEXT, max_logits_rows=48,
                    block_size=CACHE_BLOCK)  # fmt: skip
    blocks = 4 * -(-CONTEXT // CACHE_BLOCK) + 3
    program = InterpretedProgram(graph, limits, blocks, lambda v: tensor_of(values, v))
    assert blocks >= blocks_needed(program, CONTEXT)
    texts = reference_texts(model, CONTEXT, SEED)
    _refuse_empty_answers(texts)
    report = run_schedule(program, texts, max_context=CONTEXT)
    return report.worst, report.where


def _refuse_empty_answers(texts: list[Text]) -> None:
    """A config can make eager itself answer NaN, or the same logit for every token.

    Which of the two depends on the machine: `rsqrt(inf)` is 0 in some vector libraries and NaN in
    others. There is nothing to compare then, and nothing to run either.
    """
    for text in texts:
        if not np.isfinite(text.logits).all() or (np.ptp(text.logits, axis=-1) == 0).any():
            message = "the source model itself answers NaN, or one logit for all tokens"
            raise LlmcError("LLMC-E0415", f"{message}: check the numbers in its config.json")


def tensor_of(values: RecipeValues, value: Value) -> torch.Tensor:
    """A constant as a tensor; block formats come dequantized."""
    shape = [d for d in value.type.shape if isinstance(d, int)]
    array = np.array(values.value(value.recipe))
    return (
        torch.from_numpy(array).reshape(shape).to(TORCH_DTYPE.get(value.type.dtype, torch.float32))
    )


def _eager_model(config: Any) -> Any:
    model = transformers.AutoModelForCausalLM.from_config(
        copy.deepcopy(config), attn_implementation="eager", dtype=torch.float32
    )
    randomize(model, SEED)
    return fix_rope(model.eval(), CONTEXT)


class StateReader:
    """Rows of a state dict's tensors."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        self.state = state

    def rows(self, tensor: CheckpointTensor, rows: np.ndarray) -> np.ndarray:
        value = self.state[tensor.name].detach().float().numpy()
        return value.reshape(-1, value.shape[-1] if value.ndim > 1 else 1)[rows]

    def blocks(self, tensor: CheckpointTensor, rows: np.ndarray) -> Any:
        raise TypeError(f"{tensor.name} is not stored in blocks")


def shrink(config: Any) -> Any | None:
    """A config of the same kind with few layers and small tables, or None if none can be built."""
    for candidate in _candidates(config):
        try:
            with torch.device("meta"):
                model = transformers.AutoModelForCausalLM.from_config(candidate)
        except Exception:
            continue
        if sum(p.numel() for p in model.parameters()) < 60_000_000:
            return candidate
    return None


_SMALL = {
    "intermediate_size": 96, "ffn_dim": 96, "n_inner": 96, "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 48, "vocab_size": 288,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 8,
}  # fmt: skip


def _candidates(config: Any) -> Iterator[Any]:
    """Shrunken configs, the smallest first."""
    for heads in (True, False):
        small = config.to_dict()
        for name, size in _SMALL.items():
            if isinstance(small.get(name), int):
                small[name] = min(small[name], size)
        _few_layers(small)
        _early_thresholds(small)
        if heads and not _few_heads(small, config):
            continue
        for token in ("pad_token_id", "bos_token_id", "eos_token_id"):
            small[token] = None
        try:
            yield type(config)(**small)
        except Exception:
            continue


def _few_layers(small: dict[str, Any]) -> None:
    """Keep the first layers that together show every layer type, at least two."""
    kinds = small.get("layer_types")
    count = 2
    if isinstance(kinds, list):
        count = max(2, 1 + max(kinds.index(k) for k in set(kinds)))
        small["layer_types"] = kinds[:count]
    for name in ("num_hidden_layers", "n_layer", "num_layers", "n_layers"):
        if isinstance(small.get(name), int):
            total, small[name] = small[name], min(small[name], count)
            for key, value in small.items():  # other per-layer lists (no_rope_layers, …)
                if isinstance(value, list) and len(value) == total and total > count:
                    small[key] = value[:count]


def _early_thresholds(small: dict[str, Any]) -> None:
    """Windows and rope thresholds within the probe's context."""
    if isinstance(small.get("sliding_window"), int):
        small["sliding_window"] = min(small["sliding_window"], WINDOW)
    rope = small.get("rope_parameters")
    for part in [rope, *(rope or {}).values()] if isinstance(rope, dict) else []:
        if isinstance(part, dict) and part.get("original_max_position_embeddings"):
            part["original_max_position_embeddings"] = THRESHOLD
    for name in ("max_position_embeddings", "n_positions", "n_ctx"):
        if isinstance(small.get(name), int):
            small[name] = min(small[name], 4 * THRESHOLD)


def _few_heads(small: dict[str, Any], config: Any) -> bool:
    """Fewer heads of the same size, same sharing; False if the config has no such fields."""
    heads, kv = small.get("num_attention_heads"), small.get("num_key_value_heads")
    hidden = small.get("hidden_size")
    if not (isinstance(heads, int) and isinstance(hidden, int)) or hidden % heads:
        return False
    few_kv = 1 if kv in (None, 1) else 2
    few = few_kv * min(4, heads // kv) if isinstance(kv, int) else 2
    if few >= heads:
        return False
    small["hidden_size"] = hidden // heads * few
    small["num_attention_heads"] = few
    if isinstance(kv, int):
        small["num_key_value_heads"] = few_kv if kv != heads else few
    return True


def _stamp(config_bytes: bytes) -> Path:
    """The file that says that this config passed, with these versions of the code."""
    package = Path(__file__).parents[2]
    code = hashlib.sha256()
    for folder in ("ir", "passes", "compiler", "models"):
        for file in sorted((package / folder).rglob("*.py")):
            code.update(file.read_bytes())
    versions = {name: version(name) for name in ("torch", "transformers")}
    text = json.dumps([config_bytes.decode(errors="replace"), versions, code.hexdigest()])
    return cache_dir() / "probes" / hashlib.sha256(text.encode()).hexdigest()
