"""Writing an artifact's weights: recipes in, a safetensors stream out, in bounded memory.

In: entries (name, recipe, place) whose offsets the backend has already compiled into the program,
a `TensorReader`, and the backend's layout. Out: the bytes of one safetensors file. Its data section
starts at a multiple of 4096 and holds every entry at its offset; the gaps are padding tensors,
since the format allows no holes. All tensors are U8: what the bytes mean, the program knows.

Slices of rows are read, transformed and packed by a few threads and written in order, so memory
stays at a few slices whatever the model's size, and the bytes don't depend on the threads.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from typing import BinaryIO, Protocol

import numpy as np

from ..base.errors import LlmcError
from ..ir.tiles import PANEL
from .formats.elements import to_elements
from .formats.registry import is_quantized
from .layout import Layout, aligned
from .recipes import Pack, Quantize, Recipe, leaves
from .rows import matrix_shape
from .values import RecipeValues, TensorReader

Array = np.ndarray
Job = Callable[[], tuple[Array, ...]]
"""Gives the bytes that some rows add to each section of their entry."""

DATA_ALIGNMENT = 4096
"""The data section starts at a multiple of this from the stream's beginning."""

# Elements that a thread turns into packed bytes at a time (float32, codes and packed bytes of a
# slice are about 10 bytes an element), and threads: beyond two, reading is what limits.
_SLICE_ELEMENTS = 1 << 21
_THREADS = 2
_ZEROS = bytes(1 << 16)


class WeightEntry(Protocol):
    """A tensor of the file: bytes `offset : offset + nbytes` of the data section hold `recipe`."""

    @property
    def name(self) -> str: ...
    @property
    def recipe(self) -> Recipe: ...
    @property
    def offset(self) -> int: ...
    @property
    def nbytes(self) -> int: ...


