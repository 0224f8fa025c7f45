// RMSNorm and LayerNorm of rows: plain, after a residual addition, per head, quantized.
//
// Each variant is one choice of where rows come from and one of where they go to around the same
// arithmetic, so a fused kernel gives the bits of its parts run one after the other:
//   add_*_norm:   sum = x + r is written, y = norm(sum)
//   *_norm_heads: the rows are the heads of each token
//   *_quant:      y goes out as int8 blocks too, as quantize_rows(y) would make them
// A row belongs to one thread, and its sums run in an order fixed by its length.
#pragma once

#include <stdint.h>

#include "quantize.h"
#include "simd.h"
#include "team.h"

namespace llmc {

// y = (x - mean) * scale * weight + bias; weight and bias may be null.
struct Norm {
  const float* weight;
  const float* bias;
  float eps;
  bool center;  // LayerNorm subtracts the mean, RMSNorm does not
};

// Rows of [T, heads, n] where tokens are `ld` apart; plain matrices have one head.
template <class Float>
struct Rows {
  Float* data;
  int ld, heads, n;
  Float* operator()(int i) const {
    return data + (int64_t)(i / heads) * ld + (int64_t)(i % heads) * n;
  }
  // As a destination of norm_rows.
  void put(int row, int i, Vec low, Vec high, int count) const {
    float* to = (*this)(row) + i;
    store_partial(to, low, min_int(kLanes, count));
    if (count > kLanes) store_partial(to + kLanes, high, count - kLanes);
  }
};
template <class Float>
Rows(Float*, int, int, int) -> Rows<Float>;

// Rows of x + r, written to `sum` on the way. sum may be x or r.
struct AddedRows {
  Rows<const float> x, r;
  Rows<float> sum;
  const float* operator()(int i) const {
    const float *a = x(i), *b = r(i);
    float* to = sum(i);
    for (int j = 0; j < x.n; j += kLanes) {
      const int count = min_int(kLanes, x.n - j);
      store_partial(to + j, load_partial(a + j, count) + load_partial(b + j, count), count);
    }
    return to;
  }
};

// Destination that also, or (y.data null) only, takes the quantized row.
struct QuantizedRows {
  Rows<float> y;
  int8_t* q;     // [rows, n rounded up to 32]
  float* scale;  // [rows, blocks of 32]
  float* sum;
  void put(int row, int i, Vec low, Vec high, int count) const {
    if (y.data) y.put(row, i, low, high, count);
    const int64_t block = (int64_t)row * ceil_div(y.n, 2 * kLanes) + i / (2 * kLanes);
    quantize_block(low, high, q + block * 2 * kLanes, scale + block, sum + block);
  }
};

constexpr IVec kLaneNumbers = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// The first `count` lanes; the others become 0.
LLMC_INLINE Vec keep_first(int count, Vec v) {
  return select(kLaneNumbers < count, v, splat(0.0f));
}

// Sum of f(x[i]) in four running sums of 16 lanes: rounding errors stay near 1e-7, adds overlap.
template <class F>
LLMC_INLINE float sum_of(const float* x, int n, F f) {
  Vec sum[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
  int i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int v = 0; v < 4; ++v) sum[v] += f(load(x + i + v * kLanes));
  for (; i + kLanes <= n; i += kLanes) sum[0] += f(load(x + i));
  if (i < n) sum[1] += keep_first(n - i, f(load_partial(x + i, n - i)));
  return reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

// The normalized row goes to sink.put(row, index, low 16, high 16, how many of these 32 exist);
// lanes that do not exist are 0.
template <class Sink>
LLMC_INLINE void norm_row(const Norm& norm, int n, const float* x, int row, const Sink& sink) {
  const float mean = norm.center ? sum_of(x, n, [](Vec v) { return v; }) / (float)n : 0.0f;
  const Vec center = splat(mean);
  const float squares = sum_of(x, n, [=](Vec v) { return (v - center) * (v - center); });
  const Vec scale = splat(1.0f / __builtin_sqrtf(squares / (float)n + norm.eps));
  for (int i = 0; i < n; i += 2 * kLanes) {
    Vec y[2];
    for (int v = 0; v < 2; ++v) {
      const int at = i + v * kLanes, count = max_int(0, min_int(kLanes, n - at));
      y[v] = keep_first(count, load_partial(x + at, count) - center) * scale;
      if (norm.weight) y[v] *= load_partial(norm.weight + at, count);
      if (norm.bias) y[v] += load_partial(norm.bias + at, count);
    }
    sink.put(row, i, y[0], y[1], min_int(2 * kLanes, n - i));
  }
}

template <class Source, class Sink>
inline void norm_rows(Team& team, int rows, int n, const Source& x, const Norm& norm,
                      const Sink& sink) {
  const Range range = team_range(team, rows);
  for (int row = range.begin; row < range.end; ++row) norm_row(norm, n, x(row), row, sink);
}

// ---- f32 out: x, y [T, n] with row strides, w and b [n] or null; y may be x ---------------------

inline void rms_norm(Team& team, int T, int n, const float* x, int ldx, const float* w, float eps,
                     float* y, int ldy) {
  norm_rows(team, T, n, Rows{x, ldx, 1, n}, Norm{w, nullptr, eps, false}, Rows{y, ldy, 1, n});
}

inline void layer_norm(Team& team, int T, int n, const float* x, int ldx, const float* w,
                       const float* b, float eps, float* y, int ldy) {
  norm_rows(team, T, n, Rows{x, ldx, 1, n}, Norm{w, b, eps, true}, Rows{y, ldy, 1, n});
}

// Every head of x [T, H, D] (token stride ldx) is normalized on its own with the same w, b [D].
inline void rms_norm_heads(Team& team, int T, int H, int D, const float* x, int ldx, const float* w,
                           float eps, float* y, int ldy) {
  const Norm norm{w, nullptr, eps, false};
  norm_rows(team, T * H, D, Rows{x, ldx, H, D}, norm, Rows{y, ldy, H, D});
}

inline void layer_norm_heads(Team& team, int T, int H, int D, const float* x, int ldx,
                             const float* w, const float* b, float eps, float* y, int ldy) {
  const Norm norm{w, b, eps, true};
  norm_rows(team, T * H, D, Rows{x, ldx, H, D}, norm, Rows{y, ldy, H, D});
}

// sum = x + r (sum may be x or r), y = norm(sum).
inline void add_rms_norm(Team& team, int T, int n, const float* x, int ldx, const float* r, int ldr,
                         float* sum, int ldsum, const float* w, float eps, float* y, int ldy) {
  const AddedRows added{{x, ldx, 1, n}, {r, ldr, 1, n}, {sum, ldsum, 1, n}};
  norm_rows(team, T, n, added, Norm{w, nullptr, eps, false}, Rows{y, ldy, 1, n});
}

inline void add_layer_norm(Team& team, int T, int n, const float* x, int ldx, const float* r,
                           int ldr, float* sum, int ldsum, const float* w, const float* b,
                           float eps, float* y, int ldy) {
  const AddedRows added{{x, ldx, 1, n}, {r, ldr, 1, n}, {sum, ldsum, 1, n}};
  norm_rows(team, T, n, added, Norm{w, b, eps, true}, Rows{y, ldy, 1, n});
}

// ---- quantized out: q, scale and sum as of quantize_rows; y as above, or null ------------------

inline void rms_norm_quant(Team& team, int T, int n, const float* x, int ldx, const float* w,
                           float eps, float* y, int ldy, int8_t* q, float* scale, float* sum) {
  const QuantizedRows out{{y, ldy, 1, n}, q, scale, sum};
  norm_rows(team, T, n, Rows{x, ldx, 1, n}, Norm{w, nullptr, eps, false}, out);
}

inline void layer_norm_quant(Team& team, int T, int n, const float* x, int ldx, const float* w,
                             const float* b, float eps, float* y, int ldy, int8_t* q, float* scale,
                             float* sum) {
  const QuantizedRows out{{y, ldy, 1, n}, q, scale, sum};
  norm_rows(team, T, n, Rows{x, ldx, 1, n}, Norm{w, b, eps, true}, out);
}

inline void add_rms_norm_quant(Team& team, int T, int n, const float* x, int ldx, const float* r,
                               int ldr, float* total, int ldtotal, const float* w, float eps,
                               float* y, int ldy, int8_t* q, float* scale, float* sum) {
  const AddedRows added{{x, ldx, 1, n}, {r, ldr, 1, n}, {total, ldtotal, 1, n}};
  const QuantizedRows out{{y, ldy, 1, n}, q, scale, sum};
  norm_rows(team, T, n, added, Norm{w, nullptr, eps, false}, out);
}

inline void add_layer_norm_quant(Team& team, int T, int n, const float* x, int ldx, const float* r,
                                 int ldr, float* total, int ldtotal, const float* w,
                                 const float* b, float eps, float* y, int ldy, int8_t* q,
                                 float* scale, float* sum) {
  const AddedRows added{{x, ldx, 1, n}, {r, ldr, 1, n}, {total, ldtotal, 1, n}};
  const QuantizedRows out{{y, ldy, 1, n}, q, scale, sum};
  norm_rows(team, T, n, added, Norm{w, b, eps, true}, out);
}

}  // namespace llmc
