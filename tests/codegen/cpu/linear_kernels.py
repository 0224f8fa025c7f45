"""The linear, embedding and quantization kernels behind Python functions, and their references.

References compute the same quantized arithmetic in float64: the same codes, scales and sums, but
no rounding in between. `Expected.tolerance` bounds what rounding in f32 may add: a result is a sum
of terms, each made and added with at most three roundings of 2^-24 relative to the running total,
and the running total never exceeds the sum of the terms' magnitudes.
"""

import ctypes
import math
from dataclasses import dataclass

import numpy as np
from kernel_harness import aligned, aligned_copy, build, pointer
from llmc.codegen.cpu.packing import PACKED, pack
from llmc.ir.types import DType
from llmc.weights.formats.elements import from_bf16, to_bf16
from llmc.weights.formats.number_format import Quantized
from llmc.weights.formats.registry import dequantize, is_quantized, quantize
from quantized_rows import quantize_rows

POISON = np.float32(-12345.678)

SOURCE = """
#include "embedding.h"
#include "linear.h"
#include "quantize.h"
using namespace llmc;
struct Args {
  int format, rows, n, k, ldx, ldy, experts;
  int act, gated, ld_residual, heads;
  float softcap, scale;
  const float *x, *bias, *residual, *x_scale, *x_sum;
  const int8_t* q;
  const uint8_t* w;
  const int32_t *row_index, *offsets;
  float* y;
};
static void linear_body(Team& team, void* p) {
  Args& a = *(Args*)p;
  Epilogue e;
  e.act = (Act)a.act, e.gated = a.gated, e.bias = a.bias, e.residual = a.residual;
  e.ld_residual = a.ld_residual, e.softcap = a.softcap;
  QRows q{a.q, a.x_scale, a.x_sum, a.k};
#define FLOAT(i, f) \\
  if (a.format == i && a.heads) \\
    return head_linear_##f(team, a.rows, a.heads, a.n, a.k, a.x, a.heads * a.ldx, a.ldx, a.w, \\
                           a.y, a.ldy); \\
  if (a.format == i) return a.experts \\
    ? grouped_linear_##f(team, a.experts, a.offsets, a.n, a.k, a.x, a.ldx, a.w, e, a.y, a.ldy, \\
                         a.row_index) \\
    : linear_##f(team, a.rows, a.n, a.k, a.x, a.ldx, a.w, e, a.y, a.ldy, a.row_index);
#define INT(i, f) \\
  if (a.format == i && a.heads) \\
    return head_linear_##f(team, a.rows, a.heads, a.n, a.k, q, a.w, a.y, a.ldy); \\
  if (a.format == i) return a.experts \\
    ? grouped_linear_##f(team, a.experts, a.offsets, a.n, a.k, q, a.w, e, a.y, a.ldy, \\
                         a.row_index) \\
    : linear_##f(team, a.rows, a.n, a.k, q, a.w, e, a.y, a.ldy, a.row_index);
  FLOAT(0, f32) FLOAT(1, bf16)
  INT(2, i8c) INT(3, i8b) INT(4, i6k) INT(5, i5s) INT(6, i5a)
  INT(7, i5k) INT(8, i4s) INT(9, i4a) INT(10, i4k)
}
EXPORT void linear(int threads, Args* a) { run_team(threads, linear_body, a); }

static void embedding_body(Team& team, void* p) {
  Args& a = *(Args*)p;
#define LOOKUP(i, f) \\
  if (a.format == i) embedding_##f(team, a.rows, a.row_index, a.n, a.k, a.w, a.scale, a.y, a.ldy);
  LOOKUP(0, f32) LOOKUP(1, bf16) LOOKUP(2, i8c) LOOKUP(3, i8b) LOOKUP(4, i6k)
  LOOKUP(5, i5s) LOOKUP(6, i5a) LOOKUP(7, i5k) LOOKUP(8, i4s) LOOKUP(9, i4a) LOOKUP(10, i4k)
}
EXPORT void embedding(int threads, Args* a) { run_team(threads, embedding_body, a); }

static void quantize_body(Team& team, void* p) {
  Args& a = *(Args*)p;
  quantize_rows(team, a.rows, a.k, a.x, a.ldx, (int8_t*)a.q, (float*)a.x_scale, (float*)a.x_sum);
}
EXPORT void quantize(int threads, Args* a) { run_team(threads, quantize_body, a); }
"""

