"""The record of what the zoo's kernels take on each GPU: complete, within bounds, and true.

A kernel that isn't in the record was changed since: run `zoo_cubins.py --record` (its docstring).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from llmc.artifact.launch_plan import NO_KERNEL, Launch, parameter_layout
from llmc.codegen.triton.cubins import compile_kernel
from llmc.codegen.triton.kernel_spec import KernelSpec
from llmc.codegen.triton.machines import MACHINES
from llmc.codegen.triton.plan import MachinePlan
from planned_program import lowered
from zoo import find

sys.path.insert(0, str(Path(__file__).parent))
from zoo_cubins import SMS, Facts, facts_of, key_of, read_record

SAMPLE = (("llama", "bf16", None), ("gemma2", "bf16", None), ("qwen3-moe", "int4", "int8"))
MOST_SPILLS = 8
"""Bytes of a thread that don't fit into registers: one such value, in a kernel that a step with
draws runs once (`sampling.report_rows`)."""
FRESH = ("embedding.embedding_rows", "argmax.argmax_rows", "experts.combine_experts")
"""Kernels that take little to compile."""


@pytest.fixture(scope="module")
def record() -> dict[str, Facts]:
    return read_record()


def launches(plan: MachinePlan) -> Iterator[tuple[Launch, KernelSpec]]:
    """Every launch with each of the kernels that it may take."""
    for launch in (*plan.plan.launches, *plan.plan.sampling):
        for number in {form.kernel for form in launch.forms} - {NO_KERNEL}:
            yield launch, plan.specs[number]


@pytest.mark.parametrize(("family", "scheme", "cache"), SAMPLE)
def test_every_kernel_is_recorded(
    family: str, scheme: str, cache: str | None, record: dict[str, Facts]
) -> None:
    compiled = lowered(find(family), scheme, cache, levels=tuple(map(str, SMS))).compiled
    for sm in SMS:
        for launch, spec in launches(compiled.plans[f"sm{sm}"]):
            facts = record.get(key_of(spec, sm))
            assert facts is not None, f"{spec.label} for SM{sm} isn't in the record"
            assert (facts.kernel, facts.sm) == (spec.label, sm)
            assert facts.parameter_bytes == parameter_layout(launch.arguments).size
            assert facts.shared <= MACHINES[sm].shared_bytes
            assert 0 < facts.registers <= 255
            assert facts.registers * spec.num_warps * 32 <= 65536


def test_nothing_spills(record: dict[str, Facts]) -> None:
    assert {facts.sm for facts in record.values()} == {*SMS}
    worst = max(record.values(), key=lambda facts: facts.spill_bytes)
    assert worst.spill_bytes <= MOST_SPILLS, worst


def test_the_record_is_what_a_compile_gives(record: dict[str, Facts]) -> None:
    family, scheme, cache = SAMPLE[-1]
    specs = lowered(find(family), scheme, cache).compiled.plans["sm90"].specs
    for label in FRESH:
        spec = next(spec for spec in specs if spec.label == label)
        assert facts_of(spec, compile_kernel(spec, 90)) == record[key_of(spec, 90)]
