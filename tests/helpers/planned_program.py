"""A zoo model as a program of the triton target, on a fake GPU: as compiled, without files.

In: a family, a scheme. Out: the executor that serving has, over a GPU whose kernels are the ops'
references (or whatever `bind` gives).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from configured import configured
from fake_gpu import Bind, FakeGpu
from llmc.artifact.launch_plan import LaunchPlan
from llmc.artifact.manifest import Limits, Variant
from llmc.artifact.targets import TritonProgramOptions
from llmc.codegen.triton.backend import CompiledTriton
from llmc.compiler.frontend.lower import lower_model, own_tensors
from llmc.compiler.frontend.probe import StateReader
from llmc.ir.ops import CACHE_BLOCK
from llmc.models.eager import fix_rope
from llmc.runtime.executors.triton import TritonExecutor
from llmc.weights.stream import WeightStream
from llmc.weights.table import WeightTable
from reference_launches import ReferenceLaunches, reference_plan
from tiny_model import ZooModel
from transformers import PreTrainedModel

LEVEL = "sm90"


@dataclass
class Planned:
    """A model that is lowered, and the bytes of its weights."""

    compiled: CompiledTriton
    table: WeightTable
    weights: memoryview

    @property
    def plan(self) -> LaunchPlan:
        return self.compiled.plans[LEVEL].plan

    def variant(self, plan: LaunchPlan) -> Variant:
        """What a manifest would say."""
        compiled = self.compiled
        return Variant(
            target="triton",
            level=LEVEL,
            options=TritonProgramOptions(plan=plan),
            program="program",
            weights="weights",
            limits=compiled.limits,
            cache_groups=compiled.cache_groups,
            memory_plan=compiled.memory_plan,
            vocab_size=compiled.vocab_size,
        )

    def by_references(self, blocks: int, *, seed: int | None = None) -> TritonExecutor:
        """An executor whose kernels are the ops' references."""
        plan, entry = reference_plan(self.plan)
        launches = ReferenceLaunches(self.compiled.generated, plan)
        return self.executor(plan, entry, launches.bind, blocks, seed=seed)

    def by_kernels(self, blocks: int, *, seed: int | None = None) -> TritonExecutor:
        """An executor whose kernels are the plan's own, under Triton's interpreter."""
        from interpreted_launches import InterpretedLaunches

        sizes = [group.bytes_per_block for group in self.compiled.cache_groups]
        launches = InterpretedLaunches(self.compiled.plans[LEVEL], sizes)
        return self.executor(launches.plan, launches.entry, launches.bind, blocks, seed=seed)

    def executor(
        self, plan: LaunchPlan, entry: bytes, bind: Bind, blocks: int, *, seed: int | None = None
    ) -> TritonExecutor:
        """An executor of a plan on a fake GPU."""
        groups = len(self.compiled.cache_groups)
        return TritonExecutor(
            self.variant(plan),
            entry,
            self.weights,
            gpu=FakeGpu(bind, seed=seed),
            cache_blocks=(blocks,) * groups,
        )


@dataclass
class Lowered:
    """A model's launches, and which weights they want."""

    compiled: CompiledTriton
    table: WeightTable


def lowered(
    model: ZooModel,
    scheme: str = "f32",
    kv_cache: str | None = None,
    *,
    levels: tuple[str, ...] = ("90",),
    max_tokens: int = 512,
    max_sequences: int = 8,
    max_logits_rows: int = 64,
    **options: Any,
) -> Lowered:
    """Lower `model` for the triton target: `levels` by name (`90`); `options`: the target's."""
    target = configured("triton", scheme, kv_cache, levels=levels, **options)
    context = model.max_context
    graph = lower_model(
        model.configuration(), context, own_tensors, target.scheme, target.features
    ).graph
    limits = Limits(
        max_tokens=max_tokens,
        max_sequences=max_sequences,
        max_context=context,
        max_logits_rows=max_logits_rows,
        block_size=CACHE_BLOCK,
    )
    table = WeightTable(target.layout)
    return Lowered(target.lower(graph, limits, table), table)


def planned(
    model: ZooModel,
    scheme: str = "f32",
    kv_cache: str | None = None,
    *,
    build: Callable[[], PreTrainedModel] | None = None,
    **options: Any,
) -> Planned:
    """Lower `model` for the triton target, and pack its weights. `options`: those of `lowered`."""
    found = lowered(model, scheme, kv_cache, **options)
    context, table = model.max_context, found.table
    eager = fix_rope((build or model.build)(), context)
    stream = WeightStream(table.tensors, table.nbytes)
    out = io.BytesIO()
    stream.write(out, StateReader(eager.state_dict()), table.layout)
    data = out.getbuffer()[stream.size - stream.data_bytes :]
    return Planned(found.compiled, table, data)
