// Embedding lookups out of packed panels (layout: packing.py), so that a tied head and its
// embedding share their bytes: y[t] = scale * W[ids[t]], one function per weight format.
//
//   embedding_<f>(team, T, ids, n, k, w, scale, y, ldy)
//
// ids must lie in 0..n-1. Values are exactly those that the format defines (weights/formats/).
#pragma once

#include <stdint.h>

#include "linear_float.h"
#include "linear_int.h"
#include "team.h"

namespace llmc {

// 32 elements from k = 32 g on of the row in one lane of a panel; `count` of them exist.

template <class W>
LLMC_INLINE void unpack_block(const W*, const uint8_t* panel, int lane, int k, int g, int count,
                              float* y) {
  const int blocks = ceil_div(k, kBlock);
  const Block b = typename W::Reader(panel, blocks, W::unit_blocks(blocks), g).next();
  const float d = W::kRowScale ? ((const float*)panel)[lane] : b.d[lane], m = b.m[lane];
  for (int i = 0; i < count; i++) {
    const float scale = W::kHalves && i >= kBlock / 2 ? m : d;
    y[i] = (float)(code_at<W>(b.data, lane, i) - W::kOffset) * scale;
    if (W::kMinimum) y[i] += m;
  }
}

LLMC_INLINE void unpack_block(const F32*, const uint8_t* panel, int lane, int, int g, int count,
                              float* y) {
  const float* from = (const float*)panel + (int64_t)g * kBlock * kLanes + lane;
  for (int i = 0; i < count; i++) y[i] = from[i * kLanes];
}

LLMC_INLINE void unpack_block(const Bf16*, const uint8_t* panel, int lane, int, int g, int count,
                              float* y) {
  const uint16_t* from = (const uint16_t*)panel + (int64_t)g * kBlock * kLanes + lane * 2;
  for (int i = 0; i < count; i++) y[i] = bf16_to_float(from[i / 2 * 2 * kLanes + i % 2]);
}

template <class F>
inline void embedding(Team& team, int T, const int32_t* ids, int k, const uint8_t* w, float scale,
                      float* y, int ldy) {
  const int blocks = ceil_div(k, kBlock);
  const Range range = team_range(team, T * blocks);
  for (int item = range.begin; item < range.end; item++) {
    const int t = item / blocks, g = item % blocks, count = min_int(kBlock, k - g * kBlock);
    float* to = y + (int64_t)t * ldy + g * kBlock;
    const uint8_t* panel = w + ids[t] / kLanes * F::panel_bytes(k);
    unpack_block((const F*)nullptr, panel, ids[t] % kLanes, k, g, count, to);
    if (scale != 1.0f)
      for (int i = 0; i < count; i++) to[i] *= scale;
  }
}

#define LLMC_EMBEDDING(name, F)                                                      \
  inline void embedding_##name(Team& team, int T, const int32_t* ids, int, int k,    \
                               const uint8_t* w, float scale, float* y, int ldy) {   \
    embedding<F>(team, T, ids, k, w, scale, y, ldy);                                 \
  }
LLMC_EMBEDDING(f32, F32)
LLMC_EMBEDDING(bf16, Bf16)
LLMC_EMBEDDING(i8c, I8C)
LLMC_EMBEDDING(i8b, I8B)
LLMC_EMBEDDING(i6k, I6K)
LLMC_EMBEDDING(i5s, I5S)
LLMC_EMBEDDING(i5a, I5A)
LLMC_EMBEDDING(i5k, I5K)
LLMC_EMBEDDING(i4s, I4S)
LLMC_EMBEDDING(i4a, I4A)
LLMC_EMBEDDING(i4k, I4K)
#undef LLMC_EMBEDDING

}  // namespace llmc
