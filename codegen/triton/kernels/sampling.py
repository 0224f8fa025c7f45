"""Choosing tokens from rows of logits, as `artifact/choice.py` says it.

In: logits f32 [rows, STRIDE], which are changed, and choices packed by `artifact/device_choice.py`:
a record of RECORD words each, and behind them what they point to. Out: RESULT words for a choice:
token, log-probability, two numbers between kernels, TOP ids and TOP log-probabilities.

Three launches, one program a choice (`change_rows`: and a piece of the row): `report_rows`, which
reads the unchanged logits, `change_rows`, `draw_rows`. Weights are f32 (`exp` of 2 ulp), added up
in f32 within tiles of BLOCK and in f64 from tile to tile: a token whose cumulative weight lies
within about 1e-6 of the drawn number, or of the share that top-p asks for, may fall either way.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
# pyright: reportOperatorIssue=false, reportAttributeAccessIssue=false
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .selection import (
    LEAST,
    below_at,
    collect,
    kept_weight,
    kth_largest,
    lane_reach,
    largest_of_lanes,
    ordered,
    threshold,
    total_weight,
)

RECORD = tl.constexpr(16)
ROW, TARGET, RATE, TOP_K = (tl.constexpr(word) for word in range(4))
TOP_P, MIN_P, TYPICAL_P, UNIFORM = (tl.constexpr(word) for word in range(4, 8))
EDITS, EDIT_COUNT, ALLOWED, FORBIDDEN = (tl.constexpr(word) for word in range(8, 12))
FORBIDDEN_COUNT, TOP_COUNT = (tl.constexpr(word) for word in range(12, 14))

TOKEN, LOGPROB, LARGEST, LOG_SUM, TOP_IDS = (tl.constexpr(word) for word in range(5))
_NOWHERE = tl.constexpr(0x7FFFFFFF)


@triton.jit
def report_rows(
    logits_ptr,
    choices_ptr,
    results_ptr,
    ids_ptr,
    values_ptr,
    STRIDE: tl.constexpr,
    VOCAB: tl.constexpr,
    TOP: tl.constexpr,
    CAPACITY: tl.constexpr,
    BLOCK: tl.constexpr,
    PORTABLE: tl.constexpr = False,
):
    """What log-probabilities need, and the most likely tokens, of choices that report them.

    ids i32, values f32 [choices, CAPACITY]: work space. TOP: a power of 2, at most CAPACITY.
    """
    if not PORTABLE:
        gdc_wait()
        gdc_launch_dependents()
    record, result, x_ptr = _places(logits_ptr, choices_ptr, results_ptr, STRIDE, TOP)
    top = tl.minimum(tl.load(record + TOP_COUNT), TOP)
    if (tl.load(record + ROW) >= 0) & (top >= 0):
        near = tl.program_id(0).to(tl.int64) * CAPACITY
        best = largest_of_lanes(x_ptr, VOCAB, BLOCK)
        largest = tl.max(best, axis=0)
        total = total_weight(x_ptr, VOCAB, largest, 1.0, float("inf"), 0.0, False, BLOCK)
        _store_float(result + LARGEST, largest)
        _store_float(result + LOG_SUM, tl.log(total))
        _clear(result + TOP_IDS, TOP)
        if top > 0:
            reach = lane_reach(_below(best, largest), top)
            count = collect(
                x_ptr, VOCAB, largest, reach, ids_ptr + near, values_ptr + near, CAPACITY, BLOCK
            )
            if count <= CAPACITY:
                _most_likely(values_ptr + near, ids_ptr + near, count, top, result, 1, TOP, BLOCK)
            else:
                _most_likely(x_ptr, ids_ptr + near, VOCAB, top, result, 0, TOP, BLOCK)


@triton.jit
def change_rows(
    logits_ptr,
    choices_ptr,
    STRIDE: tl.constexpr,
    VOCAB: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCK: tl.constexpr,
    PORTABLE: tl.constexpr = False,
):
    """The mask of allowed ids, edits and forbidden ids. Programs: (choices, ceil(VOCAB / PIECE)).

    Edits leave what was there before in their fifth list. Nothing depends on whether the mask
    comes before or behind the edits, as edits are finite.
    """
    if not PORTABLE:
        gdc_wait()
        gdc_launch_dependents()
    record, _, x_ptr = _places(logits_ptr, choices_ptr, choices_ptr, STRIDE, 0)
    begin = tl.program_id(1) * PIECE
    end = tl.minimum(begin + PIECE, VOCAB)
    if (tl.load(record + ROW) >= 0) & (tl.load(record + TARGET) < 0):
        allowed, edits = tl.load(record + ALLOWED), tl.load(record + EDIT_COUNT)
        if allowed > 0:
            for start in range(begin, end, BLOCK):
                at = start + tl.arange(0, BLOCK)
                words = tl.load(choices_ptr + allowed + at // 32, mask=at < end, other=-1)
                out = (words >> (at % 32)) & 1 == 0
                tl.store(x_ptr + at, float("-inf"), mask=out)
            tl.debug_barrier()
        if edits > 0:
            list_ptr = choices_ptr + tl.load(record + EDITS)
            for start in range(0, edits, BLOCK):
                _edit(x_ptr, list_ptr, start, edits, begin, end, BLOCK)
            tl.debug_barrier()
        forbidden = tl.load(record + FORBIDDEN_COUNT)
        for start in range(0, forbidden, BLOCK):
            at = start + tl.arange(0, BLOCK)
            list_ptr = choices_ptr + tl.load(record + FORBIDDEN)
            token = tl.load(list_ptr + at, mask=at < forbidden, other=-1)
            tl.store(x_ptr + token, float("-inf"), mask=(token >= begin) & (token < end))


@triton.jit
def draw_rows(
    logits_ptr,
    choices_ptr,
    results_ptr,
    tokens_ptr,
    ids_ptr,
    values_ptr,
    STRIDE: tl.constexpr,
    VOCAB: tl.constexpr,
    TOP: tl.constexpr,
    NEAR: tl.constexpr,
    CAPACITY: tl.constexpr,
    BLOCK: tl.constexpr,
    PORTABLE: tl.constexpr = False,
):
    """The token of every choice, or its target; and its log-probability where one is reported.

    tokens i32 [rows]: the same by rows, 0 where none can be chosen: the next step takes it there.
    Work space as that of `report_rows`. NEAR: how many of the largest are looked at first, much
    less than BLOCK and CAPACITY; a larger top-k looks at the whole row.
    """
    if not PORTABLE:
        gdc_wait()
        gdc_launch_dependents()
    record, result, x_ptr = _places(logits_ptr, choices_ptr, results_ptr, STRIDE, TOP)
    if tl.load(record + ROW) >= 0:
        token = tl.load(record + TARGET)
        if token < 0:
            near = tl.program_id(0).to(tl.int64) * CAPACITY
            token = _draw(
                x_ptr, record, ids_ptr + near, values_ptr + near, VOCAB, NEAR, CAPACITY, BLOCK
            )
        tl.store(result + TOKEN, token)
        tl.store(tokens_ptr + tl.load(record + ROW), tl.maximum(token, 0))
        if (tl.load(record + TOP_COUNT) >= 0) & (token >= 0):
            raw = _before(x_ptr, choices_ptr, record, token, BLOCK)
            largest, log_sum = _float(result + LARGEST), _float(result + LOG_SUM)
            _store_float(result + LOGPROB, (raw - largest) - log_sum)


# ---- drawing -------------------------------------------------------------------------------------


@triton.jit
def _draw(
    x_ptr, record, ids_ptr, values_ptr,
    VOCAB: tl.constexpr, NEAR: tl.constexpr, CAPACITY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The token, or -1 if there is none."""
    best = largest_of_lanes(x_ptr, VOCAB, BLOCK)
    largest = tl.max(best, axis=0)
    token = -1
    if largest > float("-inf"):
        if (_float(record + RATE) == 0.0) | (largest == float("inf")):
            token = _first_of(x_ptr, largest, VOCAB, BLOCK)
        else:
            token = _draw_weighted(
                x_ptr, record, ids_ptr, values_ptr, _below(best, largest), largest,
                VOCAB, NEAR, CAPACITY, BLOCK,
            )  # fmt: skip
    return token