class WeightStream:
    """The safetensors stream of `entries`; its size is known before any weight is read."""

    def __init__(self, entries: Sequence[WeightEntry], nbytes: int | None = None) -> None:
        """`nbytes` is the size of the data section if it is more than the entries need.

        Raises:
            ValueError: entries overlap, share a name, or exceed `nbytes`.
        """
        self._entries = sorted(entries, key=lambda e: e.offset)
        end = max((e.offset + e.nbytes for e in entries), default=0)
        self.data_bytes = end if nbytes is None else nbytes
        if self.data_bytes < end:
            raise ValueError(f"entries need {end} bytes, not {self.data_bytes}")
        self.header = _header(self._entries, self.data_bytes)

    @property
    def size(self) -> int:
        """Bytes of the whole stream; the data section starts at `size - data_bytes`."""
        return len(self.header) + self.data_bytes

    def write(
        self,
        out: BinaryIO,
        reader: TensorReader,
        layout: Layout,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Write exactly `size` bytes to `out`; `progress(done, total)` counts the data's bytes.

        Raises:
            LlmcError: E0408 a weight is not finite, E0417 a file of the checkpoint is cut short.
            ValueError: a recipe gives another number of bytes than its entry says.
        """
        values = RecipeValues(reader)
        out.write(self.header)
        place = _Place(out)
        for entry, parts in _in_order(self._jobs(values, layout)):
            place.write(entry, parts)
            if progress is not None:
                progress(place.at, self.data_bytes)
        place.end_entry()
        place.pad_to(self.data_bytes)

    def _jobs(self, values: RecipeValues, layout: Layout) -> Iterator[tuple[WeightEntry, Job]]:
        for entry in self._entries:
            for job in _jobs(entry.recipe, values, layout):
                yield entry, job


def _jobs(recipe: Recipe, values: RecipeValues, layout: Layout) -> Iterator[Job]:
    """Functions that give the bytes of consecutive slices of `recipe`."""
    if isinstance(recipe, Pack):
        *experts, n, k = recipe.shape
        step = max(PANEL, _SLICE_ELEMENTS // max(k, 1) // PANEL * PANEL)
        for expert in range(prod(experts)):
            for start in range(0, n, step):
                rows = expert * n + start, expert * n + min(n, start + step)
                yield _pack_job(recipe, values, layout, *rows)
        return
    if isinstance(recipe, Quantize):
        raise TypeError(f"a quantized constant must be packed: {recipe}")
    count, columns = matrix_shape(recipe.shape)
    step = max(1, _SLICE_ELEMENTS // max(columns, 1))
    for start in range(0, count, step):
        yield _plain_job(recipe, values, start, min(count, start + step))


def _pack_job(recipe: Pack, values: RecipeValues, layout: Layout, start: int, stop: int) -> Job:
    def job() -> tuple[Array, ...]:
        if is_quantized(recipe.dtype):
            try:
                rows = values.quantized_rows(recipe.content, recipe.dtype, start, stop)
            except OverflowError as error:
                names = ", ".join(
                    sorted({getattr(leaf, "name", str(leaf)) for leaf in leaves(recipe)})
                )
                raise LlmcError("LLMC-E0408", f"{names} in {recipe.dtype}: {error}") from error
        else:
            rows = values.rows(recipe.content, start, stop)
        parts = layout.pack(recipe.dtype, rows)
        return tuple(np.ascontiguousarray(part).reshape(-1) for part in parts)

    return job


def _plain_job(recipe: Recipe, values: RecipeValues, start: int, stop: int) -> Job:
    def job() -> tuple[Array, ...]:
        rows = to_elements(values.rows(recipe, start, stop), recipe.dtype)
        return (np.ascontiguousarray(rows).reshape(-1).view(np.uint8),)

    return job


def _in_order(
    jobs: Iterator[tuple[WeightEntry, Job]],
) -> Iterator[tuple[WeightEntry, tuple[Array, ...]]]:
    """Results of `jobs` in their order, computed by threads, at most a few ahead."""
    waiting: deque[tuple[WeightEntry, Future[tuple[Array, ...]]]] = deque()
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="weights")
    try:
        for entry, job in jobs:
            waiting.append((entry, pool.submit(job)))
            if len(waiting) > _THREADS:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _header(entries: Sequence[WeightEntry], data_bytes: int) -> bytes:
    """Length and JSON of the safetensors header, padded with spaces as the format allows."""
    names = {e.name for e in entries}
    if len(names) != len(entries):
        raise ValueError("two weight entries share a name")
    tensors: dict[str, object] = {}

    def place(name: str, start: int, stop: int) -> None:
        tensors[name] = {"dtype": "U8", "shape": [stop - start], "data_offsets": [start, stop]}

    def pad(start: int, stop: int) -> None:
        if stop > start:
            place(f"padding.{start}", start, stop)

    at = 0
    for entry in entries:
        if entry.offset < at:
            raise ValueError(f"weight entry {entry.name} overlaps the one before")
        pad(at, entry.offset)
        at = entry.offset + entry.nbytes
        place(entry.name, entry.offset, at)
    pad(at, data_bytes)
    text = json.dumps(tensors, separators=(",", ":")).encode()
    length = -(-(len(text) + 8) // DATA_ALIGNMENT) * DATA_ALIGNMENT - 8
    return length.to_bytes(8, "little") + text.ljust(length)


class _Place:
    """Where in the data section the stream is, and what of the current entry is still to come.

    First sections go out as they come. What belongs into later ones (scales, a sixth of a 4-bit
    tensor) is kept until its entry ends.
    """

    def __init__(self, out: BinaryIO) -> None:
        self.at = 0
        self._out = out
        self._entry: WeightEntry | None = None
        self._later: list[list[Array]] = []

    def write(self, entry: WeightEntry, parts: tuple[Array, ...]) -> None:
        """Take the sections' bytes of the entry's next rows."""
        if entry is not self._entry:
            self.end_entry()
            self.pad_to(entry.offset)
            self._entry, self._later = entry, [[] for _ in parts[1:]]
        self._put(parts[0])
        for kept, part in zip(self._later, parts[1:], strict=True):
            kept.append(part)

    def end_entry(self) -> None:
        """Write the later sections; raises ValueError if the bytes aren't what was promised."""
        for section in self._later:
            self.pad_to(aligned(self.at))
            for part in section:
                self._put(part)
        self._later = []
        entry = self._entry
        if entry is not None and self.at != entry.offset + entry.nbytes:
            raise ValueError(
                f"{entry.name} gave {self.at - entry.offset} bytes, not {entry.nbytes}"
            )

    def pad_to(self, offset: int) -> None:
        """Zeros up to `offset`."""
        for start in range(self.at, offset, len(_ZEROS)):
            self._out.write(_ZEROS[: offset - start])
        self.at = max(self.at, offset)

    def _put(self, data: Array) -> None:
        self._out.write(data.data)
        self.at += data.nbytes
