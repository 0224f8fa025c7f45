"""Latent attention cases for tests: pages from the layout's description, kernels, a reference.

A page is [(latent + rope) / P, 64, P] with both sizes rounded up to multiples of 16, for int8 then
f32 exponents of the latents and f32 scales of what is beside them. Everything that a step must not
look at is NaN (as codes: anything, with NaN exponents), outputs are poisoned, scratch is exactly as
long as promised.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from cache_pages import BLOCK, DTYPE, PER_WORD, hadamard, padded, rotated
from kernel_harness import aligned
from row_kernels import call, from_bf16, library, to_bf16

POISON = np.float32(-77.25)
GAP = 192


@dataclass(frozen=True)
class Shape:
    """Geometry and options of one layer."""

    heads: int = 5
    latent: int = 32
    rope: int = 8
    window: int = 0
    softcap: float = 0.0
    kv: str = "f32"
    sinks: bool = False

    @property
    def wide(self) -> tuple[int, int]:
        """Sizes in memory."""
        return padded(self.latent), padded(self.rope)

    @property
    def page_bytes(self) -> int:
        codes = 8 * BLOCK if self.kv == "i8" else 0
        return BLOCK * sum(self.wide) * DTYPE[self.kv].itemsize + codes


def code_latents(c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """c [..., R] → whole-numbered codes [..., padded R], exponents [...] as they are stored."""
    x = rotated(c)
    size = x.shape[-1] & -x.shape[-1]
    with np.errstate(divide="ignore"):
        exponent = np.ceil(np.log2(np.abs(x).max(-1) / 127) * 16) / 16
    exponent = np.maximum(exponent, -60)
    return np.round(x / 2.0 ** exponent[..., None]), (exponent - np.log2(size)).astype(np.float32)


def code_beside(k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """k [..., r] → codes [..., padded r], scales [...]."""
    if not k.shape[-1]:
        return k, np.zeros(k.shape[:-1], np.float32)
    x = rotated(k)
    scale = np.abs(x).max(-1) / 127
    codes = np.round(x / np.where(scale > 0, scale, 1)[..., None])
    return codes, (scale / (x.shape[-1] & -x.shape[-1])).astype(np.float32)


def as_cached(kv: str, x: np.ndarray, latent: bool) -> np.ndarray:
    """What reading x [..., d] back from the cache gives (rotated back), in float64."""
    if kv == "f32" or not x.shape[-1]:
        return x.astype(np.float64)
    if kv == "bf16":
        return from_bf16(to_bf16(x)).astype(np.float64)
    codes, scale = code_latents(x) if latent else code_beside(x)
    factor = 2.0 ** scale.astype(np.float64) if latent else scale
    return ((codes * factor[..., None]) @ hadamard(codes.shape[-1]).T)[..., : x.shape[-1]]


class Pages:
    """A site's blocks as bytes [blocks, page and a gap]; all bits set."""

    def __init__(self, shape: Shape, blocks: int):
        self.shape, self.block_bytes = shape, shape.page_bytes + GAP
        raw = np.full(blocks * self.block_bytes + 64, 0xFF, np.uint8)
        start = -raw.ctypes.data % 64
        self.bytes = raw[start : start + blocks * self.block_bytes].reshape(blocks, -1)

    def keys(self, block: int) -> np.ndarray:
        """[words, 64, P] of a block."""
        p, kind = PER_WORD[self.shape.kv], DTYPE[self.shape.kv]
        count = BLOCK * sum(self.shape.wide)
        return self.bytes[block, : count * kind.itemsize].view(kind).reshape(-1, BLOCK, p)

    def scales(self, block: int) -> np.ndarray:
        """[2, 64]: exponents of latents, scales beside them."""
        end = self.shape.page_bytes
        return self.bytes[block, end - 8 * BLOCK : end].view(np.float32).reshape(2, BLOCK)

    def put(self, block: int, place: int, c: np.ndarray, k: np.ndarray) -> None:
        """One token's latent and what is beside it."""
        if self.shape.kv == "i8":
            c, self.scales(block)[0, place] = code_latents(c)
            k, beside = code_beside(k)
            if self.shape.rope:  # else nobody reads it, and nobody writes it
                self.scales(block)[1, place] = beside
            c, k = (c + 128).astype(np.uint8), (k + 128).astype(np.uint8)
        elif self.shape.kv == "bf16":
            c, k = to_bf16(c), to_bf16(k)
        latent, rope = self.shape.wide
        row = np.zeros(latent + rope, DTYPE[self.shape.kv])
        row[: len(c)], row[latent : latent + len(k)] = c, k
        keys = self.keys(block)
        keys[:, place] = row.reshape(len(keys), -1)


