// Attention of a few query rows to one tile of 64 keys: scores, one step of the online softmax,
// weighted values.
//
// A row is one query of one head. Every row goes through the same arithmetic whatever rows it
// shares the tile with, and a tile that is masked for a row leaves that row's state as it was, bit
// for bit: its running maximum stays, the rescaling factor is 2^0 = 1 and every weight is 0. So
// decode and prefill agree exactly.
//
// Scores are in units of log2: queries come multiplied by log2(e), and weights are powers of 2.
#pragma once

#include <stdint.h>

#include "attention_dot.h"
#include "attention_pages.h"
#include "cache.h"
#include "simd.h"

namespace llmc {

// Rows and columns (in vectors) of a register block: as many accumulators as the register file
// holds beside the vectors loaded from K or V. A Vec is one AVX-512 register, two AVX2 registers
// or four of the 32 of NEON or the 16 of SSE2. Few rows take more columns, for enough independent
// sums.
#if defined(__AVX512F__)
constexpr int kTileRows = 8, kTileVecs = 2, kFewTileRows = 4, kFewTileVecs = 4;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int kTileRows = 6, kTileVecs = 1, kFewTileRows = 3, kFewTileVecs = 2;
#else
constexpr int kTileRows = 2, kTileVecs = 1, kFewTileRows = 1, kFewTileVecs = 2;
#endif
constexpr int vectors_for(int rows) { return rows <= kFewTileRows ? kFewTileVecs : kTileVecs; }

// A running maximum before the first key; finite, so that max - max is 0.
constexpr float kNoMax = -1e30f;
constexpr float kLog2E = 1.44269504f;

struct AttentionShape {
  int heads, hkv, dk, dv;
  float scale, softcap;  // softcap 0: off
  int window;            // 0: off
};

// Query rows of one work item and their running softmax within one segment of keys:
// acc[r] = sum of 2^(s - max[r]) v, and lanes[r] the same sum of weights, spread over 16 lanes.
struct QueryRows {
  const uint32_t* q;     // [rows, ldq], as `Arithmetic` made them
  int ldq;
  const float* q_scale;  // [parts of a key][next_part], of which the first [rows]
  const int32_t* start;  // the same
  int next_part;
  const int* position;   // [rows] absolute, ascending
  const float* slope;    // [rows] of the linear position bias; nullptr: none
  float* acc;            // [rows, dv rounded up to 16]
  float* max;            // [rows]
  float* lanes;          // [rows, 16]
  QueryRows from(int r, int ldacc) const {
    return {q + (int64_t)r * ldq, ldq, q_scale + r, start + r, next_part, position + r,
            slope ? slope + r : nullptr, acc + (int64_t)r * ldacc, max + r, lanes + r * kLanes};
  }
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

// acc[r] += sum over words i in [begin, end) of row r's word i times vectors b + i * ldb.
template <class Dot, int R, int NV>
LLMC_INLINE void multiply_add(typename Dot::Acc (&acc)[R][NV], const uint32_t* a, int lda,
                              const uint32_t* b, int ldb, int begin, int end, Ahead ahead) {
  for (int i = begin; i < end; ++i) {
    ahead.fetch(i);
    typename Dot::Operand x[NV];
    for (int v = 0; v < NV; ++v) x[v] = Dot::operand(b + (int64_t)i * ldb + v * kLanes);
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < NV; ++v)
        acc[r][v] = Dot::add(acc[r][v], a + (int64_t)r * lda + i * Dot::kRowWords, x[v]);
  }
}

// One tile: its page, where its values are, the absolute position of its first key, and the page to
// fetch meanwhile.
struct Tile {
  int key;
  char* page;
  const uint32_t* values;
  const char* next;  // nullptr: none
};

// s [R, 64] = products of rows and keys, as floats. Keys of several parts come scaled.
template <int R, class P>
LLMC_INLINE void tile_scores(const P& pages, const QueryRows& rows, const Tile& tile, float* s) {
  using A = Arithmetic<typename P::Element>;
  constexpr int kVecs = vectors_for(R);
  const uint32_t* keys = pages.keys(tile.page);
  const char* next = tile.next;
  for (int column = 0; column < BLOCK; column += kVecs * kLanes) {
    for (int part = 0, begin = 0; part < P::kParts; ++part) {
      const int end = begin + pages.part(part) / P::kPerWord, at = part * rows.next_part;
      if (P::kParts > 1 && end == begin) continue;
      typename A::Keys::Acc acc[R][kVecs];
      for (int r = 0; r < R; ++r)
        for (int v = 0; v < kVecs; ++v) acc[r][v] = A::start(rows.start[at + r]);
      multiply_add<typename A::Keys, R, kVecs>(acc, rows.q, rows.ldq, keys + column, BLOCK, begin,
                                               end, Ahead{next, BLOCK * 4});
      for (int v = 0; v < kVecs; ++v)
        for (int r = 0; r < R; ++r) {
          float* to = s + r * BLOCK + column + v * kLanes;
          Vec product = __builtin_convertvector(acc[r][v], Vec);
          if constexpr (P::kParts > 1) {
            product *= part_scale(pages, tile.page, part, column + v * kLanes) *
                       splat(rows.q_scale[at + r]);
            if (part) product += load(to);
          }
          store(to, product);
        }
      begin = end;
    }
    next = nullptr;  // fetched once
  }
}

// Soft cap, position bias and masks of scores of the 16 keys from position `key` on.
LLMC_INLINE Vec adjust_scores(const AttentionShape& shape, Vec s, IVec distance,
                              const float* slope) {
  if (shape.softcap != 0.0f) s = tanh(s) * splat(shape.softcap * kLog2E);
  if (slope) s = fma(to_float(distance), splat(*slope * kLog2E), s);
  return s;
}
LLMC_INLINE IVec visible_keys(const AttentionShape& shape, IVec distance) {
  const IVec past = distance <= 0;
  return shape.window ? past & (distance > -shape.window) : past;
}

// Scores s [R, 64] become weights 2^(s - max), as rows p of words; running maxima and sums move on.
// rescale[r] is the factor that brings what row r summed before to its new maximum; with coded
// values, whose weights refer to the tile's own maximum, add[r] does so for the tile's sums.
template <int R, class P>
LLMC_INLINE void tile_softmax(const AttentionShape& shape, const P& pages, const QueryRows& rows,
                              const Tile& tile, float* s, uint32_t* p, int ldp, float* rescale,
                              float* add) {
  using A = Arithmetic<typename P::Element>;
  constexpr int kVecs = BLOCK / kLanes;
  constexpr bool kCoded = P::kCoded, kScaled = P::kParts > 1;
  // Most tiles need no adjustment: all their keys are seen by all rows.
  const bool masked = tile.key + BLOCK - 1 > rows.position[0] ||
                      (shape.window && tile.key <= rows.position[R - 1] - shape.window);
  const bool adjusted = masked || shape.softcap != 0.0f || rows.slope;
  const IVec iota = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  Vec key_scale[kVecs];
  ValueScales scales[kVecs];
  if constexpr (kCoded)
    for (int v = 0; v < kVecs; ++v) {
      key_scale[v] = part_scale(pages, tile.page, 0, v * kLanes);
      scales[v] = value_scales(pages, tile.page, v * kLanes);
    }
  Vec top = splat(kNoMax);  // of row r in lane r
  for (int r = 0; r < R; ++r) {
    Vec row[kVecs], most = splat(kNoMax);
    for (int v = 0; v < kVecs; ++v) {
      row[v] = load(s + r * BLOCK + v * kLanes);
      if constexpr (kCoded && !kScaled) row[v] = row[v] * (key_scale[v] * splat(rows.q_scale[r]));
      if (adjusted) {
        const IVec distance = iota + (tile.key + v * kLanes - rows.position[r]);
        row[v] = adjust_scores(shape, row[v], distance, rows.slope ? rows.slope + r : nullptr);
        if constexpr (kCoded) row[v] += scales[v].log;
        row[v] = select(visible_keys(shape, distance), row[v], splat(-__builtin_inff()));
      } else if constexpr (kCoded) {
        row[v] += scales[v].log;
      }
      most = max(row[v], most);
      store(s + r * BLOCK + v * kLanes, row[v]);
    }
    top[r] = reduce_max(most);
  }
  if constexpr (kCoded) top = max(top - splat(kCodeTop), splat(kNoMax));
  const Vec before = load_partial(rows.max, R), after = max(top, before);
  store_partial(rows.max, after, R);
  store_partial(rescale, exp2(before - after), R);
  if constexpr (A::kOwnScale) store_partial(add, exp2(top - after), R);
  const Vec reference = A::kOwnScale ? top : after;
  for (int r = 0; r < R; ++r) {
    const Vec from = splat(reference[r]);
    Vec sum = splat(0.0f);
    for (int v = 0; v < kVecs; ++v) {
      const Vec weight = A::power(load(s + r * BLOCK + v * kLanes) - from);
      A::weight_row(p + r * ldp, v * kLanes, weight);
      if constexpr (kCoded) {
        Vec share = weight * scales[v].inverse;
        // Beside the keys that a row sees may lie scales that were never written.
        if (masked) share = weight > splat(0.0f) ? share : splat(0.0f);
        sum += share;
      } else {
        sum += weight;
      }
    }
    float* lanes = rows.lanes + r * kLanes;
    if constexpr (A::kOwnScale) sum *= splat(add[r]);
    store(lanes, fma(load(lanes), splat(rescale[r]), sum));
  }
}

// acc [R, NV vectors from column i on] takes in the tile's weighted values.
template <int R, int NV, class P>
LLMC_INLINE void tile_values(const P& pages, const QueryRows& rows, const uint32_t* p, int ldp,
                             const Tile& tile, int begin, int end, int i, const float* rescale,
                             const float* add) {
  using A = Arithmetic<typename P::Element>;
  typename A::Values::Acc acc[R][NV];
  float* at = rows.acc + i;
  const int ldacc = pages.dv;
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < NV; ++v) {
      if constexpr (A::kOwnScale)
        acc[r][v] = (typename A::Values::Acc)(0);
      else
        acc[r][v] = load(at + (int64_t)r * ldacc + v * kLanes) * splat(rescale[r]);
    }
  const bool fetches = P::kHoldsValues && i == 0 && tile.next;
  const char* next = fetches ? tile.next + pages.key_bytes() : nullptr;
  multiply_add<typename A::Values, R, NV>(acc, p, ldp, tile.values + i, pages.dv, begin, end,
                                          Ahead{next, pages.dv * 4});
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < NV; ++v) {
      float* to = at + (int64_t)r * ldacc + v * kLanes;
      Vec sum = __builtin_convertvector(acc[r][v], Vec);
      if constexpr (A::kOwnScale) sum = fma(sum, splat(add[r]), load(to) * splat(rescale[r]));
      store(to, sum);
    }
}

