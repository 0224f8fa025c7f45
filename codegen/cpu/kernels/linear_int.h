// Linear layers with weights of 4 to 8 bits: integer dot products per block of 32 k (or of its
// halves), scaled and summed in f32 (formats: panel_blocks.h).
//
// Stored codes have an offset. The dot product starts from what takes it out, minus the offset times
// sum q_x, so it comes out exact.
#pragma once

#include "linear_driver.h"
#include "panel_blocks.h"
#include "quantize.h"

namespace llmc {

// Rows of one chunk, by address; and for each block (or half of one) of each row the number that
// its dot products start from.
struct QChunk {
  QRows x;
  const int32_t* index;  // null: rows are consecutive
  int first;
  int blocks;
  int unit;  // blocks of a unit of the format
  const int32_t* starts;  // [rows, blocks], or [rows, blocks, 2]
  LLMC_METHOD int64_t source(int r) const {
    return (int64_t)(index ? index[first + r] : first + r) * x.step;
  }

  QChunk(const QRows& x, const int32_t* row_index, int first, char* scratch)
      : x(x), index(row_index), first(first), blocks(ceil_div(x.k, kBlock)), unit(1),
        starts((const int32_t*)scratch) {}

  void start_blocks(int rows, float offset) {
    for (int r = 0; r < rows; r++) {
      const int64_t from = source(r) * blocks;
      int32_t* to = (int32_t*)starts + (int64_t)r * blocks;
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
  void start_halves(int rows, int offset) {
    for (int r = 0; r < rows; r++) {
      const int8_t* q = x.q + source(r) * blocks * kBlock;
      int32_t* to = (int32_t*)starts + (int64_t)r * blocks * 2;
      for (int h = 0; h < blocks * 2; h++) {
        const IVec v = load_bytes<SBytes>((const uint8_t*)q + h * 16);
        to[h] = -offset * __builtin_reduce_add(v);
      }
    }
  }
};

template <class W>
struct IntLinear {
  static constexpr int kTileRows = kIntTileRows;
  using Input = QRows;
  struct Chunk : QChunk {
    Chunk(const QRows& x, const int32_t* row_index, int first, int rows, int, char* scratch)
        : QChunk(x, row_index, first, scratch) {
      unit = W::unit_blocks(blocks);
      if (W::kHalves)
        start_halves(rows, W::kOffset);
      else if (W::kOffset)
        start_blocks(rows, (float)W::kOffset);
    }
  };
  static int64_t panel_bytes(int k) { return W::panel_bytes(k); }
  // The chunk's input should stay in the L2 cache while panel after panel passes. k is at most 2^18
  // (packing.py), so that the starts of 32 rows (two for each block: 16) fit the scratch memory.
  static int chunk_rows(int k) {
    constexpr int kLeast = W::kHalves ? 16 : 32;
    return max_int(kLeast, round_up((512 << 10) / round_up(k, 64), kLeast));
  }
  static QRows skip_rows(const QRows& x, int64_t rows) {
    const int64_t blocks = rows * ceil_div(x.k, kBlock);
    return {x.q + blocks * kBlock, x.scale + blocks, x.sum + blocks, x.k};
  }
  // Rows are (token, head) pairs, `heads` a token.
  static QRows of_head(const QRows& x, int head, int heads) {
    QRows own = skip_rows(x, head);
    own.step = heads;
    return own;
  }

  // sums [R, 16] = rows [first, first + R) times one panel.
  template <int R>
  static void tile(const Chunk& x, int first, int, const uint8_t* panel, int64_t ahead,
                   float* sums) {
    constexpr int kStarts = W::kHalves ? 2 : 1;
    const int8_t* q[R];
    const float *scale[R], *sum[R];
    const int32_t* start = x.starts + (int64_t)first * x.blocks * kStarts;
    Vec acc[R];
    for (int r = 0; r < R; r++) {
      const int64_t source = x.source(first + r) * x.blocks;
      q[r] = x.x.q + source * kBlock;
      scale[r] = x.x.scale + source;
      sum[r] = x.x.sum + source;
      acc[r] = splat(0.0f);
    }
    typename W::Reader reader(panel, x.blocks, x.unit);
    for (int64_t g = 0; g < x.blocks; g++) {
      const Block b = reader.next();
      for (int i = 0; i < W::kBytes + 64; i += 64) prefetch_line<R>(b.data + ahead + i);
      Vec part[R];
      if constexpr (W::kHalves) {
        half<0, R>(b.data, q, g, start, x.blocks, b.d, part);
        half<1, R>(b.data, q, g, start, x.blocks, b.m, part);
      } else {
        typename W::Dot dots[R];
        for (int r = 0; r < R; r++)
          dots[r] = W::Dot::start(W::kOffset ? start[r * (int64_t)x.blocks + g] : 0);
        W::template dot<R>(b.data, q, g * kBlock, dots);
        for (int r = 0; r < R; r++) {
          part[r] = to_float(dots[r].total());
          if (!W::kRowScale) part[r] *= b.d;
        }
      }
      for (int r = 0; r < R; r++) {
        acc[r] = fma(part[r], splat(scale[r][g]), acc[r]);
        if (W::kMinimum) acc[r] = fma(b.m, splat(sum[r][g]), acc[r]);
      }
    }
    const Vec by = W::kRowScale ? load((const float*)panel) : splat(1.0f);
    for (int r = 0; r < R; r++) store(sums + r * kLanes, W::kRowScale ? acc[r] * by : acc[r]);
  }

  // The dot products of half a block times its scale, as the first or added to those of the first.
  template <int Half, int R>
  LLMC_METHOD static void half(const uint8_t* data, const int8_t* const* q, int64_t g,
                               const int32_t* start, int64_t blocks, Vec d, Vec* part) {
    typename W::Dot dots[R];
    for (int r = 0; r < R; r++) dots[r] = W::Dot::start(start[(r * blocks + g) * 2 + Half]);
    W::template dot_half<Half, R>(data, q, g * kBlock, dots);
    for (int r = 0; r < R; r++) {
      const Vec dot = to_float(dots[r].total());
      part[r] = Half ? fma(dot, d, part[r]) : dot * d;
    }
  }
};

}  // namespace llmc
