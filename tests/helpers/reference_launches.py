"""Launch plans run by the ops' references: a fake GPU's kernels are what the graph's nodes mean.

In: a program of the triton target. Out: a plan in which each launch has a kernel of its own, and
what to bind to these kernels: the launch reads its node's operands where the plan has put them,
evaluates the node with torch and writes the results there. So offsets, strides, element types,
order and reuse of memory are what is tested; the arithmetic is the oracle's.

Only the last launch of a node that a step has computes: those before it (parts of a sum) leave
poison.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import torch
from fake_gpu import FakeKernel, FakeLaunch
from llmc.artifact.launch_plan import (
    Argument,
    Extent,
    FormLaunch,
    Kernel,
    Launch,
    LaunchPlan,
    Pointer,
    Size,
)
from llmc.artifact.manifest import CacheGroup
from llmc.codegen.triton.emit_sampling import PIECE
from llmc.codegen.triton.generate import Generated
from llmc.codegen.triton.layout import unpack
from llmc.codegen.views import View
from llmc.ir.graph import Node, Value
from llmc.ir.interpreter import scalar_tensor
from llmc.ir.ops import TORCH_DTYPE
from llmc.ir.ops.cache_codes import SCALE_BYTES, padded
from llmc.ir.types import Env, bind_dim

ENTRY = 16
"""Bytes of a kernel that stands for one launch: its name."""
SIZES = ("T", "S", "R")


def reference_plan(plan: LaunchPlan) -> tuple[LaunchPlan, bytes]:
    """The plan with a kernel for each launch, which is also told the step's sizes; its program."""
    kernels, entry = [], bytearray()

    def own(launches: list[Launch], kind: str) -> list[Launch]:
        result = []
        for number, launch in enumerate(launches):
            name = f"{kind}{number}"
            arguments: list[Argument] = [*launch.arguments, *(Size(Extent(s)) for s in SIZES)]  # type: ignore[arg-type]
            forms = [
                FormLaunch(len(kernels), form.grid) if form.kernel >= 0 else form
                for form in launch.forms
            ]
            kernels.append(
                Kernel(label=launch.label, name=name, offset=len(entry), nbytes=ENTRY, threads=32)
            )
            entry.extend(name.encode().ljust(ENTRY))
            result.append(msgspec.structs.replace(launch, forms=forms, arguments=arguments))
        return result

    launches, sampling = own(plan.launches, "launch"), own(plan.sampling, "sampling")
    kernels = [
        msgspec.structs.replace(k, parameter_bytes=_parameter_bytes(launch))
        for k, launch in zip(kernels, (*launches, *sampling), strict=True)
    ]
    changed = msgspec.structs.replace(plan, kernels=kernels, launches=launches, sampling=sampling)
    return changed, bytes(entry)


def _parameter_bytes(launch: Launch) -> int:
    types = (*(_type(a) for a in launch.arguments), "ptr", "ptr")
    return FakeKernel(tuple(types[:-2]), lambda _: None).layout.size


def _type(argument: Argument) -> str:
    if isinstance(argument, Pointer):
        return "ptr"
    return "i32" if isinstance(argument, Size) else argument.dtype


@dataclass
class ReferenceLaunches:
    """What a plan's launches do. `bind` is for `FakeGpu`."""

    generated: Generated
    plan: LaunchPlan
    poison: bool = True
    _bases: dict[tuple[str, int], int] = field(default_factory=dict)
    _weights: dict[Value, torch.Tensor] = field(default_factory=dict)

    def bind(self, cubin: bytes, name: str) -> FakeKernel:
        """The kernel of one launch."""
        assert cubin.decode().strip() == name
        kind = "launch" if name.startswith("launch") else "sampling"
        number = int(name.removeprefix(kind))
        launch = (self.plan.launches if kind == "launch" else self.plan.sampling)[number]
        types = tuple(_type(argument) for argument in launch.arguments)
        run: Callable[[FakeLaunch], None]
        if kind == "launch":
            run = lambda found: self._run(number, launch, found)  # noqa: E731
        else:
            run = lambda found: None  # noqa: E731
        return FakeKernel(types, run)

    def _run(self, number: int, launch: Launch, found: FakeLaunch) -> None:
        for argument, address in zip(launch.arguments, found.args, strict=True):
            if isinstance(argument, Pointer):
                self._bases[argument.space, argument.group] = address - argument.offset
        env: dict[str, int] = dict(zip(SIZES, found.args[-3:], strict=True))
        env["S1"] = env["S"] + 1
        program = self.generated.program
        nodes = program.origins[number]
        if not nodes:
            addresses = dict(zip(program.launches[number].operands, found.args, strict=False))
            addresses["vocab"] = program.graph.vocab_size
            SPECIAL[program.launches[number].function](found, addresses, env)
        elif self._is_last(number, env["T"]):
            _Step(self, found, env).compute(nodes)

    def _is_last(self, number: int, tokens: int) -> bool:
        """No later launch of the same node is in the form of a step of so many tokens."""
        form, origins = self.plan.form_for(tokens), self.generated.program.origins
        node = origins[number][-1]
        for later in range(number + 1, len(self.plan.launches)):
            if not origins[later] or origins[later][-1] is not node:
                return True
            if self.plan.launches[later].forms[form].kernel >= 0:
                return False
        return True


