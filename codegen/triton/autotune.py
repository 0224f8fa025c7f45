"""Measures tiles of linear layers on the GPU that is there.

In: the kernels of a plan, and the GPU. Out: for each shape of a linear layer and each height of its
tiles, the fastest tile as a row of a table. What may vary is BLOCK_N, warps and stages: BLOCK_K and
the kind of instruction are the layer's, so results keep their bits.

A tile's time is that of a graph of launches on one weight after another, of which there are more
than L2 holds, as in a program. All tiles of a shape take turns; the median over the rounds counts.
Weights and rows are one number everywhere, which draws less power than a model's.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from statistics import median
from typing import Any

from ...base.errors import LlmcError
from ...ir.types import DType
from ...runtime.executors.gpu_device import Event, GpuDevice, Graph, Kernel, LaunchShape
from .cubins import compile_all
from .kernel_spec import Cubin, KernelSpec
from .layout import TRITON_LAYOUT
from .linear_tiles import fitting
from .machines import MACHINES, Machine
from .operands import POINTER
from .tile_table import HEIGHTS, MOST_STAGES, TileRow, warps_of, widths_of

FUNCTION = "linear.linear_rows"
BUDGET_SECONDS = 120.0
"""Of measuring, without compiling."""
ROUNDS = 7
MOST_COPIES = 256
"""Of a weight."""
_LAUNCHES = 16
"""At least, between two events."""
_BYTE = 0x3C
"""Every number is made of: in all float types one around 0.01, in codes 60."""

Compile = Callable[[Sequence[KernelSpec], int], list[Cubin]]


@dataclass(frozen=True)
class Shape:
    """A layer [n, k] with tiles of `height` rows; `spec`: as it would be compiled now."""

    machine: Machine
    dtype: DType
    n: int
    k: int
    height: int
    spec: KernelSpec

    @property
    def key(self) -> tuple[int, str, int, int, int]:
        """Of the table's row."""
        return self.machine.sm, str(self.dtype), self.n, self.k, self.height

    @property
    def nbytes(self) -> int:
        """Of the weight, a multiple of what pointers are aligned to."""
        return -(-sum(TRITON_LAYOUT.sections(self.dtype, (self.n, self.k))) // 256) * 256

    @property
    def copies(self) -> int:
        """Weights that L2 can't hold together, unless they are tiny."""
        return max(1, min(MOST_COPIES, -(-3 * self.machine.l2_bytes // self.nbytes)))


def shapes_of(specs: Iterable[KernelSpec], sm: int) -> list[Shape]:
    """The shapes of a plan's linear layers, each once, those of large weights first."""
    found: dict[Any, Shape] = {}
    for spec in specs:
        if spec.function == FUNCTION:
            known: dict[str, Any] = dict(spec.constants)
            pointer = dict(spec.types)["w_ptr"]
            plain = known["FORMAT"] == "plain"
            name = next(str(d) for d, p in POINTER.items() if p == pointer) if plain else ""
            dtype = DType(name or known["FORMAT"])
            n, k, height = known["N"], known["K"], known["BLOCK_T"]
            shape = Shape(MACHINES[sm], dtype, n, k, height, spec)
            found.setdefault(shape.key, shape)
    return sorted(found.values(), key=lambda shape: -shape.nbytes)


def candidates(shape: Shape) -> list[KernelSpec]:
    """The kernel as it is, and with other tiles: a handful."""
    x_size = _size(dict(shape.spec.types)["x_ptr"])
    found = [shape.spec]
    for width in widths_of(shape.machine.sm, shape.dtype):
        for warps in warps_of(shape.dtype, width, shape.height):
            deepest = [
                fitting(shape.machine, shape.dtype, shape.k, width, shape.height, x_size, blocks)
                for blocks in (1, 2, 4)
            ]
            stages = {min(count, MOST_STAGES) for count in deepest if count >= 2}
            found += [_with_tile(shape.spec, width, warps, count) for count in sorted(stages)]
    return list(dict.fromkeys(found))


def _with_tile(spec: KernelSpec, width: int, warps: int, stages: int) -> KernelSpec:
    changed = {"BLOCK_N": width, "STAGES": stages}
    constants = tuple((name, changed.get(name, value)) for name, value in spec.constants)
    return replace(spec, constants=constants, num_warps=warps, num_stages=stages)


@dataclass
class Tuner:
    """`most_rows`: of a step. `budget`: seconds of measuring, by the clock `now`; what comes too
    late isn't measured."""

    device: GpuDevice
    most_rows: int
    budget: float = BUDGET_SECONDS
    compile: Compile = compile_all
    now: Callable[[], float] = time.monotonic
    _memory: dict[str, tuple[int, int]] = field(default_factory=dict)

    def tune(self, shapes: Sequence[Shape]) -> list[TileRow]:
        """A row for every shape that was measured.

        Raises:
            LlmcError: LLMC-E0722, the GPU fails; E0601, it has no room for a layer.
        """
        if not shapes:
            return []
        wanted = {shape.key: candidates(shape) for shape in shapes}
        specs = list(dict.fromkeys(spec for each in wanted.values() for spec in each))
        built = self._compiled(specs, shapes[0].machine.sm)
        self.device.attach()
        self._reserve(shapes)
        until = self.now() + self.budget
        rows = []
        for shape in shapes:
            usable = {spec: built[spec] for spec in wanted[shape.key] if spec in built}
            best = self._fastest(shape, usable, until)
            if best is not None:
                rows.append(self._row(shape, best))
        return rows

    def _compiled(self, specs: Sequence[KernelSpec], sm: int) -> dict[KernelSpec, Cubin]:
        """Those that can be compiled and keep everything in registers."""
        try:
            made = dict(zip(specs, self.compile(specs, sm), strict=True))
        except LlmcError as error:
            if error.id != "LLMC-E0706":
                raise
            if len(specs) == 1:
                return {}
            half = len(specs) // 2
            return self._compiled(specs[:half], sm) | self._compiled(specs[half:], sm)
        return {s: c for s, c in made.items() if not c.spill_bytes and not c.scratch}

    def _reserve(self, shapes: Sequence[Shape]) -> None:
        """Memory for every pointer of the largest shape."""
        sizes = {"w_ptr": max(shape.copies * shape.nbytes for shape in shapes)}
        for shape in shapes:
            for name, nbytes in self._rows_bytes(shape).items():
                sizes[name] = max(sizes.get(name, 0), nbytes)
        for name, nbytes in sizes.items():
            self._memory[name] = self.device.allocate(nbytes), nbytes
            # Rows are chosen by index: all of them the first.
            self.device.fill(self._memory[name][0], 0 if name == "index_ptr" else _BYTE, nbytes)

    def _rows_bytes(self, shape: Shape) -> dict[str, int]:
        """Of every pointer but the weight's."""
        known: dict[str, Any] = dict(shape.spec.constants)
        rows = self._rows(shape)
        strides = {
            "x_ptr": known["X_STRIDE"], "out_ptr": known["OUT_STRIDE"],
            "residual_ptr": known["RESIDUAL_STRIDE"], "index_ptr": 1,
        }  # fmt: skip
        sizes = {"bias_ptr": 4 * shape.n}
        return sizes | {name: 4 * max(1, rows * stride) for name, stride in strides.items()}

    def _rows(self, shape: Shape) -> int:
        """How many rows the tiles are measured with."""
        return max(self.most_rows, shape.height) if shape.height == HEIGHTS[-1] else shape.height

    def _fastest(
        self, shape: Shape, cubins: dict[KernelSpec, Cubin], until: float
    ) -> KernelSpec | None:
        """None if the time doesn't suffice for a round."""
        if self.now() >= until:
            return None
        graphs = {spec: self._graph(shape, spec, cubin) for spec, cubin in cubins.items()}
        first, last = (self.device.create_event(timed=True) for _ in range(2))
        for graph in graphs.values():  # what is only done once is done here
            self._seconds(graph, first, last)
        times: dict[KernelSpec, list[float]] = {spec: [] for spec in graphs}
        for _ in range(ROUNDS):
            if self.now() >= until:
                break
            for spec, graph in graphs.items():
                times[spec].append(self._seconds(graph, first, last))
        measured = {spec: median(found) for spec, found in times.items() if found}
        return min(measured, key=measured.__getitem__, default=None)

    def _seconds(self, graph: Graph, first: Event, last: Event) -> float:
        self.device.record(first)
        self.device.replay(graph)
        self.device.record(last)
        self.device.wait(last)
        return self.device.elapsed(first, last)

    def _graph(self, shape: Shape, spec: KernelSpec, cubin: Cubin) -> Graph:
        """Launches on one weight after another."""
        kernel: Kernel = self.device.load_kernel(memoryview(cubin.data), cubin.name, cubin.shared)
        how = LaunchShape(cubin.threads, cubin.shared, overlaps=spec.pdl)
        width, rows = dict(spec.constants)["BLOCK_N"], self._rows(shape)
        assert isinstance(width, int)
        grid = (-(-shape.n // width), -(-rows // shape.height), 1)
        rounds = -(-_LAUNCHES // shape.copies)
        self.device.begin_capture()
        for copy in [*range(shape.copies)] * rounds:
            packed = self._parameters(spec, cubin, copy * shape.nbytes, rows)
            self.device.launch(kernel, grid, how, packed)
        return self.device.end_capture()

    def _parameters(self, spec: KernelSpec, cubin: Cubin, offset: int, rows: int) -> bytes:
        packed = bytearray(cubin.parameter_bytes)
        for (name, type), place in zip(spec.types, cubin.parameters, strict=False):
            if type.startswith("*"):
                address = self._memory[name][0] + (offset if name == "w_ptr" else 0)
                struct.pack_into("<Q", packed, place.offset, address)
            else:
                struct.pack_into("<i", packed, place.offset, rows)
        return bytes(packed)

    def _row(self, shape: Shape, spec: KernelSpec) -> TileRow:
        sm, form, n, k, height = shape.key
        gpu = self.device.properties
        driver = f"{gpu.driver // 1000}.{gpu.driver % 1000 // 10}"
        width = dict(spec.constants)["BLOCK_N"]
        assert isinstance(width, int)
        return TileRow(
            sm=sm, format=form, n=n, k=k, block_t=height, block_n=width,
            num_warps=spec.num_warps, num_stages=spec.num_stages,
            measured=f"{gpu.name}, CUDA {driver}, Triton {version('triton')}",
        )  # fmt: skip


def _size(pointer: str) -> int:
    """Bytes of an element of `*bf16`."""
    return int(pointer.lstrip("*bfipu")) // 8
