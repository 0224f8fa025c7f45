// Attention of a few query rows to one tile of 32 keys: scores, one step of the online softmax, weighted values.
//
// A row is one query of one head. Every row goes through the same arithmetic whatever rows it shares the tile
// with, and a tile that is masked for a row leaves that row's state as it was, bit for bit: its running maximum
// stays, the rescaling factor is e^0 = 1 and every weight is 0. So decode and prefill agree exactly.
#pragma once

#include <stdint.h>

#include "cache.h"
#include "simd.h"

namespace llmc {

// Rows and columns (in vectors) of a register block: as many accumulators as the register file holds beside the
// vectors loaded from K or V. A Vec is one AVX-512 register, two AVX2 registers or four SSE2 registers.
#if defined(__AVX512F__)
constexpr int kTileRows = 8, kTileVecs = 2;
#elif defined(__AVX2__)
constexpr int kTileRows = 6, kTileVecs = 1;
#else
constexpr int kTileRows = 2, kTileVecs = 1;
#endif

constexpr float kNoMax = -1e30f;  // a running maximum before the first key; finite, so that max - max is 0

struct AttentionShape {
  int heads, hkv, dk, dv;
  float scale, softcap;  // softcap 0: off
  int window;            // 0: off
};

// Query rows of one work item and their running softmax within one segment of keys:
// acc[r] = sum of e^(s - max[r]) v, and lanes[r] the same sum of weights, still spread over 16 lanes.
struct QueryRows {
  const float* q;      // [rows, dk], scaled
  float* acc;          // [rows, dv rounded up to 16]
  float* max;          // [rows]
  float* lanes;        // [rows, 16]
  const int* position; // [rows] absolute, ascending
  const float* slope;  // [rows] of the linear position bias; nullptr: none
};

// acc[r] += sum over i in [begin, end) of a[r * lda + i] * b[i * ldb ..], in this order. `tail` > 0: only so many
// columns of b exist.
template <int R, int NV, class KV>
LLMC_INLINE void multiply_add(Vec (&acc)[R][NV], const float* a, int lda, const KV* b, int ldb, int begin, int end,
                              int tail = 0) {
  for (int i = begin; i < end; ++i) {
    Vec row[NV];
    for (int v = 0; v < NV; ++v) {
      const KV* from = b + (int64_t)i * ldb + v * kLanes;
      row[v] = tail ? load_partial(from, tail) : load(from);
    }
    for (int r = 0; r < R; ++r) {
      const Vec weight = splat(a[(int64_t)r * lda + i]);
      for (int v = 0; v < NV; ++v) acc[r][v] = fma(weight, row[v], acc[r][v]);
    }
  }
}

// s [R, 32] = q [R, dk] K, with K [dk][32].
template <int R, class KV>
LLMC_INLINE void tile_scores(int dk, const float* q, const KV* k, float* s) {
  for (int column = 0; column < BLOCK; column += kTileVecs * kLanes) {
    Vec acc[R][kTileVecs];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < kTileVecs; ++v) acc[r][v] = splat(0.0f);
    multiply_add<R, kTileVecs>(acc, q, dk, k + column, BLOCK, 0, dk);
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < kTileVecs; ++v) store(s + r * BLOCK + column + v * kLanes, acc[r][v]);
  }
}

// Columns [column, column + 16 NV) of acc = acc * rescale + p V, with V [32][dv]; keys outside [begin, end) have
// weight 0 for all rows and are not read.
template <int R, int NV, class KV>
LLMC_INLINE void tile_values(int dv, const float* p, const float* rescale, const KV* v, float* acc, int ldacc,
                             int column, int begin, int end, int tail = 0) {
  Vec sum[R][NV];
  for (int r = 0; r < R; ++r)
    for (int i = 0; i < NV; ++i) sum[r][i] = load(acc + (int64_t)r * ldacc + column + i * kLanes) * splat(rescale[r]);
  multiply_add<R, NV>(sum, p, BLOCK, v + column, dv, begin, end, tail);
  for (int r = 0; r < R; ++r)
    for (int i = 0; i < NV; ++i) store(acc + (int64_t)r * ldacc + column + i * kLanes, sum[r][i]);
}

