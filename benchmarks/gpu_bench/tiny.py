"""Tiny models with weights, and what they must say: the check of numerics before any timing.

In: models of the tests' zoo by name, with a scheme and a cache type. Out: lowered programs and what
is expected of them: the source model's logits, by eager, and those of the compiled graph evaluated
in f32 on the weights that the scheme leaves, which no rounding of weights stands in the way of.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llmc.artifact.manifest import Limits
from llmc.artifact.program import Program
from llmc.codegen.triton.precision import SCHEMES as KNOWN_SCHEMES
from llmc.compiler.frontend.lower import own_tensors, trace_model
from llmc.compiler.frontend.probe import StateReader, tensor_of
from llmc.ir.interpreted_program import InterpretedProgram
from llmc.ir.ops import CACHE_BLOCK
from llmc.models.eager import fix_rope, reference_texts
from llmc.weights.stream import WeightStream
from llmc.weights.values import RecipeValues

from .building import Lowered, lower
from .steps import Part, step_inputs
from .suite import Blobs, Expected, Text

HELPERS = Path(__file__).parents[2] / "tests" / "helpers"
TOLERANCE = {"f32": 2e-4, "fp16": 0.01}
"""Of the range of a row of logits, against f32 arithmetic on the same weights. f32: sums in another
order, exponentials by another function. Products in 16 bits round activations to 11 bits, or 8."""
BF16_TOLERANCE = 0.04
NARROW_CACHE = {"bf16": 0.02, "fp16": 0.005, "int8": 0.06}
"""What a cache of such elements may add."""


@dataclass(frozen=True)
class Tiny:
    """A model of the zoo with a scheme; an empty cache is the scheme's own."""

    model: str
    scheme: str
    kv_cache: str = ""


TINY = (
    *(Tiny("llama", s) for s in ("f32", "bf16", "fp16", "int8", "int4", "int4-sym", "fp8")),
    *(Tiny("llama", "f32", cache) for cache in ("bf16", "fp16", "int8")),
    Tiny("llama", "int4", "int8"),
    Tiny("llama-bias", "f32"),
    Tiny("qwen3-moe", "f32"),
    Tiny("qwen3-moe", "bf16"),
    Tiny("gemma2", "f32"),
    Tiny("gpt-oss", "f32"),
)
"""Every scheme and cache type; biases, experts, windows with a soft cap, sinks."""


def tiny_limits(context: int) -> Limits:
    """Small, but with steps of every form up to the widest."""
    return Limits(
        max_tokens=context,
        max_sequences=8,
        max_context=context,
        max_logits_rows=64,
        block_size=CACHE_BLOCK,
    )


def known(tiny: Tiny) -> bool:
    """Whether the target has the scheme."""
    return tiny.scheme in KNOWN_SCHEMES


def lower_tiny(tiny: Tiny, sm: int, blobs: Blobs, context: int = 0) -> tuple[Lowered, Expected]:
    """A tiny model for the triton target, its weights and its logits. One thread computes them, so
    that every build has the same bytes. `context`: another than the zoo's. Errors: LLMC-E04xx."""
    if str(HELPERS) not in sys.path:
        sys.path.insert(0, str(HELPERS))
    from zoo import find

    model = find(tiny.model)
    context = context or model.max_context
    traced = trace_model(model.configuration(), context, own_tensors)
    limits = tiny_limits(context)
    program = lower(traced, tiny.model, tiny.scheme, tiny.kv_cache, sm=sm, limits=limits)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        eager = fix_rope(model.build(), context)
        return program, _expected(tiny, program, eager, context, blobs)
    finally:
        torch.set_num_threads(threads)


def _expected(tiny: Tiny, program: Lowered, eager: Any, context: int, blobs: Blobs) -> Expected:
    reader = StateReader(eager.state_dict())
    texts = reference_texts(eager, context)
    rounded = _rounded_logits(program, reader, [text.token_ids.tolist() for text in texts])
    tolerance = TOLERANCE.get(tiny.scheme, BF16_TOLERANCE) + NARROW_CACHE.get(tiny.kv_cache, 0.0)
    plain = tiny.scheme in ("f32", "fp16", "bf16")
    return Expected(
        weights=blobs.add(_weights(program, reader)),
        texts=[_text(blobs, text.token_ids.tolist(), text.logits) for text in texts],
        rounded=[
            _text(blobs, text.token_ids.tolist(), logits)
            for text, logits in zip(texts, rounded, strict=True)
        ],
        tolerance=tolerance,
        source_tolerance=tolerance if plain else 0.0,
    )


def _text(blobs: Blobs, token_ids: list[int], logits: np.ndarray) -> Text:
    return Text(token_ids, blobs.add(np.ascontiguousarray(logits, np.float32).tobytes()))


def _weights(program: Lowered, reader: StateReader) -> bytes:
    """The data section of the weights entry."""
    table = program.table
    stream = WeightStream(table.tensors, table.nbytes)
    out = io.BytesIO()
    stream.write(out, reader, table.layout)
    return out.getvalue()[stream.size - stream.data_bytes :]


def _rounded_logits(
    program: Lowered, reader: StateReader, texts: Sequence[Sequence[int]]
) -> list[np.ndarray]:
    """Logits after each token, by the interpreter."""
    values = RecipeValues(reader)
    longest = max(map(len, texts))
    limits = Limits(
        max_tokens=longest,
        max_sequences=1,
        max_context=longest,
        max_logits_rows=longest,
        block_size=CACHE_BLOCK,
    )
    blocks = -(-longest // CACHE_BLOCK)
    interpreted: Program = InterpretedProgram(
        program.graph, limits, blocks, lambda value: tensor_of(values, value)
    )
    steps = [step_inputs(interpreted, [Part(0, ids, 0, True)], longest) for ids in texts]
    return [np.array(interpreted.step(inputs).logits) for inputs in steps]
