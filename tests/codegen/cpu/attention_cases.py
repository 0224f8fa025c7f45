"""Attention cases for tests: builds a step's arrays, runs the kernel, computes the reference.

The pools hold NaN wherever a step must not look: other blocks, slots behind the context, keys
before every query's window. The output is poisoned and wider than the result, and scratch is
exactly as long as promised.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from cache_pages import BLOCK, PER_WORD, Pages, as_cached
from kernel_harness import aligned
from row_kernels import call, library

POISON = np.float32(-77.25)


@dataclass(frozen=True)
class Shape:
    """Geometry and options of one attention layer."""

    heads: int = 6
    hkv: int = 2
    dk: int = 64
    dv: int = 64
    window: int = 0
    softcap: float = 0.0
    kv: str = "f32"
    sinks: bool = False
    slopes: bool = False


@dataclass
class Step:
    """One step: `sequences` lists (context length, query tokens); k, v, q are per sequence."""

    shape: Shape
    sequences: list[tuple[int, int]]
    k: list[np.ndarray]  # [context, hkv, dk] before the cache rounds it
    v: list[np.ndarray]
    q: list[np.ndarray]  # [query tokens, heads, dk]
    sinks: np.ndarray | None
    slopes: np.ndarray | None
    seed: int = 0
    scale: float = field(init=False)

    def __post_init__(self):
        self.scale = self.shape.dk**-0.5

    def only(self, index: int, *, context: int | None = None, query: int | None = None) -> "Step":
        """Sequence `index` alone, its first `context` tokens with the last `query` as queries."""
        full, tokens = self.sequences[index]
        context = full if context is None else context
        query = tokens if query is None else query
        first = context - query - (full - tokens)
        return replace(
            self,
            sequences=[(context, query)],
            k=[self.k[index][:context]],
            v=[self.v[index][:context]],
            q=[self.q[index][first : first + query]],
            seed=self.seed + 1,
        )


def make_step(shape: Shape, sequences: list[tuple[int, int]], seed: int = 0) -> Step:
    rng = np.random.default_rng([seed, shape.dk, len(sequences)])

    def normal(*dims: int) -> np.ndarray:
        return rng.standard_normal(dims).astype(np.float32)

    return Step(
        shape,
        sequences,
        k=[normal(context, shape.hkv, shape.dk) for context, _ in sequences],
        v=[normal(context, shape.hkv, shape.dv) for context, _ in sequences],
        # twice the usual size, so that the softmax is far from uniform
        q=[2 * normal(tokens, shape.heads, shape.dk) for _, tokens in sequences],
        sinks=normal(shape.heads) if shape.sinks else None,
        slopes=-np.abs(normal(shape.heads)) / 8 if shape.slopes else None,
        seed=seed,
    )


def first_visible(step: Step, index: int) -> int:
    """The first key position that any query of the sequence sees."""
    context, tokens = step.sequences[index]
    return max(0, context - tokens - step.shape.window + 1) if step.shape.window else 0


def build_cache(step: Step) -> tuple[Pages, np.ndarray]:
    """The pages and the block table [S, ...]."""
    shape = step.shape
    needed = [-(-context // BLOCK) for context, _ in step.sequences]
    count = sum(needed) + 3
    free = list(np.random.default_rng(step.seed).permutation(count))
    table = np.full((len(needed), max([*needed, 1]) + 1), -1, np.int32)
    pages = Pages(shape.kv, count, shape.hkv, shape.dk, shape.dv, gap=192)
    if shape.kv == "i8":
        pages.scales[:] = np.nan
    else:
        nan = np.nan if shape.kv == "f32" else 0x7FC0
        pages.keys[:], pages.values[:] = nan, nan
    for s, (context, tokens) in enumerate(step.sequences):
        first = first_visible(step, s)
        first -= first % PER_WORD[shape.kv]  # the rest of a word was written before
        for position in range(first, context if tokens else 0):
            b, place = divmod(position, BLOCK)
            if table[s, b] < 0:
                table[s, b] = free.pop()
            pages.put(table[s, b], place, step.k[s][position], step.v[s][position])
            pages.clear_after(table[s, b], place)
    return pages, table


def run(step: Step, level: str, threads: int = 1, rotary: tuple | None = None) -> np.ndarray:
    """The kernel's y [T, heads, dv]; rotary is (cos, sin, dim, interleaved, half) or None."""
    shape = step.shape
    pages, table = build_cache(step)
    tokens = [n for _, n in step.sequences]
    total = sum(tokens)
    starts = np.array([0, *np.cumsum(tokens)], np.int32)
    contexts = np.array([c for c, _ in step.sequences], np.int32)
    q = np.full((total, shape.heads * shape.dk + 5), np.nan, np.float32)
    q[:, : shape.heads * shape.dk] = np.concatenate(
        [x.reshape(len(x), shape.heads * shape.dk) for x in step.q]
    )
    y = np.full((total + 1, shape.heads * shape.dv + 3), POISON, np.float32)
    size = library(level).scratch_floats(threads, table.shape[1] * BLOCK, shape.dv)
    scratch = aligned(size + 16, np.float32)
    scratch[:] = np.nan
    scratch[size:] = POISON
    cos, sin, dim, interleaved, half = rotary or (None, None, 0, 0, 0)
    strides = [0 if t is None else t.shape[1] for t in (cos, sin)]
    call(
        level,
        f"paged_attention_{shape.kv}",
        threads,
        [
            *(total, len(tokens), table.shape[1], pages.block_bytes, shape.heads, shape.hkv),
            *(shape.dk, shape.dv, shape.window, q.shape[1], y.shape[1]),
            *(dim, interleaved, half, *strides),
        ],
        [step.scale, shape.softcap],
        [starts, contexts, table, step.sinks, step.slopes, q, pages.bytes, y, scratch, cos, sin],
    )
    assert (scratch[size:] == POISON).all(), "scratch overrun"
    width = shape.heads * shape.dv
    assert (y[-1] == POISON).all(), "row overrun"
    assert (y[:, width:] == POISON).all(), "column overrun"
    return y[:-1, :width].reshape(total, shape.heads, shape.dv)


def reference(step: Step) -> np.ndarray:
    """In float64 with what the cache holds, from the definition: one softmax a query and head."""
    shape = step.shape
    rows = []
    for (context, tokens), k, v, q in zip(step.sequences, step.k, step.v, step.q, strict=True):
        groups = shape.heads // shape.hkv
        keys = np.repeat(as_cached(shape.kv, k, True).astype(np.float64), groups, axis=1)
        values = np.repeat(as_cached(shape.kv, v, False).astype(np.float64), groups, axis=1)
        s = np.einsum("qhd,khd->hqk", q.astype(np.float64), keys) * step.scale
        if shape.softcap:
            s = shape.softcap * np.tanh(s / shape.softcap)
        distance = np.arange(context)[None, :] - np.arange(context - tokens, context)[:, None]
        if step.slopes is not None:
            s = s + step.slopes.astype(np.float64)[:, None, None] * distance
        visible = distance <= 0
        if shape.window:
            visible &= distance > -shape.window
        s = np.where(visible, s, -np.inf)
        if step.sinks is not None:
            sink = np.broadcast_to(step.sinks.astype(np.float64)[:, None, None], (*s.shape[:2], 1))
            s = np.concatenate([s, sink], axis=2)
        if tokens:
            p = np.exp(s - s.max(axis=2, keepdims=True))
            p = (p / p.sum(axis=2, keepdims=True))[:, :, :context]
            rows.append(np.einsum("hqk,khd->qhd", p, values))
    return np.concatenate(rows)
