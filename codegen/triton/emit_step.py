"""The first launch of a step: token ids, positions, and what attention has to do.

Its results are kept under names of their own, so that emitters of any layer find them.
"""

from __future__ import annotations

from ...ir.roles import StepArray
from ...ir.types import DType, S, T, TensorType
from ..views import View
from .attention_tiles import WorkClass, work_classes
from .forms import Form
from .machines import Machine
from .operands import Choice, extent
from .program import Program

BLOCK = 128
"""Tokens of a program; sequences of one turn of a prefix sum."""


def begin_step(program: Program) -> None:
    """Add the launch, and have readers of token ids and positions read its results."""
    classes = work_classes(program.graph, program.limits)
    ids = program.keep("resolved_ids", TensorType(DType.I32, (T,)))
    for value in program.graph.inputs:
        if value.role is StepArray.TOKEN_IDS:
            given = program.view(value)
            program.views[value] = ids