@dataclass
class Step:
    """One step: `sequences` lists (context length, query tokens); the arrays are per sequence."""

    shape: Shape
    sequences: list[tuple[int, int]]
    c: list[np.ndarray]  # [context, latent] before the cache rounds it
    k: list[np.ndarray]  # [context, rope]
    q: list[np.ndarray]  # [query tokens, heads, latent]
    q_rope: list[np.ndarray]  # [query tokens, heads, rope]
    sinks: np.ndarray | None
    seed: int = 0
    scale: float = field(init=False)

    def __post_init__(self):
        self.scale = (self.shape.latent + self.shape.rope) ** -0.5

    def only(self, index: int, *, context: int | None = None, query: int | None = None) -> "Step":
        """Sequence `index` alone, its first `context` tokens with the last `query` as queries."""
        full, tokens = self.sequences[index]
        context = full if context is None else context
        query = tokens if query is None else query
        first = context - query - (full - tokens)
        return replace(
            self,
            sequences=[(context, query)],
            c=[self.c[index][:context]],
            k=[self.k[index][:context]],
            q=[self.q[index][first : first + query]],
            q_rope=[self.q_rope[index][first : first + query]],
            seed=self.seed + 1,
        )

    @property
    def tokens(self) -> list[int]:
        return [n for _, n in self.sequences]


def make_step(shape: Shape, sequences: list[tuple[int, int]], seed: int = 0) -> Step:
    rng = np.random.default_rng([seed, shape.latent, len(sequences)])

    def normal(*dims: int) -> np.ndarray:
        return rng.standard_normal(dims).astype(np.float32)

    return Step(
        shape,
        sequences,
        c=[normal(context, shape.latent) for context, _ in sequences],
        # Keys beside the latent are of another size in models, too.
        k=[3 * normal(context, shape.rope) for context, _ in sequences],
        q=[2 * normal(tokens, shape.heads, shape.latent) for _, tokens in sequences],
        q_rope=[normal(tokens, shape.heads, shape.rope) for _, tokens in sequences],
        sinks=normal(shape.heads) if shape.sinks else None,
        seed=seed,
    )


