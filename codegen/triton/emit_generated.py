"""Ops without a hand-written kernel: generated ones, and views that cost nothing.

In: groups of nodes (`fusion.py`), nodes that only move elements. Out: launches of generated source,
and views. Copies are made where no strides express a reshape.
"""

from __future__ import annotations

from functools import partial

from ...ir.graph import Node
from ...ir.ops import Expand, Full, Permute, Reshape, Slice
from ...ir.types import Dim, DType
from .. import views
from ..views import View
from .emitters import emits
from .forms import Form
from .fusion import Group
from .generated import generate_kernel
from .generated_maps import copy_kernel
from .generated_text import Generated, Subject
from .machines import Machine
from .operands import Choice, extent
from .program import Program


def emit_group(program: Program, group: Group) -> None:
    """The launch that computes a group, when its last node's turn has come.

    Raises:
        LlmcError: LLMC-E0401, this use of an op isn't covered.
    """
    program.nodes = group.nodes
    subject = Subject(
        group.last, frozenset(group.inside), program.view, program.result, program.capacity
    )
    try:
        kernel = generate_kernel(subject)
    except ValueError as error:
        raise program.refuse(str(error)) from error
    _launch(program, kernel)


def emit_copy(program: Program, source: View, target: View) -> None:
    """A launch that copies `source` to `target` (same shape), converting the element type."""
    _launch(program, copy_kernel(source, target, program.capacity))


def _launch(program: Program, kernel: Generated) -> None:
    operands = {
        name: (program.write if name in kernel.written else program.read)(view)
        for name, view in kernel.pointers.items()
    }
    if kernel.size is not None:
        operands["size"] = program.size(kernel.size)

    def choose(machine: Machine, form: Form) -> Choice | None:
        if any(count == 0 for count, _ in kernel.grid):
            return None
        facts = {**kernel.constants, "OVERLAPS": machine.overlaps, "PORTABLE": False}
        return Choice(tuple(extent(*part) for part in kernel.grid), facts)

    out = kernel.pointers.get("out_ptr")
    pairs = [(out, kernel.pointers[name]) for name in kernel.in_place if out is not None]
    program.launch(kernel.name, operands, choose, source=kernel.source, in_place=pairs)


@emits(Permute)
def permute(program: Program, node: Node, op: Permute) -> None:
    program.views[node.output] = views.permute(program.view(node.inputs[0]), op.dims)


@emits(Expand, Full)
def expand(program: Program, node: Node, op: Expand | Full) -> None:
    """A number everywhere is a broadcast view of it: nothing is stored."""
    program.views[node.output] = views.expand(program.view(node.inputs[0]), op.shape)


@emits(Slice)
def slice_(program: Program, node: Node, op: Slice) -> None:
    length = node.output.type.shape[op.dim]
    assert isinstance(length, int)
    x = program.view(node.inputs[0])
    program.views[node.output] = views.slice_dim(x, op.dim, op.start, length, op.step)


@emits(Reshape)
def reshape(program: Program, node: Node, op: Reshape) -> None:
    program.views[node.output] = reshaped(program, program.view(node.inputs[0]), op.shape)


def reshaped(program: Program, view: View, shape: tuple[Dim, ...]) -> View:
    """`view` under another shape: the same memory if strides express it, else a copy."""
    result = views.reshaped(view, shape, program.fresh, partial(emit_copy, program))
    if result is None:
        raise program.refuse(f"a reshape of {view.type} that mixes tokens")
    return result


def dense(program: Program, view: View, dtype: DType | None = None) -> View:
    """`view` without gaps (and as `dtype`), copied if it must be.

    Raises:
        LlmcError: LLMC-E0401, elements can't be copied in that order.
    """
    return views.dense(view, program.fresh, partial(emit_copy, program), dtype)
