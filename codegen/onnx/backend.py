"""The onnx target: one model for ONNX Runtime's execution providers, or for any other runtime.

Dialects: `ort` (default) has ONNX Runtime's own operators where they are faster, `standard` has
operators of ONNX alone. Levels are execution providers; the model is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ...artifact.manifest import Limits
from ...artifact.targets import TARGETS, OnnxCompileOptions, OnnxProgramOptions
from ...base.errors import LlmcError
from ...ir.graph import Graph
from ...ir.types import DType
from ...passes.features import FOREIGN_RUNTIME, Features
from ...passes.quantize import BLOCK_FORMATS, Scheme, find_scheme
from ...weights.row_layout import RowLayout
from ...weights.table import WeightTable
from ..contract import Build, Request, Requirements, known_levels
from ..slot_program import SlotProgram

if TYPE_CHECKING:
    import onnx_ir

PROVIDERS = ("cuda", "cpu")
"""Those that a machine rather has first: the runtime takes the first one that it can run."""
_RUNTIME = {"onnxruntime|onnxruntime-gpu": ">=1.31"}
"""The versions that the operators of opset 24 were tested with; the build for GPUs is behind."""
_SCHEMES: dict[str, Scheme] = {
    s.name: s
    for s in (
        Scheme("f32", DType.F32, DType.F32, DType.F32),
        Scheme("bf16", DType.BF16, DType.BF16, DType.F32),
        Scheme("fp16", DType.F16, DType.F16, DType.F16),
        Scheme("int8", DType.I8B, DType.I8B, DType.F32, holds=(DType.I8B,)),
        Scheme("int4", DType.I4A, DType.I8B, DType.F32, holds=BLOCK_FORMATS),
        Scheme("int4-sym", DType.I4S, DType.I8B, DType.F32, holds=BLOCK_FORMATS),
    )
}
"""Formats of weights, of the head and of the cache, which is in the precision of the arithmetic."""
_CACHES = {"f32": DType.F32, "fp16": DType.F16}


@dataclass(frozen=True)
class CompiledOnnx(SlotProgram):
    """A model, in a dialect, and what it computes in."""

    model: onnx_ir.Model
    dialect: Literal["ort", "standard"]
    precision: DType

    def options(self, level: str) -> OnnxProgramOptions:
        """Which provider runs the model, and in what it computes."""
        half = self.precision is DType.F16
        return OnnxProgramOptions(
            dialect=self.dialect,
            precision="f16" if half else "f32",
            provider="cuda" if level == "cuda" else "cpu",
            caches=self.caches,
        )

    def dumps(self) -> Mapping[str, str]:
        """The model as ONNX's own text."""
        from onnx import ModelProto, printer

        from .program import serialized

        return {"model.onnx.txt": printer.to_text(ModelProto.FromString(serialized(self.model)))}

    def build(self, level: str, out: Path, build: Build) -> None:
        """Write the protobuf; weights are beside it."""
        from .program import serialized

        partial = out.with_name(f"{out.name}.partial")
        partial.write_bytes(serialized(self.model))
        partial.replace(out)


@dataclass(frozen=True)
class ConfiguredOnnx:
    """Models in ONNX's opset 24, in one of two dialects.

    What needs `onnx_ir` is imported where it is used, so that `require_tools` can miss it.
    """

    scheme: Scheme
    levels: tuple[str, ...]
    dialect: Literal["ort", "standard"]
    name: str = "onnx"
    suffix: str = ".onnx"
    tools: tuple[str, ...] = ("onnx-ir", "onnx")
    features: Features = FOREIGN_RUNTIME

    @property
    def layout(self) -> RowLayout:
        """Signed codes are ONNX's own, unsigned ones what ONNX Runtime multiplies with."""
        return RowLayout(unsigned=self.dialect == "ort")

    @property
    def weights_entry(self) -> str:
        """Shared by all targets with this layout."""
        return f"weights/{self.layout.name}.safetensors"

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

    def lower(self, graph: Graph, limits: Limits, weights: WeightTable | None) -> CompiledOnnx:
        """Make the model of a graph of slots.

        Raises:
            LlmcError: LLMC-E0401 an op that can't be done.
        """
        from .program import make_model

        assert weights is not None
        half = any(value.type.dtype is DType.F16 for value in graph.state_inputs)
        precision = DType.F16 if half else DType.F32
        model = make_model(graph, limits, weights, self.dialect, precision)
        return CompiledOnnx(graph, limits, model, self.dialect, precision)


class OnnxBackend:
    """Levels are execution providers; the CPU's if none is named."""

    def configure(self, request: Request) -> ConfiguredOnnx:
        """ONNX Runtime has no arithmetic on caches in other types than the activations'."""
        options = request.options
        assert isinstance(options, OnnxCompileOptions)
        levels = known_levels("onnx", request.levels, TARGETS["onnx"].levels)
        if not request.exact:
            levels = tuple(name for name in PROVIDERS if name in levels) or ("cpu",)
        return ConfiguredOnnx(_scheme(request), levels, options.dialect)


def _scheme(request: Request) -> Scheme:
    scheme = find_scheme(request.scheme, target="onnx", schemes=_SCHEMES)
    asked = find_scheme(
        request.scheme, request.kv_cache, target="onnx", schemes=_SCHEMES, caches=_CACHES
    )
    if asked.cache is not scheme.cache:
        raise LlmcError(
            "LLMC-E0231",
            f"target onnx keeps no {request.kv_cache} cache beside {request.scheme} weights",
            "leave --kv-cache out",
        )
    return scheme.as_stored() if request.as_stored else scheme


BACKEND = OnnxBackend()
