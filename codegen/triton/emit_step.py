"""The first launch of a step: token ids, positions, and what attention has to do.

Its results are kept under names of their own, so that emitters of any layer find them.
"""

from __future__ import annotations

from ...artifact.launch_plan import Extent
from ...base.errors import LlmcError
from ...ir.roles import StepArray
from ...ir.types import DType, R, S, Sym, T, TensorType
from ..views import Storage, View, whole
from .attention_tiles import WorkClass, work_classes
from .operands import Choice
from .program import Program

BLOCK = 128
"""Tokens of a program, and sequences of one turn of a prefix sum."""


def begin_step(program: Program) -> None:
    """Add the launch, and have readers of token ids and positions read its results.

    A negative token id -1 - k is the best token of row k of the step before.
    """
    classes = work_classes(program.graph, program.limits)
    given = _step_array(program, "token_ids", T)
    resolved = program.keep("resolved_ids", TensorType(DType.I32, (T,)))
    for value in program.graph.inputs:
        if value.role in (StepArray.TOKEN_IDS, StepArray.POSITIONS):
            if value.type.dtype is not DType.I32:
                raise LlmcError("LLMC-E0100", f"{value.name} is {value.type.dtype}, not i32")
            ids = value.role is StepArray.TOKEN_IDS
            program.views[value] = resolved if ids else positions(program)
    stride = _work_stride(program)
    program.launch(
        "step_metadata.step_metadata",
        {
            "token_ids_ptr": program.read(given),
            "sampled_ptr": program.read(program.keep("argmax", TensorType(DType.I32, (R,)))),
            "query_start_ptr": program.read(_step_array(program, "query_start", Sym("S1"))),
            "context_len_ptr": program.read(_step_array(program, "context_len", S)),
            "resolved_ptr": program.write(resolved),
            "positions_ptr": program.write(positions(program)),
            "sequence_of_ptr": program.write(sequence_of(program)),
            "work_ptr": program.write(_work(program, max(1, len(classes)))),
            "tokens": program.size(T),
            "sequences": program.size(S),
        },
        lambda machine, form: Choice(
            (Extent("T", 1, len(classes) * BLOCK, BLOCK),),
            {
                "CLASSES": tuple(n for one in classes for n in one.constants),
                "WORK_STRIDE": stride,
                "STEPS": program.limits.max_sequences.bit_length(),
                "BLOCK": BLOCK,
            },
        ),
    )


def positions(program: Program) -> View:
    """i32[T]: where each token stands in its sequence."""
    return program.keep("token_positions", TensorType(DType.I32, (T,)))


def sequence_of(program: Program) -> View:
    """i32[T]: the sequence that a token belongs to; S for nobody's."""
    return program.keep("sequence_of", TensorType(DType.I32, (T,)))


def work(program: Program, wanted: WorkClass) -> View:
    """i32[S + 1]: before each sequence, and in all, the items for one head of keys."""
    classes = work_classes(program.graph, program.limits)
    every, stride = _work(program, len(classes)), _work_stride(program)
    assert every.storage is not None
    return View(every.storage, DType.I32, (stride,), (1,), offset=classes.index(wanted) * stride)


def _work(program: Program, classes: int) -> View:
    return program.keep("attention_work", TensorType(DType.I32, (classes, _work_stride(program))))


def _work_stride(program: Program) -> int:
    """Elements between classes, so that each is aligned."""
    return -(-(program.limits.max_sequences + 1) // 4) * 4


def _step_array(program: Program, name: str, length: Sym) -> View:
    """What the host says, whether the graph reads it or not."""
    type = TensorType(DType.I32, (length,))
    return whole(Storage(name, DType.I32, length, external=True), type)
