// Linear layers with int8 and int4 weights: integer dot products per block of 32 k, scaled and summed
// in f32. For block g with dot = sum q_w q_x (codes unsigned) and the input's scale and sum:
//
//   i4a:       y += d * scale * dot + m * sum
//   i4s, i8b:  the same with m = -8 d and m = -128 d (codes are stored with that offset)
//   i8c:       y += scale * dot - 128 * sum, and y *= s at the end
#pragma once

#include "int_dot.h"
#include "linear_driver.h"
#include "quantize.h"

namespace llmc {

// Rows of one chunk, by address.
struct QChunk {
  QRows x;
  const int32_t* index;  // null: rows are consecutive
  int first;
  QChunk(const QRows& x, const int32_t* row_index, int row, int, int, char*)
      : x(x), index(row_index), first(row) {}
  LLMC_METHOD int64_t source(int r) const { return index ? index[first + r] : first + r; }
};

// Weights 0..15 in pairs: one vector holds chunk j in its low and chunk j + 4 in its high nibbles.
struct NibbleData {
  using Dot = NibbleDot;
  static constexpr int kBytes = 256;
  template <int R>
  LLMC_METHOD static void dot(const uint8_t* data, const int8_t* const* q, int64_t at, Dot* sums) {
#pragma clang loop unroll(full)
    for (int j = 0; j < 4; j++) {
      IVec v = load_int(data + 64 * j);
      for (int r = 0; r < R; r++) sums[r].add(low_nibbles(v), load_four(q[r] + at + 4 * j));
      for (int r = 0; r < R; r++) sums[r].add(high_nibbles(v), load_four(q[r] + at + 16 + 4 * j));
    }
  }
};

struct ByteData {
  using Dot = ByteDot;
  static constexpr int kBytes = 512;
  template <int R>
  LLMC_METHOD static void dot(const uint8_t* data, const int8_t* const* q, int64_t at, Dot* sums) {
#pragma clang loop unroll(full)
    for (int j = 0; j < 8; j++) {
      IVec v = load_int(data + 64 * j);
      for (int r = 0; r < R; r++) sums[r].add(v, load_four(q[r] + at + 4 * j));
    }
  }
};

struct Block {
  const uint8_t* data;
  Vec d, m;  // scale and offset of 16 rows
};

LLMC_INLINE Vec load_f16(const uint8_t* p) { return f16_to_float(load_half((const uint16_t*)p)); }

// Blocks come in pairs that share a line of scales.
template <class Data, int Offset>
struct PairedBlocks : Data {
  static constexpr bool kPerRow = false;
  static int64_t panel_bytes(int k) {
    return (int64_t)ceil_div(k, 2 * kBlock) * (2 * Data::kBytes + 64);
  }
  LLMC_METHOD static Block block(const uint8_t* panel, int64_t g) {
    const uint8_t* pair = panel + (g >> 1) * (2 * Data::kBytes + 64);
    const Vec d = load_f16(pair + (g & 1) * 32);
    return {pair + 64 + (g & 1) * Data::kBytes, d, d * splat(-Offset)};
  }
};

struct I4S : PairedBlocks<NibbleData, 8> {};
struct I8B : PairedBlocks<ByteData, 128> {};

struct I4A : NibbleData {
  static constexpr bool kPerRow = false;
  static constexpr int kStride = kBytes + 64;
  static int64_t panel_bytes(int k) { return (int64_t)ceil_div(k, kBlock) * kStride; }
  LLMC_METHOD static Block block(const uint8_t* panel, int64_t g) {
    const uint8_t* at = panel + g * kStride;
    return {at + 64, load_f16(at), load_f16(at + 32)};
  }
};

struct I8C : ByteData {
  static constexpr bool kPerRow = true;
  static int64_t panel_bytes(int k) { return (int64_t)ceil_div(k, kBlock) * kBytes + 64; }
  LLMC_METHOD static Block block(const uint8_t* panel, int64_t g) {
    return {panel + 64 + g * kBytes, splat(1.0f), splat(-128.0f)};
  }
};

template <class W>
struct IntLinear {
  using Input = QRows;
  using Chunk = QChunk;
  static int64_t panel_bytes(int k) { return W::panel_bytes(k); }
  // The chunk's input should stay in the L2 cache while panel after panel passes.
  static int chunk_rows(int k) { return max_int(32, round_up((512 << 10) / round_up(k, 64), 32)); }
  static QRows skip_rows(const QRows& x, int64_t rows) {
    const int blocks = ceil_div(x.k, kBlock);
    return {x.q + rows * blocks * kBlock, x.scale + rows * blocks, x.sum + rows * blocks, x.k};
  }

  // sums [R, 16] = rows [first, first + R) times one panel.
  template <int R>
  static void tile(const QChunk& x, int first, int k, const uint8_t* panel, float* sums) {
    const int64_t blocks = ceil_div(k, kBlock);
    const int8_t* q[R];
    const float *scale[R], *sum[R];
    Vec acc[R];
    for (int r = 0; r < R; r++) {
      const int64_t source = x.source(first + r) * blocks;
      q[r] = x.x.q + source * kBlock;
      scale[r] = x.x.scale + source;
      sum[r] = x.x.sum + source;
      acc[r] = splat(0.0f);
    }
    for (int64_t g = 0; g < blocks; g++) {
      const Block b = W::block(panel, g);
      for (int i = 0; i < W::kBytes + (W::kPerRow ? 0 : 64); i += 64) prefetch_line(b.data + i);
      typename W::Dot dots[R];
      for (int r = 0; r < R; r++) dots[r] = W::Dot::zero();
      W::template dot<R>(b.data, q, g * kBlock, dots);
      for (int r = 0; r < R; r++) {
        Vec dot = to_float(dots[r].total());
        if (!W::kPerRow) dot *= b.d;
        acc[r] = fma(dot, splat(scale[r][g]), acc[r]);
        acc[r] = fma(b.m, splat(sum[r][g]), acc[r]);
      }
    }
    const Vec by = W::kPerRow ? load((const float*)panel) : splat(1.0f);
    for (int r = 0; r < R; r++) store(sums + r * kLanes, W::kPerRow ? acc[r] * by : acc[r]);
  }
};

}  // namespace llmc
