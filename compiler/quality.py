"""The quality gate: KL divergence of the compiled model from its source.

Only run when a limit is asked for (`--max-kl`): the source is evaluated in float32 by the graph
interpreter, which needs all of its weights in memory.
"""

from __future__ import annotations

import numpy as np
import torch

from ..artifact.manifest import Limits, Manifest
from ..artifact.writer import ArtifactWriter
from ..base.errors import LlmcError
from ..ir.graph import Value
from ..ir.interpreted_program import InterpretedProgram
from ..ir.ops import CACHE_BLOCK
from ..passes.features import OWN_KERNELS
from ..passes.quantize import SCHEMES
from ..runtime.api.model import Model
from ..weights.values import RecipeValues
from .assemble import running_model
from .frontend.lower import lower_model
from .frontend.model_source import ModelSource
from .frontend.names import bind
from .frontend.probe import tensor_of

TEXT = (
    "The history of bread begins long before ovens. People crushed wild grain between stones, "
    "mixed the meal with water, and baked flat cakes on hot rocks beside the fire. When dough was "
    "left in the warmth for a day, it rose, and somebody was brave enough to bake it anyway. "
    "In mathematics, a proof is a finite sequence of statements, each an axiom or derived from the "
    "earlier ones by a rule of inference. Write a function that returns the largest element of a "
    "list: def largest(items): best = items[0] for item in items: if item > best: best = item."
)
"""What is compared on; fixed, so that two compiles agree."""


def check_quality(
    writer: ArtifactWriter,
    manifest: Manifest,
    source: ModelSource,
    context: int,
    max_kl: float | None,
) -> dict[str, float] | None:
    """Measure the compiled model against its float32 source if a limit was given: every target
    that runs here, of which the worst counts.

    Raises:
        LlmcError: LLMC-E0301, the mean KL divergence (nats a token) exceeds `max_kl`;
            LLMC-E0507, no variant runs here, so that nothing can be measured.
    """
    if max_kl is None:
        return None
    answers, ids = {}, []
    for target in dict.fromkeys(variant.target for variant in manifest.variants):
        model = running_model(writer, manifest, target)
        if model is not None:
            with model:
                ids = _token_ids(model, min(context, 512))
                answers[target] = torch.from_numpy(np.array(model.logits(ids)))
    if not answers:
        raise LlmcError("LLMC-E0507", "--max-kl needs a variant that this machine can run")
    reference = _source_logits(source, ids, context)
    found = {target: compare(compiled, reference) for target, compiled in answers.items()}
    worst = max(found, key=lambda target: found[target]["kl"])
    quality = found[worst]
    if quality["kl"] > max_kl:
        cause = f"KL divergence of target {worst} is {quality['kl']:.4f}, allowed {max_kl}"
        raise LlmcError("LLMC-E0301", cause)
    return quality


def compare(compiled: torch.Tensor, reference: torch.Tensor) -> dict[str, float]:
    """Mean KL(reference ‖ compiled) in nats a token, and how often the best token agrees."""
    p, q = torch.log_softmax(reference.double(), -1), torch.log_softmax(compiled.double(), -1)
    kl = (p.exp() * (p - q)).sum(-1)
    agree = (compiled.argmax(-1) == reference.argmax(-1)).double()
    return {
        "kl": round(float(kl.mean()), 6),
        "top1_agreement": round(float(agree.mean()), 4),
        "tokens": len(compiled),
    }


def _token_ids(model: Model, most: int) -> list[int]:
    if model.has_tokenizer:
        return model.encode(TEXT, raw=True)[:most]
    random = np.random.default_rng(2)
    return random.integers(0, model.program.vocab_size, min(most, 128)).tolist()


def _source_logits(source: ModelSource, ids: list[int], context: int) -> torch.Tensor:
    """Logits [T, vocab] of the float32 source, by the interpreter."""
    lowered = lower_model(
        source.config, context, lambda m: bind(m, source).recipes, SCHEMES["f32"], OWN_KERNELS
    )
    count = len(ids)
    limits = Limits(
        max_tokens=count,
        max_sequences=1,
        max_context=count,
        max_logits_rows=count,
        block_size=CACHE_BLOCK,
    )
    values = RecipeValues(source.reader)

    def constant(value: Value) -> torch.Tensor:
        return tensor_of(values, value)

    program = InterpretedProgram(lowered.graph, limits, -(-count // CACHE_BLOCK), constant)
    with Model(program) as model:
        return torch.from_numpy(np.array(model.logits(ids)))
