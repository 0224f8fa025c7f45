// Rotary position embedding of query and key heads.
//
// In: x [T, heads, head_dim] with a token stride, cosines and sines of the step's tokens. Out: y
// of the same shape, in place allowed. The table holds what the model's own initialisation
// computed (scaling included), so nothing here knows about theta or rope types.
#pragma once

#include <stdint.h>

#include "simd.h"
#include "team.h"

namespace llmc {

// cos and sin are [T, dim / 2] (half_table: one angle a pair) or [T, dim] (one angle an element).
// The first `dim` elements of a head are rotated, the rest is copied. A pair is (i, i + dim/2), or
// (2i, 2i + 1) where interleaved.
struct RotaryTable {
  int dim;
  bool interleaved;
  bool half_table;
  const float* cos;
  int ldc;
  const float* sin;
  int lds;
};

constexpr RotaryTable kNoRotary = {0, false, true, nullptr, 0, nullptr, 0};

// Calls emit(index, value) for each element of one head of token t, in pairs:
//   y1 = x1 cos - x2 sin,  y2 = x2 cos + x1 sin
// Both elements of a pair are read before the first is emitted, so emit may overwrite x.
template <class Emit>
inline void rotate_head(const RotaryTable& table, int t, int head_dim, const float* x, Emit emit) {
  const float* cos = table.cos + (int64_t)t * table.ldc;
  const float* sin = table.sin + (int64_t)t * table.lds;
  const int half = table.dim / 2;
  for (int i = 0; i < half; ++i) {
    const int first = table.interleaved ? 2 * i : i;
    const int second = table.interleaved ? 2 * i + 1 : i + half;
    const int angle1 = table.half_table ? i : first;
    const int angle2 = table.half_table ? i : second;
    const float x1 = x[first], x2 = x[second];
    emit(first, x1 * cos[angle1] - x2 * sin[angle1]);
    emit(second, x2 * cos[angle2] + x1 * sin[angle2]);
  }
  for (int i = table.dim; i < head_dim; ++i) emit(i, x[i]);
}

// One head of token t: `to` gets what `rotate_head` emits, or a copy where the table has no cosines.
// `to` may be x.
inline void rotate_or_copy(const RotaryTable& table, int t, int head_dim, const float* x,
                           float* to) {
  if (!table.cos) {
    for (int i = 0; i < head_dim; ++i) to[i] = x[i];
    return;
  }
  const int half = table.dim / 2;
  if (table.interleaved || !table.half_table || half % kLanes)
    return rotate_head(table, t, head_dim, x, [to](int i, float value) { to[i] = value; });
  const float* cos = table.cos + (int64_t)t * table.ldc;
  const float* sin = table.sin + (int64_t)t * table.lds;
  for (int i = 0; i < half; i += kLanes) {
    const Vec x1 = load(x + i), x2 = load(x + i + half), c = load(cos + i), s = load(sin + i);
    store(to + i, x1 * c - x2 * s);
    store(to + i + half, x2 * c + x1 * s);
  }
  for (int i = table.dim; i < head_dim; ++i) to[i] = x[i];
}

// x, y: [T, heads, head_dim], head h of token t at x[t * ldx + h * head_dim]; y == x is allowed.
inline void rotary(Team& team, int T, int heads, int head_dim, int rotary_dim, bool interleaved,
                   const float* x, int ldx, const float* cos, int ldc, const float* sin, int lds,
                   float* y, int ldy, bool half_table = true) {
  const RotaryTable table{rotary_dim, interleaved, half_table, cos, ldc, sin, lds};
  const Range items = team_range(team, T * heads);
  for (int item = items.begin; item < items.end; ++item) {
    const int t = item / heads, h = item % heads;
    const float* from = x + (int64_t)t * ldx + (int64_t)h * head_dim;
    float* to = y + (int64_t)t * ldy + (int64_t)h * head_dim;
    rotate_or_copy(table, t, head_dim, from, to);
  }
}

}  // namespace llmc
