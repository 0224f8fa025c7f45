"""RMSNorm and LayerNorm against float64; fused forms against their parts, bit for bit."""

import numpy as np
import pytest
from row_kernels import LEVELS, call

# Sums of n squares in 64 partial sums, a square root, a division and three products: the relative
# error is a few roundings (6e-8 each), and 1e-6 absolute for elements near 0 after centering.
RTOL, ATOL = 1e-6, 1e-6
POISON = np.float32(-77.25)
SIZES = [1, 8, 15, 16, 31, 32, 33, 64, 80, 257, 576]
TOKENS = [1, 7, 33]
EPS = 1e-5


class Rows:
    """Random [rows, n] inside a wider poisoned array: `values` is the view, `ld` the row stride."""

    def __init__(self, rng: np.random.Generator | None, rows: int, n: int, gap: int = 3):
        self.buffer = np.full((rows + 1, n + gap), POISON, np.float32)
        self.values = self.buffer[:-1, :n]
        self.ld = n + gap
        self.n = n
        if rng is not None:
            # Rows of different sizes and with an offset, as residual streams have.
            scale = 10 ** rng.uniform(-2, 2, (rows, 1))
            self.values[:] = scale * (rng.standard_normal((rows, n)) + rng.standard_normal())

    def check_untouched_around(self) -> None:
        assert (self.buffer[-1] == POISON).all()
        assert (self.buffer[:, self.n :] == POISON).all()


def reference(
    x: np.ndarray, w: np.ndarray | None, b: np.ndarray | None, center: bool
) -> np.ndarray:
    x = x.astype(np.float64)
    if center:
        x = x - x.mean(axis=-1, keepdims=True)
    y = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + EPS)
    y = y if w is None else y * w
    return y if b is None else y + b


def weights(
    rng: np.random.Generator, n: int, kind: str
) -> tuple[np.ndarray | None, np.ndarray | None]:
    w = rng.uniform(0.5, 1.5, n).astype(np.float32) if kind != "none" else None
    b = rng.standard_normal(n).astype(np.float32) if kind == "weight, bias" else None
    return w, b


def norm(level: str, x: Rows, w, b, center: bool, y: Rows, threads: int = 2) -> None:
    ints = [len(x.values), x.n, x.ld, y.ld]
    if center:
        call(level, "layer_norm", threads, ints, [EPS], [x.values, w, b, y.values])
    else:
        call(level, "rms_norm", threads, ints, [EPS], [x.values, w, y.values])


def add_norm(level: str, x: Rows, r: Rows, total: Rows, w, b, center: bool, y: Rows) -> None:
    ints = [len(x.values), x.n, x.ld, r.ld, total.ld, y.ld]
    arrays = [x.values, r.values, total.values, w, *([b] if center else []), y.values]
    call(level, "add_layer_norm" if center else "add_rms_norm", 2, ints, [EPS], arrays)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("center", "kind"),
    [(False, "none"), (False, "weight"), (True, "none"), (True, "weight"), (True, "weight, bias")],
)
def test_against_float64(level: str, center: bool, kind: str):
    rng = np.random.default_rng(1)
    for n in SIZES:
        for tokens in TOKENS:
            x, y = Rows(rng, tokens, n), Rows(None, tokens, n, gap=1)
            w, b = weights(rng, n, kind)
            norm(level, x, w, b, center, y)
            want = reference(x.values, w, b, center)
            # Centering cancels: what is left of x has the rounding errors of x itself.
            cancelled = np.abs(x.values).max(-1, keepdims=True) / (
                x.values.std(-1, keepdims=True) + EPS**0.5
            )
            atol = ATOL * np.maximum(1, cancelled) if center else ATOL
            assert (np.abs(y.values - want) <= RTOL * np.abs(want) + atol).all(), (n, tokens)
            y.check_untouched_around()
            x.check_untouched_around()


@pytest.mark.parametrize("level", LEVELS)
def test_mean_square_of_long_rows(level: str):
    # All elements nearly equal: sums of 8192 terms would lose 4 digits in one running sum.
    rng = np.random.default_rng(2)
    x, y = Rows(None, 3, 8192), Rows(None, 3, 8192)
    x.values[:] = 3 + 0.01 * rng.standard_normal((3, 8192))
    norm(level, x, None, None, False, y)
    np.testing.assert_allclose(y.values, reference(x.values, None, None, False), rtol=5e-7)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("center", [False, True])
