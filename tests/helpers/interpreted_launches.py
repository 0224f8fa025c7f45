"""Launch plans run by their own kernels, under Triton's interpreter, on a fake GPU.

In: the plan of a machine. Out: the same plan with a kernel for each launch and form, and what to
bind to these: the kernel's function, or its generated text, with its constants. Pointers become
tensors of one element that lie in the fake GPU's memory, so that kernels which share memory see
each other's writes at once, as on a GPU.

Every address that a kernel reads or writes must lie within what the launch's pointers declare:
whether steps may overlap and memory be used again follows from that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import msgspec
import numpy as np
import torch
from fake_gpu import FakeKernel, FakeLaunch
from interpreted_kernels import interpreted, interpreted_source
from llmc.artifact.launch_plan import (
    NO_KERNEL,
    FormLaunch,
    Kernel,
    Launch,
    LaunchPlan,
    Pointer,
)
from llmc.codegen.triton.kernel_spec import KernelSpec
from llmc.codegen.triton.plan import MachinePlan
from triton.runtime import interpreter

ENTRY = 32
"""Bytes of a kernel that stands for one launch in one form: its name."""
_KINDS = {"i32": "i32", "i64": "i64", "fp32": "f32"}
_DTYPES = {
    "*fp32": torch.float32, "*bf16": torch.bfloat16, "*fp16": torch.float16, "*i64": torch.int64,
    "*i32": torch.int32, "*i8": torch.int8, "*u8": torch.uint8, "*i1": torch.bool,
}  # fmt: skip


class InterpretedLaunches:
    """What a plan's launches do. `plan` and `entry` are for the executor, `bind` for `FakeGpu`.

    `block_bytes`: of each cache group's blocks.
    """

    def __init__(self, machine_plan: MachinePlan, block_bytes: Sequence[int]) -> None:
        self._specs, self._block_bytes = machine_plan.specs, tuple(block_bytes)
        self._bound: dict[str, tuple[Launch, KernelSpec]] = {}
        self._kernels: list[Kernel] = []
        plan = machine_plan.plan
        launches, sampling = self._own(plan, "launch"), self._own(plan, "sampling")
        self.plan = msgspec.structs.replace(
            plan, kernels=self._kernels, launches=launches, sampling=sampling
        )
        self.entry = b"".join(kernel.name.encode().ljust(ENTRY) for kernel in self._kernels)

    def _own(self, plan: LaunchPlan, kind: str) -> list[Launch]:
        launches: list[Launch] = plan.launches if kind == "launch" else plan.sampling
        return [
            msgspec.structs.replace(
                launch,
                forms=[
                    self._form(plan, launch, form, f"{kind}{number}.{rows}")
                    for form, rows in zip(launch.forms, plan.forms, strict=True)
                ],
            )
            for number, launch in enumerate(launches)
        ]

    def _form(self, plan: LaunchPlan, launch: Launch, form: FormLaunch, name: str) -> FormLaunch:
        if form.kernel == NO_KERNEL:
            return form
        spec = self._specs[form.kernel]
        self._bound[name] = launch, spec
        kernel = msgspec.structs.replace(
            plan.kernels[form.kernel],
            name=name,
            offset=len(self._kernels) * ENTRY,
            nbytes=ENTRY,
            parameter_bytes=FakeKernel(_kinds(spec), lambda _: None).layout.size,
        )
        self._kernels.append(kernel)
        return FormLaunch(len(self._kernels) - 1, form.grid)

    def bind(self, cubin: bytes, name: str) -> FakeKernel:
        """The kernel of one launch in one form."""
        assert cubin.decode().strip() == name
        launch, spec = self._bound[name]
        return FakeKernel(_kinds(spec), lambda found: self._run(launch, spec, found))

    def _run(self, launch: Launch, spec: KernelSpec, found: FakeLaunch) -> None:
        arguments = {
            name: _tensor(found, value, kind) if kind in _DTYPES else value
            for (name, kind), value in zip(spec.types, found.args, strict=True)
        }
        try:
            with _within(*self._declared(launch, found)):
                _function(spec)[found.grid](**arguments, **_constants(spec))
        except Exception as error:
            raise AssertionError(
                f"{launch.label}: {spec.label} on {found.grid}: {error}"
            ) from error

    def _declared(self, launch: Launch, found: FakeLaunch) -> tuple[Ranges, Ranges]:
        """What the launch may read, and what it may write."""
        reads, writes = [], []
        for argument, address in zip(launch.arguments, found.args, strict=True):
            if isinstance(argument, Pointer):
                parts = [(address, address + argument.nbytes)]
                if argument.space == "cache":
                    parts = self._in_blocks(argument, address, found)
                reads += parts if "r" in argument.access else []
                writes += parts if "w" in argument.access else []
        return Ranges(reads), Ranges(writes)

    def _in_blocks(
        self, pointer: Pointer, address: int, found: FakeLaunch
    ) -> list[tuple[int, int]]:
        """The same part of every block."""
        base, size = address - pointer.offset, self._block_bytes[pointer.group]
        pool = next(a for a in found.gpu._memory if a.address == base)
        starts = range(address, base + len(pool.data), size)
        return [(start, start + pointer.nbytes) for start in starts]


def _kinds(spec: KernelSpec) -> tuple[str, ...]:
    return tuple(_KINDS.get(kind, "ptr") for _, kind in spec.types)


def _constants(spec: KernelSpec) -> dict[str, Any]:
    """As the plan has them, but for what the interpreter refuses."""
    return dict(spec.constants) | {"PORTABLE": True, "OVERLAPS": False}


def _tensor(found: FakeLaunch, address: int, kind: str) -> torch.Tensor:
    """One element at `address`: the interpreter takes no more than where it lies, and its type."""
    dtype = _DTYPES[kind]
    return torch.from_numpy(found.gpu.bytes_at(address, dtype.itemsize)).view(dtype)


@cache
def _generated(source: str, name: str) -> Any:
    return interpreted_source(source, name)


def _function(spec: KernelSpec) -> Any:
    if spec.source:
        name = f"generated_{abs(hash(spec.source)):x}"
        return getattr(_generated(spec.source, name), spec.function)
    module, _, name = spec.function.rpartition(".")
    return getattr(interpreted(module), name)


class Ranges:
    """Addresses [begin, end), merged where they touch."""

    def __init__(self, parts: list[tuple[int, int]]) -> None:
        merged: list[list[int]] = []
        for begin, end in sorted(parts):
            if merged and begin <= merged[-1][1]:
                merged[-1][1] = max(end, merged[-1][1])
            else:
                merged.append([begin, end])
        self._begins = np.array([begin for begin, _ in merged], np.int64)
        self._ends = np.array([end for _, end in merged], np.int64)

    def check(self, addresses: Any, mask: Any, nbytes: int, what: str) -> None:
        """Fails if an element outside is touched."""
        addresses = np.broadcast_to(addresses, np.broadcast_shapes(addresses.shape, mask.shape))
        touched = addresses[np.broadcast_to(mask, addresses.shape).astype(bool)].astype(np.int64)
        if not touched.size:
            return
        at = np.searchsorted(self._begins, touched, side="right") - 1
        outside = (at < 0) | (touched + nbytes > self._ends[at] if self._ends.size else True)
        if outside.any():
            first = int(touched[outside][0])
            near = self._ends[max(int(at[outside][0]), 0)] if self._ends.size else 0
            raise AssertionError(
                f"{what} {int(outside.sum())} elements of {nbytes} bytes outside of what is "
                f"declared; the first is {first - int(near)} bytes behind the end of a part"
            )


def _element_bytes(pointers: Any) -> int:
    return max(pointers.get_element_ty().primitive_bitwidth // 8, 1)


@contextmanager
def _within(reads: Ranges, writes: Ranges) -> Iterator[None]:
    """Kernels that run meanwhile may touch these addresses only."""
    builder: Any = interpreter.InterpreterBuilder
    load, store, change = (
        builder.create_masked_load,
        builder.create_masked_store,
        builder.create_atomic_rmw,
    )

    def checked_load(self: Any, ptrs: Any, mask: Any, *rest: Any) -> Any:
        size = _element_bytes(ptrs)
        reads.check(ptrs.data, mask.data, size, "reads")
        return load(self, ptrs, mask, *rest)

    def checked_store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        size = _element_bytes(ptrs)
        writes.check(ptrs.data, mask.data, size, "writes")
        return store(self, ptrs, value, mask, *rest)

    def checked_change(self: Any, op: Any, ptr: Any, value: Any, mask: Any, *rest: Any) -> Any:
        size = _element_bytes(ptr)
        reads.check(ptr.data, mask.data, size, "reads")
        writes.check(ptr.data, mask.data, size, "writes")
        return change(self, op, ptr, value, mask, *rest)

    builder.create_masked_load, builder.create_masked_store = checked_load, checked_store
    builder.create_atomic_rmw = checked_change
    try:
        yield
    finally:
        builder.create_masked_load, builder.create_masked_store = load, store
        builder.create_atomic_rmw = change
