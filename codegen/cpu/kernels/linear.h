// Linear layers on packed weights, one function per weight format:
//
//   linear_<f>(team, rows, n, k, x, w, epilogue, y, ldy, row_index)          y [rows, n]
//   grouped_linear_<f>(team, experts, offsets, n, k, x, w, epilogue, y, ldy, row_index)
//   head_linear_<f>(team, rows, heads, n, k, x, w, y, ldy)                   y [rows, heads, n]
//
// with f = f32, bf16 (x as address and row stride, of heads also the stride of those) or a format of
// panel_blocks.h (x as QRows). The arguments are explained at `Epilogue`, `linear`, `grouped_linear` and
// `head_linear` in linear_driver.h. All threads of the team call; there is no barrier inside, and y may not
// overlap x (it may be the residual).
#pragma once

#include "linear_driver.h"
#include "linear_float.h"
#include "linear_int.h"
#if defined(__aarch64__)
#include "linear_int_neon.h"
#endif
#if defined(__AMX_INT8__)
#include "linear_int_amx.h"
#endif

namespace llmc {

#if defined(__aarch64__)
template <class W>
using IntKernel = NeonLinear<W>;
#elif defined(__AMX_INT8__)
template <class W>
struct IntKernel : AmxLinear<W> {};
template <>
struct IntKernel<I6K> : IntLinear<I6K> {};  // a tile's products are of whole blocks
#elif defined(__AVXVNNI__) && !defined(__AVX512F__)
template <class W>
struct IntKernel : IntLinear<W> {
  static constexpr int kTileRows = 4;  // half the accumulators of AVX2, which takes 2
};
#else
template <class W>
using IntKernel = IntLinear<W>;
#endif

#define LLMC_FLOAT_LINEAR(name, F)                                                                 \
  inline void linear_##name(Team& team, int rows, int n, int k, const float* x, int ldx,           \
                            const uint8_t* w, const Epilogue& e, float* y, int ldy,                \
                            const int32_t* row_index = nullptr) {                                  \
    linear<F>(team, rows, n, k, FloatRows{x, ldx}, w, e, y, ldy, row_index);                       \
  }                                                                                                \
  inline void grouped_linear_##name(Team& team, int experts, const int32_t* offsets, int n, int k, \
                                    const float* x, int ldx, const uint8_t* w, const Epilogue& e,  \
                                    float* y, int ldy, const int32_t* row_index = nullptr) {       \
    grouped_linear<F>(team, experts, offsets, n, k, FloatRows{x, ldx}, w, e, y, ldy, row_index);   \
  }                                                                                                \
  inline void head_linear_##name(Team& team, int rows, int heads, int n, int k, const float* x,    \
                                 int ldx, int step, const uint8_t* w, float* y, int ldy) {         \
    head_linear<F>(team, rows, heads, n, k, FloatRows{x, ldx}, step, w, y, ldy);                   \
  }

#define LLMC_INT_LINEAR(name, W)                                                                   \
  inline void linear_##name(Team& team, int rows, int n, int k, QRows x, const uint8_t* w,         \
                            const Epilogue& e, float* y, int ldy,                                  \
                            const int32_t* row_index = nullptr) {                                  \
    linear<IntKernel<W>>(team, rows, n, k, x, w, e, y, ldy, row_index);                            \
  }                                                                                                \
  inline void grouped_linear_##name(Team& team, int experts, const int32_t* offsets, int n, int k, \
                                    QRows x, const uint8_t* w, const Epilogue& e, float* y,        \
                                    int ldy, const int32_t* row_index = nullptr) {                 \
    grouped_linear<IntKernel<W>>(team, experts, offsets, n, k, x, w, e, y, ldy, row_index);        \
  }                                                                                                \
  inline void head_linear_##name(Team& team, int rows, int heads, int n, int k, QRows x,           \
                                 const uint8_t* w, float* y, int ldy) {                            \
    head_linear<IntKernel<W>>(team, rows, heads, n, k, x, heads, w, y, ldy);                       \
  }

LLMC_FLOAT_LINEAR(f32, F32)
LLMC_FLOAT_LINEAR(bf16, Bf16)
LLMC_INT_LINEAR(i8c, I8C)
LLMC_INT_LINEAR(i8b, I8B)
LLMC_INT_LINEAR(i6k, I6K)
LLMC_INT_LINEAR(i5s, I5S)
LLMC_INT_LINEAR(i5a, I5A)
LLMC_INT_LINEAR(i5k, I5K)
LLMC_INT_LINEAR(i4s, I4S)
LLMC_INT_LINEAR(i4a, I4A)
LLMC_INT_LINEAR(i4k, I4K)

#undef LLMC_FLOAT_LINEAR
#undef LLMC_INT_LINEAR

}  // namespace llmc
