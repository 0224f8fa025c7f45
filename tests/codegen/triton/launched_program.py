"""Runs what emitters have launched, kernel by kernel, in Triton's interpreter.

In: a `Program` whose inputs lie in its kept memory. Out: its memory afterwards. Whatever no kernel
has written is poison; every pointer ends where its buffer does.
"""

from __future__ import annotations

from typing import Any

import torch
from interpreted_kernels import interpreted
from llmc.artifact.launch_plan import Pointer, Size
from llmc.artifact.manifest import Limits
from llmc.codegen.triton.layout import TRITON_LAYOUT
from llmc.codegen.triton.machines import MACHINES
from llmc.codegen.triton.operands import PlannedLaunch
from llmc.codegen.triton.program import Program, total_bytes
from llmc.codegen.views import View
from llmc.ir.graph import Graph, Value
from llmc.ir.ops import TORCH_DTYPE
from llmc.ir.types import DType, TensorType, bind_dim
from llmc.weights.table import WeightTable

POISON = 0xA5
ELEMENT = {
    "*fp32": torch.float32, "*bf16": torch.bfloat16, "*fp16": torch.float16, "*i32": torch.int32,
    "*i64": torch.int64, "*i8": torch.int8,
}  # fmt: skip
MACHINE = MACHINES[90]


class LaunchedProgram:
    """A program of `graph`, whose values without a producer are given their tensors here."""

    def __init__(self, graph: Graph, env: dict[str, int], rows: int = 16) -> None:
        self.env = env
        limits = Limits(
            max_tokens=128, max_sequences=4, max_context=128, max_logits_rows=rows, block_size=64
        )
        self.program = Program(graph, limits, WeightTable(TRITON_LAYOUT), DType.F32)
        self._inputs: dict[str, torch.Tensor] = {}
        self._memory: dict[str, torch.Tensor] = {}

    def give(self, value: Value, tensor: torch.Tensor, name: str = "") -> None:
        """Puts a value into the kept memory."""
        name = name or f"input.{len(self._inputs)}"
        self.program.views[value] = self.program.keep(name, value.type)
        self._inputs[name] = tensor

    def run(self, rows: int) -> None:
        """All launches, in the form for `rows` tokens."""
        kept = torch.full((total_bytes(self.program.kept),), POISON, dtype=torch.uint8)
        self._memory = {"kept": kept}
        for name, buffer in self.program.schedule.buffers.items():
            self._memory[name] = torch.full((buffer.nbytes,), POISON, dtype=torch.uint8)
        for name, tensor in self._inputs.items():
            data = tensor.contiguous().view(-1).view(torch.uint8)
            begin = self.program.kept[name].offset
            kept[begin : begin + len(data)] = data
        for launch in self.program.launches:
            self._launch(launch, rows)

    def _launch(self, launch: PlannedLaunch, rows: int) -> None:
        form = next(f for f in self.program.forms if rows <= f.rows)
        choice = launch.choose(MACHINE, form)
        if choice is None:
            return
        assert not choice.constants.get("PORTABLE", False)
        module, name = launch.function.split(".")
        kernel = getattr(interpreted(module), name)
        constants = {**choice.constants, "PORTABLE": True}
        passed = [n for n in kernel.arg_names if n not in constants]
        assert passed == list(launch.operands)
        grid = tuple(extent.value(self.env, MACHINE.multiprocessors) for extent in choice.grid)
        kernel[grid](**{n: self._argument(launch, n) for n in passed}, **constants)

    def _argument(self, launch: PlannedLaunch, name: str) -> Any:
        operand = launch.operands[name]
        argument = operand.argument
        if isinstance(argument, Size):
            return argument.extent.value(self.env)
        assert isinstance(argument, Pointer)
        data = self._memory[operand.buffer or argument.space]
        part = data[argument.offset : argument.offset + argument.nbytes]
        return part.view(ELEMENT[operand.type])

    def tensor(self, view: View | Value) -> torch.Tensor:
        """What a value is now."""
        view = self.program.view(view) if isinstance(view, Value) else view
        assert view.storage is not None
        region = self.program.kept.get(view.storage.name)
        data = self._memory[view.storage.name if region is None else "kept"]
        begin = region.offset // view.dtype.itemsize if region else 0
        elements = data[: len(data) // 8 * 8].view(TORCH_DTYPE[view.dtype])
        shape = [bind_dim(d, self.env) for d in view.shape]
        return elements.as_strided(shape, view.strides, begin + view.offset)

    def kept(self, name: str, type: TensorType) -> torch.Tensor:
        """A region of the kept memory."""
        return self.tensor(self.program.keep(name, type))