FORMATS = list(PACKED)
# Levels whose bf16 kernels round their inputs to bf16.
BF16_PRODUCTS = ("x86-64-v4-bf16", "x86-64-v4-amx", "aarch64-i8mm")
ACTS = ["none", "relu", "silu", "gelu_tanh", "gelu_erf", "relu2", "sigmoid", "tanh_"]


class Args(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int) for name in ("format", "rows", "n", "k", "ldx", "ldy", "experts")),
        *((name, ctypes.c_int) for name in ("act", "gated", "ld_residual", "heads")),
        *((name, ctypes.c_float) for name in ("softcap", "scale")),
        *((name, ctypes.c_void_p) for name in ("x", "bias", "residual", "x_scale", "x_sum", "q")),
        *((name, ctypes.c_void_p) for name in ("w", "row_index", "offsets", "y")),
    ]


@dataclass
class Weights:
    """A random matrix [n, k] in a format: packed bytes and what they mean."""

    format: DType
    packed: np.ndarray
    values: np.ndarray  # float32 [n, k], exactly what the format stands for
    quantized: Quantized | None

    @classmethod
    def random(cls, format: DType, n: int, k: int, seed: int = 0) -> "Weights":
        rng = np.random.default_rng([seed, n, k])
        return cls.of(format, rng.normal(size=(n, k)).astype(np.float32) * 0.05)

    @classmethod
    def of(cls, format: DType, rows: np.ndarray) -> "Weights":
        if is_quantized(format):
            q = quantize(rows, format)
            return cls(format, aligned_copy(pack(format, q)), dequantize(q), q)
        values = rows if format is DType.F32 else from_bf16(to_bf16(rows))
        return cls(format, aligned_copy(pack(format, rows)), values, None)


@dataclass
class Call:
    """Arguments of one kernel call beyond weights and input."""

    act: str = "none"
    gated: bool = False
    bias: np.ndarray | None = None
    residual: np.ndarray | None = None
    softcap: float = 0.0
    row_index: np.ndarray | None = None
    offsets: np.ndarray | None = None
    threads: int = 1
    in_place: bool = False  # y is the residual


def strided(x: np.ndarray, pad: int) -> np.ndarray:
    """A copy whose rows are `pad` NaN apart."""
    out = np.full((x.shape[0], x.shape[1] + pad), np.nan, np.float32)
    out[:, : x.shape[1]] = x
    return out


def run_linear(
    level: str, w: Weights, x: np.ndarray, n: int, call: Call | None = None
) -> np.ndarray:
    """y [rows, columns] of the kernel; checks that nothing around y was written."""
    call = call or Call()
    k, columns = x.shape[1], n // 2 if call.gated else n
    rows = x.shape[0] if call.row_index is None else len(call.row_index)
    wide = strided(x, 3)
    q, scale, total = quantize_rows(x)
    y = np.full((rows + 2, columns + 5), POISON, np.float32)
    residual = call.residual
    if call.in_place and residual is not None:
        y[1:-1, 2 : 2 + columns] = residual
        residual = y[1:, 2:]
    elif residual is not None:
        residual = strided(residual, 7)
    target = y[1:, 2:]
    args = Args(
        FORMATS.index(w.format), rows, n, k, wide.shape[1], y.shape[1],
        0 if call.offsets is None else len(call.offsets) - 1,
        ACTS.index(call.act), call.gated,
        0 if residual is None else residual.strides[0] // 4, 0, call.softcap, 1.0,
        pointer(wide), pointer(call.bias), pointer(residual), pointer(scale), pointer(total),
        pointer(q), pointer(w.packed), pointer(call.row_index), pointer(call.offsets),
        pointer(target),
    )  # fmt: skip
    build(SOURCE, level).linear(call.threads, ctypes.byref(args))
    result = y[1:-1, 2 : 2 + columns].copy()
    y[1:-1, 2 : 2 + columns] = POISON
    assert (y == POISON).all(), "written outside of the result"
    return result


def run_heads(
    level: str, weights: list[Weights], x: np.ndarray, n: int, threads: int = 1
) -> np.ndarray:
    """y [rows, heads, n] of x [rows, heads, k] and a matrix a head; as `run_linear`."""
    rows, heads, k = x.shape
    wide = strided(x.reshape(rows * heads, k), 3)
    q, scale, total = quantize_rows(x.reshape(rows * heads, k))
    packed = aligned_copy(np.concatenate([w.packed.reshape(-1) for w in weights]))
    y = np.full((rows + 2, heads * n + 5), POISON, np.float32)
    args = Args(
        format=FORMATS.index(weights[0].format), rows=rows, n=n, k=k, ldx=wide.shape[1],
        ldy=y.shape[1], heads=heads, x=pointer(wide), x_scale=pointer(scale),
        x_sum=pointer(total), q=pointer(q), w=pointer(packed), y=pointer(y[1:, 2:]),
    )  # fmt: skip
    build(SOURCE, level).linear(threads, ctypes.byref(args))
    result = y[1:-1, 2 : 2 + heads * n].copy()
    y[1:-1, 2 : 2 + heads * n] = POISON
    assert (y == POISON).all(), "written outside of the result"
    return result.reshape(rows, heads, n)


