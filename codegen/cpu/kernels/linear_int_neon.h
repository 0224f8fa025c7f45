// Linear layers with int8 and int4 weights on aarch64: as in linear_int.h, with other dot products of
// a block of 32 k, 16 weight rows with R rows of activations. By what the processor has:
//
//   i8mm:     usmmla multiplies 2 x 8 unsigned weights with 8 x 2 signed activations, so rows go in
//             pairs; a row without a partner takes usdot. Both are exact, so it is all the same.
//   dotprod:  sdot, signed times signed. Codes 0..15 are signed bytes as they are; of codes + 128 the
//             top bit is flipped, which makes them signed codes.
//   NEON:     products widened to 16 bits: of 0..15 a whole block fits (8 x 15 x 127 = 15240), of
//             signed bytes two (2 x 128 x 127 = 32512).
#pragma once

#include <arm_neon.h>
#include <stdint.h>

#include "linear_int.h"

namespace llmc {

// Quarter `i` (rows 4i .. 4i+3 x 4 k) of a line of a panel.
LLMC_INLINE uint8x16_t load_quarter(const uint8_t* line, int i) { return vld1q_u8(line + 16 * i); }
LLMC_INLINE uint8x16_t low_nibbles(uint8x16_t v) { return vandq_u8(v, vdupq_n_u8(15)); }
LLMC_INLINE uint8x16_t high_nibbles(uint8x16_t v) { return vshrq_n_u8(v, 4); }
LLMC_INLINE int8x16_t signed_codes(uint8x16_t v) {
  return vreinterpretq_s8_u8(veorq_u8(v, vdupq_n_u8(128)));
}

// Quarter i of chunk c (0..7) of a block.
struct NibbleChunks {
  LLMC_METHOD static uint8x16_t quarter(const uint8_t* data, int c, int i) {
    const uint8x16_t v = load_quarter(data + 64 * (c & 3), i);
    return c < 4 ? low_nibbles(v) : high_nibbles(v);
  }
};
struct ByteChunks {
  LLMC_METHOD static uint8x16_t quarter(const uint8_t* data, int c, int i) {
    return load_quarter(data + 64 * c, i);
  }
};

#if defined(__ARM_FEATURE_DOTPROD)

// 16 sums of 32 bits.
struct LaneSums {
  int32x4_t quarter[4];
  LLMC_METHOD static LaneSums start(int32_t from) {
    const int32x4_t v = vdupq_n_s32(from);
    return {{v, v, v, v}};
  }
  LLMC_METHOD IVec total() const { return __builtin_bit_cast(IVec, *this); }
};

// Sums that begin at 0: signed codes need nothing taken out.
struct SignedSums : LaneSums {
  LLMC_METHOD static SignedSums start(int32_t) { return {LaneSums::start(0)}; }
};

// Activations of one block: chunk c is lane c & 3 of half c >> 2.
struct BlockInput {
  int8x16_t half[2];
  LLMC_METHOD static BlockInput load(const int8_t* q) { return {{vld1q_s8(q), vld1q_s8(q + 16)}}; }
};

#endif

#if defined(__ARM_FEATURE_MATMUL_INT8)

// sums[0] gains the products of one row with all chunks.
template <class Chunks>
LLMC_INLINE void multiply_row(const uint8_t* data, const int8_t* q, LaneSums& sums) {
  const BlockInput x = BlockInput::load(q);
#define LLMC_CHUNK(C)                                                                       \
  for (int i = 0; i < 4; i++)                                                               \
    sums.quarter[i] = vusdotq_laneq_s32(sums.quarter[i], Chunks::quarter(data, C, i),       \
                                        x.half[(C) / 4], (C) % 4);
  LLMC_CHUNK(0) LLMC_CHUNK(1) LLMC_CHUNK(2) LLMC_CHUNK(3)
  LLMC_CHUNK(4) LLMC_CHUNK(5) LLMC_CHUNK(6) LLMC_CHUNK(7)
#undef LLMC_CHUNK
}

// Quarters 2 half and 2 half + 1 of 2 P rows. An accumulator holds weight rows n, n+1 x rows t, t+1.
template <class Chunks, int P>
LLMC_INLINE void multiply_pairs(const uint8_t* data, const int8_t* const* q, int64_t at, int half,
                                LaneSums* sums) {
  int32x4_t acc[P][4];
  for (int p = 0; p < P; p++)
    for (int i = 0; i < 4; i++)
      acc[p][i] = vzip1q_s32(sums[2 * p].quarter[2 * half], sums[2 * p + 1].quarter[2 * half]);
#pragma clang loop unroll(full)
  for (int c = 0; c < 8; c += 2) {
    int8x16_t x[P];
    for (int p = 0; p < P; p++) {
      const int8_t *even = q[2 * p] + at + 4 * c, *odd = q[2 * p + 1] + at + 4 * c;
      x[p] = vcombine_s8(vld1_s8(even), vld1_s8(odd));
    }
    for (int i = 0; i < 2; i++) {
      const uint32x4_t a = (uint32x4_t)Chunks::quarter(data, c, 2 * half + i);
      const uint32x4_t b = (uint32x4_t)Chunks::quarter(data, c + 1, 2 * half + i);
      const uint8x16_t first = (uint8x16_t)vzip1q_u32(a, b), second = (uint8x16_t)vzip2q_u32(a, b);
      for (int p = 0; p < P; p++) {
        acc[p][2 * i] = vusmmlaq_s32(acc[p][2 * i], first, x[p]);
        acc[p][2 * i + 1] = vusmmlaq_s32(acc[p][2 * i + 1], second, x[p]);
      }
    }
  }
  for (int p = 0; p < P; p++)
    for (int i = 0; i < 2; i++) {
      sums[2 * p].quarter[2 * half + i] = vuzp1q_s32(acc[p][2 * i], acc[p][2 * i + 1]);
      sums[2 * p + 1].quarter[2 * half + i] = vuzp2q_s32(acc[p][2 * i], acc[p][2 * i + 1]);
    }
}

constexpr int kNeonTileRows = 8;

template <class Chunks>
struct MatrixDot {
  using Dot = LaneSums;
  template <int R>
  LLMC_METHOD static void dot(const uint8_t* data, const int8_t* const* q, int64_t at, Dot* sums) {
    if constexpr (R > 1)
      for (int half = 0; half < 2; half++)
        multiply_pairs<Chunks, R / 2>(data, q, at, half, sums);
    if constexpr (R % 2) multiply_row<Chunks>(data, q[R - 1] + at, sums[R - 1]);
  }
};

using NeonNibbles = MatrixDot<NibbleChunks>;
using NeonBytes = MatrixDot<ByteChunks>;

#elif defined(__ARM_FEATURE_DOTPROD)

constexpr int kNeonTileRows = 4;

struct NeonNibbles {
  using Dot = LaneSums;
  template <int R>
  LLMC_METHOD static void dot(const uint8_t* data, const int8_t* const* q, int64_t at, Dot* sums) {
    BlockInput x[R];
    for (int r = 0; r < R; r++) x[r] = BlockInput::load(q[r] + at);
#define LLMC_LINE(J)                                                                        \
  for (int i = 0; i < 4; i++) {                                                             \
    const uint8x16_t v = load_quarter(data + 64 * (J), i);                                  \
    const int8x16_t low = (int8x16_t)low_nibbles(v), high = (int8x16_t)high_nibbles(v);     \
    for (int r = 0; r < R; r++) {                                                           \
      int32x4_t& sum = sums[r].quarter[i];                                                  \
      sum = vdotq_laneq_s32(sum, low, x[r].half[0], J);                                     \
      sum = vdotq_laneq_s32(sum, high, x[r].half[1], J);                                    \
    }                                                                                       \
  }
    LLMC_LINE(0) LLMC_LINE(1) LLMC_LINE(2) LLMC_LINE(3)
#undef LLMC_LINE
  }
};

struct NeonBytes {
  using Dot = SignedSums;
  template <int R>
  LLMC_METHOD static void dot(const uint8_t* data, const int8_t* const* q, int64_t at, Dot* sums) {
    BlockInput x[R];
    for (int r = 0; r < R; r++) x[r] = BlockInput::load(q[r] + at);
#define LLMC_LINE(J)                                                                        \
  for (int i = 0; i < 4; i++) {                                                             \
    const int8x16_t v = signed_codes(load_quarter(data + 64 * (J), i));                     \
    for (int r = 0; r < R; r++) {                                                           \
      int32x4_t& sum = sums[r].quarter[i];                                                  \
      sum = vdotq_laneq_s32(sum, v, x[r].half[(J) / 4], (J) % 4);                           \
    }                                                                                       \
  }
    LLMC_LINE(0) LLMC_LINE(1) LLMC_LINE(2) LLMC_LINE(3)
    LLMC_LINE(4) LLMC_LINE(5) LLMC_LINE(6) LLMC_LINE(7)
#undef LLMC_LINE
  }
};

#else

constexpr int kNeonTileRows = 2;

// The 4 activations of a chunk, in every lane. The compiler must not know that: it would take the
// halves apart for smull, instead of smull and smull2.
LLMC_INLINE int8x16_t repeat_four(const int8_t* q) {
  int32_t four;
  __builtin_memcpy(&four, q, sizeof four);
  int32x4_t v = vdupq_n_s32(four);
  __asm__("" : "+w"(v));
  return vreinterpretq_s8_s32(v);
}

// sum[2i], sum[2i + 1]: per byte of quarter i of a chunk, 16 bits.
struct NeonNibbles {
  struct Dot {
    int16x8_t sum[8];
    int32_t from;
    LLMC_METHOD static Dot start(int32_t from) {
      const int16x8_t v = vdupq_n_s16(0);
      return {{v, v, v, v, v, v, v, v}, from};
    }
    LLMC_METHOD IVec total() const {
      int32x4_t lanes[4];
      for (int i = 0; i < 4; i++)
        lanes[i] = vpaddq_s32(vpaddlq_s16(sum[2 * i]), vpaddlq_s16(sum[2 * i + 1]));
      return __builtin_bit_cast(IVec, lanes) + splat_int(from);
    }
    LLMC_METHOD void add(int i, uint8x16_t w, int8x16_t x) {
      const int8x16_t v = vreinterpretq_s8_u8(w);
      sum[2 * i] = vmlal_s8(sum[2 * i], vget_low_s8(v), vget_low_s8(x));
      sum[2 * i + 1] = vmlal_high_s8(sum[2 * i + 1], v, x);
    }
  };
  template <int R>
  LLMC_METHOD static void dot(const uint8_t* data, const int8_t* const* q, int64_t at, Dot* sums) {
#pragma clang loop unroll(full)
    for (int j = 0; j < 4; j++) {
      int8x16_t low[R], high[R];
      for (int r = 0; r < R; r++) {
        low[r] = repeat_four(q[r] + at + 4 * j);
        high[r] = repeat_four(q[r] + at + 16 + 4 * j);
      }
#pragma clang loop unroll(full)
      for (int i = 0; i < 4; i++) {
        const uint8x16_t v = load_quarter(data + 64 * j, i);
        for (int r = 0; r < R; r++) sums[r].add(i, low_nibbles(v), low[r]);
        for (int r = 0; r < R; r++) sums[r].add(i, high_nibbles(v), high[r]);
      }
    }
  }
};

// sum[2i], sum[2i + 1]: per pair of bytes of quarter i, 32 bits.
struct NeonBytes {
  struct Dot {
    int32x4_t sum[8];
    LLMC_METHOD static Dot start(int32_t) {
      const int32x4_t v = vdupq_n_s32(0);
      return {{v, v, v, v, v, v, v, v}};
    }
    LLMC_METHOD IVec total() const {
      int32x4_t lanes[4];
      for (int i = 0; i < 4; i++) lanes[i] = vpaddq_s32(sum[2 * i], sum[2 * i + 1]);
      return __builtin_bit_cast(IVec, lanes);
    }
    // Two chunks, v with x and w with y.
    LLMC_METHOD void add(int i, int8x16_t v, int8x16_t x, int8x16_t w, int8x16_t y) {
      int16x8_t low = vmull_s8(vget_low_s8(v), vget_low_s8(x)), high = vmull_high_s8(v, x);
      low = vmlal_s8(low, vget_low_s8(w), vget_low_s8(y)), high = vmlal_high_s8(high, w, y);
      sum[2 * i] = vpadalq_s16(sum[2 * i], low);
      sum[2 * i + 1] = vpadalq_s16(sum[2 * i + 1], high);
    }
  };
  template <int R>
  LLMC_METHOD static void dot(const uint8_t* data, const int8_t* const* q, int64_t at, Dot* sums) {
#pragma clang loop unroll(full)
    for (int j = 0; j < 8; j += 2) {
      int8x16_t x[R], y[R];
      for (int r = 0; r < R; r++) {
        x[r] = repeat_four(q[r] + at + 4 * j);
        y[r] = repeat_four(q[r] + at + 4 * j + 4);
      }
#pragma clang loop unroll(full)
      for (int i = 0; i < 4; i++) {
        const int8x16_t v = signed_codes(load_quarter(data + 64 * j, i));
        const int8x16_t w = signed_codes(load_quarter(data + 64 * j + 64, i));
        for (int r = 0; r < R; r++) sums[r].add(i, v, x[r], w, y[r]);
      }
    }
  }
};

#endif

// A weight format with its dot products done here.
template <class W, class Data>
struct WithNeon : W {
  using Dot = typename Data::Dot;
  template <int R>
  LLMC_METHOD static void dot(const uint8_t* data, const int8_t* const* q, int64_t at, Dot* sums) {
    Data::template dot<R>(data, q, at, sums);
  }
};
template <class W, bool = W::kBytes == NibbleData::kBytes>
struct NeonFormat : WithNeon<W, NeonNibbles> {};
template <class W>
struct NeonFormat<W, false> : WithNeon<W, NeonBytes> {};

template <class W>
struct NeonLinear : IntLinear<NeonFormat<W>> {
  static constexpr int kTileRows = kNeonTileRows;
};

}  // namespace llmc
