"""Runs a variant of target `cpu`: its shared library through ctypes, its weights where they lie.

In: the variant's description, the library's bytes, the mapped data section of the weights. The
library comes from a memory file, so nothing is unpacked to disk; weights are used in place; arena
and cache are anonymous mappings, whose pages cost memory only once they are used.
"""

import ctypes
import os
from array import array
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from ...artifact.manifest import (
    READABLE_ABIS,
    SIGNATURE_VERSION,
    CacheGroup,
    Limits,
    StateSlots,
    Variant,
)
from ...artifact.program import InputCheck, StepInputs, StepOutputs
from ...base import machine
from ...base.errors import LlmcError
from .cpu_profile import KernelProfiler, native_profiler
from .cpu_sampling import native_draw
from .native_library import library_path
from .native_memory import address_of, allocate
from .pages import PagesAhead

if TYPE_CHECKING:
    from ...base.arrays import Float32Array

_I32 = ctypes.c_int32
_PTR = ctypes.c_void_p
_DEFAULT_SPIN = -1
_NO_RESOURCES, _NO_PERMISSION, _BAD_POSITION = -3, -4, -5


class _Config(ctypes.Structure):
    """`llmc_config` of llmc.h."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("abi_version", ctypes.c_uint32),
        ("threads", _I32),
        ("weights", _PTR),
        ("weights_bytes", ctypes.c_uint64),
        ("arena", _PTR),
        ("arena_bytes", ctypes.c_uint64),
        ("groups", _I32),
        ("cache", _PTR),
        ("cache_blocks", _PTR),
        ("spin", _I32),
        ("state", _PTR),
        ("state_slots", _I32),
    )


class _StepInputs(ctypes.Structure):
    """`llmc_step_inputs` of llmc.h."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("tokens", _I32),
        ("sequences", _I32),
        ("logits_rows_count", _I32),
        ("token_ids", _PTR),
        ("positions", _PTR),
        ("query_start", _PTR),
        ("context_len", _PTR),
        ("logits_rows", _PTR),
        ("block_table", _PTR),
        ("blocks_per_seq", _PTR),
        ("logits", _PTR),
        ("argmax", _PTR),
        ("state_slot", _PTR),
    )


_SIZES = {
    1: (_Config.state.offset, _StepInputs.state_slot.offset),
    2: (ctypes.sizeof(_Config), ctypes.sizeof(_StepInputs)),
}
"""Of both structs, by the version of the interface: new members stand behind the old ones."""


def problem(variant: Variant) -> LlmcError | None:
    """Nothing beyond the features that the manifest names."""
    return None


CACHE_SHARE = 0.5
"""It leaves room for other programs and for files that are read."""


def available_memory() -> int:
    """What the machine has left."""
    return machine.available_memory()


def open_program(
    variant: Variant,
    program: bytes | memoryview,
    weights: memoryview | None,
    *,
    threads: int,
    cache_blocks: tuple[int, ...],
    state_slots: int = 0,
) -> "CpuExecutor":
    """The executor of target `cpu`. Errors: E0509, E0600, E0601."""
    return CpuExecutor(
        variant,
        program,
        memoryview(b"") if weights is None else weights,
        threads=threads,
        cache_blocks=cache_blocks,
        state_slots=state_slots,
    )


