// Rotary position embedding of query and key heads.
//
// In: x [T, heads, head_dim] with a token stride, cosines and sines of the step's tokens. Out: y
// of the same shape, in place allowed. The table holds what the model's own initialisation
// computed (scaling included), so nothing here knows about theta or rope types.
#pragma once

#include <stdint.h>

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
    rotate_head(table, t, head_dim, from, [to](int i, float value) { to[i] = value; });
  }
}

}  // namespace llmc
