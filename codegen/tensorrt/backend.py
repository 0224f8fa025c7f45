"""The trt target: one engine for the GPUs that were asked for, weights inside.

`--sm 80,89` names the compute capabilities. With TensorRT for RTX they need not be present, and
one engine serves all of them (see `engine.py`), so a compile has one level, named after them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...artifact.manifest import Limits
from ...artifact.targets import TrtCompileOptions, TrtProgramOptions
from ...base import machine
from ...base.errors import LlmcError
from ...ir.graph import Graph
from ...passes.features import FOREIGN_RUNTIME, Features
from ...passes.quantize import Scheme
from ...runtime.executors.tensorrt_gpu import device_sm
from ...runtime.executors.tensorrt_library import distribution, library
from ...weights.table import WeightTable
from ..contract import Build, Request, Requirements
from ..slot_program import SlotProgram
from .calibration import input_ranges
from .constants import Constants
from .emitters import check
from .engine import Options, build_engine, make_builder
from .network import make_network
from .precision import BUILDABLE, Precision, find_precision

EXECUTOR_PACKAGES = {"cuda-core": ">=1.0", "cuda-bindings": ">=13.0"}
NOT_RTX = {
    "90": "SM90 (H100, H200) isn't a GPU that TensorRT for RTX builds for",
    "100": "SM100 (B200) isn't a GPU that TensorRT for RTX builds for",
    "103": "SM103 (B300) isn't a GPU that TensorRT for RTX builds for",
}


@dataclass(frozen=True)
class CompiledTrt(SlotProgram):
    """A graph that TensorRT can do, and how it is to be built."""

    precision: Precision
    built_with: Options

    def options(self, level: str) -> TrtProgramOptions:
        """The GPUs that the engine is for, its library, and what the executor has to allocate."""
        name, version = distribution()
        return TrtProgramOptions(
            sms=list(self.built_with.sms),
            library=name,
            version=version,
            slot_length=self.limits.block_size,
            caches=self.caches,
            refit=self.built_with.refit,
        )

    def dumps(self) -> Mapping[str, str]:
        """The graph that becomes a network, whose weights are read only when it is built."""
        return {"graph.txt": str(self.graph)}

    def build(self, level: str, out: Path, build: Build) -> None:
        """Measure input ranges if the scheme needs them, make the network, build the engine.

        Raises:
            LlmcError: LLMC-E0720, TensorRT refuses; LLMC-E0408, a weight is not finite.
        """
        trt = library()
        ranges: dict[str, float] = {}
        if self.precision.calibrated:
            build.progress("measuring activations", 0.3)
            ranges = input_ranges(self.graph, build.values, build.sample())
        builder = make_builder(trt)
        build.progress("making the network", 0.4)
        network = make_network(
            trt, builder, self.graph, self.limits, self.precision, Constants(build.values), ranges
        )
        build_engine(
            trt,
            builder,
            network,
            self.caches,
            self.limits,
            self.built_with,
            out,
            stop=build.stop,
            progress=lambda share: build.progress("building the engine", 0.5 + 0.4 * share),
        )


@dataclass(frozen=True)
class ConfiguredTrt:
    """NVIDIA GPUs through TensorRT for RTX. The engine holds the weights."""

    precision: Precision
    sms: tuple[int, ...]
    refit: bool
    timing_cache: Path | None
    name: str = "trt"
    layout: None = None
    weights_entry: None = None
    suffix: str = ".engine"
    features: Features = FOREIGN_RUNTIME

    @property
    def scheme(self) -> Scheme:
        """f32, fp16, bf16, int8, int4 (symmetric) and fp8; see `precision.py`."""
        return self.precision.scheme

    @property
    def levels(self) -> tuple[str, ...]:
        """One level for all of the SMs, named after them: `sm86-89`."""
        return ("sm" + "-".join(map(str, self.sms)),)

    @property
    def tools(self) -> tuple[str, ...]:
        """The library that builds the engine."""
        return (distribution()[0],)

    def require_tools(self) -> None:
        """The library; and the one GPU of an engine to refit, whose weights kernels prepare.

        Raises:
            LlmcError: LLMC-E0703, no library; E0514, no GPU; E0202, several GPUs.
        """
        library()
        if self.refit and len(self.sms) > 1:
            raise LlmcError(
                "LLMC-E0202", "an engine to refit is for one GPU only", hint="name one with --sm"
            )
        if self.refit:
            device_sm()

    def requirements(self, level: str) -> Requirements:
        """Linux on x86-64 (what the builder ran on), the same library, and CUDA's packages."""
        name, version = distribution()
        return Requirements(
            machine.system(),
            machine.machine(),
            packages={name: f"=={version}", **EXECUTOR_PACKAGES},
        )

    def lower(self, graph: Graph, limits: Limits, weights: WeightTable | None) -> CompiledTrt:
        """Refuse what has no layers; the network is made with the weights.

        Raises:
            LlmcError: LLMC-E0401 naming an op that can't be done.
        """
        check(graph)
        options = Options(self.sms, self.refit, self.timing_cache)
        return CompiledTrt(graph, limits, self.precision, options)


class TrtBackend:
    """Levels are compute capabilities: `89`, `sm89` or `8.9`."""

    def configure(self, request: Request) -> ConfiguredTrt:
        """No SM asked for: all that the scheme runs on, but 75.

        (Turing has no f32 products, which routers of experts need, so it has to be asked for.)
        """
        options = request.options
        assert isinstance(options, TrtCompileOptions)
        precision = find_precision(request.scheme, request.kv_cache)
        words: Sequence[str] = request.levels
        if request.exact:
            words = [word for name in request.levels for word in name.split("-")]
        sms = tuple(dict.fromkeys(_sm(word, precision) for word in words))
        configured = ConfiguredTrt(
            precision,
            sms or tuple(sm for sm in precision.sms if sm != 75),
            options.refit,
            Path(options.timing_cache) if options.timing_cache else None,
        )
        if request.exact and configured.levels != request.levels:
            raise LlmcError(
                "LLMC-E0202",
                f"target trt has no levels {', '.join(request.levels)!r}",
                hint=f"the GPUs that they name are one level, {configured.levels[0]}",
            )
        return configured


def _sm(word: str, precision: Precision) -> int:
    """The number of `sm89`, `89` or `8.9`."""
    number = word.lower().removeprefix("sm").replace("_", "").replace(".", "")
    built = ", ".join(map(str, BUILDABLE))
    if number in NOT_RTX:
        raise LlmcError("LLMC-E0202", NOT_RTX[number], hint=f"it builds for {built}")
    if number not in map(str, BUILDABLE):
        raise LlmcError("LLMC-E0202", f"no GPU {word!r} to build for", hint=f"one of {built}")
    if int(number) not in precision.sms:
        able = ", ".join(map(str, precision.sms))
        name = precision.scheme.name
        raise LlmcError(
            "LLMC-E0231", f"SM{number} can't compute scheme {name!r}", hint=f"--sm {able}"
        )
    return int(number)


BACKEND = TrtBackend()
