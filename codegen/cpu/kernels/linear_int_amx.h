// Linear layers with weights of 4 to 8 bits on AMX: as in linear_int.h, with 16 rows of activations
// times a panel of 16 weight rows, block by block, where there are 16 rows.
//
// The packed bytes of a block of 32 k (8 lines of 16 rows x 4 k) are the matrix that tdpbsud wants on
// its right; 16 rows x 32 activations are the one on its left. Every block has scales of its own, so
// its 16 x 16 sums leave the tile and are scaled as in linear_int.h, in the same order: a row's bits
// are those that it has without AMX.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "linear_int.h"

namespace llmc {

constexpr int kAmxRows = 16;

// The shapes of this thread's tiles, while the object lives: for even blocks sums in tile 0,
// activations in 1 and weights in 2; for odd blocks 3, 4 and 5.
class Tiles {
 public:
  explicit Tiles(bool wanted) : held(wanted) {
    if (!held) return;
    struct alignas(64) {
      uint8_t palette, start_row, reserved[14];
      uint16_t row_bytes[16];
      uint8_t rows[16];
    } shapes = {1, 0, {}, {64, 32, 64, 64, 32, 64}, {16, 16, 8, 16, 16, 8}};
    static_assert(sizeof shapes == 64);
    _tile_loadconfig(&shapes);
  }
  ~Tiles() {
    if (held) _tile_release();
  }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

 private:
  const bool held;
};

// Where the left matrix is: rows `stride` bytes apart.
struct LeftRows {
  const int8_t* q;
  int64_t stride;
};

// out [16, 16] = products of one block.
template <int Odd>
LLMC_INLINE void amx_product(LeftRows left, const uint8_t* lines, int32_t* out) {
  if constexpr (Odd) {
    _tile_loadd(4, left.q, left.stride);
    _tile_loadd(5, lines, 64);
    _tile_zero(3);
    _tile_dpbsud(3, 4, 5);
    _tile_stored(3, out, 64);
  } else {
    _tile_loadd(1, left.q, left.stride);
    _tile_loadd(2, lines, 64);
    _tile_zero(0);
    _tile_dpbsud(0, 1, 2);
    _tile_stored(0, out, 64);
  }
}

// sums [16, 16] = rows [first, first + 16) times one panel. W and Chunk: see linear_int.h.
template <class W, class Chunk>
struct AmxTile {
  const uint8_t* const panel;
  const int64_t blocks;
  typename W::Reader codes, sides;  // the same blocks, some earlier than others
  const bool together;  // rows are at equal distances
  const int8_t* q[kAmxRows];
  const float *scale[kAmxRows], *sum[kAmxRows];
  const int32_t* start[kAmxRows];
  alignas(64) int32_t products[2][kAmxRows * kLanes];
  alignas(64) uint8_t lines[8 * 64];
  alignas(64) int8_t rows[kAmxRows * kBlock];

  AmxTile(const Chunk& x, int first, const uint8_t* panel)
      : panel(panel), blocks(x.blocks), codes(panel, x.blocks, x.unit), sides(codes),
        together(!x.index) {
    for (int r = 0; r < kAmxRows; r++) {
      const int64_t source = x.source(first + r) * blocks;
      q[r] = x.x.q + source * kBlock;
      scale[r] = x.x.scale + source;
      sum[r] = x.x.sum + source;
      start[r] = x.starts + (first + r) * blocks;
    }
  }

  // The activations of block g; rows that a list names are brought together.
  LLMC_METHOD LeftRows left(int64_t g) {
    if (together) return {q[0] + g * kBlock, q[1] - q[0]};
    for (int r = 0; r < kAmxRows; r++)
      __builtin_memcpy(rows + r * kBlock, q[r] + g * kBlock, kBlock);
    return {rows, kBlock};
  }

  // The weights of a block, a byte each.
  LLMC_METHOD const uint8_t* right(const uint8_t* data) {
    if constexpr (W::kBytes == sizeof lines) return data;
    expand<0>(data), expand<1>(data), expand<2>(data), expand<3>(data);
    expand<4>(data), expand<5>(data), expand<6>(data), expand<7>(data);
    return lines;
  }
  template <int C>
  LLMC_METHOD void expand(const uint8_t* data) {
    const IVec v = W::template chunk<C>(data);
    __builtin_memcpy(lines + 64 * C, &v, 64);
  }

  template <int Odd>
  LLMC_METHOD void multiply(int64_t g, int64_t ahead) {
    const uint8_t* data = codes.next().data;
    for (int i = 0; i < W::kBytes + 64; i += 64) prefetch_line<kAmxRows>(data + ahead + i);
    amx_product<Odd>(left(g), right(data), products[Odd]);
  }

  // As in linear_int.h.
  template <int Odd>
  LLMC_METHOD void accumulate(int64_t g, Vec* acc) {
    const Block b = sides.next();
#pragma clang loop unroll(full)
    for (int r = 0; r < kAmxRows; r++) {
      const int32_t from = W::kOffset ? start[r][g] : 0;
      Vec dot = to_float(load_int(products[Odd] + r * kLanes) + from);
      if (!W::kRowScale) dot *= b.d;
      acc[r] = fma(dot, splat(scale[r][g]), acc[r]);
      if (W::kMinimum) acc[r] = fma(b.m, splat(sum[r][g]), acc[r]);
    }
  }

  // While a block's sums are scaled, the next one's products are under way.
  LLMC_METHOD void run(int64_t ahead, float* sums) {
    Vec acc[kAmxRows];
    for (int r = 0; r < kAmxRows; r++) acc[r] = splat(0.0f);
    multiply<0>(0, ahead);
    for (int64_t g = 0; g < blocks; g += 2) {
      if (g + 1 < blocks) multiply<1>(g + 1, ahead);
      accumulate<0>(g, acc);
      if (g + 1 == blocks) break;
      if (g + 2 < blocks) multiply<0>(g + 2, ahead);
      accumulate<1>(g + 1, acc);
    }
    const Vec by = W::kRowScale ? load((const float*)panel) : splat(1.0f);
    for (int r = 0; r < kAmxRows; r++)
      store(sums + r * kLanes, W::kRowScale ? acc[r] * by : acc[r]);
  }
};

template <class W>
struct AmxLinear : IntLinear<W> {
  static constexpr int kTileRows = kAmxRows;
  using Base = IntLinear<W>;
  struct Chunk : Base::Chunk {
    const Tiles tiles;
    Chunk(const QRows& x, const int32_t* row_index, int first, int rows, int k, char* scratch)
        : Base::Chunk(x, row_index, first, rows, k, scratch), tiles(rows >= kAmxRows) {}
  };

  template <int R>
  static void tile(const Chunk& x, int first, int k, const uint8_t* panel, int64_t ahead,
                   float* sums) {
    if constexpr (R == kAmxRows)
      AmxTile<W, Chunk>(x, first, panel).run(ahead, sums);
    else
      Base::template tile<R>(x, first, k, panel, ahead, sums);
  }
};

}  // namespace llmc