def _step_metadata(found: FakeLaunch, at: Mapping[str, Any], env: Env) -> None:
    """What the first kernel of a step writes, but for the work lists of attention."""
    tokens, sequences = env["T"], env["S"]
    starts = found.array(at["query_start_ptr"], np.int32, sequences + 1)
    lengths = found.array(at["context_len_ptr"], np.int32, sequences)
    given = found.array(at["token_ids_ptr"], np.int32, tokens)
    owner = found.array(at["sequence_of_ptr"], np.int32, tokens)
    owner[:] = np.searchsorted(starts[1:], np.arange(tokens), side="right")
    positions = found.array(at["positions_ptr"], np.int32, tokens)
    resolved = found.array(at["resolved_ptr"], np.int32, tokens)
    for token, (one, s) in enumerate(zip(given.tolist(), owner.tolist(), strict=True)):
        before = found.array(at["sampled_ptr"], np.int32, -one)[-1 - one] if one < 0 else one
        resolved[token] = before
        positions[token] = lengths[s] - starts[s + 1] + token if s < sequences else 0


def _argmax_pieces(found: FakeLaunch, at: Mapping[str, Any], env: Env) -> None:
    """The best token of each row, as if the first piece were the whole row."""
    rows, pieces, _ = found.grid
    logits = found.array(at["logits_ptr"], np.float32, rows, at["vocab"])
    value = found.array(at["value_ptr"], np.float32, rows, pieces)
    place = found.array(at["id_ptr"], np.int32, rows, pieces)
    value[:], place[:] = -np.inf, -1
    value[:, 0], place[:, 0] = logits.max(axis=1), logits.argmax(axis=1)


