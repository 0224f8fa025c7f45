"""The probe: before anything is built, a shrunken model must answer as its source does.

A narrow twin of the config (`models/twin.py`) with random weights goes through trace and passes,
with every set of features that a backend wants; the resulting graphs are interpreted on the
conformance schedule (several sequences in a step, chunks, a past beyond window and rope
thresholds) and compared with transformers eager.
Packing, masks, positions and every rewrite are thereby checked for each architecture compiled.
A pass is remembered by config, tool versions, llmc's own code and the checkpoint's, if that is run.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from ...artifact.manifest import Limits
from ...base.debug import dumps_under
from ...base.errors import LlmcError
from ...ir.graph import Graph, Value
from ...ir.interpreted_program import InterpretedProgram
from ...ir.interpreted_slots import InterpretedSlots
from ...ir.ops import CACHE_BLOCK, TORCH_DTYPE
from ...models.auto import auto_class
from ...models.conformance import TOLERANCE, Report, Text, blocks_needed, run_schedule
from ...models.eager import fix_rope, reference_texts
from ...models.random_weights import randomize
from ...models.twin import twin
from ...passes.features import Features
from ...passes.quantize import SCHEMES
from ...weights.recipes import CheckpointTensor
from ...weights.values import RecipeValues
from .downloads import cache_dir
from .lower import own_tensors, trace_model
from .remote_code import code_digest

CONTEXT = 72
"""Tokens of the probe's longest sequence: more than two cache blocks, the window and threshold."""
MAX_TOKENS = 48
"""Query tokens of a step, and rows of logits."""
SEED = 20


def probe(config: Any, config_bytes: bytes, wanted: Iterable[Features]) -> str:
    """Check the architecture of `config` with each of the `wanted` features, for the report a note.

    Raises:
        LlmcError: LLMC-E0415 the logits differ or say nothing; others as the compile itself would.
    """
    wanted = sorted(set(wanted), key=_text)
    stamp = _stamp(config, config_bytes, wanted)
    if stamp.exists():
        return "probe: passed before for this config"
    small = twin(config)
    if small is None:
        return "probe: skipped, no small model can be made of the config"
    found = compare(small.config, wanted)
    for features, report in found.items():
        if report.worst > TOLERANCE:
            where = f"{report.where} ({features.name})"
            raise LlmcError(
                "LLMC-E0415", f"logits differ by {report.worst:.1e} of their range: {where}"
            )
    with contextlib.suppress(OSError):  # where nothing can be remembered it runs every time
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()
    worst = max(report.worst for report in found.values())
    note = f"probe: a model of this config matches eager to {worst:.1e} of the logits' range"
    if small.missing:
        note += f"; {small.missing} kinds of layers were not in it"
    return note


def compare(config: Any, wanted: Iterable[Features]) -> dict[Features, Report]:
    """What the conformance schedule finds between graph and eager, for each set of features."""
    model = eager_model(config)
    # Before it runs: a model may change its parameters when it first does.
    values = RecipeValues(StateReader({k: v.clone() for k, v in model.state_dict().items()}))
    texts = reference_texts(model, CONTEXT, SEED)
    _refuse_empty_answers(texts)
    traced = trace_model(copy.deepcopy(config), CONTEXT, own_tensors)
    found = {}
    for features in wanted:
        with dumps_under(f"probe-{features.name}"):
            graph = traced.lower(SCHEMES["f32"], features).graph
        program = _interpreted(graph, features, values)
        found[features] = run_schedule(program, texts, max_context=CONTEXT)
    return found


def _interpreted(
    graph: Graph, features: Features, values: RecipeValues
) -> InterpretedProgram | InterpretedSlots:
    """The graph as a program with a cache for the conformance schedule."""
    slots = features.uniform_query
    limits = Limits(
        max_tokens=MAX_TOKENS,
        max_sequences=8,
        max_context=CONTEXT,
        max_logits_rows=MAX_TOKENS,
        block_size=CONTEXT + MAX_TOKENS - 1 if slots else CACHE_BLOCK,
        uniform_query=slots,
    )
    made = InterpretedSlots if slots else InterpretedProgram
    blocks = 4 * -(-CONTEXT // limits.block_size) + 3
    program = made(graph, limits, blocks, lambda value: tensor_of(values, value))
    assert blocks >= blocks_needed(program, CONTEXT)
    return program


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


def eager_model(config: Any) -> Any:
    auto = auto_class(config) or transformers.AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):  # what keeps its initial value has the same each time
        torch.manual_seed(SEED)
        model = auto.from_config(
            copy.deepcopy(config), attn_implementation="eager", dtype=torch.float32
        )
    randomize(model, SEED)
    return fix_rope(model.eval(), CONTEXT)


def _text(features: Features) -> str:
    """All of the features, in order: equal for equal ones."""
    return str([features.name, *(getattr(features, f.name) for f in fields(features)[1:])])


class StateReader:
    """Rows of a state dict's tensors."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        self.state = state

    def rows(self, tensor: CheckpointTensor, rows: np.ndarray) -> np.ndarray:
        value = self.state[tensor.name].detach().float().numpy()
        return value.reshape(-1, value.shape[-1] if value.ndim > 1 else 1)[rows]

    def blocks(self, tensor: CheckpointTensor, rows: np.ndarray) -> Any:
        raise TypeError(f"{tensor.name} is not stored in blocks")


_CODE = ("base", "artifact", "runtime", "ir", "models", "weights", "passes", "compiler")
"""Folders of llmc that a probe runs code of: what it finds may change with any of them."""


def _stamp(config: Any, config_bytes: bytes, wanted: Sequence[Features]) -> Path:
    """The file that says that this config passed with these features, with this code."""
    package = Path(__file__).parents[2]
    code = hashlib.sha256(code_digest(config).encode())
    for folder in _CODE:
        for file in sorted((package / folder).rglob("*.py")):
            code.update(file.read_bytes())
    versions = {name: version(name) for name in ("torch", "transformers")}
    names = [_text(features) for features in wanted]
    text = json.dumps([config_bytes.decode(errors="replace"), names, versions, code.hexdigest()])
    return cache_dir() / "probes" / hashlib.sha256(text.encode()).hexdigest()
