"""Runs graphs of generic ops through the emitters of generated kernels, in Triton's interpreter."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from interpreted_kernels import interpreted_source
from llmc.codegen import views
from llmc.codegen.triton.emit_generated import emit_group
from llmc.codegen.triton.emitters import emit_node
from llmc.codegen.triton.fusion import plan_groups
from llmc.codegen.triton.machines import MACHINES
from llmc.codegen.triton.operands import Choose
from llmc.codegen.triton.program import Program
from llmc.codegen.views import Storage, View
from llmc.ir.graph import Graph, Node, Value
from llmc.ir.ops import TORCH_DTYPE
from llmc.ir.scalar import scalar_of
from llmc.ir.types import Dim, DType, TensorType, bind_dim, numel

PADDING = 7
"""Elements behind every buffer, which no kernel may write."""
BYTE = 0xA5


@dataclass(frozen=True)
class Launched:
    """`types`: the element types behind the kernel's pointers; `sized`: it takes a size."""

    function: str
    source: str
    storages: Mapping[str, Storage]
    sized: bool
    constants: Mapping[str, Any]
    in_place: frozenset[str]


class GraphRun:
    """What emitters take for a program: views of poisoned buffers, launches that run at once."""

    def __init__(
        self,
        graph: Graph,
        inputs: dict[str, torch.Tensor],
        env: dict[str, int],
        longest: int = 4096,
        interpret: bool = True,
    ) -> None:
        self.graph, self.env, self.longest, self.interpret = graph, env, longest, interpret
        self.memory: dict[Storage, torch.Tensor] = {}
        self.views: dict[Value, View] = {}
        self.kernels: list[Launched] = []
        self.nodes: tuple[Node, ...] = ()
        self.stored: dict[Value, DType] = {}  # other element types than the values' own
        for value in graph.inputs:
            self.views[value] = self.fresh(value.type)
            self.tensor(self.views[value]).copy_(inputs[value.name])

    # ---- what emitters call -------------------------------------------------------------------

    def fresh(self, type: TensorType) -> View:
        storage = Storage(f"b{len(self.memory)}", type.dtype, numel(type.shape))
        count = bind_dim(storage.numel, self.env) + PADDING
        raw = torch.full((count * type.dtype.itemsize,), BYTE, dtype=torch.uint8)
        self.memory[storage] = raw.view(TORCH_DTYPE[type.dtype])
        return views.whole(storage, type)

    def view(self, value: Value) -> View:
        number = scalar_of(value)
        if number is not None:
            return View(None, value.type.dtype, (), (), literal=repr(number))
        return self.views[value]

    def result(self, value: Value) -> View:
        type = value.type.with_dtype(self.stored.get(value, value.type.dtype))
        self.views[value] = view = self.fresh(type)
        return view

    def capacity(self, dim: Dim) -> int:
        return bind_dim(dim, {"T": self.longest, "S": 64, "R": 64})

    def read(self, view: View) -> Storage:
        assert view.storage is not None
        assert not view.offset
        return view.storage

    write = read

    def size(self, dim: Dim) -> int:
        return bind_dim(dim, self.env)

    def refuse(self, what: str) -> ValueError:
        return ValueError(what)

    def launch(
        self,
        function: str,
        operands: Mapping[str, Storage | int],
        choose: Choose,
        *,
        source: str,
        in_place: Sequence[tuple[View, View]] = (),
    ) -> None:
        choice = choose(MACHINES[90], cast(Any, None))
        assert choice is not None
        storages = {n: o for n, o in operands.items() if isinstance(o, Storage)}
        taken = frozenset(b.storage.name for _, b in in_place if b.storage)
        self.kernels.append(
            Launched(
                function, source, storages, len(storages) < len(operands), choice.constants, taken
            )
        )
        if not self.interpret:
            return
        digest = hashlib.sha256(source.encode()).hexdigest()[:16]
        kernel = getattr(interpreted_source(source, f"generated_{digest}"), function)
        arguments = {
            n: self.memory[o] if isinstance(o, Storage) else o for n, o in operands.items()
        }
        constants = {**choice.constants, "OVERLAPS": False, "PORTABLE": True}
        grid = tuple(extent.value(self.env) for extent in choice.grid)
        kernel[grid](**arguments, **constants)

    # ---- what tests call ----------------------------------------------------------------------

    def run(self) -> list[torch.Tensor]:
        """The graph's outputs."""
        groups, program = plan_groups(self.graph), cast(Program, self)
        for node in self.graph.nodes:
            group = groups.get(node)
            if group is None:
                emit_node(program, node)
            elif group.last is node:
                emit_group(program, group)
        for storage, memory in self.memory.items():
            behind = memory[bind_dim(storage.numel, self.env) :].view(torch.uint8)
            assert (behind == BYTE).all(), "written behind the end"
        return [self.tensor(self.view(v)) for v in self.graph.outputs]

    def tensor(self, view: View) -> torch.Tensor:
        shape = [bind_dim(d, self.env) for d in view.shape]
        if view.storage is None:
            number = {"True": True, "False": False}.get(view.literal)
            number = float(view.literal) if number is None else number
            return torch.full(shape, number, dtype=TORCH_DTYPE[view.dtype])
        return self.memory[view.storage].as_strided(shape, view.strides, view.offset)