def _argmax_rows(found: FakeLaunch, at: Mapping[str, Any], env: Env) -> None:
    """The best of the pieces; the first is the whole row."""
    rows = found.grid[0]
    pieces = -(-at["vocab"] // PIECE)
    place = found.array(at["id_ptr"], np.int32, rows, pieces)
    found.array(at["token_ptr"], np.int32, rows)[:] = place[:, 0]


SPECIAL: dict[str, Callable[[FakeLaunch, Mapping[str, Any], Env], None]] = {
    "step_metadata.step_metadata": _step_metadata,
    "argmax.argmax_pieces": _argmax_pieces,
    "argmax.argmax_rows": _argmax_rows,
}
"""Launches that are of no node."""


@dataclass
class _Step:
    """The memory of one launch, by values."""

    owner: ReferenceLaunches
    found: FakeLaunch
    env: Env
    known: dict[Value, torch.Tensor] = field(default_factory=dict)

    def compute(self, nodes: tuple[Node, ...]) -> None:
        """Evaluates nodes in order, and writes what has a place."""
        program = self.owner.generated.program
        for node in nodes:
            operands = [self.read(value) for value in node.inputs]
            result = node.op.bind(self.env).reference(*operands)
            results = result if isinstance(result, tuple) else (result,)
            self.known.update(zip(node.outputs, results, strict=True))
        for node in nodes:
            for place, value in enumerate(node.outputs):
                if node.op.in_place:
                    state = node.inputs[node.op.in_place[place]]
                    _write_pool(self, state, self.known[value])
                elif value in program.views and self._is_stored(value):
                    self.tensor(program.views[value]).copy_(self.known[value])

    def _is_stored(self, value: Value) -> bool:
        storage = self.owner.generated.program.views[value].storage
        return storage is not None

    def read(self, value: Value) -> torch.Tensor:
        """A value as its op's reference takes it."""
        if value in self.known:
            return self.known[value]
        program = self.owner.generated.program
        if value.state is not None:
            return _read_pool(self, value)
        if value in program.views and program.views[value].storage is not None:
            tensor = self.tensor(program.views[value]).clone()
            return tensor.to(TORCH_DTYPE[value.type.dtype])
        literal = scalar_tensor(value)
        return self._weight(value) if literal is None else literal

    def _weight(self, value: Value) -> torch.Tensor:
        """A matrix in the target's layout, as what its bytes stand for."""
        if value not in self.owner._weights:
            program = self.owner.generated.program
            tensor = program.weights.packed(value)
            data = self.found.gpu.bytes_at(self.base("weights") + tensor.offset, tensor.nbytes)
            shape = [d for d in value.type.shape if isinstance(d, int)]
            values = unpack(value.type.dtype, shape, data)
            self.owner._weights[value] = torch.from_numpy(np.array(values, np.float32))
        return self.owner._weights[value]

    def base(self, space: str, group: int = 0) -> int:
        return self.owner._bases[space, group]

    def tensor(self, view: View) -> torch.Tensor:
        """Device memory, which may be written."""
        storage = view.storage
        assert storage is not None
        program, memory = self.owner.generated.program, self.owner.generated.memory
        outside = program.externals.get(storage.name)
        if outside is None:
            start = self.base("arena") + memory.placements[storage.name].offset
        else:
            start = self.base(outside.space, outside.group) + outside.offset
        shape = [bind_dim(d, self.env) for d in view.shape]
        dtype = TORCH_DTYPE[storage.dtype]
        reach = sum((n - 1) * s for n, s in zip(shape, view.strides, strict=True)) + 1
        if 0 in shape:
            return torch.empty(shape, dtype=dtype)
        size = storage.dtype.itemsize
        data = self.found.gpu.bytes_at(start + view.offset * size, reach * size)
        return torch.from_numpy(data).view(dtype).as_strided(shape, view.strides)


def _pool_tensor(step: _Step, value: Value) -> tuple[torch.Tensor, CacheGroup, bool]:
    """A site's bytes u8 [blocks, heads, bytes of a head], which may be written."""
    program = step.owner.generated.program
    place = program.pool(value)
    group = program.groups[place.group]
    base = step.base("cache", place.group)
    allocation = next(a for a in step.found.gpu._memory if a.address == base)
    blocks = torch.from_numpy(allocation.data).view(-1, place.block_bytes)
    part = blocks[:, place.offset : place.offset + place.nbytes]
    return part.unflatten(1, (group.kv_heads, -1)), group, _is_key(value)


def _is_key(value: Value) -> bool:
    state = value.state
    assert state is not None
    return state.role.part == "key_pool"  # type: ignore[union-attr]


def _parts(group: CacheGroup, key: bool) -> tuple[int, int, int, int]:
    """Where a head's keys or values lie: offset, bytes a token, offset of scales, elements."""
    size = {"f32": 4, "bf16": 2, "f16": 2, "i8": 1}[group.dtype]
    keys, values = padded(group.key_dim) * size, padded(group.value_dim) * size
    tokens = group.block_size
    scales = tokens * (keys + values)
    if key:
        return 0, keys, scales, group.key_dim
    return tokens * keys, values, scales + tokens * SCALE_BYTES, group.value_dim


def _read_pool(step: _Step, value: Value) -> torch.Tensor:
    """[blocks, 64, heads, width], as ops have it."""
    part, group, key = _pool_tensor(step, value)
    offset, nbytes, scales, _ = _parts(group, key)
    tokens, heads = group.block_size, group.kv_heads
    codes = part[:, :, offset : offset + tokens * nbytes].contiguous()
    codes = codes.view(-1, heads, tokens, nbytes).transpose(1, 2).contiguous()
    width = value.type.shape[-1]
    assert isinstance(width, int)
    if group.dtype != "i8":
        return codes.view(TORCH_DTYPE[value.type.dtype])[..., :width].clone()
    found = part[:, :, scales : scales + tokens * SCALE_BYTES].contiguous()
    found = found.view(-1, heads, tokens, SCALE_BYTES).transpose(1, 2)
    return torch.cat((codes[..., : width - SCALE_BYTES], found), -1).view(torch.int8)


def _write_pool(step: _Step, value: Value, pool: torch.Tensor) -> None:
    """Back to memory, of a pool as ops have it."""
    part, group, key = _pool_tensor(step, value)
    offset, nbytes, scales, _ = _parts(group, key)
    tokens = group.block_size
    rows = pool.transpose(1, 2).contiguous()  # [blocks, heads, 64, width]
    if group.dtype == "i8":
        rows, found = rows[..., :-SCALE_BYTES], rows[..., -SCALE_BYTES:]
        part[:, :, scales : scales + tokens * SCALE_BYTES] = found.reshape(
            *found.shape[:2], -1
        ).view(torch.uint8)
    data = rows.contiguous().view(torch.uint8)
    target = part[:, :, offset : offset + tokens * nbytes].unflatten(2, (tokens, nbytes))
    target[..., : data.shape[-1]] = data
