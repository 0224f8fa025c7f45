"""The best token of every row, and tokens that are drawn: launches behind the last node.

In: logits in the kept memory. Out: `argmax` i32 [R] there; and for what is to be drawn `choices`,
which the host writes (`artifact/device_choice.py`), `results` and `tokens` i32 [R].
"""

from __future__ import annotations

from ...artifact.device_choice import RECORD, RESULT, TOP
from ...artifact.launch_plan import Extent
from ...ir.types import DType, R, TensorType
from ..views import View
from .operands import Choice, Operand, extent
from .program import Program

PIECE = 2048
"""Logits of a row that one program looks at, where programs share a row."""
_BLOCK = 4096
"""Lanes of a program that has a row of its own."""
_EDITS = 2048
"""Edits for which every row of a step has room at once; one row may have one for every token."""
_WORD = 4


def emit_argmax(program: Program) -> None:
    """Two launches: pieces of rows, then rows."""
    logits, vocab = _logits(program)
    token = program.keep("argmax", TensorType(DType.I32, (R,)))
    pieces = -(-vocab // PIECE)
    value = program.fresh(TensorType(DType.F32, (R, pieces)))
    place = program.fresh(TensorType(DType.I32, (R, pieces)))
    sizes = {"STRIDE": vocab, "VOCAB": vocab, "PIECE": PIECE, "BLOCK": 1024, "PIECES": pieces}
    width = {"PIECES": pieces, "BLOCK": _power_of_two(pieces)}
    _launch(
        program,
        "argmax.argmax_pieces",
        {
            "logits_ptr": program.read(logits),
            "value_ptr": program.write(value),
            "id_ptr": program.write(place),
        },
        Choice((extent(R), Extent("", pieces)), sizes),
    )
    _launch(
        program,
        "argmax.argmax_rows",
        {
            "value_ptr": program.read(value),
            "id_ptr": program.read(place),
            "token_ptr": program.write(token),
        },
        Choice((extent(R),), width, num_warps=1),
    )


def emit_sampling(program: Program) -> None:
    """Three launches, with as many choices as the step has rows (R)."""
    logits, vocab = _logits(program)
    rows = program.capacity(R)
    choices = program.keep("choices", TensorType(DType.I32, (_choice_words(rows, vocab),)))
    results = program.keep("results", TensorType(DType.I32, (R, RESULT.size // _WORD)))
    tokens = program.keep("tokens", TensorType(DType.I32, (R,)))
    block = min(max(_power_of_two(vocab), 2 * TOP), _BLOCK)
    ids, values = (program.fresh(TensorType(dtype, (R, block))) for dtype in (DType.I32, DType.F32))
    shape = {"STRIDE": vocab, "VOCAB": vocab}
    looks = shape | {"TOP": TOP, "CAPACITY": block, "BLOCK": block}
    warps = max(1, block // (256 if block == _BLOCK else 512))  # fewer warps: no spills
    common = {"logits_ptr": program.read(logits), "choices_ptr": program.read(choices)}
    space = {"ids_ptr": program.update(ids), "values_ptr": program.update(values)}
    fresh = {"ids_ptr": program.write(ids), "values_ptr": program.write(values)}
    _launch(
        program,
        "sampling.report_rows",
        {**common, "results_ptr": program.write(results), **fresh},
        Choice((extent(R),), looks, num_warps=warps),
    )
    _launch(
        program,
        "sampling.change_rows",
        {"logits_ptr": program.update(logits), "choices_ptr": program.update(choices)},
        Choice((extent(R), Extent("", vocab, 0, PIECE)), shape | {"PIECE": PIECE, "BLOCK": 1024}),
    )
    _launch(
        program,
        "sampling.draw_rows",
        {
            **common,
            "results_ptr": program.update(results),
            "tokens_ptr": program.write(tokens),
            **space,
        },
        Choice((extent(R),), looks | {"NEAR": block // 4}, num_warps=warps),
    )


def _choice_words(rows: int, vocab: int) -> int:
    """Words for the records and lists of so many choices: for each a mask and `_EDITS` edits, or
    for one of them as many edits and forbidden ids as there are tokens."""
    mask = -(-vocab // 32)
    lists = max(rows * (mask + 5 * min(_EDITS, vocab)), mask + 6 * vocab)
    return rows * RECORD.size // _WORD + lists


def _logits(program: Program) -> tuple[View, int]:
    """Where logits are kept, and how many a row has."""
    (value,) = program.graph.outputs
    vocab = value.type.shape[-1]
    assert isinstance(vocab, int)
    return program.keep("logits", value.type), vocab


def _launch(program: Program, function: str, operands: dict[str, Operand], choice: Choice) -> None:
    program.launch(function, operands, lambda machine, form: choice)


def _power_of_two(count: int) -> int:
    """The next one, at least `count`."""
    return 1 << (count - 1).bit_length()
