// Attention of a few query rows to one tile of 32 keys: scores, one step of the online softmax,
// weighted values.
//
// A row is one query of one head. Every row goes through the same arithmetic whatever rows it
// shares the tile with, and a tile that is masked for a row leaves that row's state as it was, bit
// for bit: its running maximum stays, the rescaling factor is e^0 = 1 and every weight is 0. So
// decode and prefill agree exactly.
#pragma once

#include <stdint.h>

#include "cache.h"
#include "simd.h"

namespace llmc {

// Rows and columns (in vectors) of a register block: as many accumulators as the register file
// holds beside the vectors loaded from K or V. A Vec is one AVX-512 register, two AVX2 registers
// or four of the 32 of NEON or the 16 of SSE2.
#if defined(__AVX512F__)
constexpr int kTileRows = 8, kTileVecs = 2;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int kTileRows = 6, kTileVecs = 1;
#else
constexpr int kTileRows = 2, kTileVecs = 1;
#endif

// A running maximum before the first key; finite, so that max - max is 0.
constexpr float kNoMax = -1e30f;

struct AttentionShape {
  int heads, hkv, dk, dv;
  float scale, softcap;  // softcap 0: off
  int window;            // 0: off
};

// Query rows of one work item and their running softmax within one segment of keys:
// acc[r] = sum of e^(s - max[r]) v, and lanes[r] the same sum of weights, spread over 16 lanes.
struct QueryRows {
  const float* q;       // [rows, dk], scaled
  float* acc;           // [rows, dv rounded up to 16]
  float* max;           // [rows]
  float* lanes;         // [rows, 16]
  const int* position;  // [rows] absolute, ascending
  const float* slope;   // [rows] of the linear position bias; nullptr: none
};

// Memory that the next tile will be read from. Blocks are scattered, so the processor does not see
// them coming. Fetched into the second-level cache: the first has too few outstanding misses, and
// fetching into it made decode half as fast.
struct Ahead {
  const char* at;  // nullptr: nothing to fetch
  int bytes;       // per step of a product's loop
  void fetch(int step) const {
    if (!at) return;
    for (int i = 0; i < bytes; i += 64) __builtin_prefetch(at + (int64_t)step * bytes + i, 0, 2);
  }
};

// acc[r] += sum over i in [begin, end) of a[r * lda + i] * b[i * ldb ..], in this order. Where
// `tail` is not 0, only so many columns of b exist.
template <int R, int NV, class KV>
LLMC_INLINE void multiply_add(Vec (&acc)[R][NV], const float* a, int lda, const KV* b, int ldb,
                              int begin, int end, int tail, Ahead ahead) {
  for (int i = begin; i < end; ++i) {
    ahead.fetch(i);
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
LLMC_INLINE void tile_scores(int dk, const float* q, const KV* k, const KV* next_k, float* s) {
  for (int column = 0; column < BLOCK; column += kTileVecs * kLanes) {
    Vec acc[R][kTileVecs];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < kTileVecs; ++v) acc[r][v] = splat(0.0f);
    const Ahead ahead{column == 0 ? (const char*)next_k : nullptr, BLOCK * (int)sizeof(KV)};
    multiply_add<R, kTileVecs>(acc, q, dk, k + column, BLOCK, 0, dk, 0, ahead);
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < kTileVecs; ++v) store(s + r * BLOCK + column + v * kLanes, acc[r][v]);
  }
}

// Columns [column, column + 16 NV) of acc = acc * rescale + p V, with V [32][dv]; keys outside
// [begin, end) have weight 0 for all rows and are not read.
template <int R, int NV, class KV>
LLMC_INLINE void tile_values(int dv, const float* p, const float* rescale, const KV* v,
                             const KV* next_v, float* acc, int ldacc, int column, int begin,
                             int end, int tail) {
  acc += column;
  Vec sum[R][NV];
  for (int r = 0; r < R; ++r)
    for (int i = 0; i < NV; ++i)
      sum[r][i] = load(acc + (int64_t)r * ldacc + i * kLanes) * splat(rescale[r]);
  const Ahead ahead{column == 0 ? (const char*)next_v : nullptr, dv * (int)sizeof(KV)};
  multiply_add<R, NV>(sum, p, BLOCK, v + column, dv, begin, end, tail, ahead);
  for (int r = 0; r < R; ++r)
    for (int i = 0; i < NV; ++i) store(acc + (int64_t)r * ldacc + i * kLanes, sum[r][i]);
}

// Lane i is a key at absolute position key + i: soft cap, position bias and mask.
LLMC_INLINE Vec adjust_scores(const AttentionShape& shape, Vec s, int key, int query,
                              const float* slope) {
  if (shape.softcap != 0.0f) s = tanh(s * splat(1.0f / shape.softcap)) * splat(shape.softcap);
  const IVec iota = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const IVec distance = iota + (key - query);
  if (slope) s = fma(to_float(distance), splat(*slope), s);
  s = select(distance <= 0, s, splat(-__builtin_inff()));
  if (shape.window) s = select(distance > -shape.window, s, splat(-__builtin_inff()));
  return s;
}

// Scores s [R, 32] of rows first.. become weights e^(s - max), in place; running maxima and sums
// move on. rescale[r] is the factor that brings what row r summed before to its new maximum.
template <int R>
LLMC_INLINE void tile_softmax(const AttentionShape& shape, const QueryRows& rows, int first,
                              int key, float* s, float* rescale) {
  // Most tiles need no adjustment: all their keys are seen by all rows.
  const bool masked = key + BLOCK - 1 > rows.position[first] ||
                      (shape.window && key <= rows.position[first + R - 1] - shape.window);
  if (masked || shape.softcap != 0.0f || rows.slope)
    for (int r = 0; r < R; ++r) {
      const float* slope = rows.slope ? rows.slope + first + r : nullptr;
      const int query = rows.position[first + r];
      float* row = s + r * BLOCK;
      for (int i = 0; i < BLOCK; i += kLanes)
        store(row + i, adjust_scores(shape, load(row + i), key + i, query, slope));
    }
  float* row_max = rows.max + first;
  Vec change = splat(0.0f);
  for (int r = 0; r < R; ++r) {
    const float tile_max = reduce_max(max(load(s + r * BLOCK), load(s + r * BLOCK + kLanes)));
    const float new_max = tile_max > row_max[r] ? tile_max : row_max[r];
    change[r] = row_max[r] - new_max;
    row_max[r] = new_max;
  }
  store_partial(rescale, exp(change), R);
  for (int r = 0; r < R; ++r) {
    const Vec top = splat(row_max[r]);
    const Vec p0 = exp(load(s + r * BLOCK) - top), p1 = exp(load(s + r * BLOCK + kLanes) - top);
    store(s + r * BLOCK, p0);
    store(s + r * BLOCK + kLanes, p1);
    float* lanes = rows.lanes + (int64_t)(first + r) * kLanes;
    store(lanes, fma(load(lanes), splat(rescale[r]), p0 + p1));
  }
}

// One tile of keys and values, and the one that follows it (null: none).
template <class KV>
struct Tile {
  int key;  // absolute position of its first key
  const KV *k, *v;
  const KV *next_k, *next_v;
};

// Rows [first, first + R) attend to a tile.
template <int R, class KV>
inline void attend_block(const AttentionShape& shape, const QueryRows& rows, int first,
                         const Tile<KV>& tile) {
  // Keys that any row sees: the last row reaches furthest ahead, the first furthest back.
  const int end = min_int(BLOCK, rows.position[first + R - 1] - tile.key + 1);
  const int oldest = shape.window ? rows.position[first] - shape.window + 1 : 0;
  const int begin = max_int(0, oldest - tile.key);
  if (begin >= end) return;
  alignas(64) float s[R * BLOCK];
  float rescale[R];
  tile_scores<R>(shape.dk, rows.q + (int64_t)first * shape.dk, tile.k, tile.next_k, s);
  tile_softmax<R>(shape, rows, first, tile.key, s, rescale);
  const int dv = shape.dv, ldacc = round_up(dv, kLanes);
  float* acc = rows.acc + (int64_t)first * ldacc;
  const KV *v = tile.v, *next = tile.next_v;
  constexpr int kWidth = kTileVecs * kLanes;
  int i = 0;
  for (; i + kWidth <= dv; i += kWidth)
    tile_values<R, kTileVecs>(dv, s, rescale, v, next, acc, ldacc, i, begin, end, 0);
  for (; i + kLanes <= dv; i += kLanes)
    tile_values<R, 1>(dv, s, rescale, v, next, acc, ldacc, i, begin, end, 0);
  if (i < dv) tile_values<R, 1>(dv, s, rescale, v, next, acc, ldacc, i, begin, end, dv - i);
}

// Up to R rows: the count becomes a template parameter.
template <int R, class KV>
inline void attend_rows(const AttentionShape& shape, const QueryRows& rows, int first, int count,
                        const Tile<KV>& tile) {
  if (count == R) return attend_block<R>(shape, rows, first, tile);
  if constexpr (R > 1) attend_rows<R - 1>(shape, rows, first, count, tile);
}

}  // namespace llmc