class CpuExecutor:
    """One loaded library with its arena and cache; a `StatefulProgram` if its variant has state.

    `library`: bytes of the shared library; `weights`: the data section, 64-byte aligned and kept
    mapped by this object; `cache_blocks`: number of blocks per cache group; `state_slots`: number
    of slots, if it has any. Errors: E0509 when the library can't be loaded, E0601 when memory
    can't be had.
    """

    def __init__(
        self,
        variant: Variant,
        library: bytes | memoryview,
        weights: memoryview,
        *,
        threads: int,
        cache_blocks: tuple[int, ...],
        state_slots: int = 0,
    ) -> None:
        self._abi = variant.abi_version
        if variant.signature_version != SIGNATURE_VERSION or self._abi not in READABLE_ABIS:
            raise LlmcError("LLMC-E0509", "the program has another interface version")
        self.limits: Limits = variant.limits
        self.cache_groups: tuple[CacheGroup, ...] = tuple(variant.cache_groups)
        self.cache_blocks = cache_blocks
        self.state: StateSlots | None = variant.state
        self.state_slots = state_slots if self.state is not None else 0
        self.vocab_size = variant.vocab_size
        self._check = InputCheck(self)
        self._handle: int | None = None
        self._process = os.getpid()
        self._library = load_library(library)
        self._weights = weights
        self._arena = allocate(variant.memory_plan.arena_bytes, huge_pages=True)
        self._cache = [
            allocate(group.bytes_per_block * blocks, huge_pages=True)
            for group, blocks in zip(self.cache_groups, cache_blocks, strict=True)
        ]
        self._slot_bytes = self.state.bytes_per_slot if self.state is not None else 0
        self._state = allocate(self._slot_bytes * self.state_slots, huge_pages=True)
        self._pages = [PagesAhead(memory) for memory in (*self._cache, self._state)]
        try:
            self._prepare_buffers()
        except (MemoryError, ValueError) as error:
            raise LlmcError("LLMC-E0601", "the program's limits need too much memory") from error
        self._create(threads)

    def _create(self, threads: int) -> None:
        pointers = (_PTR * len(self._cache))(*(address_of(c) for c in self._cache))
        blocks = (_I32 * len(self.cache_blocks))(*self.cache_blocks)
        config = _Config(
            struct_size=_SIZES[self._abi][0],
            abi_version=self._abi,
            threads=threads,
            weights=address_of(self._weights),
            weights_bytes=self._weights.nbytes,
            arena=address_of(self._arena),
            arena_bytes=self._arena.nbytes,
            groups=len(self._cache),
            cache=ctypes.cast(pointers, _PTR),
            cache_blocks=ctypes.cast(blocks, _PTR),
            spin=_DEFAULT_SPIN,
            state=address_of(self._state),
            state_slots=self.state_slots,
        )
        handle = _PTR()
        code = self._library.llmc_create(ctypes.byref(config), ctypes.byref(handle))
        if code == _NO_RESOURCES:
            raise LlmcError("LLMC-E0600", f"no memory or threads for {threads} threads")
        if code == _NO_PERMISSION:
            raise LlmcError(
                "LLMC-E0506", "the system doesn't let this process use the CPU's AMX instructions"
            )
        if code != 0 or not handle.value:
            raise LlmcError("LLMC-E0509", f"the program refused to start (code {code})")
        self._handle = handle.value
        rows = self.limits.max_logits_rows
        self._draw = native_draw(self._library, self._handle, self._logits, rows)

    def _prepare_buffers(self) -> None:
        """Arrays at fixed addresses that every step copies into: pointers are set only once."""
        limits, groups = self.limits, len(self.cache_groups)
        self._columns = -(-limits.max_context // limits.block_size)
        self._arrays = {
            "token_ids": _int32(limits.max_tokens),
            "positions": _int32(limits.max_tokens),
            "query_start": _int32(limits.max_sequences + 1),
            "context_len": _int32(limits.max_sequences),
            "logits_rows": _int32(limits.max_logits_rows),
            "argmax": _int32(limits.max_logits_rows),
            "blocks_per_seq": _int32(groups),
            "state_slot": _int32(limits.max_sequences),
        }
        self._arrays["blocks_per_seq"][:] = array("i", [self._columns] * groups)
        self._tables = [_int32(limits.max_sequences * self._columns) for _ in range(groups)]
        self._table_pointers = (_PTR * groups)(*(address_of(t) for t in self._tables))
        self._logits = allocate(limits.max_logits_rows * self.vocab_size * 4, huge_pages=True)
        self._inputs = _StepInputs(
            struct_size=_SIZES[self._abi][1],
            block_table=ctypes.cast(self._table_pointers, _PTR),
            logits=address_of(self._logits),
            **{name: address_of(array) for name, array in self._arrays.items()},
        )

    def step(self, inputs: StepInputs) -> StepOutputs:
        """Runs one step; other Python threads go on meanwhile. E0102 if the library fails."""
        if self._handle is None:
            raise LlmcError("LLMC-E0100", "the program is closed")
        self._check.check(inputs)
        rows = len(inputs.logits_rows)
        self._fill(inputs)
        code = self._library.llmc_step(self._handle, ctypes.byref(self._inputs))
        if code == _BAD_POSITION:
            raise LlmcError("LLMC-E0100", "a state slot stands at another position")
        if code != 0:
            raise LlmcError("LLMC-E0102", f"the compiled program failed (code {code})")
        argmax = self._arrays["argmax"][:rows].tolist()
        return StepOutputs(partial(self._rows_of_logits, rows), argmax, self._draw)

    def _rows_of_logits(self, rows: int) -> "Float32Array":
        """f32 [rows, vocab], a view of where the library writes them."""
        import numpy as np

        count = rows * self.vocab_size
        return np.frombuffer(self._logits, np.float32, count).reshape(rows, self.vocab_size)

    def _fill(self, inputs: StepInputs) -> None:
        for name in ("token_ids", "positions", "query_start", "context_len", "logits_rows"):
            values = getattr(inputs, name)
            self._arrays[name][: len(values)] = array("i", values)
        if self.state is not None:
            slots = inputs.state_slots
            self._arrays["state_slot"][: len(slots)] = array("i", slots)
            self._pages[-1].reach((max(slots, default=-1) + 1) * self._slot_bytes)
        several = len(inputs.context_len) > 1
        for group, known in enumerate(self._check.tables):
            if known.changed:
                changed = [(place, known.rows[place]) for place in known.take_changed()]
                self._fill_table(self._tables[group], changed)
                if several:  # a program that serves one short text never needs it
                    self._prepare_pages(group, [row for _, row in changed])
        self._inputs.tokens = len(inputs.token_ids)
        self._inputs.sequences = len(inputs.context_len)
        self._inputs.logits_rows_count = len(inputs.logits_rows)

    def _fill_table(self, target: memoryview, rows: Sequence[tuple[int, list[int]]]) -> None:
        """Writes rows of a block table, each at its place."""
        for place, row in rows:
            start = place * self._columns
            target[start : start + len(row)] = array("i", row)

    def _prepare_pages(self, group: int, rows: Sequence[list[int]]) -> None:
        """Has the pages behind the highest block made ready: the next ones that will be used."""
        highest = max((row[-1] for row in rows), default=-1)
        self._pages[group].reach((highest + 1) * self.cache_groups[group].bytes_per_block)

    def copy_block(self, group: int, source: int, target: int) -> None:
        """Copies a block of a cache group: keys and values of all its layers lie together."""
        cache, size = self._cache[group], self.cache_groups[group].bytes_per_block
        self._pages[group].reach((target + 1) * size)
        cache[target * size : (target + 1) * size] = cache[source * size : (source + 1) * size]

    def copy_slot(self, source: int, target: int) -> None:
        """Copies a slot with its position: what all layers keep of a sequence lies together."""
        state, size = self._state, self._slot_bytes
        self._pages[-1].reach((target + 1) * size)
        state[target * size : (target + 1) * size] = state[source * size : (source + 1) * size]
        assert self._check.slots is not None
        self._check.slots.copied(source, target)

    def profiler(self) -> KernelProfiler | None:
        """What notes the kernels of steps; None if the library can't."""
        assert self._handle is not None
        return native_profiler(self._library, self._handle)

    def close(self) -> None:
        """Stops the library's threads and lets go of all memory."""
        if self._handle is not None:
            if os.getpid() == self._process:  # a forked child has no threads to stop
                self._library.llmc_destroy(self._handle)
            self._handle = self._draw = None
            for pages in self._pages:
                pages.close()
            self._cache, self._pages = [], []
            self._arena = self._weights = self._state = memoryview(b"")

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self.close()


def _int32(count: int) -> memoryview:
    """Zeros of C type int32_t."""
    return allocate(4 * count).cast("i")


_LOADED: dict[str, ctypes.CDLL] = {}
"""Each distinct library is loaded once in a process, by its path."""


def load_library(data: bytes | memoryview) -> ctypes.CDLL:
    """The library in `data`, with argument types set; E0509 if it isn't one of ours."""
    path = library_path(data)
    if path not in _LOADED:
        try:
            library = ctypes.CDLL(path)
            _declare(library)
        except (OSError, AttributeError) as error:
            raise LlmcError("LLMC-E0509", f"the program can't be loaded: {error}") from error
        _LOADED[path] = library
    return _LOADED[path]


def _declare(library: ctypes.CDLL) -> None:
    library.llmc_create.argtypes = (_PTR, _PTR)
    library.llmc_step.argtypes = (_PTR, _PTR)
    library.llmc_destroy.argtypes = (_PTR,)
    library.llmc_destroy.restype = None
    library.llmc_abi.restype = ctypes.c_char_p
    abi = (library.llmc_abi() or b"").decode("ascii", "replace")
    if abi.split(";")[0] not in map(str, READABLE_ABIS):
        known = " or ".join(map(str, READABLE_ABIS))
        raise LlmcError("LLMC-E0509", f"the program speaks interface {abi!r}, not {known}")