@triton.jit
def _draw_weighted(
    x_ptr, record, ids_ptr, values_ptr, lanes, largest,
    VOCAB: tl.constexpr, NEAR: tl.constexpr, CAPACITY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Looks at the whole row, or where top-k or top-p leave few tokens at the largest only."""
    rate, top_p = _float(record + RATE), _float(record + TOP_P)
    top_k = tl.load(record + TOP_K)
    top_k = tl.where(top_k < VOCAB, top_k, 0)
    wanted = tl.where(top_k > 0, top_k, NEAR)
    source, n = x_ptr, tl.cast(VOCAB, tl.int32)
    total = tl.cast(0.0, tl.float32)
    is_few = ((top_k > 0) | (top_p < 1.0)) & (wanted <= NEAR)
    if is_few:
        reach = lane_reach(lanes, wanted)
        few = collect(x_ptr, VOCAB, largest, reach, ids_ptr, values_ptr, CAPACITY, BLOCK)
        is_few = few <= CAPACITY
        if is_few & (top_k == 0):
            total = total_weight(x_ptr, VOCAB, largest, rate, float("inf"), 0.0, False, BLOCK)
            some = total_weight(values_ptr, few, largest, rate, float("inf"), 0.0, False, BLOCK)
            is_few = some >= top_p * total
        if is_few:
            source, n = values_ptr, few
    place = _locate(source, n, record, largest, top_k, total, BLOCK)
    if is_few:
        place = tl.load(ids_ptr + place)
    return place


@triton.jit
def _locate(source, n, record, largest, top_k, total, BLOCK: tl.constexpr):
    """The place in a source of the token drawn. total: the weight that top-p is a share of, or 0:
    that of the source."""
    rate, least = _float(record + RATE), _float(record + MIN_P)
    top_p, typical_p = _float(record + TOP_P), _float(record + TYPICAL_P)
    reach, mean, deviation = float("inf"), 0.0, float("inf")
    if top_k > 0:
        reach = threshold(source, n, largest, rate, reach, 0.0, 0.0, top_k, "rank", BLOCK)
    if top_p < 1.0:
        if total == 0.0:
            total = total_weight(source, n, largest, rate, reach, 0.0, False, BLOCK)
        share = top_p * total
        nucleus = threshold(source, n, largest, rate, reach, 0.0, 0.0, share, "weight", BLOCK)
        reach = tl.minimum(reach, nucleus)
    if typical_p < 1.0:
        weight = total_weight(source, n, largest, rate, reach, least, False, BLOCK)
        mean = total_weight(source, n, largest, rate, reach, least, True, BLOCK) / weight
        share = typical_p * weight
        deviation = threshold(
            source, n, largest, rate, reach, least, mean, share, "distance", BLOCK
        )
    return _at_uniform(source, n, largest, record, reach, least, mean, deviation, BLOCK)


@triton.jit
def _at_uniform(
    source, n, largest, record, reach, least, mean, deviation, BLOCK: tl.constexpr
):  # fmt: skip
    """The first place where the weights up to it are more than `uniform` of them all."""
    rate = _float(record + RATE)
    total = tl.cast(0.0, tl.float64)
    for start in range(0, n, BLOCK):
        _, below = below_at(source, start, n, largest, BLOCK)
        weight = kept_weight(below, rate, reach, least, mean, deviation)
        total += tl.sum(weight, axis=0).to(tl.float64)
    target = total * _float(record + UNIFORM).to(tl.float64)
    found, last = _NOWHERE, 0
    before = tl.cast(0.0, tl.float64)
    for start in range(0, n, BLOCK):
        at, below = below_at(source, start, n, largest, BLOCK)
        weight = kept_weight(below, rate, reach, least, mean, deviation)
        behind = before + tl.sum(weight, axis=0).to(tl.float64)
        if (found == _NOWHERE) & (behind > target):
            reached = tl.cumsum(weight, axis=0) > (target - before).to(tl.float32)
            found = tl.min(tl.where(reached & (weight > 0.0), at, _NOWHERE), axis=0)
        last = tl.maximum(last, tl.max(tl.where(weight > 0.0, at, 0), axis=0))
        before = behind
    return tl.where(found == _NOWHERE, last, found)


@triton.jit
def _first_of(x_ptr, value, VOCAB: tl.constexpr, BLOCK: tl.constexpr):
    first = tl.full((BLOCK,), _NOWHERE, tl.int32)
    for start in range(0, VOCAB, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + at, mask=at < VOCAB, other=float("-inf"))
        first = tl.minimum(first, tl.where(x == value, at, _NOWHERE))
    return tl.min(first, axis=0)


# ---- reporting and changing ----------------------------------------------------------------------


@triton.jit
def _most_likely(
    source, ids_ptr, n, top, result, FEW: tl.constexpr, TOP: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Writes the `top` largest of a source, best first, equals by id. FEW: ids are at `ids_ptr`."""
    edge = kth_largest(source, n, top, BLOCK)
    larger = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(source + at, mask=at < n, other=float("-inf"))
        larger += (ordered(x) > edge).to(tl.int32)
    equals = top - tl.sum(larger, axis=0)  # how many of those at the edge there is room for
    count, seen = 0, 0
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(source + at, mask=at < n, other=float("-inf"))
        order = ordered(x)
        equal = ((order == edge) & (order > LEAST)).to(tl.int32)
        taken = (order > edge) | ((equal > 0) & (seen + tl.cumsum(equal, axis=0) <= equals))
        place = count + tl.cumsum(taken.to(tl.int32), axis=0) - 1
        token = tl.load(ids_ptr + at, mask=taken, other=0) if FEW else at
        tl.store(result + TOP_IDS + place, token, mask=taken)
        _store_float(result + TOP_IDS + TOP + place, x, taken)
        seen += tl.sum(equal, axis=0)
        count += tl.sum(taken.to(tl.int32), axis=0)
    tl.debug_barrier()
    _sort(result, count, TOP)


@triton.jit
def _sort(result, count, TOP: tl.constexpr):
    """Sorts the results' alternatives, which are logits by id; and makes them log-probabilities."""
    one = tl.arange(0, TOP)
    ids = tl.load(result + TOP_IDS + one, mask=one < count, other=-1)
    values = _float(result + TOP_IDS + TOP + one)
    others, other = values[None, :], one[None, :]
    first = (others > values[:, None]) | ((others == values[:, None]) & (other < one[:, None]))
    place = tl.sum((first & (other < count)).to(tl.int32), axis=1)
    logprobs = (values - _float(result + LARGEST)) - _float(result + LOG_SUM)
    tl.debug_barrier()
    tl.store(result + TOP_IDS + place, ids, mask=one < count)
    _store_float(result + TOP_IDS + TOP + place, logprobs, one < count)


@triton.jit
def _edit(x_ptr, list_ptr, start, count, begin, end, BLOCK: tl.constexpr):
    """Edits of ids from begin to end: five lists of `count` words."""
    at = start + tl.arange(0, BLOCK)
    token = tl.load(list_ptr + at, mask=at < count, other=-1)
    mine = (token >= begin) & (token < end)
    x = tl.load(x_ptr + token, mask=mine, other=0.0)
    _store_float(list_ptr + 4 * count + at, x, mine)
    bias = tl.load(list_ptr + count + at, mask=mine, other=0).to(tl.float32, bitcast=True)
    penalty = tl.load(list_ptr + 2 * count + at, mask=mine, other=1).to(tl.float32, bitcast=True)
    minus = tl.load(list_ptr + 3 * count + at, mask=mine, other=0).to(tl.float32, bitcast=True)
    x += bias
    x = tl.where(x > 0.0, tl.div_rn(x, penalty), x * penalty)
    tl.store(x_ptr + token, x - minus, mask=mine)


@triton.jit
def _before(x_ptr, choices_ptr, record, token, BLOCK: tl.constexpr):
    """The unchanged logit of a token that was drawn, or is a target."""
    raw = tl.load(x_ptr + token)
    count = tl.load(record + EDIT_COUNT)
    if (count > 0) & (tl.load(record + TARGET) < 0):
        list_ptr = choices_ptr + tl.load(record + EDITS)
        for start in range(0, count, BLOCK):
            at = start + tl.arange(0, BLOCK)
            here = tl.load(list_ptr + at, mask=at < count, other=-1) == token
            if tl.sum(here.to(tl.int32), axis=0) > 0:
                before = tl.load(list_ptr + 4 * count + at, mask=here, other=0)
                raw = tl.sum(tl.where(here, before.to(tl.float32, bitcast=True), 0.0), axis=0)
    return raw


# ---- words ---------------------------------------------------------------------------------------


@triton.jit
def _places(logits_ptr, choices_ptr, results_ptr, STRIDE: tl.constexpr, TOP: tl.constexpr):
    """Where this program's record, result and row begin."""
    choice = tl.program_id(0)
    record = choices_ptr + choice * RECORD
    row = tl.maximum(tl.load(record + ROW), 0)
    result = results_ptr + choice * (TOP_IDS + 2 * TOP)
    return record, result, logits_ptr + row.to(tl.int64) * STRIDE


@triton.jit
def _below(best, largest):
    return tl.where(best > float("-inf"), largest - best, float("inf"))


@triton.jit
def _clear(ids_ptr, TOP: tl.constexpr):
    """No alternatives."""
    tl.store(ids_ptr + tl.arange(0, TOP), tl.full((TOP,), -1, tl.int32))
    tl.store(ids_ptr + TOP + tl.arange(0, TOP), tl.zeros((TOP,), tl.int32))
    tl.debug_barrier()


@triton.jit
def _float(word_ptr):
    return tl.load(word_ptr).to(tl.float32, bitcast=True)


@triton.jit
def _store_float(word_ptr, value, mask=None):
    tl.store(word_ptr, value.to(tl.int32, bitcast=True), mask=mask)