def tables(step: Step, first: list[int]) -> tuple[np.ndarray, int]:
    """A shuffled block table [S, ...] with entries from that of position `first` on, and blocks."""
    needed = [-(-context // BLOCK) for context, _ in step.sequences]
    count = sum(needed) + 3
    free = list(np.random.default_rng(step.seed).permutation(count))
    table = np.full((len(needed), max([*needed, 1]) + 1), -1, np.int32)
    for s, (_, tokens) in enumerate(step.sequences):
        for b in range(first[s] // BLOCK, needed[s] if tokens else 0):
            table[s, b] = free.pop()
    return table, count


def filled(step: Step) -> tuple[Pages, np.ndarray]:
    """Pages that hold what the step may see, and the block table."""
    window = step.shape.window
    first = [max(0, c - t - window + 1) if window else 0 for c, t in step.sequences]
    first = [f - f % PER_WORD[step.shape.kv] for f in first]  # a word was written as a whole
    table, count = tables(step, first)
    pages = Pages(step.shape, count)
    for s, (context, tokens) in enumerate(step.sequences):
        for position in range(first[s], context if tokens else 0):
            block = table[s, position // BLOCK]
            pages.put(block, position % BLOCK, step.c[s][position], step.k[s][position])
    return pages, table


def spread(parts: list[np.ndarray], gap: int) -> np.ndarray:
    """Rows [T, heads, d] of all sequences, heads `gap` NaN apart."""
    x = np.concatenate(parts)
    out = np.full((*x.shape[:-1], x.shape[-1] + gap), np.nan, np.float32)
    out[..., : x.shape[-1]] = x
    return out


def step_arrays(step: Step, table: np.ndarray) -> tuple[list[int], list[np.ndarray]]:
    starts = np.array([0, *np.cumsum(step.tokens)], np.int32)
    contexts = np.array([c for c, _ in step.sequences], np.int32)
    return [sum(step.tokens), len(step.tokens), table.shape[1]], [starts, contexts, table]


def rotary_arguments(rotary: tuple | None) -> tuple[list[int], list[np.ndarray | None]]:
    cos, sin, dim, interleaved = rotary or (None, None, 0, 0)
    strides = [0 if t is None else t.shape[1] for t in (cos, sin)]
    return [dim, interleaved, 1, *strides], [cos, sin]


def run(
    step: Step,
    level: str,
    threads: int = 1,
    rotary: tuple | None = None,
    choice: np.ndarray | None = None,
) -> np.ndarray:
    """The kernel's y [T, heads, latent]; rotary is (cos, sin, dim, interleaved) or None.

    `choice` i32[T, topk]: the kernel that attends to chosen keys.
    """
    shape = step.shape
    pages, table = filled(step)
    numbers, arrays = step_arrays(step, table)
    q = np.concatenate(step.q).reshape(sum(step.tokens), -1)
    q = np.pad(q, ((0, 0), (0, 5)), constant_values=np.nan)
    q_rope = spread(step.q_rope, 3)
    y = np.full((numbers[0] + 1, shape.heads * shape.latent + 3), POISON, np.float32)
    size = library(level).scratch_floats(threads, table.shape[1] * BLOCK, shape.latent)
    scratch = aligned(size + 16, np.float32)
    scratch[:] = np.nan
    scratch[size:] = POISON
    turns, angles = rotary_arguments(rotary)
    strides = [q.shape[1], q_rope.shape[1] * q_rope.shape[2], q_rope.shape[2], y.shape[1]]
    ints = [*numbers, pages.block_bytes, shape.heads, shape.latent, shape.rope, shape.window]
    call(
        level, f"{'' if choice is None else 'selected_'}latent_attention_{shape.kv}", threads,
        [*ints, *strides, *turns, *([] if choice is None else [choice.shape[1]])],
        [step.scale, shape.softcap],
        [*arrays, step.sinks, q, q_rope, pages.bytes, y, scratch, *angles, choice],
    )  # fmt: skip
    assert (scratch[size:] == POISON).all(), "scratch overrun"
    width = shape.heads * shape.latent
    assert (y[-1] == POISON).all(), "row overrun"
    assert (y[:, width:] == POISON).all(), "column overrun"
    return y[:-1, :width].reshape(-1, shape.heads, shape.latent)


def reference(step: Step, choice: np.ndarray | None = None) -> np.ndarray:
    """In float64 with what the cache holds, from the definition: one softmax a query and head.

    `choice` i32[T, topk]: the keys that each query sees."""
    shape = step.shape
    rows = []
    for s, (context, tokens) in enumerate(step.sequences):
        if not tokens:
            continue
        c = as_cached(shape.kv, step.c[s], True)
        keys = np.concatenate([c, as_cached(shape.kv, step.k[s], False)], -1)
        q = np.concatenate([step.q[s], step.q_rope[s]], -1).astype(np.float64)
        scores = np.einsum("qhd,kd->hqk", q, keys) * step.scale
        if shape.softcap:
            scores = shape.softcap * np.tanh(scores / shape.softcap)
        distance = np.arange(context)[None, :] - np.arange(context - tokens, context)[:, None]
        visible = distance <= 0
        if shape.window:
            visible &= distance > -shape.window
        if choice is not None:
            begin = sum(step.tokens[:s])
            own = choice[begin : begin + tokens]
            visible &= (own[:, :, None] == np.arange(context)).any(1)
        scores = np.where(visible, scores, -np.inf)
        if step.sinks is not None:
            sink = step.sinks.astype(np.float64)[:, None, None]
            scores = np.concatenate([scores, np.broadcast_to(sink, (*scores.shape[:2], 1))], 2)
        p = np.exp(scores - scores.max(axis=2, keepdims=True))
        p = (p / p.sum(axis=2, keepdims=True))[:, :, :context]
        rows.append(np.einsum("hqk,kr->qhr", p, c))
    return np.concatenate(rows)
