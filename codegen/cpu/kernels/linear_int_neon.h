// Linear layers with weights of 4 to 8 bits on aarch64: as in linear_int.h, with other dot products of
// a block of 32 k, 16 weight rows with R rows of activations. By what the processor has:
//
//   i8mm:     usmmla multiplies 2 x 8 unsigned weights with 8 x 2 signed activations, so rows go in
//             pairs; a row without a partner takes usdot. Both are exact, so it is all the same.
//   dotprod:  sdot, signed times signed. Codes 0..15 are signed bytes as they are; of codes + 128 the
//             top bit is flipped, which makes them signed codes.
//   NEON:     products widened to 16 bits: of 0..15 a whole block fits (8 x 15 x 127 = 15240), of
//             0..63 half of one (4 x 63 x 127 = 32004), of signed bytes two (2 x 128 x 127 = 32512).
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
// With the higher bits of codes of 5 or 6 bits: `Width` of them, behind the nibbles.
template <int Width>
struct WideChunks {
  LLMC_METHOD static uint8x16_t quarter(const uint8_t* data, int c, int i) {
    constexpr int kPerLine = 8 / Width;
    const uint8_t* line = data + NibbleData::kBytes + 64 * (c / kPerLine);
    const int up = 4 - c % kPerLine * Width;  // negative: down
    const uint8x16_t high = vshlq_u8(load_quarter(line, i), vdupq_n_s8((int8_t)up));
    const uint8x16_t mask = vdupq_n_u8(((1 << Width) - 1) << 4);
    return vorrq_u8(NibbleChunks::quarter(data, c, i), vandq_u8(high, mask));
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

// sums gain the products of one row with chunks [First, End).
template <class Chunks, int First, int End>
LLMC_INLINE void multiply_row(const uint8_t* data, const int8_t* q, LaneSums& sums) {
  const BlockInput x = BlockInput::load(q);
#define LLMC_CHUNK(C)                                                                       \
  for (int i = 0; C >= First && C < End && i < 4; i++)                                      \
    sums.quarter[i] = vusdotq_laneq_s32(sums.quarter[i], Chunks::quarter(data, C, i),       \
                                        x.half[(C) / 4], (C) % 4);
  LLMC_CHUNK(0) LLMC_CHUNK(1) LLMC_CHUNK(2) LLMC_CHUNK(3)
  LLMC_CHUNK(4) LLMC_CHUNK(5) LLMC_CHUNK(6) LLMC_CHUNK(7)
#undef LLMC_CHUNK
}

// Quarters 2 half and 2 half + 1 of 2 P rows. An accumulator holds weight rows n, n+1 x rows t, t+1.
template <class Chunks, int P, int First, int End>
LLMC_INLINE void multiply_pairs(const uint8_t* data, const int8_t* const* q, int64_t at, int half,
                                LaneSums* sums) {
  int32x4_t acc[P][4];
  for (int p = 0; p < P; p++)
    for (int i = 0; i < 4; i++)
      acc[p][i] = vzip1q_s32(sums[2 * p].quarter[2 * half], sums[2 * p + 1].quarter[2 * half]);
#pragma clang loop unroll(full)
  for (int c = First; c < End; c += 2) {
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
  template <int First, int End, int R>
  LLMC_METHOD static void add(const uint8_t* data, const int8_t* const* q, int64_t at, Dot* sums) {
    if constexpr (R > 1)
      for (int half = 0; half < 2; half++)
        multiply_pairs<Chunks, R / 2, First, End>(data, q, at, half, sums);
    if constexpr (R % 2) multiply_row<Chunks, First, End>(data, q[R - 1] + at, sums[R - 1]);
  }
  template <int R>
  LLMC_METHOD static void dot(const uint8_t* data, const int8_t* const* q, int64_t at, Dot* sums) {
    add<0, 8, R>(data, q, at, sums);
  }
  template <int Half, int R>
  LLMC_METHOD static void dot_half(const uint8_t* data, const int8_t* const* q, int64_t at,
                                   Dot* sums) {
    add<4 * Half, 4 * Half + 4, R>(data, q, at, sums);
  }
};

using NeonNibbles = MatrixDot<NibbleChunks>;
using NeonBytes = MatrixDot<ByteChunks>;
template <class Chunks>
using NeonHalved = MatrixDot<Chunks>;

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

template <class Chunks>
struct NeonHalved {
  using Dot = LaneSums;
  template <int Half, int R>
  LLMC_METHOD static void dot_half(const uint8_t* data, const int8_t* const* q, int64_t at,
                                   Dot* sums) {
    int8x16_t x[R];
    for (int r = 0; r < R; r++) x[r] = vld1q_s8(q[r] + at + 16 * Half);
#define LLMC_CHUNK(C)                                                                       \
  for (int i = 0; i < 4; i++) {                                                             \
    const int8x16_t v = (int8x16_t)Chunks::quarter(data, 4 * Half + C, i);                  \
    for (int r = 0; r < R; r++)                                                             \
      sums[r].quarter[i] = vdotq_laneq_s32(sums[r].quarter[i], v, x[r], C);                 \
  }
    LLMC_CHUNK(0) LLMC_CHUNK(1) LLMC_CHUNK(2) LLMC_CHUNK(3)
#undef LLMC_CHUNK
  }
  template <int R>
  LLMC_METHOD static void dot(const uint8_t* data, const int8_t* const* q, int64_t at, Dot* sums) {
    dot_half<0, R>(data, q, at, sums);
    dot_half<1, R>(data, q, at, sums);
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

// Halves of a block in 16-bit sums, and what was added of them in 32 bits.
template <class Chunks>
struct NeonHalved {
  struct Dot {
    IVec sum;
    LLMC_METHOD static Dot start(int32_t from) { return {splat_int(from)}; }
    LLMC_METHOD IVec total() const { return sum; }
  };
  template <int Half, int R>
  LLMC_METHOD static void dot_half(const uint8_t* data, const int8_t* const* q, int64_t at,
                                   Dot* sums) {
    NeonNibbles::Dot parts[R];
    for (int r = 0; r < R; r++) parts[r] = NeonNibbles::Dot::start(0);
#pragma clang loop unroll(full)
    for (int j = 0; j < 4; j++)
#pragma clang loop unroll(full)
      for (int i = 0; i < 4; i++) {
        const uint8x16_t v = Chunks::quarter(data, 4 * Half + j, i);
        for (int r = 0; r < R; r++)
          parts[r].add(i, v, repeat_four(q[r] + at + 16 * Half + 4 * j));
      }
    for (int r = 0; r < R; r++) sums[r].sum += parts[r].total();
  }
  template <int R>
  LLMC_METHOD static void dot(const uint8_t* data, const int8_t* const* q, int64_t at, Dot* sums) {
    dot_half<0, R>(data, q, at, sums);
    dot_half<1, R>(data, q, at, sums);
  }
};

#endif

template <int Bits>
struct NeonData : NeonHalved<WideChunks<Bits - 4>> {};
template <>
struct NeonData<4> : NeonNibbles {};
template <>
struct NeonData<8> : NeonBytes {};

// A weight format with its dot products done here.
template <class W>
struct NeonFormat : W {
  using Data = NeonData<W::kBits>;
  using Dot = typename Data::Dot;
  template <int R>
  LLMC_METHOD static void dot(const uint8_t* data, const int8_t* const* q, int64_t at, Dot* sums) {
    Data::template dot<R>(data, q, at, sums);
  }
  template <int Half, int R>
  LLMC_METHOD static void dot_half(const uint8_t* data, const int8_t* const* q, int64_t at,
                                   Dot* sums) {
    Data::template dot_half<Half, R>(data, q, at, sums);
  }
};

template <class W>
struct NeonLinear : IntLinear<NeonFormat<W>> {
  static constexpr int kTileRows = kNeonTileRows;
};

}  // namespace llmc
