"""Every zoo family as a launch plan, on a fake GPU that finishes late, against eager.

Kernels are the ops' references: what is tested is the plan (offsets, strides, element types, the
order of launches, memory that is used again) and the executor (packing, padding, graphs, copies).
"""

import pytest
from llmc.base.errors import LlmcError
from llmc.models.conformance import blocks_needed, run_schedule
from llmc.models.eager import fix_rope, reference_texts
from planned_program import planned
from tiny_model import ZooModel
from zoo import ZOO, find

BLOCKS = 11


OTHER_WIDTHS = ("deepseek-v3",)
"""Keys and values of different widths, which the cache kernels of this target don't have."""


@pytest.mark.parametrize("name", OTHER_WIDTHS)
def test_is_refused(name: str) -> None:
    with pytest.raises(LlmcError, match="cache_write") as caught:
        planned(find(name))
    assert caught.value.id == "LLMC-E0401"


@pytest.mark.parametrize(
    "model", [m for m in ZOO if m.name not in OTHER_WIDTHS], ids=lambda model: model.name
)
def test_conforms(model: ZooModel) -> None:
    texts = reference_texts(fix_rope(model.build(), model.max_context), model.max_context)
    program = planned(model).by_references(BLOCKS, seed=1)
    assert blocks_needed(program, model.max_context) <= BLOCKS
    report = run_schedule(program, texts, max_context=model.max_context)
    program.close()
    report.check()
    assert report.rows >= 80
