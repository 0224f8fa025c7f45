"""Runs a variant of target `inductor`: a library of torch's AOTInductor, its weights in place.

In: the variant's description, the library's bytes, the mapped data section of the weights. The
library comes from a memory file and is loaded by torch's own loader of such libraries; nothing is
unpacked, and nothing unpickled. Its constants are named by where they lie in the data section
(`at4096_f32_64x128`); they become views of the mapping, checked against its size. Caches are
anonymous mappings, of which a run gets the views of its slots: no copy.
"""

from __future__ import annotations

import re
import warnings
from contextlib import suppress
from math import prod
from typing import TYPE_CHECKING, Any

import msgspec

from ...artifact.manifest import Limits, Variant
from ...artifact.targets import InductorProgramOptions, options_of
from ...base import machine
from ...base.errors import LlmcError
from .native_library import library_path
from .native_memory import allocate
from .slot_executor import SlotExecutor, first_line
from .slots import SlotRun

if TYPE_CHECKING:
    import torch

LEAST = 2
"""Query tokens that a row brings at least, and positions that are read: what the library takes."""
_NAME = re.compile(r"at(\d+)_([a-z0-9]+)_([\dx]*)", re.ASCII)
_DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "i64": "int64", "i32": "int32",
           "i8": "int8", "u8": "uint8", "bool": "bool"}  # fmt: skip


def problem(variant: Variant) -> LlmcError | None:
    """Nothing beyond the features and packages that the manifest names."""
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
) -> InductorExecutor:
    """The executor of target `inductor`. Errors: E0509, E0601."""
    weights = memoryview(b"") if weights is None else weights
    return InductorExecutor(variant, program, weights, threads=threads, cache_blocks=cache_blocks)


class InductorExecutor(SlotExecutor):
    """One loaded library with its caches.

    `library`: bytes of the shared library; `weights`: the data section, kept mapped by this object;
    `cache_blocks`: slots, as many in every group. torch's threads are the process's: `threads`
    holds for whatever else torch does there. Errors: E0509 when the library can't be loaded or
    wants weights that aren't there, E0601 when memory can't be had.
    """

    def __init__(
        self,
        variant: Variant,
        library: bytes | memoryview,
        weights: memoryview,
        *,
        threads: int,
        cache_blocks: tuple[int, ...],
    ) -> None:
        import torch

        slots = min(cache_blocks)
        super().__init__(variant, slots)
        torch.set_num_threads(threads)
        self._runner: Any = _load(library)
        self._constants = _bind(self._runner, weights)
        self._caches = _caches(variant, slots)
        self._extent = torch.zeros(self.limits.block_size, dtype=torch.uint8)

    def _run(self, run: SlotRun) -> None:
        import torch

        run = _widened(run, self.limits)
        shape = (run.rows, run.query)
        extent = max(run.start) + run.query
        rows = run.logits_rows or [0]  # the library wants one
        arguments = [
            torch.tensor(run.token_ids, dtype=torch.int32).view(shape),
            torch.tensor(run.positions, dtype=torch.int32).view(shape),
            torch.tensor(run.start, dtype=torch.int32),
            torch.tensor(rows, dtype=torch.int32),
            self._extent[:extent],
            *(cache[run.first : run.first + run.rows] for cache in self._caches),
        ]
        (logits,) = self._runner.run(arguments)
        self._place(run, logits.numpy())

    def _copy_slot(self, source: int, target: int) -> None:
        for cache in self._caches:
            cache[target] = cache[source]

    def _release(self) -> None:
        self._runner, self._caches, self._constants = None, [], {}


def _widened(run: SlotRun, limits: Limits) -> SlotRun:
    """The run with at least `LEAST` tokens a row; what is added is padding."""
    if run.query >= LEAST:
        return run
    last, room = limits.max_context - 1, limits.block_size - LEAST
    start = [min(at, room) for at in run.start]
    return msgspec.structs.replace(
        run,
        query=LEAST,
        token_ids=[token for own in run.token_ids for token in (own, 0)],
        positions=[min(at + j, last) for at in start for j in range(LEAST)],
        start=start,
        logits_rows=[row * LEAST for row in run.logits_rows],
    )


def _load(library: bytes | memoryview) -> Any:
    """torch's runner of the library; E0509 if it can't be loaded."""
    from torch._C import _aoti  # type: ignore[attr-defined]

    try:
        return _aoti.AOTIModelContainerRunnerCpu(library_path(library), 1)
    except (OSError, RuntimeError) as error:
        cause = f"the program can't be loaded: {first_line(error)}"
        raise LlmcError("LLMC-E0509", cause) from error


def _bind(runner: Any, weights: memoryview) -> dict[str, torch.Tensor]:
    """Give the library its constants: views of the mapped weights, which must be kept."""
    constants = {}
    for internal, name in runner.get_constant_names_to_original_fqns().items():
        constants[internal] = _view(name, weights)
    with suppress(RuntimeError) if not constants else _refusal("its weights don't fit"):
        runner.update_constant_buffer(constants, False, True, True)
    return constants


def _view(name: str, weights: memoryview) -> torch.Tensor:
    """The piece of the weights that a constant's name describes."""
    found = _NAME.fullmatch(name)
    if found is None or found[2] not in _DTYPES:
        raise LlmcError("LLMC-E0509", f"the program has a constant {name!r}, which is no weight")
    shape = tuple(int(size) for size in found[3].split("x") if size)
    return _tensor(weights, shape, found[2], int(found[1]))


def _tensor(data: memoryview, shape: tuple[int, ...], dtype: str, offset: int = 0) -> torch.Tensor:
    """A view of `data`; E0509 if it reaches beyond it."""
    import torch

    kind = getattr(torch, _DTYPES[dtype])
    with warnings.catch_warnings(), _refusal("a weight lies outside of the weights"):
        warnings.simplefilter("ignore")  # that the mapping can't be written, which nobody does
        flat = torch.frombuffer(data, dtype=kind, count=prod(shape), offset=offset)
    return flat.view(shape)


def _caches(variant: Variant, slots: int) -> list[torch.Tensor]:
    """Keys and values of every attention site, in the order of the library's arguments."""
    caches, length = [], variant.limits.block_size
    for index in options_of(variant.options, InductorProgramOptions).sites:
        group = variant.cache_groups[index]
        for width in (group.key_dim, group.value_dim):
            shape = (slots, group.kv_heads, length, width)
            memory = allocate(prod(shape) * _itemsize(group.dtype), huge_pages=True)
            caches.append(_tensor(memory, shape, group.dtype))
    return caches


def _itemsize(dtype: str) -> int:
    return {"f32": 4}.get(dtype, 2)


class _refusal:
    """Turns what torch says into E0509."""

    def __init__(self, cause: str) -> None:
        self.cause = cause

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, RuntimeError | ValueError):
            text = f"{self.cause}: {first_line(error)}"
            raise LlmcError("LLMC-E0509", text) from error
