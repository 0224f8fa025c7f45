"""The onnx target: one model for ONNX Runtime's execution providers, or for any other runtime.

Dialects: `ort` (default) has ONNX Runtime's own operators where they are faster, `standard` has
operators of ONNX alone. Levels are execution providers; the model is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ...artifact.manifest import CacheGroup, Limits, MemoryPlan
from ...base.errors import LlmcError
from ...ir.graph import Graph
from ...ir.ops import Op
from ...ir.states import cache_groups
from ...ir.types import DType
from ...passes.features import FOREIGN_RUNTIME
from ...passes.quantize import Scheme, find_scheme
from ...weights.row_layout import RowLayout
from ...weights.table import WeightTable
from ..backend import Build, Option, Requirements, known_levels

if TYPE_CHECKING:
    import onnx_ir

DIALECTS = ("ort", "standard")
PROVIDERS = ("cuda", "cpu")
"""Those that a machine rather has first: the runtime takes the first one that it can run."""
_RUNTIME = {"onnxruntime|onnxruntime-gpu": ">=1.32"}
"""The version that the operators of opset 24 were tested with."""
_BLOCKS = (DType.I8B, DType.I4S, DType.I4A)
_SCHEMES: dict[str, Scheme] = {
    s.name: s
    for s in (
        Scheme("f32", DType.F32, DType.F32, DType.F32),
        Scheme("bf16", DType.BF16, DType.BF16, DType.F32),
        Scheme("fp16", DType.F16, DType.F16, DType.F16),
        Scheme("int8", DType.I8B, DType.I8B, DType.F32, holds=(DType.I8B,)),
        Scheme("int4", DType.I4A, DType.I8B, DType.F32, holds=_BLOCKS),
        Scheme("int4-sym", DType.I4S, DType.I8B, DType.F32, holds=_BLOCKS),
    )
}
"""Formats of weights, of the head and of the cache, which is in the precision of the arithmetic."""
_CACHES = {"f32": DType.F32, "fp16": DType.F16}


@dataclass(frozen=True, slots=True)
class OnnxProgram:
    """A model, and what the manifest says about it. Its runtime plans the memory by itself."""

    model: onnx_ir.Model
    dialect: str
    precision: DType
    limits: Limits
    cache_groups: list[CacheGroup]
    vocab_size: int

    @property
    def memory_plan(self) -> MemoryPlan:
        """None of ours."""
        return MemoryPlan(arena_bytes=0, buffers=[])

    def options(self, level: str) -> Mapping[str, Option]:
        """Which provider runs the model, and in what it computes."""
        return {"dialect": self.dialect, "precision": self.precision.value, "provider": level}

    def build(self, level: str, out: Path, build: Build) -> None:
        """Write the protobuf; weights are beside it."""
        from .program import serialized

        partial = out.with_name(f"{out.name}.partial")
        partial.write_bytes(serialized(self.model))
        partial.replace(out)


class OnnxBackend:
    """Models in ONNX's opset 24, in one of two dialects.

    What needs `onnx_ir` is imported where it is used, so that `require_tools` can miss it.
    """

    name = "onnx"
    features = FOREIGN_RUNTIME
    suffix = ".onnx"
    tools = ("onnx-ir", "onnx")

    def __init__(self, dialect: str = "ort") -> None:
        """
        Raises:
            LlmcError: LLMC-E0205, there is no such dialect.
        """
        if dialect not in DIALECTS:
            names = " or ".join(DIALECTS)
            raise LlmcError("LLMC-E0205", f"unknown ONNX dialect {dialect!r}", f"use {names}")
        self.dialect = dialect

    def scheme(self, name: str, kv_cache: str | None) -> Scheme:
        """ONNX Runtime has no arithmetic on caches in other types than the activations'."""
        scheme = find_scheme(name, target=self.name, schemes=_SCHEMES)
        asked = find_scheme(name, kv_cache, target=self.name, schemes=_SCHEMES, caches=_CACHES)
        if asked.cache is not scheme.cache:
            raise LlmcError(
                "LLMC-E0231",
                f"target onnx keeps no {kv_cache} cache beside {name} weights",
                "leave --kv-cache out",
            )
        return scheme

    def layout(self, scheme: Scheme) -> RowLayout:
        """Signed codes are ONNX's own, unsigned ones what ONNX Runtime multiplies with."""
        return RowLayout(unsigned=self.dialect == "ort")

    def resolve_levels(self, words: Sequence[str]) -> tuple[str, ...]:
        """Execution providers; the CPU's if none is named."""
        for word in words:
            if word not in PROVIDERS:
                raise LlmcError(
                    "LLMC-E0202",
                    f"unknown execution provider {word!r}",
                    f"use one of {', '.join(PROVIDERS)}",
                )
        return tuple(name for name in PROVIDERS if name in words) or ("cpu",)

    def exact_levels(self, names: Sequence[str]) -> tuple[str, ...]:
        """Levels are providers, under their names."""
        return known_levels(self.name, names, PROVIDERS)

    def require_tools(self) -> None:
        """Emitting needs onnx-ir and onnx."""
        missing = [name for name in ("onnx", "onnx_ir") if find_spec(name) is None]
        if missing:
            raise LlmcError(
                "LLMC-E0703",
                f"the onnx target needs {missing[0].replace('_', '-')}, which isn't installed",
                "pip install 'llmc-compiler[onnx]'",
            )

    def requirements(self, level: str) -> Requirements:
        """ONNX Runtime, on any machine; whether it has the provider, its executor asks it."""
        return Requirements("any", "any", packages=_RUNTIME)

    def supports(self, op: Op) -> bool:
        """Whether some use of `op` can be emitted; `lower` decides about the use at hand."""
        from .emitters import supports

        return supports(op, self.dialect)

    def lower(self, graph: Graph, limits: Limits, weights: WeightTable | None) -> OnnxProgram:
        """Make the model of a graph of slots.

        Raises:
            LlmcError: LLMC-E0401 an op that can't be done.
        """
        from .program import make_model

        assert weights is not None
        half = any(value.type.dtype is DType.F16 for value in graph.state_inputs)
        precision = DType.F16 if half else DType.F32
        vocab = graph.outputs[0].type.shape[-1]
        assert isinstance(vocab, int)
        return OnnxProgram(
            make_model(graph, limits, weights, self.dialect, precision),
            self.dialect,
            precision,
            limits,
            cache_groups(graph, limits.block_size),
            vocab,
        )
