"""The largest of a row, in two steps: of pieces of every row at once, then of the pieces.

In: logits f32 [rows, VOCAB]. Out: the id of the largest i32[rows]; of equals the lowest, -1 where
all are NaN or -inf. NaN never wins.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

_NONE = tl.constexpr(0x7FFFFFFF)


@triton.jit
def argmax_pieces(
    logits_ptr,
    value_ptr,
    id_ptr,
    STRIDE: tl.constexpr,
    VOCAB: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCK: tl.constexpr,
    PIECES: tl.constexpr,
    PORTABLE: tl.constexpr = False,
):
    """Programs (rows, PIECES): the largest of PIECE logits (whole BLOCKs), and its id.

    value f32, id i32 [rows, PIECES].
    """
    if not PORTABLE:
        gdc_wait()
        gdc_launch_dependents()
    row, piece = tl.program_id(0), tl.program_id(1)
    x_ptr = logits_ptr + row.to(tl.int64) * STRIDE
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    best_id = tl.full((BLOCK,), _NONE, tl.int32)
    for start in tl.range(0, PIECE, BLOCK, loop_unroll_factor=4):
        at = piece * PIECE + start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + at, mask=at < VOCAB, other=float("-inf"))
        larger = x > best
        best = tl.where(larger, x, best)
        best_id = tl.where(larger, at, best_id)
    value, place = _first_of_largest(best, best_id)
    tl.store(value_ptr + row * PIECES + piece, value)
    tl.store(id_ptr + row * PIECES + piece, place)


@triton.jit
def argmax_rows(
    value_ptr,
    id_ptr,
    token_ptr,
    PIECES: tl.constexpr,
    BLOCK: tl.constexpr,
    PORTABLE: tl.constexpr = False,
):
    """One program a row. BLOCK: a power of 2, at least PIECES."""
    if not PORTABLE:
        gdc_wait()
        gdc_launch_dependents()
    row = tl.program_id(0)
    piece = tl.arange(0, BLOCK)
    at = row * PIECES + piece
    value = tl.load(value_ptr + at, mask=piece < PIECES, other=float("-inf"))
    place = tl.load(id_ptr + at, mask=piece < PIECES, other=_NONE)
    _, token = _first_of_largest(value, place)
    tl.store(token_ptr + row, tl.where(token == _NONE, -1, token))


@triton.jit
def _first_of_largest(values, ids):
    """(largest, lowest id that has it): no NaN; ids of -inf are `_NONE`."""
    largest = tl.max(values, axis=0)
    return largest, tl.min(tl.where(values == largest, ids, _NONE), axis=0)
