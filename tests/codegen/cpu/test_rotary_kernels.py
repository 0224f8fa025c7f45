"""Rotary embedding against float64, and cache writes against exactly what they should hold."""

import numpy as np
import pytest
from cache_pages import BLOCK, Pages, hadamard
from row_kernels import LEVELS, call

POISON = np.float32(-77.25)
# (head_dim, rotary_dim): full and partial, with and without whole vectors
DIMS = [(8, 8), (16, 16), (24, 8), (64, 64), (80, 32), (6, 2), (128, 128)]
STYLES = [(interleaved, half) for interleaved in (False, True) for half in (False, True)]


def tables(rng: np.random.Generator, tokens: int, dim: int, interleaved: bool, half: bool):
    """cos and sin [tokens, dim/2 or dim] with a gap behind each row.

    Where the table is full, the two elements of a pair get different angles: no model does that,
    but the kernel is defined for it.
    """
    columns = dim // 2 if half else dim
    angle = rng.uniform(-3, 3, (tokens, columns + 2))
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def reference(x, cos, sin, dim: int, interleaved: bool, half: bool) -> np.ndarray:
    """x [tokens, heads, head_dim] in float64: x cos + rotate(x) sin on the first `dim` elements."""
    x = x.astype(np.float64)
    if half:
        spread = (
            (lambda a: np.repeat(a, 2, axis=1)) if interleaved else (lambda a: np.tile(a, (1, 2)))
        )
        cos, sin = spread(cos[:, : dim // 2]), spread(sin[:, : dim // 2])
    cos, sin = cos[:, None, :dim].astype(np.float64), sin[:, None, :dim].astype(np.float64)
    part = x[..., :dim]
    if interleaved:
        turned = np.stack([-part[..., 1::2], part[..., ::2]], axis=-1).reshape(part.shape)
    else:
        turned = np.concatenate([-part[..., dim // 2 :], part[..., : dim // 2]], axis=-1)
    return np.concatenate([part * cos + turned * sin, x[..., dim:]], axis=-1)


def rotate(
    level, x, cos, sin, head_dim, dim, interleaved, half, threads=2, in_place=False
) -> np.ndarray:
    """x [tokens, heads, head_dim] -> the kernel's result, after checks around it."""
    tokens, heads, _ = x.shape
    width = heads * head_dim
    source = np.full((tokens, width + 3), POISON, np.float32)
    source[:, :width] = x.reshape(tokens, width)
    y = source if in_place else np.full((tokens + 1, width + 5), POISON, np.float32)
    ints = [
        tokens,
        heads,
        head_dim,
        dim,
        interleaved,
        source.shape[1],
        cos.shape[1],
        sin.shape[1],
        y.shape[1],
        half,
    ]
    call(level, "rotary", threads, ints, [], [source, cos, sin, y])
    assert (y[:, width:] == POISON).all()
    assert in_place or (y[-1] == POISON).all()
    return y[:tokens, :width].reshape(x.shape).copy()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("interleaved", "half"), STYLES)
def test_rotary(level: str, interleaved: bool, half: bool):
    rng = np.random.default_rng(1)
    for head_dim, dim in DIMS:
        for tokens in (1, 7, 33):
            x = rng.standard_normal((tokens, 3, head_dim)).astype(np.float32)
            cos, sin = tables(rng, tokens, dim, interleaved, half)
            arguments = (cos, sin, head_dim, dim, interleaved, half)
            got = rotate(level, x, *arguments)
            # Two products and a sum of numbers up to 4: three roundings.
            np.testing.assert_allclose(
                got, reference(x, cos, sin, dim, interleaved, half), rtol=0, atol=1e-6
            )
            np.testing.assert_array_equal(got[..., dim:], x[..., dim:])
            np.testing.assert_array_equal(got, rotate(level, x, *arguments, in_place=True))
            np.testing.assert_array_equal(got, rotate(level, x, *arguments, threads=3))
            alone = rotate(level, x[-1:], cos[-1:], sin[-1:], *arguments[2:])
            np.testing.assert_array_equal(got[-1:], alone)


class Cache:
    """Poisoned pages with shuffled block tables for the given (context, query tokens) pairs."""

    def __init__(self, sequences: list[tuple[int, int]], hkv: int, dk: int, dv: int, kv: str):
        self.sequences, self.hkv, self.dk, self.dv, self.kv = sequences, hkv, dk, dv, kv
        needed = [-(-context // BLOCK) for context, _ in sequences]
        order = np.random.default_rng(7).permutation(sum(needed) + 2).astype(np.int32)
        self.table = np.full((len(sequences), max(needed) + 1), -1, np.int32)
        for s, count in enumerate(needed):
            # Blocks that no query of this step lies in may be freed already.
            first = (sequences[s][0] - sequences[s][1]) // BLOCK
            self.table[s, first:count] = order[:count][first:]
            order = order[count:]
        self.pages = Pages(kv, sum(needed) + 2, hkv, dk, dv, gap=64)

    def write(
        self, level: str, k: np.ndarray, v: np.ndarray, threads: int, rotary: tuple | None = None
    ) -> None:
        """k [T, hkv, dk], v [T, hkv, dv]; rotary is (cos, sin, dim, interleaved, half) or None."""
        tokens = [n for _, n in self.sequences]
        starts = np.array([0, *np.cumsum(tokens)], np.int32)
        contexts = np.array([c for c, _ in self.sequences], np.int32)
        wide_k = np.full((len(k), self.hkv * self.dk + 3), np.nan, np.float32)
        wide_k[:, :-3] = k.reshape(len(k), -1)
        wide_v = np.full((len(v), self.hkv * self.dv + 1), np.nan, np.float32)
        wide_v[:, :-1] = v.reshape(len(v), -1)
        cos, sin, dim, interleaved, half = rotary or (None, None, 0, 0, 0)
        strides = [0 if t is None else t.shape[1] for t in (cos, sin)]
        ints = [sum(tokens), len(tokens), self.table.shape[1], self.pages.block_bytes, self.hkv]
        ints += [self.dk, self.dv, wide_k.shape[1], wide_v.shape[1]]
        ints += [dim, interleaved, half, *strides]
        arrays = [starts, contexts, self.table, wide_k, wide_v, self.pages.bytes, cos, sin]
        call(level, f"cache_write_{self.kv}", threads, ints, [], arrays)

    def expect(self, k: np.ndarray, v: np.ndarray) -> None:
        """Put the rows where the layout says, in place of the kernel."""
        t = 0
        for s, (context, tokens) in enumerate(self.sequences):
            for position in range(context - tokens, context):
                block, place = self.table[s, position // BLOCK], position % BLOCK
                self.pages.put(block, place, k[t], v[t])
                if position == context - 1:
                    self.pages.clear_after(block, place)
                t += 1


def check_same(got: Pages, want: Pages) -> None:
    """Equal bytes; scales of int8 keys, and codes that lie between two, may round differently."""
    if want.kv != "i8":
        np.testing.assert_array_equal(got.bytes, want.bytes)
        return
    np.testing.assert_allclose(got.scales, want.scales, rtol=1e-6, atol=0)
    apart = np.abs(got.keys.astype(int) - want.keys.astype(int))
    assert apart.max() <= 1, "key codes"
    assert apart.mean() < 1e-3, "key codes"
    got.keys[:], got.scales[:] = want.keys, want.scales
    np.testing.assert_array_equal(got.bytes, want.bytes)


SEQUENCES = [
    [(1, 1)],
    [(31, 31), (32, 1), (33, 1), (64, 33), (300, 1), (0, 0), (65, 65), (40, 7)],
    [(257, 257)],
]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kv", ["f32", "bf16", "i8"])
@pytest.mark.parametrize(("dk", "dv"), [(8, 8), (24, 16), (64, 64), (80, 33)])
def test_cache_write(level: str, kv: str, dk: int, dv: int):
    rng = np.random.default_rng(2)
    for sequences in SEQUENCES:
        total = sum(n for _, n in sequences)
        k = rng.standard_normal((total, 3, dk)).astype(np.float32)
        v = rng.standard_normal((total, 3, dv)).astype(np.float32)
        v[0, 0] = 0
        want = Cache(sequences, 3, dk, dv, kv)
        want.expect(k, v)
        for threads in (1, 2, 3):
            got = Cache(sequences, 3, dk, dv, kv)
            got.write(level, k, v, threads)
            check_same(got.pages, want.pages)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kv", ["f32", "bf16", "i8"])
@pytest.mark.parametrize(("interleaved", "half"), STYLES)
def test_rotary_cache_write_is_rotary_then_cache_write(
    level: str, kv: str, interleaved: bool, half: bool
):
    rng = np.random.default_rng(3)
    for dk, dim in [(64, 64), (24, 8), (80, 32)]:
        for sequences in SEQUENCES:
            total = sum(n for _, n in sequences)
            k = rng.standard_normal((total, 3, dk)).astype(np.float32)
            v = rng.standard_normal((total, 3, 16)).astype(np.float32)
            cos, sin = tables(rng, total, dim, interleaved, half)
            rotated = rotate(level, k, cos, sin, dk, dim, interleaved, half)
            want, got = Cache(sequences, 3, dk, 16, kv), Cache(sequences, 3, dk, 16, kv)
            want.write(level, rotated, v, 1)
            got.write(level, k, v, 2, (cos, sin, dim, interleaved, half))
            np.testing.assert_array_equal(got.pages.bytes, want.pages.bytes)


@pytest.mark.parametrize("level", LEVELS)
def test_keys_of_zeros_and_of_one_large_dimension(level: str):
    """Scales of 0, and keys that coding without a rotation would lose."""
    k = np.random.default_rng(4).standard_normal((2, 3, 64)).astype(np.float32)
    k[0] = 0
    k[1, :, 5] = 200
    v = np.ones((2, 3, 16), np.float32)
    cache = Cache([(2, 2)], 3, 64, 16, "i8")
    cache.write(level, k, v, 2)
    (block,) = (b for b in cache.table[0] if b >= 0)
    codes = cache.pages.keys[block, :, :, :2].astype(float) - 128  # [hkv, 16, token, 4]
    codes = np.moveaxis(codes, 2, 0).reshape(2, 3, 64)
    scales = cache.pages.scales[block, :, 0, :2].T
    back = codes * scales[..., None] @ hadamard(64).T
    np.testing.assert_array_equal(back[0], 0)
    # Rotated, 200 is 25 in each dimension: steps of about 0.22, errors of their share of it.
    np.testing.assert_allclose(back[1], k[1], rtol=0, atol=0.5)
    assert np.sqrt(np.square(back[1] - k[1]).mean()) < 0.1
