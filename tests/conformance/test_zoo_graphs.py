"""Families that nobody promised, through trace and passes, interpreted, against eager.

What is expected of each is in the zoo: "compiles" within the zoo's tolerance, or "refused" with an
error about the model (E04xx), never a wrong result and never a crash.
"""

import pytest
from llmc.artifact.manifest import Limits
from llmc.base.errors import LlmcError
from llmc.compiler.frontend.lower import lower_model, own_tensors
from llmc.compiler.frontend.probe import StateReader, tensor_of
from llmc.ir.interpreted_program import InterpretedProgram
from llmc.ir.ops import CACHE_BLOCK
from llmc.ir.states import cache_groups
from llmc.models.conformance import Report, run_schedule
from llmc.models.eager import fix_rope, reference_texts
from llmc.passes.features import OWN_KERNELS
from llmc.passes.quantize import find_scheme
from llmc.weights.values import RecipeValues
from tiny_model import ZooModel
from zoo import EXTENDED, find


def conformance_of(model: ZooModel) -> Report:
    """Lower the model and run its graph through the schedule."""
    context = model.max_context
    graph = lower_model(
        model.configuration(), context, own_tensors, find_scheme("f32"), OWN_KERNELS
    ).graph
    built = fix_rope(model.build(), context)
    values = RecipeValues(StateReader(built.state_dict()))
    limits = Limits(
        max_tokens=512,
        max_sequences=8,
        max_context=context,
        max_logits_rows=64,
        block_size=CACHE_BLOCK,
    )
    blocks = 4 * -(-context // CACHE_BLOCK) + 3
    program = InterpretedProgram(graph, limits, blocks, lambda value: tensor_of(values, value))
    return run_schedule(program, reference_texts(built, context), max_context=context)


@pytest.mark.parametrize(
    "model", [m for m in EXTENDED if m.expected == "compiles"], ids=lambda model: model.name
)
def test_compiles(model: ZooModel) -> None:
    conformance_of(model).check()


@pytest.mark.parametrize(
    "model", [m for m in EXTENDED if m.expected == "refused"], ids=lambda model: model.name
)
def test_is_refused_by_name(model: ZooModel) -> None:
    with pytest.raises(LlmcError) as refusal:
        conformance_of(model)
    assert refusal.value.exit_code == 4, refusal.value


def test_the_cache_holds_latents_not_heads() -> None:
    """Bytes of a token and layer: 16 and 8 elements, each part rounded up to 16, where four heads
    have keys of 24 and values of 12."""
    model = find("deepseek-v3")
    for scheme, element, scales in (("f32", 4, 0), ("bf16", 2, 0), ("int8", 1, 8)):
        graph = lower_model(
            model.configuration(), 64, own_tensors, find_scheme(scheme), OWN_KERNELS
        ).graph
        (group,) = cache_groups(graph, CACHE_BLOCK)
        assert (group.kind, group.key_dim, group.latent_dim) == ("latent", 24, 16)
        assert group.bytes_per_block == CACHE_BLOCK * group.layers * (32 * element + scales)
