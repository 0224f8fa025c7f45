"""A compiled model for another processor, as a `Program`: its C interface, in the emulator."""

from __future__ import annotations

import ctypes
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from emulator import CPUS, Host
from llmc.artifact.manifest import ABI_VERSION, Variant
from llmc.artifact.program import StepInputs, StepOutputs, check_inputs
from llmc.runtime.executors.cpu import _Config, _StepInputs


class EmulatedProgram:
    """The variant's program with `blocks` cache blocks per group; its memory begins poisoned."""

    def __init__(
        self,
        variant: Variant,
        library: bytes | memoryview,
        weights: memoryview,
        *,
        blocks: int,
        threads: int = 2,
    ) -> None:
        self.limits, self.vocab_size = variant.limits, variant.vocab_size
        self.cache_groups = tuple(variant.cache_groups)
        self.cache_blocks = (blocks,) * len(self.cache_groups)
        self._folder = tempfile.TemporaryDirectory(prefix="llmc-emulated-")
        path = Path(self._folder.name) / "program.so"
        path.write_bytes(library)
        self._host = Host(path, CPUS[variant.level])
        self._model = self._create(variant, weights, threads)

    def _put(self, data: bytes | memoryview) -> int:
        address = self._host.allocate(max(len(data), 1))
        self._host.write(address, data)
        return address

    def _integers(self, values: Any) -> int:
        return self._put(np.array(values, np.int32).tobytes())

    def _poisoned(self, nbytes: int) -> int:
        return self._put(b"\xff" * nbytes)

    def _create(self, variant: Variant, weights: memoryview, threads: int) -> int:
        caches = self._caches = [
            self._poisoned(group.bytes_per_block * blocks)
            for group, blocks in zip(self.cache_groups, self.cache_blocks, strict=True)
        ]
        arena_bytes = variant.memory_plan.arena_bytes
        config = _Config(
            struct_size=ctypes.sizeof(_Config),
            abi_version=ABI_VERSION,
            threads=threads,
            weights=self._put(weights),
            weights_bytes=len(weights),
            arena=self._poisoned(arena_bytes),
            arena_bytes=arena_bytes,
            groups=len(caches),
            cache=self._put(np.array(caches, np.uint64).tobytes()),
            cache_blocks=self._put(np.array(self.cache_blocks, np.int32).tobytes()),
            spin=-1,
        )
        handle = self._put(bytes(8))
        code = ctypes.c_int(self._host.call("llmc_create", self._put(bytes(config)), handle)).value
        assert code == 0, f"llmc_create gave {code}"
        return int.from_bytes(self._host.read(handle, 8), "little")

    def step(self, inputs: StepInputs) -> StepOutputs:
        check_inputs(inputs, self)
        rows = len(inputs.logits_rows)
        names = ("token_ids", "positions", "query_start", "context_len", "logits_rows")
        tables = [self._integers(table) for table in inputs.block_tables]
        given = {name: self._integers(getattr(inputs, name)) for name in names}
        given["blocks_per_seq"] = self._integers([len(table[0]) for table in inputs.block_tables])
        given["block_table"] = self._put(np.array(tables, np.uint64).tobytes())
        given["logits"] = self._poisoned(rows * self.vocab_size * 4)
        given["argmax"] = self._poisoned(rows * 4)
        step = _StepInputs(
            struct_size=ctypes.sizeof(_StepInputs),
            tokens=len(inputs.token_ids),
            sequences=len(inputs.context_len),
            logits_rows_count=rows,
            **given,
        )
        at = self._put(bytes(step))
        code = ctypes.c_int(self._host.call("llmc_step", self._model, at)).value
        assert code == 0, f"llmc_step gave {code}"
        data = self._host.read(given["logits"], rows * self.vocab_size * 4)
        logits = np.frombuffer(data, np.float32).reshape(rows, self.vocab_size)
        argmax = np.frombuffer(self._host.read(given["argmax"], rows * 4), np.int32).tolist()
        for address in (*given.values(), *tables, at):
            self._host.free(address)
        return StepOutputs(lambda: logits, argmax)

    def copy_block(self, group: int, source: int, target: int) -> None:
        size, begin = self.cache_groups[group].bytes_per_block, self._caches[group]
        self._host.write(begin + target * size, self._host.read(begin + source * size, size))

    def close(self) -> None:
        """Let the program free its threads and memory, then end the emulator."""
        if self._model:
            self._host.call("llmc_destroy", self._model)
            self._model = 0
            self._host.close()
            self._folder.cleanup()
