"""Where to draw the line in a row of logits: the passes that choosing a token is made of.

In: a row, or some of its values (a *source*: f32 [n]). Out: sums, thresholds, values above a line.
Everything is said in `below` = largest - x, how far a logit lies below the largest. A threshold is
found by bisection on the bits of such numbers (as whole numbers they have the same order): 31
passes over the source, whatever it holds, and no sort. So sources are made short first: of a tile
of BLOCK lanes, each of which saw its part of the row, k hold a largest that is at least the k-th
of these largest; whatever is smaller isn't among the k largest of the row.

One program works on one row, in one order.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
# pyright: reportOperatorIssue=false, reportAttributeAccessIssue=false
import triton
import triton.language as tl

INFINITY = tl.constexpr(0x7F800000)
"""The bits of f32 infinity."""
LEAST = tl.constexpr(-0x7F800000)
"""`ordered` of what can't be chosen."""


@triton.jit
def largest_of_lanes(x_ptr, n, BLOCK: tl.constexpr):
    """f32[BLOCK]: the largest of x[i], x[i + BLOCK], …; -inf where there is none, or only NaN."""
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    for start in tl.range(0, n, BLOCK, loop_unroll_factor=4):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + at, mask=at < n, other=float("-inf"))
        best = tl.where(x > best, x, best)
    return best


@triton.jit
def lane_reach(below, k):
    """The k-th smallest of f32[BLOCK], all at least 0; infinity if there aren't k finite ones."""
    low, high = tl.cast(0, tl.int32), tl.cast(INFINITY, tl.int32)
    while low < high:
        middle = low + (high - low) // 2
        count = tl.sum((below <= middle.to(tl.float32, bitcast=True)).to(tl.int32), axis=0)
        enough = count >= k
        high = tl.where(enough, middle, high)
        low = tl.where(enough, low, middle + 1)
    return low.to(tl.float32, bitcast=True)


@triton.jit
def below_at(source, start, n, largest, BLOCK: tl.constexpr):
    """(places, below) of a tile; infinity behind the end, and for NaN and -inf."""
    at = start + tl.arange(0, BLOCK)
    x = tl.load(source + at, mask=at < n, other=float("-inf"))
    return at, tl.where(x > float("-inf"), largest - x, float("inf"))


@triton.jit
def kept_weight(below, rate, reach, least, mean, deviation):
    """exp(-below * rate) of what may be drawn, 0 of the rest: what lies within `reach`, weighs
    at least `least`, and is at most `deviation` away from `mean`."""
    weight = tl.exp(-below * rate)
    kept = (below <= reach) & (weight >= least) & (tl.abs(below - mean) <= deviation)
    return tl.where(kept, weight, 0.0)


@triton.jit
def total_weight(
    source, n, largest, rate, reach, least, MOMENT: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """The sum of all weights kept; MOMENT: of weight * below."""
    sums = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n, BLOCK):
        _, below = below_at(source, start, n, largest, BLOCK)
        weight = kept_weight(below, rate, reach, least, 0.0, float("inf"))
        if MOMENT:
            weight *= tl.where(weight > 0.0, below, 0.0)
        sums += weight
    return tl.sum(sums, axis=0)


@triton.jit
def threshold(
    source, n, largest, rate, reach, least, mean, share, KEY: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """The smallest key such that what is kept up to it amounts to `share`; infinity if all is less.

    KEY "rank": keys are `below`, and every token counts 1; "weight": the same, and tokens count
    what they weigh; "distance": keys are |below - mean|.
    """
    low, high = tl.cast(0, tl.int32), tl.cast(INFINITY, tl.int32)
    while low < high:
        middle = low + (high - low) // 2
        bound = middle.to(tl.float32, bitcast=True)
        sums = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, n, BLOCK):
            _, below = below_at(source, start, n, largest, BLOCK)
            key = tl.abs(below - mean) if KEY == "distance" else below
            if KEY == "rank":
                amount = tl.full((BLOCK,), 1.0, tl.float32)
            else:
                amount = kept_weight(below, rate, reach, least, 0.0, float("inf"))
            sums += tl.where(key <= bound, amount, 0.0)
        enough = tl.sum(sums, axis=0) >= share
        high = tl.where(enough, middle, high)
        low = tl.where(enough, low, middle + 1)
    return low.to(tl.float32, bitcast=True)


@triton.jit
def collect(
    x_ptr, n, largest, reach, ids_ptr, values_ptr, CAPACITY: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Writes what lies within reach, by id: ids i32, values f32 [CAPACITY]. Returns how many there
    are; if that is more than CAPACITY, some are missing."""
    count = 0
    for start in range(0, n, BLOCK):
        at, below = below_at(x_ptr, start, n, largest, BLOCK)
        near = (below <= reach) & (below < float("inf"))
        found = tl.sum(near.to(tl.int32), axis=0)
        if found > 0:
            place = count + tl.cumsum(near.to(tl.int32), axis=0) - 1
            fits = near & (place < CAPACITY)
            tl.store(ids_ptr + place, at, mask=fits)
            tl.store(values_ptr + place, tl.load(x_ptr + at, mask=fits), mask=fits)
        count += found
    tl.debug_barrier()  # other threads of the program read them
    return count


@triton.jit
def kth_largest(source, n, k, BLOCK: tl.constexpr):
    """The k-th largest of a source in the order of `ordered`; the least of all if it has fewer."""
    low, high = tl.cast(LEAST, tl.int32), tl.cast(INFINITY, tl.int32)
    while low < high:
        middle = (low | high) - ((low ^ high) >> 1)  # the mean, rounded up, without overflow
        counts = tl.zeros((BLOCK,), tl.int32)
        for start in range(0, n, BLOCK):
            at = start + tl.arange(0, BLOCK)
            x = tl.load(source + at, mask=at < n, other=float("-inf"))
            counts += (ordered(x) >= middle).to(tl.int32)
        enough = tl.sum(counts, axis=0) >= k
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle - 1)
    return low


@triton.jit
def ordered(x):
    """i32 in the order of f32; LEAST for -inf and NaN."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    order = tl.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    return tl.where(x > float("-inf"), order, LEAST)
