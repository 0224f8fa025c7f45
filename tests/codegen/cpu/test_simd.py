"""The vector functions of simd.h against float64, over their whole range and at the edges."""

import ctypes
import math

import numpy as np
import pytest
from kernel_harness import build, emulated_levels, pointer, runnable_levels

SOURCE = """
using namespace llmc;
template <class V>
static V function(int f, V v) {
  switch (f) {
    case 0: return exp(v);
    case 1: return tanh(v);
    case 2: return erf(v);
    case 3: return sigmoid(v);
    case 4: return silu(v);
    case 5: return gelu_erf(v);
    case 6: return gelu_tanh(v);
    default: return softplus(v);
  }
}
EXPORT void apply(int f, int n, const float* x, float* y) {
  for (int i = 0; i < n; i += kLanes) {
    const Vec v = load(x + i);
    store(y + i, f < 8    ? function(f, v)
                 : f == 8 ? round_even(v)
                 : f == 9 ? splat(reduce_add(v))
                          : splat(reduce_max(v)));
  }
}
EXPORT void apply_each(int f, int n, const float* x, float* y) {
  for (int i = 0; i < n; i++) y[i] = function(f, x[i]);
}
EXPORT void partial(int n, const float* x, float* y) { store_partial(y, load_partial(x, n), n); }
EXPORT void loaded(int n, const float* x, float* y) { store(y, load_partial(x, n)); }
EXPORT void from_f16(int n, const uint16_t* x, float* y) {
  for (int i = 0; i < n; i += kLanes) store(y + i, f16_to_float(load_half(x + i)));
}
EXPORT void to_bf16(int n, const float* x, uint16_t* y, uint16_t* one) {
  for (int i = 0; i < n; i += kLanes) store_half(y + i, float_to_bf16(load(x + i)));
  for (int i = 0; i < n; i++) one[i] = float_to_bf16(x[i]);
}
EXPORT void from_bf16(int n, const uint16_t* x, float* y, float* one) {
  for (int i = 0; i < n; i += kLanes) store(y + i, bf16_to_float(load_half(x + i)));
  for (int i = 0; i < n; i++) one[i] = bf16_to_float(x[i]);
}
"""
NAMES = [
    *("exp", "tanh", "erf", "sigmoid", "silu", "gelu_erf", "gelu_tanh", "softplus"),
    *("round_even", "reduce_add", "reduce_max"),
]
FUNCTIONS = NAMES[1:8]
LEVELS = [*runnable_levels(), *emulated_levels()]
vector_erf = np.vectorize(math.erf)


def apply(level: str, name: str, x: np.ndarray) -> np.ndarray:
    x = np.ascontiguousarray(x, np.float32)
    y = np.full_like(x, -777.0)
    assert len(x) % 16 == 0
    build(SOURCE, level).apply(NAMES.index(name), len(x), pointer(x), pointer(y))
    return y


def grid(limit: float) -> np.ndarray:
    wide = np.linspace(-limit, limit, 8000)
    return np.concatenate([wide, np.linspace(-3, 3, 8000)]).astype(np.float32)


@pytest.mark.parametrize("level", LEVELS)
def test_exp_is_within_two_ulp(level: str):
    x = grid(86)
    expected = np.exp(x.astype(np.float64))
    ulp = np.spacing(expected.astype(np.float32)).astype(np.float64)
    assert (np.abs(apply(level, "exp", x) - expected) <= 2 * ulp).all()


@pytest.mark.parametrize("level", LEVELS)
def test_exp_at_the_edges(level: str):
    values = [0.0, -0.0, np.inf, -np.inf, np.nan, 88.7, 88.73, 1e30, -86.0, -87.0, -1e30, 1e-30]
    y = apply(level, "exp", np.array([*values, 1, 1, 1, 1], np.float32))
    assert y[0] == y[1] == y[11] == 1
    assert y[2] == y[6] == y[7] == np.inf
    assert y[3] == y[9] == y[10] == 0
    assert np.isnan(y[4])
    assert np.isclose(y[5], np.exp(np.float64(np.float32(88.7))), rtol=3e-7)
    assert y[8] > 0


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_match_float64(level: str, name: str):
    x = grid(90)
    v = x.astype(np.float64)
    expected = {
        "tanh": lambda: np.tanh(v),
        "erf": lambda: vector_erf(v),
        "sigmoid": lambda: 1 / (1 + np.exp(-v)),
        "silu": lambda: v / (1 + np.exp(-v)),
        "gelu_erf": lambda: 0.5 * v * (1 + vector_erf(v / math.sqrt(2))),
        "softplus": lambda: np.logaddexp(0, v),
        "gelu_tanh": lambda: (
            0.5 * v * (1 + np.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))
        ),
    }[name]()
    # A few roundings of 6e-8 of the result, and for gelu near its flat left side of |x| itself.
    tolerance = 3e-7 * np.abs(expected) + 3e-7 * np.minimum(1, np.abs(v))
    assert (np.abs(apply(level, name, x) - expected) <= tolerance).all()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", NAMES[:8])
