"""A `Gpu` without a GPU: host memory behind addresses, and the network interpreter as the engine.

With it the executor of `trt` runs as on a device: the same blocks of inputs, profiles, addresses
and slots. Runs outside of a profile's shapes and addresses outside of what was allocated fail.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from llmc.artifact.manifest import Limits, Variant
from llmc.codegen.tensorrt.backend import CompiledTrt as Lowered
from llmc.codegen.tensorrt.constants import Constants
from llmc.codegen.tensorrt.engine import make_builder
from llmc.codegen.tensorrt.network import CACHE_OUT, Network, make_network
from llmc.runtime.executors.tensorrt import TensorRtExecutor
from llmc.runtime.executors.tensorrt_engine import DECODE
from llmc.runtime.executors.tensorrt_library import library
from llmc.weights.values import RecipeValues
from network_interpreter import NetworkInterpreter


def interpreted_program(
    lowered: Lowered, values: RecipeValues, ranges: dict[str, float], slots: int
) -> TensorRtExecutor:
    """The executor on the network that `lowered` would build an engine from."""
    trt: Any = library()
    builder = make_builder(trt)
    network = make_network(
        trt, builder, lowered.graph, lowered.limits, lowered.precision, Constants(values), ranges
    )
    gpu = InterpretedGpu(trt, builder, network, lowered.limits)
    return TensorRtExecutor(variant_of(lowered), gpu, slots=slots)


def variant_of(lowered: Lowered) -> Variant:
    """What the manifest says of a program."""
    return Variant(
        target="trt",
        level="sm80",
        options=lowered.options("sm80"),
        program="programs/trt/sm80.engine",
        weights=None,
        limits=lowered.limits,
        cache_groups=lowered.cache_groups,
        memory_plan=lowered.memory_plan,
        vocab_size=lowered.vocab_size,
    )


class InterpretedGpu:
    """Host memory and an interpreter."""

    def __init__(self, trt: Any, builder: Any, network: Network, limits: Limits) -> None:
        definition = network.definition
        self._alive = builder, network
        self._limits = limits
        self._interpreter = NetworkInterpreter(trt, definition, network.net.held)
        inputs = [definition.get_input(i) for i in range(definition.num_inputs)]
        self._types = {t.name: self._interpreter.dtype[t.dtype] for t in inputs}
        self._memory: list[np.ndarray] = []
        self.runs: list[tuple[int, int, int]] = []
        """(profile, slots, query tokens) of every run."""

    def allocate(self, nbytes: int) -> int:
        self._memory.append(np.zeros(nbytes, np.uint8))
        return self._memory[-1].ctypes.data

    def _at(self, address: int, nbytes: int) -> np.ndarray:
        for memory in self._memory:
            offset = address - memory.ctypes.data
            if 0 <= offset <= offset + nbytes <= memory.nbytes:
                return memory[offset : offset + nbytes]
        raise AssertionError(f"{nbytes} bytes at {address:#x} were never allocated")

    def upload(self, address: int, data: bytes) -> None:
        self._at(address, len(data))[:] = np.frombuffer(data, np.uint8)

    def download(self, address: int, nbytes: int) -> memoryview:
        return memoryview(self._at(address, nbytes).tobytes())

    def copy(self, target: int, source: int, nbytes: int) -> None:
        self._at(target, nbytes)[:] = self._at(source, nbytes)

    def execute(self, profile: int, shapes: dict[str, tuple[int, ...]], at: dict[str, int]) -> None:
        slots, query = shapes["token_ids"]
        self._check_profile(profile, slots, query, shapes["logits_rows"][0])
        self.runs.append((profile, slots, query))
        tensors = {name: self._view(name, shape, at[name]) for name, shape in shapes.items()}
        with torch.no_grad():
            outputs = self._interpreter.run(tensors)
        logits = outputs.pop("logits").contiguous().numpy().reshape(-1).view(np.uint8)
        self._at(at["logits"], logits.nbytes)[:] = logits
        for name, tensor in outputs.items():
            assert name.endswith(CACHE_OUT)
            assert tensor.data_ptr() == at[name] == at[name.removesuffix(CACHE_OUT)]

    def _check_profile(self, profile: int, slots: int, query: int, rows: int) -> None:
        limits = self._limits
        most = (limits.max_sequences, 1) if profile == DECODE else (1, limits.max_tokens)
        assert 1 <= slots <= most[0]
        assert 1 <= query <= most[1]
        assert 1 <= rows <= (limits.max_sequences if profile == DECODE else limits.max_logits_rows)

    def _view(self, name: str, shape: tuple[int, ...], address: int) -> torch.Tensor:
        dtype = self._types[name]
        nbytes = int(np.prod(shape)) * dtype.itemsize
        return torch.from_numpy(self._at(address, nbytes)).view(dtype).view(shape)

    def close(self) -> None:
        self._memory.clear()