@dataclass
class Expected:
    values: np.ndarray
    tolerance: np.ndarray


def reference_product(level: str, w: Weights, x: np.ndarray) -> Expected:
    """x W^T in float64 [rows, n], as the level computes it, and how far rounding may lead away."""
    if w.quantized is None:
        rounded = w.format is DType.BF16 and level in BF16_PRODUCTS
        inputs = (from_bf16(to_bf16(x)) if rounded else x).astype(np.float64)
        weights = w.values.astype(np.float64)
        steps, size = x.shape[1], np.abs(inputs) @ np.abs(weights).T
        # aarch64 rounds sums of BF16 products to odd: off by up to twice as much as to nearest.
        unit = 2.0**-23 if rounded and level.startswith("aarch64") else 2.0**-24
        return Expected(inputs @ weights.T, (steps + 2) * unit * size)
    q, scale, total = quantize_rows(x)
    format, block = w.quantized.format, w.quantized.format.block
    codes = w.quantized.codes.astype(np.float64).reshape(w.quantized.rows, -1, block)
    offset = 0 if format.has_mins else format.zero_code
    inputs = q.astype(np.float64)[:, : codes.shape[1] * block].reshape(len(q), -1, block)
    dots = np.einsum("tgk,ngk->tng", inputs, codes - offset)
    scale = scale.repeat(32 // block, axis=1)[:, : dots.shape[2]]
    d = w.quantized.block_scales().astype(np.float64)
    terms = [(d[:, None] if d.ndim == 1 else d) * (dots * scale[:, None, :])]
    mins = w.quantized.block_mins()
    if mins is not None:
        terms.append(mins.astype(np.float64) * total[:, None, :])
    terms = np.stack(terms)
    steps = 3 * (dots.shape[2] + 2)
    return Expected(terms.sum((0, 3)), steps * 2.0**-24 * np.abs(terms).sum((0, 3)))


def reference_act(act: str, v: np.ndarray) -> np.ndarray:
    erf = np.vectorize(math.erf)
    with np.errstate(over="ignore"):
        match act:
            case "none":
                return v
            case "relu":
                return np.maximum(v, 0)
            case "relu2":
                return np.maximum(v, 0) ** 2
            case "silu":
                return v / (1 + np.exp(-v))
            case "sigmoid":
                return 1 / (1 + np.exp(-v))
            case "tanh_":
                return np.tanh(v)
            case "gelu_erf":
                return 0.5 * v * (1 + erf(v / np.sqrt(2)))
            case "gelu_tanh":
                return 0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)))
    raise AssertionError(act)


def run_embedding(
    level: str, w: Weights, ids: np.ndarray, scale: float, threads: int = 1
) -> np.ndarray:
    n, k = w.values.shape
    y = np.full((len(ids) + 2, k + 5), POISON, np.float32)
    args = Args(format=FORMATS.index(w.format), rows=len(ids), n=n, k=k, ldy=y.shape[1])
    args.w, args.row_index, args.y = pointer(w.packed), pointer(ids), pointer(y[1:, 2:])
    args.scale = scale
    build(SOURCE, level).embedding(threads, ctypes.byref(args))
    result = y[1:-1, 2 : 2 + k].copy()
    y[1:-1, 2 : 2 + k] = POISON
    assert (y == POISON).all(), "written outside of the result"
    return result


def run_quantize(
    level: str, x: np.ndarray, threads: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, k = x.shape
    blocks = -(-k // 32)
    wide = strided(x, 3)
    q = aligned((rows + 1, blocks * 32), np.int8)
    scale, total = (np.full((rows + 1, blocks), POISON, np.float32) for _ in range(2))
    args = Args(rows=rows, k=k, ldx=wide.shape[1])
    args.x, args.q, args.x_scale, args.x_sum = map(pointer, (wide, q, scale, total))
    build(SOURCE, level).quantize(threads, ctypes.byref(args))
    assert (q[-1].view(np.uint8) == 0xAA).all()
    assert (scale[-1] == POISON).all()
    assert (total[-1] == POISON).all()
    return q[:-1], scale[:-1], total[:-1]