def test_in_place_threads_and_batch_give_the_same_bits(level: str, center: bool):
    rng = np.random.default_rng(3)
    x, y = Rows(rng, 33, 80), Rows(None, 33, 80)
    w, b = weights(rng, 80, "weight, bias")
    norm(level, x, w, b, center, y, threads=1)
    for threads in (2, 3):
        again = Rows(None, 33, 80)
        norm(level, x, w, b, center, again, threads)
        np.testing.assert_array_equal(y.values, again.values)
    for row in (0, 13, 32):
        alone, one = Rows(None, 1, 80), Rows(None, 1, 80)
        one.values[:] = x.values[row]
        norm(level, one, w, b, center, alone)
        np.testing.assert_array_equal(y.values[row], alone.values[0])
    norm(level, x, w, b, center, x)
    np.testing.assert_array_equal(y.values, x.values)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("place", ["apart", "sum is x", "sum is r"])
def test_added_residual_is_an_addition_and_a_norm(level: str, center: bool, place: str):
    rng = np.random.default_rng(4)
    for n in SIZES:
        for tokens in TOKENS:
            x, r = Rows(rng, tokens, n), Rows(rng, tokens, n, gap=5)
            w, b = weights(rng, n, "weight, bias")
            want_sum = Rows(None, tokens, n)
            want_sum.values[:] = x.values + r.values
            want, y = Rows(None, tokens, n), Rows(None, tokens, n)
            norm(level, want_sum, w, b, center, want)
            total = {"apart": Rows(None, tokens, n, gap=2), "sum is x": x, "sum is r": r}[place]
            add_norm(level, x, r, total, w, b, center, y)
            np.testing.assert_array_equal(total.values, want_sum.values)
            np.testing.assert_array_equal(y.values, want.values)
            for rows in (x, r, total, y):
                rows.check_untouched_around()


class Codes:
    """Poisoned q, scale and sum of quantized rows, one block longer than needed."""

    def __init__(self, rows: int, n: int):
        self.count = rows * -(-n // 32)
        self.q = np.full(32 * (self.count + 1), 0x55, np.int8)
        self.scale = np.full(self.count + 1, POISON, np.float32)
        self.sum = np.full(self.count + 1, POISON, np.float32)

    @property
    def arrays(self) -> list[np.ndarray]:
        return [self.q, self.scale, self.sum]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("kind", ["none", "weight, bias"])
@pytest.mark.parametrize("keep_y", [False, True])
def test_quantized_is_a_norm_and_a_quantization(level: str, center: bool, kind: str, keep_y: bool):
    rng = np.random.default_rng(6)
    name = "layer_norm_quant" if center else "rms_norm_quant"
    for n in SIZES:
        for tokens in TOKENS:
            x, r = Rows(rng, tokens, n), Rows(rng, tokens, n)
            w, b = weights(rng, n, kind)
            affine = [w, b] if center else [w]
            added, total, y = (Rows(None, tokens, n) for _ in range(3))
            added.values[:] = x.values + r.values
            for plain in (True, False):
                want_y = Rows(None, tokens, n)
                norm(level, x if plain else added, w, b, center, want_y)
                want, got = Codes(tokens, n), Codes(tokens, n)
                ints = [tokens, n, want_y.ld]
                call(level, "quantize_rows", 1, ints, [], [want_y.values, *want.arrays])
                out = [y.values if keep_y else None, *got.arrays]
                if plain:
                    ints = [tokens, n, x.ld, y.ld]
                    call(level, name, 2, ints, [EPS], [x.values, *affine, *out])
                else:
                    ints = [tokens, n, x.ld, r.ld, total.ld, y.ld]
                    arrays = [x.values, r.values, total.values, *affine, *out]
                    call(level, f"add_{name}", 2, ints, [EPS], arrays)
                    np.testing.assert_array_equal(total.buffer, added.buffer)
                for expected, actual in zip(want.arrays, got.arrays, strict=True):
                    np.testing.assert_array_equal(actual, expected, err_msg=f"{n} {tokens}")
                if keep_y:
                    np.testing.assert_array_equal(y.buffer, want_y.buffer)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("dim", [8, 16, 24, 64, 80])
def test_heads_are_rows(level: str, center: bool, dim: int):
    rng = np.random.default_rng(5)
    w, b = weights(rng, dim, "weight, bias")
    tokens, heads = 7, 3
    x, y = Rows(rng, tokens, heads * dim), Rows(None, tokens, heads * dim, gap=1)
    ints = [tokens, heads, dim, x.ld, y.ld]
    if center:
        call(level, "layer_norm_heads", 2, ints, [EPS], [x.values, w, b, y.values])
    else:
        call(level, "rms_norm_heads", 2, ints, [EPS], [x.values, w, y.values])
    flat, want = Rows(None, tokens * heads, dim), Rows(None, tokens * heads, dim)
    flat.values[:] = x.values.reshape(-1, dim)
    norm(level, flat, w, b, center, want)
    np.testing.assert_array_equal(y.values.reshape(-1, dim), want.values)
    y.check_untouched_around()
