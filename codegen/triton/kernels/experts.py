"""Routing tokens to experts and back: a stable sort of (token, choice) pairs, and weighted sums.

In: the experts that each token chose, i32 or i64 [tokens, K]; later the experts' results, row by
sorted row. Out: where every pair went, where every expert's rows begin; the sum over a token's
choices, in their order. Nothing depends on the order in which programs run.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def route_tokens(
    index_ptr,
    row_index_ptr,
    offsets_ptr,
    slot_ptr,
    tokens,
    K: tl.constexpr,
    EXPERTS: tl.constexpr,
    BLOCK: tl.constexpr,
    PORTABLE: tl.constexpr = False,
):
    """One program for each expert, which reads all pairs: how many belong to the experts before its
    own says where its rows begin, and the order of its own pairs is the order of its rows.

    index [tokens, K] → row_index i32[tokens * K], offsets i32[EXPERTS + 1], slot i32[tokens, K],
    as in `RouteTokens`. Pairs of no expert (below 0, or EXPERTS and more) get no row.
    """
    if not PORTABLE:
        gdc_wait()
        gdc_launch_dependents()
    expert = tl.program_id(0)
    pairs = tokens * K
    before = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, pairs, BLOCK):
        pair = start + tl.arange(0, BLOCK)
        chosen = tl.load(index_ptr + pair, mask=pair < pairs, other=EXPERTS).to(tl.int32)
        before += ((chosen >= 0) & (chosen < expert)).to(tl.int32)
    end = tl.sum(before, axis=0)
    tl.store(offsets_ptr + expert, end)
    for start in range(0, pairs, BLOCK):
        pair = start + tl.arange(0, BLOCK)
        chosen = tl.load(index_ptr + pair, mask=pair < pairs, other=EXPERTS).to(tl.int32)
        mine = chosen == expert
        count = mine.to(tl.int32)
        place = end + tl.cumsum(count, axis=0) - 1
        tl.store(row_index_ptr + place, pair // K, mask=mine)
        tl.store(slot_ptr + pair, place, mask=mine)
        end += tl.sum(count, axis=0)
    if expert == EXPERTS - 1:
        tl.store(offsets_ptr + EXPERTS, end)


@triton.jit
def combine_experts(
    x_ptr,
    slot_ptr,
    weight_ptr,
    out_ptr,
    X_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PORTABLE: tl.constexpr = False,
):
    """`out[t] = Σ_j weight[t, j] * x[slot[t, j]]`, j by j. Programs: (tokens, ceil(N / BLOCK_N)).

    x f32 or 16 bits [tokens * K, N], slot i32 [tokens, K], weight f32 [tokens, K].
    """
    if not PORTABLE:
        gdc_wait()
        gdc_launch_dependents()
    token = tl.program_id(0)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros((BLOCK_N,), tl.float32)
    for j in tl.static_range(K):
        row = tl.load(slot_ptr + token * K + j).to(tl.int64)
        weight = tl.load(weight_ptr + token * K + j)
        x = tl.load(x_ptr + row * X_STRIDE + column, mask=column < N, other=0.0)
        total += x.to(tl.float32) * weight
    at = out_ptr + token.to(tl.int64) * OUT_STRIDE + column
    tl.store(at, total.to(out_ptr.dtype.element_ty), mask=column < N)
