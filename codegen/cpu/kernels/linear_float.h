// Linear layers with f32 and bf16 weights.
//
// f32 panels hold 16 rows per k. bf16 panels hold 16 rows x 2 consecutive k, the shape of the BF16
// dot instruction; where that is compiled in, inputs are rounded to bf16, elsewhere weights are
// widened and multiplied with f32 inputs. Either way it is one arithmetic for all numbers of rows.
#pragma once

#include "linear_driver.h"

namespace llmc {

struct FloatRows {
  const float* x;
  int ld;
};

// Rows of one chunk, by address.
struct FloatChunk {
  FloatRows x;
  const int32_t* index;
  int first;
  FloatChunk(const FloatRows& x, const int32_t* row_index, int row, int, int, char*)
      : x(x), index(row_index), first(row) {}
  LLMC_METHOD const float* row(int r) const {
    return x.x + (int64_t)(index ? index[first + r] : first + r) * x.ld;
  }
};

struct FloatLinear {
  static constexpr int kTileRows = kFloatTileRows;
  using Input = FloatRows;
  static FloatRows skip_rows(const FloatRows& x, int64_t rows) { return {x.x + rows * x.ld, x.ld}; }
  // Heads of a token are `step` elements apart.
  static FloatRows of_head(const FloatRows& x, int head, int step) {
    return {x.x + (int64_t)head * step, x.ld};
  }
  static int chunk_rows(int k) { return max_int(32, round_up((128 << 10) / round_up(k, 64), 32)); }
};

struct F32 : FloatLinear {
  using Chunk = FloatChunk;
  static int64_t panel_bytes(int k) { return (int64_t)k * 64; }

  template <int R>
  static void tile(const FloatChunk& x, int first, int k, const uint8_t* panel, int64_t ahead,
                   float* sums) {
    const float* in[R];
    for (int r = 0; r < R; r++) in[r] = x.row(first + r), store(sums + r * kLanes, splat(0.0f));
    for (int64_t start = 0; start < k; start += kPiece) {
      const int64_t end = start + kPiece < k ? start + kPiece : k;
      Vec acc[R];
      for (int r = 0; r < R; r++) acc[r] = splat(0.0f);
#pragma clang loop unroll_count(4)
      for (int64_t i = start; i < end; i++) {
        prefetch_line<R>(panel + ahead + i * 64);
        const Vec w = load((const float*)(panel + i * 64));
        for (int r = 0; r < R; r++) acc[r] = fma(w, splat(in[r][i]), acc[r]);
      }
      for (int r = 0; r < R; r++) store(sums + r * kLanes, load(sums + r * kLanes) + acc[r]);
    }
  }

 private:
  // Products are added up in pieces: the error grows with their length and number, not with k.
  static constexpr int kPiece = 128;
};

#if defined(__AVX512BF16__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)

// Rows of one chunk as pairs of bf16, rounded once per chunk into the thread's scratch memory.
struct PairChunk {
  const uint32_t* pairs;
  int64_t ld;
  PairChunk(const FloatRows& x, const int32_t* row_index, int row, int rows, int k, char* scratch)
      : pairs((const uint32_t*)scratch), ld(ceil_div(k, 2)) {
    const FloatChunk from(x, row_index, row, rows, k, scratch);
    for (int r = 0; r < rows; r++) {
      uint16_t* to = (uint16_t*)scratch + r * ld * 2;
      const float* in = from.row(r);
      for (int i = 0; i + kLanes <= k; i += kLanes) store_half(to + i, float_to_bf16(load(in + i)));
      for (int i = k & ~(kLanes - 1); i < k; i++) to[i] = float_to_bf16(in[i]);
      if (k & 1) to[k] = 0;
    }
  }
};

struct PairLinear : FloatLinear {
  using Chunk = PairChunk;
  static int64_t panel_bytes(int k) { return (int64_t)ceil_div(k, 2) * 64; }
  static int chunk_rows(int k) {
    return min_int(FloatLinear::chunk_rows(k), (int)(kScratchBytes / (4 * (size_t)ceil_div(k, 2))));
  }
};

#endif

#if defined(__AVX512BF16__)

struct Bf16 : PairLinear {
  template <int R>
  static void tile(const PairChunk& x, int first, int k, const uint8_t* panel, int64_t ahead,
                   float* sums) {
    const uint32_t* in[R];
    Vec acc[R];
    for (int r = 0; r < R; r++) in[r] = x.pairs + (first + r) * x.ld, acc[r] = splat(0.0f);
#pragma clang loop unroll_count(4)
    for (int64_t i = 0; i < x.ld; i++) {
      prefetch_line<R>(panel + ahead + i * 64);
      const __m512bh w = (__m512bh)_mm512_loadu_si512(panel + i * 64);
      for (int r = 0; r < R; r++) {
        const __m512bh pair = (__m512bh)_mm512_set1_epi32((int)in[r][i]);
        acc[r] = (Vec)_mm512_dpbf16_ps((__m512)acc[r], w, pair);
      }
    }
    for (int r = 0; r < R; r++) store(sums + r * kLanes, acc[r]);
  }
};

#elif !defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)

struct Bf16 : FloatLinear {
  using Chunk = FloatChunk;
  static int64_t panel_bytes(int k) { return (int64_t)ceil_div(k, 2) * 64; }

  template <int R>
  static void tile(const FloatChunk& x, int first, int k, const uint8_t* panel, int64_t ahead,
                   float* sums) {
    const float* in[R];
    Vec acc[R];
    for (int r = 0; r < R; r++) in[r] = x.row(first + r), acc[r] = splat(0.0f);
    for (int64_t i = 0; i < k; i++) {
      prefetch_line<R>(panel + ahead + i / 2 * 64);
      UVec pair;
      __builtin_memcpy(&pair, panel + i / 2 * 64, sizeof pair);
      const Vec w = as_float((IVec)(i & 1 ? pair & 0xffff0000u : pair << 16));
      for (int r = 0; r < R; r++) acc[r] = fma(w, splat(in[r][i]), acc[r]);
    }
    for (int r = 0; r < R; r++) store(sums + r * kLanes, acc[r]);
  }
};

#endif

}  // namespace llmc

#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include "linear_bf16_neon.h"
#endif
