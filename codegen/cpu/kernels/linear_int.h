// Linear layers with int8 and int4 weights: integer dot products per block of 32 k, scaled and
// summed in f32. Block g adds, with dot = sum q_w q_x and the input's scale and sum:
//
//   i8b, i4s:  d * dot * scale
//   i4a:       d * dot * scale + m * sum
//   i8c:       dot * scale, and the total is multiplied with the row's scale
//
// Stored codes are q_w + 128 or q_w + 8 (i4a: as they are). The dot product starts from what takes
// that out, -128 or -8 times sum q_x, so it comes out exact.
#pragma once

#include "int_dot.h"
#include "linear_driver.h"
#include "quantize.h"

namespace llmc {

// Rows of one chunk, by address; and for each block of each row the number that its dot products
// start from.
struct QChunk {
  QRows x;
  const int32_t* index;  // null: rows are consecutive
  int first;
  int blocks;
  const int32_t* starts;  // [rows, blocks]
  LLMC_METHOD int64_t source(int r) const { return index ? index[first + r] : first + r; }

  // With offset 0 nothing is written, and there are no starts.
  QChunk(const QRows& x, const int32_t* row_index, int first, int rows, char* scratch, float offset)
      : x(x), index(row_index), first(first), blocks(ceil_div(x.k, kBlock)),
        starts((const int32_t*)scratch) {
    for (int r = 0; offset != 0.0f && r < rows; r++) {
      const int64_t from = source(r) * blocks;
      int32_t* to = (int32_t*)scratch + (int64_t)r * blocks;
      for (int g = 0; g < blocks; g += kLanes) {
        const int count = min_int(kLanes, blocks - g);
        const Vec scale = load_partial(x.scale + from + g, count);
        // sum = scale * (a whole number below 2^12), rounded once: the quotient rounds back to it.
        const Vec total = round_even(load_partial(x.sum + from + g, count) / scale);
        const Vec start = scale == splat(0.0f) ? splat(0.0f) : total * splat(-offset);
        store_partial((float*)to + g, as_float(__builtin_convertvector(start, IVec)), count);
      }
    }
  }
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

LLMC_INLINE Vec load_f16(const uint8_t* p) { return f16_to_float(load_half((const uint16_t*)p)); }

// A block of a panel: data, and scale and minimum of its 16 rows.
struct Block {
  const uint8_t* data;
  Vec d, m;
};

// Blocks come in pairs that share a line of scales.
template <class Data, int Offset>
struct PairedBlocks : Data {
  static constexpr bool kRowScale = false, kMinimum = false;
  static constexpr int kOffset = Offset;
  static int64_t panel_bytes(int k) {
    return (int64_t)ceil_div(k, 2 * kBlock) * (2 * Data::kBytes + 64);
  }
  LLMC_METHOD static Block block(const uint8_t* panel, int64_t g) {
    const uint8_t* pair = panel + (g >> 1) * (2 * Data::kBytes + 64);
    return {pair + 64 + (g & 1) * Data::kBytes, load_f16(pair + (g & 1) * 32), splat(0.0f)};
  }
};

struct I4S : PairedBlocks<NibbleData, 8> {};
struct I8B : PairedBlocks<ByteData, 128> {};

struct I4A : NibbleData {
  static constexpr bool kRowScale = false, kMinimum = true;
  static constexpr int kOffset = 0, kStride = kBytes + 64;
  static int64_t panel_bytes(int k) { return (int64_t)ceil_div(k, kBlock) * kStride; }
  LLMC_METHOD static Block block(const uint8_t* panel, int64_t g) {
    const uint8_t* at = panel + g * kStride;
    return {at + 64, load_f16(at), load_f16(at + 32)};
  }
};

struct I8C : ByteData {
  static constexpr bool kRowScale = true, kMinimum = false;
  static constexpr int kOffset = 128;
  static int64_t panel_bytes(int k) { return (int64_t)ceil_div(k, kBlock) * kBytes + 64; }
  LLMC_METHOD static Block block(const uint8_t* panel, int64_t g) {
    return {panel + 64 + g * kBytes, splat(1.0f), splat(0.0f)};
  }
};

template <class W>
struct IntLinear {
  static constexpr int kTileRows = kIntTileRows;
  using Input = QRows;
  struct Chunk : QChunk {
    Chunk(const QRows& x, const int32_t* row_index, int first, int rows, int, char* scratch)
        : QChunk(x, row_index, first, rows, scratch, (float)W::kOffset) {}
  };
  static int64_t panel_bytes(int k) { return W::panel_bytes(k); }
  // The chunk's input should stay in the L2 cache while panel after panel passes. k is at most 2^18
  // (packing.py), so that the starts of 32 rows fit the scratch memory.
  static int chunk_rows(int k) {
    return max_int(32, round_up((512 << 10) / round_up(k, 64), 32));
  }
  static QRows skip_rows(const QRows& x, int64_t rows) {
    const int64_t blocks = rows * ceil_div(x.k, kBlock);
    return {x.q + blocks * kBlock, x.scale + blocks, x.sum + blocks, x.k};
  }

  // sums [R, 16] = rows [first, first + R) times one panel.
  template <int R>
  static void tile(const Chunk& x, int first, int, const uint8_t* panel, int64_t ahead,
                   float* sums) {
    const int8_t* q[R];
    const float *scale[R], *sum[R];
    const int32_t* start = x.starts + (int64_t)first * x.blocks;
    Vec acc[R];
    for (int r = 0; r < R; r++) {
      const int64_t source = x.source(first + r) * x.blocks;
      q[r] = x.x.q + source * kBlock;
      scale[r] = x.x.scale + source;
      sum[r] = x.x.sum + source;
      acc[r] = splat(0.0f);
    }
    for (int64_t g = 0; g < x.blocks; g++) {
      const Block b = W::block(panel, g);
      for (int i = 0; i < W::kBytes + 64; i += 64) prefetch_line<R>(b.data + ahead + i);
      typename W::Dot dots[R];
      for (int r = 0; r < R; r++)
        dots[r] = W::Dot::start(W::kOffset ? start[r * (int64_t)x.blocks + g] : 0);
      W::template dot<R>(b.data, q, g * kBlock, dots);
      for (int r = 0; r < R; r++) {
        Vec dot = to_float(dots[r].total());
        if (!W::kRowScale) dot *= b.d;
        acc[r] = fma(dot, splat(scale[r][g]), acc[r]);
        if (W::kMinimum) acc[r] = fma(b.m, splat(sum[r][g]), acc[r]);
      }
    }
    const Vec by = W::kRowScale ? load((const float*)panel) : splat(1.0f);
    for (int r = 0; r < R; r++) store(sums + r * kLanes, W::kRowScale ? acc[r] * by : acc[r]);
  }
};

}  // namespace llmc
