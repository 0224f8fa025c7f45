"""Runs graphs of generic ops through generated kernels under Triton's interpreter."""

from __future__ import annotations

import hashlib

import torch
from interpreted_kernels import interpreted_source
from llmc.codegen import views
from llmc.codegen.triton.fusion import plan_groups
from llmc.codegen.triton.generated import Generated, Subject, copy_kernel, generate_kernel
from llmc.codegen.views import Storage, View
from llmc.ir.graph import Graph, Node, Value
from llmc.ir.ops import TORCH_DTYPE, Expand, Full, Permute, Reshape, Slice
from llmc.ir.scalar import scalar_of
from llmc.ir.types import Dim, DType, TensorType, bind_dim, numel

PADDING = 7
"""Elements behind every buffer, which no kernel may write."""
BYTE = 0xA5


class GraphRun:
    """One run: values are views of poisoned buffers, as the builder has them in its arena."""

    def __init__(
        self, graph: Graph, inputs: dict[str, torch.Tensor], env: dict[str, int]
    ) -> None:
        self.graph, self.env = graph, env
        self.memory: dict[Storage, torch.Tensor] = {}
        self.views: dict[Value, View] = {}
        self.kernels: list[Generated] = []
        for value in graph.inputs:
            self.views[value] = self.holding(value.type, inputs[value.name])

    def fresh(self, type: TensorType) -> View:
        storage = Storage(f"b{len(self.memory)}", type.dtype, numel(type.shape))
        count = bind_dim(storage.numel, self.env) + PADDING
        raw = torch.full((count * type.dtype.itemsize,), BYTE, dtype=torch.uint8)
        self.memory[storage] = raw.view(TORCH_DTYPE[type.dtype])
        return views.whole(storage, type)

    def holding(self, type: TensorType, tensor: torch.Tensor) -> View:
        view = self.fresh(type)
        self.tensor(view).copy_(tensor)
        return view

    def tensor(self, view: View) -> torch.Tensor:
        shape = [bind_dim(d, self.env) for d in view.shape]
        if view.storage is None:
            number = {"True": True, "False": False}.get(view.literal)
            number = float(view.literal) if number is None else number
            return torch.full(shape, number, dtype=TORCH_DTYPE[view.dtype])
        return self.memory[view.storage].as_strided(shape, view.strides, view.offset)

    def view(self, value: Value) -> View:
        number = scalar_of(value)
        if number is not None:
            return View(None, value.type.dtype, (), (), literal=repr(number))
        return self.views[value]

    def result(self, value: Value) -> View:
        self.views[value] = view = self.fresh(value.type)
        return view

    def most(self, dim: Dim) -> int:
        return bind_dim(dim, {"T": 4096, "S": 64, "R": 64})

    def launch(self, kernel: Generated) -> None:
        self.kernels.append(kernel)
        arguments: dict[str, object] = {
            name: self.memory[view.storage] for name, view in kernel.pointers.items() if view.storage
        }
        if kernel.size is not None:
            arguments["size"] = bind_dim(kernel.size, self.env)
        programs = -(-bind_dim(kernel.count, self.env) // kernel.share)
        digest = hashlib.sha256(kernel.source.encode()).hexdigest()[:16]
        module = interpreted_source(kernel.source, f"generated_{digest}")
        function = getattr(module, kernel.name)
        function[(programs,)](**arguments, **kernel.constants, OVERLAPS=False, PORTABLE=True)

    def run(self) -> list[torch.Tensor]:
        groups = plan_groups(self.graph)
        for node in self.graph.nodes:
            group = groups.get(node)
            if group is None:
                self.views[node.output] = self.moved(node, self.view(node.inputs[0]))
            elif group.last is node:
                inside = frozenset(group.inside)
                subject = Subject(node, inside, self.view, self.result, self.most)
                self.launch(generate_kernel(subject))
        for storage, memory in self.memory.items():
            behind = memory[bind_dim(storage.numel, self.env) :].view(torch.uint8)
            assert (behind == BYTE).all(), "written behind the end"
        return [self.tensor(self.view(v)) for v in self.graph.outputs]

    def moved(self, node: Node, x: View) -> View:
        op = node.op
        if isinstance(op, Permute):
            return views.permute(x, op.dims)
        if isinstance(op, (Expand, Full)):
            return views.expand(x, op.shape)
        if isinstance(op, Slice):
            length = node.output.type.shape[op.dim]
            assert isinstance(length, int)
            return views.slice_dim(x, op.dim, op.start, length, op.step)
        assert isinstance(op, Reshape)
        return self.reshaped(x, op.shape)

    def reshaped(self, x: View, shape: tuple[Dim, ...]) -> View:
        found = views.reshape(x, shape)
        if found is not None:
            return found
        target = self.fresh(TensorType(x.dtype, shape))
        common = views.refine(x.shape, shape)
        assert common is not None
        source, parts = views.reshape(x, common), views.reshape(target, common)
        assert source is not None and parts is not None
        self.launch(copy_kernel(source, parts, self.most))
        return target
