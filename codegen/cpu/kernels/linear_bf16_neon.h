// Linear layers with bf16 weights on aarch64 with BF16 products: a panel of 16 weight rows with R
// rows of inputs. The last part of linear_float.h.
//
// bfmmla multiplies 2 x 4 weights with 4 x 2 inputs, so rows go in pairs; a row without a partner
// takes bfdot. By the architecture's definition a bfmmla is two bfdot steps in the order of k for
// each of its sums, so a row's result is the same either way. Neither rounds to nearest: products and
// sums are rounded to odd, which costs at most one more bit of an f32.
#pragma once

#include <arm_neon.h>
#include <stdint.h>

#include "linear_float.h"

namespace llmc {

// Quarter i (4 rows x 2 k) of a line.
LLMC_INLINE uint32x4_t load_bf16(const uint8_t* line, int i) {
  return vld1q_u32((const uint32_t*)(line + 16 * i));
}
LLMC_INLINE float32x4_t add_pairs(float32x4_t sum, uint32x4_t w, uint32_t x) {
  return vbfdotq_f32(sum, (bfloat16x8_t)w, (bfloat16x8_t)vdupq_n_u32(x));
}

// Two rows: an accumulator holds weight rows n, n+1 x both of them. `lines` is even.
template <int P>
LLMC_INLINE void multiply_bf16_pairs(const uint32_t* const* in, int64_t lines, const uint8_t* panel,
                                     int64_t ahead, float32x4_t (*acc)[8]) {
#pragma clang loop unroll_count(2)
  for (int64_t line = 0; line < lines; line += 2) {
    prefetch_line<2 * P>(panel + ahead + line * 64);
    prefetch_line<2 * P>(panel + ahead + line * 64 + 64);
    bfloat16x8_t x[P];
    for (int p = 0; p < P; p++)
      x[p] = (bfloat16x8_t)vcombine_u32(vld1_u32(in[2 * p] + line), vld1_u32(in[2 * p + 1] + line));
#pragma clang loop unroll(full)
    for (int i = 0; i < 4; i++) {
      const uint32x4_t a = load_bf16(panel + line * 64, i);
      const uint32x4_t b = load_bf16(panel + line * 64 + 64, i);
      const bfloat16x8_t first = (bfloat16x8_t)vzip1q_u32(a, b);
      const bfloat16x8_t second = (bfloat16x8_t)vzip2q_u32(a, b);
      for (int p = 0; p < P; p++) {
        acc[p][2 * i] = vbfmmlaq_f32(acc[p][2 * i], first, x[p]);
        acc[p][2 * i + 1] = vbfmmlaq_f32(acc[p][2 * i + 1], second, x[p]);
      }
    }
  }
}

struct Bf16 : PairLinear {
  template <int R>
  static void tile(const PairChunk& x, int first, int, const uint8_t* panel, int64_t ahead,
                   float* out) {
    constexpr int P = R / 2;
    const uint32_t* in[R];
    float32x4_t sums[R][4];
    for (int r = 0; r < R; r++) {
      in[r] = x.pairs + (first + r) * x.ld;
      for (int i = 0; i < 4; i++) sums[r][i] = vdupq_n_f32(0.0f);
    }
    const int64_t even = x.ld & ~1;
    if constexpr (P > 0) {
      float32x4_t acc[P][8];
      for (int p = 0; p < P; p++)
        for (int i = 0; i < 8; i++) acc[p][i] = vdupq_n_f32(0.0f);
      multiply_bf16_pairs<P>(in, even, panel, ahead, acc);
      for (int p = 0; p < P; p++)
        for (int i = 0; i < 4; i++) {
          sums[2 * p][i] = vuzp1q_f32(acc[p][2 * i], acc[p][2 * i + 1]);
          sums[2 * p + 1][i] = vuzp2q_f32(acc[p][2 * i], acc[p][2 * i + 1]);
        }
    }
    // What remains: the last line of an odd number, and all of a row without a partner.
    for (int r = 0; r < R; r++)
      for (int64_t line = r < 2 * P ? even : 0; line < x.ld; line++) {
        if (P == 0) prefetch_line<R>(panel + ahead + line * 64);
        for (int i = 0; i < 4; i++)
          sums[r][i] = add_pairs(sums[r][i], load_bf16(panel + line * 64, i), in[r][line]);
      }
    __builtin_memcpy(out, sums, sizeof sums);
  }
};

}  // namespace llmc
