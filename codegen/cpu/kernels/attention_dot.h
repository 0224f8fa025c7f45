// The arithmetic of attention by the cache's element type: what a query row and a row of weights
// look like, and how they are multiplied with vectors of keys and values (layout: cache.h).
//
// A vector of the cache holds 16 lanes of P elements; lane l of an accumulator gains the sum over
// those P elements times P numbers of the row. A row's P numbers are `kRowWords` words of 32 bits.
//
//   cache   instruction set   query and weights         accumulator
//   f32     any               f32                       f32
//   bf16    AVX512-BF16       rounded to bf16           f32
//   int8    AVX512-VNNI       int8 and uint8 (below)    int32, exact
//   bf16, int8    others      f32                       f32, elements widened exactly
//
// It is one arithmetic for any number of rows, so that prefill and decode agree bit for bit.
#pragma once

#include <stdint.h>

#include "cache.h"
#include "simd.h"

namespace llmc {

LLMC_INLINE IVec load_words(const uint32_t* p) {
  IVec v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
LLMC_INLINE Vec word_as_float(uint32_t word) { return splat(__builtin_bit_cast(float, word)); }

// 2^x within 1e-7 (1 exactly at 0); 0 below -126.
LLMC_INLINE Vec exp2(Vec x) {
  x = max(x, splat(-200.0f));
  const Vec shifted = x + splat(12582912.0f), r = x - (shifted - splat(12582912.0f));
  // Minimax fit with the constant term fixed, error 2e-9 on [-1/2, 1/2].
  Vec p = splat(0.00015353362f);
  p = fma(p, r, splat(0.0013398875f));
  p = fma(p, r, splat(0.0096184369f));
  p = fma(p, r, splat(0.055503324f));
  p = fma(p, r, splat(0.24022648f));
  p = fma(p, r, splat(0.69314718f));
  p = fma(p, r, splat(1.0f));
  const Vec scale = as_float((as_int(shifted) + 127) << 23);
  return x < splat(-126.0f) ? splat(0.0f) : p * scale;
}

// 2^x within 7.5e-5, for weights that are rounded to 8 bits right after; 0 below -150.
LLMC_INLINE Vec rough_exp2(Vec x) {
  x = max(x, splat(-200.0f));
#if defined(__AVX512F__)
  const Vec n = (Vec)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT);
#else
  const Vec n = round_even(x);
#endif
  const Vec r = x - n;
  Vec p = splat(0.055171669f);
  p = fma(p, r, splat(0.24261113f));
  p = fma(p, r, splat(0.69326097f));
  p = fma(p, r, splat(0.99992806f));
#if defined(__AVX512F__)
  return (Vec)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  const Vec scale = as_float((__builtin_convertvector(n, IVec) + 127) << 23);
  return x < splat(-126.0f) ? splat(0.0f) : p * scale;
#endif
}

// f32 and f32.
struct FloatDot {
  static constexpr int kRowWords = 1;
  using Acc = Vec;
  using Operand = Vec;
  static LLMC_METHOD Operand operand(const uint32_t* p) { return as_float(load_words(p)); }
  static LLMC_METHOD Acc add(Acc acc, const uint32_t* row, Operand x) {
    return fma(word_as_float(*row), x, acc);
  }
};

// Pairs of bf16 widened to f32.
struct WidePairDot {
  static constexpr int kRowWords = 2;
  using Acc = Vec;
  struct Operand {
    Vec first, second;
  };
  static LLMC_METHOD Operand operand(const uint32_t* p) {
    const IVec words = load_words(p);
    return {as_float(words << 16), as_float(words & (int32_t)0xffff0000)};
  }
  static LLMC_METHOD Acc add(Acc acc, const uint32_t* row, const Operand& x) {
    return fma(word_as_float(row[1]), x.second, fma(word_as_float(row[0]), x.first, acc));
  }
};

// Four int8 widened to f32. `Flip`: 0x80808080 for codes that are stored 128 too large.
template <int32_t Flip>
struct WideCodeDot {
  static constexpr int kRowWords = 4;
  using Acc = Vec;
  struct Operand {
    Vec part[4];
  };
  static LLMC_METHOD Operand operand(const uint32_t* p) {
    const IVec words = load_words(p) ^ Flip;
    return {to_float((words << 24) >> 24), to_float((words << 16) >> 24),
            to_float((words << 8) >> 24), to_float(words >> 24)};
  }
  static LLMC_METHOD Acc add(Acc acc, const uint32_t* row, const Operand& x) {
    for (int i = 0; i < 4; ++i) acc = fma(word_as_float(row[i]), x.part[i], acc);
    return acc;
  }
};

#if defined(__AVX512BF16__)
struct PairDot {
  static constexpr int kRowWords = 1;
  using Acc = Vec;
  using Operand = IVec;
  static LLMC_METHOD Operand operand(const uint32_t* p) { return load_words(p); }
  static LLMC_METHOD Acc add(Acc acc, const uint32_t* row, Operand x) {
    const __m512bh pair = (__m512bh)_mm512_set1_epi32((int)*row);
    return (Vec)_mm512_dpbf16_ps((__m512)acc, (__m512bh)x, pair);
  }
};
#endif

#if defined(__AVX512VNNI__)
// `RowUnsigned`: the row holds the unsigned operand, the cache the signed one; else the reverse.
template <bool RowUnsigned>
struct CodeDot {
  static constexpr int kRowWords = 1;
  using Acc = IVec;
  using Operand = IVec;
  static LLMC_METHOD Operand operand(const uint32_t* p) { return load_words(p); }
  static LLMC_METHOD Acc add(Acc acc, const uint32_t* row, Operand x) {
    const __m512i four = _mm512_set1_epi32((int)*row), v = (__m512i)x;
    return (IVec)_mm512_dpbusd_epi32((__m512i)acc, RowUnsigned ? four : v, RowUnsigned ? v : four);
  }
};
#endif

// ---- rows --------------------------------------------------------------------------------------
// Each `Arithmetic<KV>` says which dot products the two stages take and turns floats into rows:
//   query_row: x [dk in memory], f32, overwritten -> words; `scale` times the products with coded
//     keys are the scores, and `start` is where the accumulators begin
//   weight_row: 16 weights -> words, at `index` (a multiple of 16) of the row
// kOwnScale: a tile's products are scaled on their own before they are added to what was summed
// before (coded values); otherwise the accumulators go on.

template <class KV>
struct Arithmetic;

struct FloatRow {
  static LLMC_METHOD Vec start(int32_t) { return splat(0.0f); }
  static LLMC_METHOD void query_row(float* x, int n, uint32_t* row, float* scale, int32_t*) {
    __builtin_memcpy(row, x, n * sizeof(float));
    *scale = 1.0f;
  }
  static LLMC_METHOD void weight_row(uint32_t* row, int index, Vec p) {
    store((float*)row + index, p);
  }
  static LLMC_METHOD Vec power(Vec x) { return exp2(x); }
};

template <>
struct Arithmetic<float> : FloatRow {
  static constexpr bool kOwnScale = false;
  using Keys = FloatDot;
  using Values = FloatDot;
};

template <>
struct Arithmetic<bf16>
#if defined(__AVX512BF16__)
{
  static constexpr bool kOwnScale = false;
  using Keys = PairDot;
  using Values = PairDot;
  static LLMC_METHOD Vec start(int32_t) { return splat(0.0f); }
  static LLMC_METHOD void query_row(float* x, int n, uint32_t* row, float* scale, int32_t*) {
    for (int i = 0; i < n; i += kLanes) weight_row(row, i, load(x + i));
    *scale = 1.0f;
  }
  static LLMC_METHOD void weight_row(uint32_t* row, int index, Vec p) {
    const __m256bh pairs = _mm512_cvtneps_pbh((__m512)p);
    __builtin_memcpy((uint16_t*)row + index, &pairs, sizeof pairs);
  }
  static LLMC_METHOD Vec power(Vec x) { return rough_exp2(x); }
};
#else
    : FloatRow {
  static constexpr bool kOwnScale = false;
  using Keys = WidePairDot;
  using Values = WidePairDot;
};
#endif

// The largest weight of a tile is 2^kCodeTop: 255, as far as 8 bits go.
constexpr float kCodeTop = 7.9943534f;

template <>
struct Arithmetic<int8_t>
#if defined(__AVX512VNNI__)
{
  static constexpr bool kOwnScale = true;
  using Keys = CodeDot<false>;
  using Values = CodeDot<true>;
  static LLMC_METHOD IVec start(int32_t from) { return splat_int(from); }
  static LLMC_METHOD void query_row(float* x, int n, uint32_t* row, float* scale,
                                    int32_t* start) {
    rotate_hadamard(x, n);
    *scale = largest_magnitude(x, n) / 127.0f;
    const Vec factor = splat(code_factor(*scale));
    Vec sum = splat(0.0f);
    for (int i = 0; i < n; i += kLanes) {
      const Vec whole = round_even(load(x + i) * factor);
      const Codes codes = __builtin_convertvector(__builtin_convertvector(whole, IVec), Codes);
      __builtin_memcpy((int8_t*)row + i, &codes, sizeof codes);
      sum += whole;
    }
    *start = -128 * (int32_t)reduce_add(sum);  // keys are stored 128 too large
  }
  static LLMC_METHOD void weight_row(uint32_t* row, int index, Vec p) {
    const __m128i codes = _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32((__m512)p));
    __builtin_memcpy((uint8_t*)row + index, &codes, sizeof codes);
  }
  static LLMC_METHOD Vec power(Vec x) { return rough_exp2(x); }
};
#else
    : FloatRow {
  static constexpr bool kOwnScale = true;
  using Keys = WideCodeDot<(int32_t)0x80808080>;
  using Values = WideCodeDot<0>;
  static LLMC_METHOD void query_row(float* x, int n, uint32_t* row, float* scale, int32_t* start) {
    rotate_hadamard(x, n);
    FloatRow::query_row(x, n, row, scale, start);
  }
};
#endif

}  // namespace llmc
