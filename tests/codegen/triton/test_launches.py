"""How many launches a layer takes for one or two rows: counts by hand, from what each layer has.

Llama: qkv, cache write, attention, output, gate and up, down. What comes on top: norms of heads
(two), and norms behind a block, whose results are added to the residual and not multiplied.
"""

from __future__ import annotations

import pytest
from llmc.artifact.launch_counts import launch_counts, launches_per_layer
from planned_program import planned
from zoo import find

DENSE, HEAD_NORMS, NORMS_BEHIND = 6, 2, 2


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("llama", DENSE),
        ("qwen3", DENSE + HEAD_NORMS),
        ("gemma2", DENSE + NORMS_BEHIND),
        ("gemma3", DENSE + NORMS_BEHIND + HEAD_NORMS),
    ],
)
def test_launches_a_layer(name: str, most: int) -> None:
    plan = planned(find(name), "int4" if name == "llama" else "bf16").plan
    counts = launches_per_layer(plan, 0)
    assert {count for layer, count in counts.items() if layer} == {most}
    # With more rows, the norms in front of the two products are launched.
    more = launches_per_layer(plan, 1)
    assert {count for layer, count in more.items() if layer} == {most + 2}
    first = next(iter(launch_counts(plan)))
    assert first == f"up to 2 rows: {sum(counts.values())} launches a step, {most} a layer"
