"""From a network to engine bytes: profiles, flags, timing cache, progress, one line of error.

Two optimization profiles, chosen by the runtime run by run:

0. *decode*: any number of slots, one token each;
1. *prefill*: one slot, up to `max_tokens` tokens. A chunk has rows enough to fill a GPU, and with
   one slot there is no padding.

Building needs no GPU with TensorRT for RTX: the engine holds intermediate code for all of the
asked compute capabilities together, and kernels are compiled for the device when it is loaded. An
engine for six of them is a few bytes larger than one for one, so all SMs of a compile share one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from ...artifact.manifest import Limits
from ...artifact.targets import CacheInput
from ...base.errors import LlmcError
from ...runtime.executors.tensorrt_library import MESSAGES, logger, readable
from .network import Network

DECODE, PREFILL = 0, 1
Caches = Sequence[CacheInput]


@dataclass(frozen=True)
class Options:
    """What a user may say about a build.

    `refit`: weights, under their checkpoint's names, can be replaced in the engine by TensorRT's
    refitter; building that needs a GPU, also with TensorRT for RTX. `timing_cache`: a file of what
    the builder measured; read if it is there, and written. TensorRT for RTX takes one, but measures
    nothing when it builds.
    """

    sms: tuple[int, ...]
    refit: bool = False
    timing_cache: Path | None = None


def make_builder(trt: Any) -> Any:
    """A builder that reports to `MESSAGES`."""
    MESSAGES.take()
    return trt.Builder(logger())


def build_engine(
    trt: Any,
    builder: Any,
    network: Network,
    caches: Caches,
    limits: Limits,
    options: Options,
    out: Path,
    stop: Event | None = None,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Build and write the engine to `out` (complete or not at all).

    Raises:
        LlmcError: LLMC-E0720, what TensorRT can't build and the layer that it names.
    """
    config = builder.create_builder_config()
    _set_devices(trt, config, options.sms)
    _set_flags(trt, config, options)
    for profile in _profiles(builder, caches, limits):
        if config.add_optimization_profile(profile) < 0:
            raise LlmcError("LLMC-E0720", f"TensorRT refuses a profile: {_first_error()}")
    timing = _load_timing(config, options.timing_cache)
    monitor = _monitor(trt, stop, progress)
    config.progress_monitor = monitor
    engine = builder.build_serialized_network(network.definition, config)
    if stop is not None and stop.is_set():
        raise LlmcError("LLMC-E0101", "the build was stopped")
    if engine is None:
        raise LlmcError("LLMC-E0720", f"TensorRT can't build this: {_first_error()}")
    part = out.with_name(out.name + ".part")
    with part.open("wb") as file:
        file.write(memoryview(engine))
    part.replace(out)
    _keep_timing(timing, options.timing_cache)


def _first_error() -> str:
    return readable(MESSAGES.take()[0])


def _set_devices(trt: Any, config: Any, sms: Sequence[int]) -> None:
    """The compute capabilities to build for."""
    config.num_compute_capabilities = len(sms)
    for index, sm in enumerate(sms):
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), index)


def _set_flags(trt: Any, config: Any, options: Options) -> None:
    """f32 means f32; names of layers stay in the engine, for profilers."""
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.refit:
        config.set_flag(trt.BuilderFlag.REFIT)


def _profiles(builder: Any, caches: Caches, limits: Limits) -> list[Any]:
    """Decode and prefill, by their number."""
    sequences, tokens, rows = limits.max_sequences, limits.max_tokens, limits.max_logits_rows
    decode = builder.create_optimization_profile()
    _set_shapes(decode, caches, limits, (1, sequences, sequences), (1, 1, 1), sequences)
    prefill = builder.create_optimization_profile()
    _set_shapes(prefill, caches, limits, (1, 1, 1), (1, tokens, tokens), rows)
    return [decode, prefill]


def _set_shapes(
    profile: Any, caches: Caches, limits: Limits, slots: tuple, query: tuple, rows: int
) -> None:
    """Least, most likely and largest number of slots, query tokens and rows of logits."""
    runs = list(zip(slots, query, strict=True))
    for name in ("token_ids", "positions"):
        profile.set_shape(name, *runs)
    profile.set_shape("start", *((s,) for s in slots))
    profile.set_shape("logits_rows", (1,), (slots[1],), (rows,))
    for cache in caches:
        shapes = ((s, cache.heads, limits.block_size, cache.width) for s in slots)
        profile.set_shape(cache.name, *shapes)


def _load_timing(config: Any, path: Path | None) -> Any:
    if path is None:
        return None
    known = path.read_bytes() if path.is_file() else b""
    timing = config.create_timing_cache(known)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # without effect with TensorRT for RTX
        accepted = timing is not None and config.set_timing_cache(timing, False)
    if not accepted:
        raise LlmcError("LLMC-E0720", f"{path} is no timing cache: {_first_error()}")
    return timing


def _keep_timing(timing: Any, path: Path | None) -> None:
    if timing is not None and path is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            path.write_bytes(bytes(memoryview(timing.serialize())))


def _monitor(trt: Any, stop: Event | None, progress: Callable[[float], None] | None) -> Any:
    """Counts the steps of the outermost phase; `step_complete` returning False ends the build."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self.steps[phase] = max(steps, 1)

        def step_complete(self, phase: str, step: int) -> bool:
            if progress is not None and phase in self.steps:
                progress(min(1.0, (step + 1) / self.steps[phase]))
            return stop is None or not stop.is_set()

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

    return Monitor()
