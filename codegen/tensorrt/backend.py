"""The trt target: one engine for the GPUs that were asked for, weights inside.

`--sm 80,89` names the compute capabilities. With TensorRT for RTX they need not be present, and
one engine serves all of them (see `engine.py`), so a compile has one level, named after them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...artifact.manifest import CacheGroup, Limits, MemoryPlan
from ...base import machine
from ...base.errors import LlmcError
from ...ir.graph import Graph
from ...ir.ops import Op
from ...ir.states import cache_groups
from ...passes.features import FOREIGN_RUNTIME
from ...passes.quantize import Scheme
from ...runtime.executors.tensorrt_gpu import device_sm
from ...runtime.executors.tensorrt_library import distribution, is_rtx, library
from ...weights.table import WeightTable
from ..backend import Build, Option, Requirements
from .calibration import input_ranges
from .constants import Constants
from .emitters import check, supports
from .engine import Options, build_engine, make_builder
from .network import cache_inputs, make_network
from .precision import BUILDABLE, Precision, find_precision

EXECUTOR_PACKAGES = {"cuda-core": ">=1.0", "cuda-bindings": ">=13.0"}
NOT_RTX = {
    "90": "SM90 (H100, H200) isn't a GPU that TensorRT for RTX builds for",
    "100": "SM100 (B200) isn't a GPU that TensorRT for RTX builds for",
    "103": "SM103 (B300) isn't a GPU that TensorRT for RTX builds for",
}


@dataclass(frozen=True)
class TrtProgram:
    """A graph that TensorRT can do, and how it is to be built."""

    graph: Graph
    limits: Limits
    precision: Precision
    options_: Options

    @property
    def cache_groups(self) -> list[CacheGroup]:
        return cache_groups(self.graph, self.limits.block_size)

    @property
    def memory_plan(self) -> MemoryPlan:
        """None of ours: the engine says what it needs when it is loaded."""
        return MemoryPlan(arena_bytes=0, buffers=[])

    @property
    def vocab_size(self) -> int:
        vocab = self.graph.outputs[0].type.shape[-1]
        assert isinstance(vocab, int)
        return vocab

    def options(self, level: str) -> Mapping[str, Option]:
        """The GPUs that the engine is for, its library, and what the executor has to allocate."""
        caches = cache_inputs(self.graph)
        return {
            "sms": ",".join(map(str, self.options_.sms)),
            "library": distribution()[0],
            "version": distribution()[1],
            "slot_length": self.limits.block_size,
            "caches": ",".join(f"{n}:{d.value}:{h}:{w}" for n, d, h, w in caches),
            "refit": self.options_.refit,
        }

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
            cache_inputs(self.graph),
            self.limits,
            self.options_,
            out,
            stop=build.stop,
            progress=lambda share: build.progress("building the engine", 0.5 + 0.4 * share),
        )


class TrtBackend:
    """NVIDIA GPUs through TensorRT."""

    name = "trt"
    features = FOREIGN_RUNTIME
    suffix = ".engine"

    def __init__(self, *, refit: bool = False, timing_cache: str = "") -> None:
        self._refit = refit
        self._timing_cache = Path(timing_cache) if timing_cache else None
        self._precision: Precision | None = None
        self._sms: tuple[int, ...] = ()

    @property
    def tools(self) -> tuple[str, ...]:
        return (distribution()[0],)

    def scheme(self, name: str, kv_cache: str | None) -> Scheme:
        """f32, fp16, bf16, int8, int4 (symmetric) and fp8; see `precision.py`."""
        self._precision = find_precision(name, kv_cache)
        return self._precision.scheme

    def layout(self, scheme: Scheme) -> None:
        """None: the engine holds the weights."""
        return

    def resolve_levels(self, words: Sequence[str]) -> tuple[str, ...]:
        """One level for all of the asked SMs; none asked: all that the scheme runs on, but 75.

        (Turing has no f32 products, which routers of experts need, so it has to be asked for.)
        """
        can = self._precision.sms if self._precision is not None else BUILDABLE
        if not words:
            self._sms = tuple(sm for sm in can if sm != 75)
        else:
            self._sms = tuple(dict.fromkeys(self._sm(word) for word in words))
        return ("sm" + "-".join(map(str, self._sms)),)

    def exact_levels(self, names: Sequence[str]) -> tuple[str, ...]:
        """A level's own name lists its SMs: "sm86-89". An engine is for all of them."""
        levels = self.resolve_levels([word for name in names for word in name.split("-")])
        if list(levels) != list(names):
            raise LlmcError(
                "LLMC-E0202",
                f"target trt has no levels {', '.join(names)!r}",
                hint=f"the GPUs that they name are one level, {levels[0]}",
            )
        return levels

    def _sm(self, word: str) -> int:
        """The number of `sm89`, `89` or `8.9`."""
        number = word.lower().removeprefix("sm").replace("_", "").replace(".", "")
        built = ", ".join(map(str, BUILDABLE))
        if number in NOT_RTX:
            raise LlmcError("LLMC-E0202", NOT_RTX[number], hint=f"it builds for {built}")
        if number not in map(str, BUILDABLE):
            raise LlmcError("LLMC-E0202", f"no GPU {word!r} to build for", hint=f"one of {built}")
        sm = int(number)
        if self._precision is not None and sm not in self._precision.sms:
            name = self._precision.scheme.name
            able = ", ".join(map(str, self._precision.sms))
            raise LlmcError(
                "LLMC-E0231", f"SM{sm} can't compute scheme {name!r}", hint=f"--sm {able}"
            )
        return sm

    def require_tools(self) -> None:
        """A TensorRT library; the datacenter one builds only for the GPU that it finds.

        Raises:
            LlmcError: LLMC-E0703, no library; E0514, no GPU where the build needs one.
        """
        if not is_rtx(library()):
            self._require_own_gpu()
        elif self._refit and len(self._sms) > 1:
            raise LlmcError(
                "LLMC-E0202", "an engine to refit is for one GPU only", hint="name one with --sm"
            )
        elif self._refit:
            device_sm()  # weights are prepared by kernels that are compiled and run at build time

    def _require_own_gpu(self) -> None:
        sm = device_sm()
        if self._sms != (sm,):
            raise LlmcError(
                "LLMC-E0202",
                f"this TensorRT builds for the GPU at hand, SM{sm}, not for {self._sms}",
                hint=f"--sm {sm}, or install tensorrt-rtx",
            )

    def requirements(self, level: str) -> Requirements:
        """Linux on x86-64 (what the builder ran on), the same library, and CUDA's packages."""
        name, version = distribution()
        return Requirements(
            machine.system(),
            machine.machine(),
            packages={name: f"=={version}", **EXECUTOR_PACKAGES},
        )

    def supports(self, op: Op) -> bool:
        """Whether some use of `op` has layers."""
        return supports(op)

    def lower(self, graph: Graph, limits: Limits, weights: WeightTable | None) -> TrtProgram:
        """Refuse what has no layers; the network is made with the weights.

        Raises:
            LlmcError: LLMC-E0401 naming an op that can't be done.
        """
        assert self._precision is not None
        check(graph)
        options = Options(self._sms, self._refit, self._timing_cache)
        return TrtProgram(graph, limits, self._precision, options)