// R rows attend to a tile.
template <int R, class P>
inline void attend_block(const AttentionShape& shape, const P& pages, const QueryRows& rows,
                         const Tile& tile) {
  using A = Arithmetic<typename P::Element>;
  constexpr int kPerWord = P::kPerWord, kVecs = vectors_for(R);
  constexpr int ldp = BLOCK / kPerWord * A::Values::kRowWords;
  // Keys that any row sees: the last row reaches furthest ahead, the first furthest back.
  const int end = min_int(BLOCK, rows.position[R - 1] - tile.key + 1);
  const int oldest = shape.window ? rows.position[0] - shape.window + 1 : 0;
  const int begin = max_int(0, oldest - tile.key);
  if (begin >= end) return;
  alignas(64) float s[R * BLOCK];
  alignas(64) uint32_t p[R * ldp];
  float rescale[R], add[R];
  tile_scores<R>(pages, rows, tile, s);
  tile_softmax<R>(shape, pages, rows, tile, s, p, ldp, rescale, add);
  const int first = begin / kPerWord, last = ceil_div(end, kPerWord);
  int i = 0;
  for (; i + kVecs * kLanes <= pages.dv; i += kVecs * kLanes)
    tile_values<R, kVecs>(pages, rows, p, ldp, tile, first, last, i, rescale, add);
  for (; i < pages.dv; i += kLanes)
    tile_values<R, 1>(pages, rows, p, ldp, tile, first, last, i, rescale, add);
}

// Up to R rows: the count becomes a template parameter.
template <int R, class P>
inline void attend_rows(const AttentionShape& shape, const P& pages, const QueryRows& rows,
                        int count, const Tile& tile) {
  if (count == R) return attend_block<R>(shape, pages, rows, tile);
  if constexpr (R > 1) attend_rows<R - 1>(shape, pages, rows, count, tile);
}

}  // namespace llmc
