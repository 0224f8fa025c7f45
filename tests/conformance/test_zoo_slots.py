"""Zoo families as programs of slots, interpreted, against eager: what `lower_slots` and
`runtime/executors/slots.py` promise to backends that don't page."""

import pytest
from llmc.artifact.manifest import Limits
from llmc.compiler.frontend.lower import lower_model, own_tensors
from llmc.compiler.frontend.probe import StateReader, tensor_of
from llmc.ir.interpreted_slots import InterpretedSlots
from llmc.models.conformance import blocks_needed, run_schedule
from llmc.models.eager import fix_rope, reference_texts
from llmc.passes.features import FOREIGN_RUNTIME
from llmc.passes.quantize import SCHEMES
from llmc.weights.values import RecipeValues
from zoo import DISTINCT, find

MAX_TOKENS = 48


@pytest.mark.parametrize("family", DISTINCT)
def test_conforms(family: str) -> None:
    model = find(family)
    eager = fix_rope(model.build(), model.max_context)
    texts = reference_texts(eager, model.max_context)
    lowered = lower_model(
        model.configuration(), model.max_context, own_tensors, SCHEMES["f32"], FOREIGN_RUNTIME
    )
    limits = Limits(
        max_tokens=MAX_TOKENS,
        max_sequences=8,
        max_context=model.max_context,
        max_logits_rows=MAX_TOKENS,
        block_size=model.max_context + MAX_TOKENS - 1,
        uniform_query=True,
    )
    values = RecipeValues(StateReader(eager.state_dict()))
    program = InterpretedSlots(lowered.graph, limits, 7, lambda v: tensor_of(values, v))
    assert blocks_needed(program, model.max_context) <= 7
    report = run_schedule(program, texts, max_context=model.max_context)
    report.check()
    assert report.rows >= 80