// Lane i is a key at absolute position key + i: soft cap, position bias and mask.
LLMC_INLINE Vec adjust_scores(const AttentionShape& shape, Vec s, int key, int query, const float* slope) {
  if (shape.softcap != 0.0f) s = tanh(s * splat(1.0f / shape.softcap)) * splat(shape.softcap);
  const IVec iota = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const IVec distance = iota + (key - query);
  if (slope) s = fma(to_float(distance), splat(*slope), s);
  if (key + kLanes - 1 > query) s = select(distance <= 0, s, splat(-__builtin_inff()));
  if (shape.window && key <= query - shape.window)
    s = select(distance > -shape.window, s, splat(-__builtin_inff()));
  return s;
}

// One row: scores s [32] become weights e^(s - max), in place. Returns the factor that brings what was summed
// before to the new maximum.
LLMC_INLINE float tile_softmax(const AttentionShape& shape, float* s, int key, int query, const float* slope,
                               float* row_max, float* lanes) {
  const Vec s0 = adjust_scores(shape, load(s), key, query, slope);
  const Vec s1 = adjust_scores(shape, load(s + kLanes), key + kLanes, query, slope);
  const float tile_max = reduce_max(max(s0, s1));
  const float new_max = tile_max > *row_max ? tile_max : *row_max;
  const Vec rescale = exp(splat(*row_max - new_max));
  const Vec p0 = exp(s0 - splat(new_max)), p1 = exp(s1 - splat(new_max));
  store(s, p0);
  store(s + kLanes, p1);
  store(lanes, fma(load(lanes), rescale, p0 + p1));
  *row_max = new_max;
  return rescale[0];
}

// Rows [first, first + R) attend to the tile whose first key has the absolute position `key`.
template <int R, class KV>
inline void attend_block(const AttentionShape& shape, const QueryRows& rows, int first, int key, const KV* k,
                         const KV* v) {
  // The keys that any of the rows sees: the last row reaches furthest ahead, the first furthest back.
  const int end = min_int(BLOCK, rows.position[first + R - 1] - key + 1);
  const int begin = shape.window ? max_int(0, rows.position[first] - shape.window + 1 - key) : 0;
  if (begin >= end) return;
  alignas(64) float s[R * BLOCK];
  float rescale[R];
  tile_scores<R>(shape.dk, rows.q + (int64_t)first * shape.dk, k, s);
  for (int r = 0; r < R; ++r) {
    const int row = first + r;
    rescale[r] = tile_softmax(shape, s + r * BLOCK, key, rows.position[row], rows.slope ? rows.slope + row : nullptr,
                              rows.max + row, rows.lanes + row * kLanes);
  }
  const int ldacc = round_up(shape.dv, kLanes);
  float* acc = rows.acc + (int64_t)first * ldacc;
  int column = 0;
  for (; column + kTileVecs * kLanes <= shape.dv; column += kTileVecs * kLanes)
    tile_values<R, kTileVecs>(shape.dv, s, rescale, v, acc, ldacc, column, begin, end);
  for (; column + kLanes <= shape.dv; column += kLanes)
    tile_values<R, 1>(shape.dv, s, rescale, v, acc, ldacc, column, begin, end);
  if (column < shape.dv)
    tile_values<R, 1>(shape.dv, s, rescale, v, acc, ldacc, column, begin, end, shape.dv - column);
}

// Up to R rows: the count becomes a template parameter.
template <int R, class KV>
inline void attend_rows(const AttentionShape& shape, const QueryRows& rows, int first, int count, int key, const KV* k,
                        const KV* v) {
  if (count == R) return attend_block<R>(shape, rows, first, key, k, v);
  if constexpr (R > 1) attend_rows<R - 1>(shape, rows, first, count, key, k, v);
}

}  // namespace llmc