def test_single_elements_get_the_same_bits(level: str, name: str):
    x = np.concatenate([grid(90), np.array([np.inf, -np.inf, 0.0, -0.0] * 4, np.float32)])
    y = np.full_like(x, -777.0)
    build(SOURCE, level).apply_each(NAMES.index(name), len(x), pointer(x), pointer(y))
    np.testing.assert_array_equal(y, apply(level, name, x))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_nan_stays_nan_and_infinity_has_its_limit(level: str, name: str):
    y = apply(level, name, np.array([np.nan, np.inf, -np.inf, *[0.5] * 13], np.float32))
    assert np.isnan(y[0])
    assert y[1] == (1.0 if name in ("tanh", "erf", "sigmoid") else np.inf)
    if name in ("tanh", "erf"):
        assert y[2] == -1
    if name in ("sigmoid", "softplus"):
        assert y[2] == 0


@pytest.mark.parametrize("level", LEVELS)
def test_rounding_is_half_to_even(level: str):
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, 127.49, -127.5, 1e6 + 0.5, 0, 3, -3, 0.49,
                  -0.51, 100.25], np.float32)  # fmt: skip
    np.testing.assert_array_equal(apply(level, "round_even", x), np.rint(x))


@pytest.mark.parametrize("level", LEVELS)
def test_reductions_are_one_tree_on_every_level(level: str):
    x = (np.random.default_rng(0).normal(size=16) * 1e3).astype(np.float32)
    total = x.copy()
    while len(total) > 1:
        total = total[: len(total) // 2] + total[len(total) // 2 :]
    assert (apply(level, "reduce_add", x) == total[0]).all()
    assert (apply(level, "reduce_max", x) == x.max()).all()


@pytest.mark.parametrize("level", LEVELS)
def test_partial_loads_and_stores_touch_only_their_lanes(level: str):
    lib = build(SOURCE, level)
    x = np.arange(1, 17, dtype=np.float32)
    for n in range(17):
        y = np.full(16, -1, np.float32)
        lib.partial(n, pointer(x), pointer(y))
        np.testing.assert_array_equal(y, [*x[:n], *[-1] * (16 - n)])
        lib.loaded(n, pointer(x), pointer(y))
        np.testing.assert_array_equal(y, [*x[:n], *[0] * (16 - n)])


@pytest.mark.parametrize("level", LEVELS)
def test_every_half_converts_exactly(level: str):
    bits = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    lib = build(SOURCE, level)
    y, one = np.full(1 << 16, -1, np.float32), np.full(1 << 16, -1, np.float32)
    lib.from_f16(len(bits), pointer(bits), pointer(y))
    np.testing.assert_array_equal(y, bits.view(np.float16).astype(np.float32))
    lib.from_bf16(len(bits), pointer(bits), pointer(y), pointer(one))
    expected = (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(one, expected)


@pytest.mark.parametrize("level", LEVELS)
def test_bf16_rounds_half_to_even(level: str):
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 1 << 32, 1 << 14, np.uint64).astype(np.uint32)
    bits[:4096] = (bits[:4096] & 0xFFFF0000) | 0x8000  # halfway
    x = bits.view(np.float32)
    y, one = np.zeros(len(x), np.uint16), np.zeros(len(x), np.uint16)
    build(SOURCE, level).to_bf16(ctypes.c_int(len(x)), pointer(x), pointer(y), pointer(one))
    np.testing.assert_array_equal(y, one)
    nan = np.isnan(x)
    rounded = ((bits.astype(np.uint64) + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    np.testing.assert_array_equal(y[~nan], rounded[~nan])
    back = (y[nan].astype(np.uint32) << 16).view(np.float32)
    assert nan.any()
    assert np.isnan(back).all()
