// Integer dot products of unsigned weights with signed activations: the inner step of the int8 and
// int4 kernels.
//
// A weight vector holds 16 output rows x 4 consecutive k; `x` holds the 4 activations of those k.
// Lane r gains w[r][0] x[0] + ... + w[r][3] x[3], exactly. `NibbleDot` takes weights 0..15, `ByteDot`
// 0..255. An accumulator starts from a number, takes one block of 32 k (8 calls of `add`), then
// `total` gives the 16 sums. `FoldedDot` takes weights of up to 6 bits and is told when its 16-bit
// sums, where it has such, must move to 32 bits. (aarch64 has its own: linear_int_neon.h.)
//
//   VNNI: one instruction; with AVX-VNNI one for each half of the lanes.
//   AVX2, AVX-512BW: maddubs adds pairs of u8 x s8 products with saturation at 16 bits. 0..15 stays
//     below it for a whole block (8 steps x 2 x 15 x 127 = 30480); 0..255 would not: AVX2 moves the
//     codes' signs to the activations (2 x 128 x 127 = 32512), AVX-512BW, which has no such
//     instruction, takes the nibbles separately.
//   elsewhere on x86: even and odd bytes widened to 16 bits, then pairs of 16-bit products.
#pragma once

#include "simd.h"

namespace llmc {

constexpr int kBlock = 32;  // k per quantization block, of weights and of activations

LLMC_INLINE IVec load_int(const void* p) {
  IVec v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
LLMC_INLINE int32_t load_four(const int8_t* p) {
  int32_t v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
LLMC_INLINE IVec low_nibbles(IVec v) { return v & 0x0f0f0f0f; }
LLMC_INLINE IVec high_nibbles(IVec v) { return (IVec)((UVec)v >> 4) & 0x0f0f0f0f; }

#if defined(__AVX512VNNI__)

struct NibbleDot {
  IVec sum;
  static LLMC_METHOD NibbleDot start(int32_t from) { return {splat_int(from)}; }
  LLMC_METHOD void add(IVec w, int32_t x) {
    sum = (IVec)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, _mm512_set1_epi32(x));
  }
  LLMC_METHOD IVec total() const { return sum; }
};
using ByteDot = NibbleDot;

#elif defined(__AVXVNNI__)

struct NibbleDot {
  IVec sum;
  static LLMC_METHOD NibbleDot start(int32_t from) { return {splat_int(from)}; }
  LLMC_METHOD void add(IVec w, int32_t x) {
    typedef int32_t Half __attribute__((ext_vector_type(8)));
    const __m256i four = _mm256_set1_epi32(x);
    sum.lo = (Half)_mm256_dpbusd_avx_epi32((__m256i)sum.lo, (__m256i)w.lo, four);
    sum.hi = (Half)_mm256_dpbusd_avx_epi32((__m256i)sum.hi, (__m256i)w.hi, four);
  }
  LLMC_METHOD IVec total() const { return sum; }
};
using ByteDot = NibbleDot;

#elif defined(__AVX2__)

// Pairs of u8 x s8 products, and the sum of neighbours: 16 lanes from two or one registers.
LLMC_INLINE IVec multiply_pairs(IVec w, IVec x) {
#if defined(__AVX512BW__)
  return (IVec)_mm512_maddubs_epi16((__m512i)w, (__m512i)x);
#else
  typedef int32_t Half __attribute__((ext_vector_type(8)));
  IVec y;
  y.lo = (Half)_mm256_maddubs_epi16((__m256i)w.lo, (__m256i)x.lo);
  y.hi = (Half)_mm256_maddubs_epi16((__m256i)w.hi, (__m256i)x.hi);
  return y;
#endif
}
typedef int16_t SVec __attribute__((ext_vector_type(32)));
LLMC_INLINE IVec add_shorts(IVec a, IVec b) { return (IVec)((SVec)a + (SVec)b); }
// Lanes of 32 bits as the sum of their 16-bit halves.
LLMC_INLINE IVec sum_neighbours(IVec v) {
  typedef int32_t Half __attribute__((ext_vector_type(8)));
  const __m256i ones = _mm256_set1_epi16(1);
  IVec y;
  y.lo = (Half)_mm256_madd_epi16((__m256i)v.lo, ones);
  y.hi = (Half)_mm256_madd_epi16((__m256i)v.hi, ones);
  return y;
}

struct NibbleDot {
  IVec sum;  // 32 sums of 16 bits
  int32_t from;
  static LLMC_METHOD NibbleDot start(int32_t from) { return {splat_int(0), from}; }
  LLMC_METHOD void add(IVec w, int32_t x) {
    sum = add_shorts(sum, multiply_pairs(w, splat_int(x)));
  }
  LLMC_METHOD IVec total() const { return sum_neighbours(sum) + from; }
};
#if defined(__AVX512BW__)
struct ByteDot {
  NibbleDot low, high;
  static LLMC_METHOD ByteDot start(int32_t from) {
    return {NibbleDot::start(from), NibbleDot::start(0)};
  }
  LLMC_METHOD void add(IVec w, int32_t x) {
    low.add(low_nibbles(w), x);
    high.add(high_nibbles(w), x);
  }
  LLMC_METHOD IVec total() const { return low.total() + (high.total() << 4); }
};
#else
struct ByteDot {
  IVec sum;
  static LLMC_METHOD ByteDot start(int32_t) { return {splat_int(0)}; }  // codes are signed here
  LLMC_METHOD void add(IVec w, int32_t x) {
    typedef int32_t Half __attribute__((ext_vector_type(8)));
    const __m256i ones = _mm256_set1_epi16(1), four = _mm256_set1_epi32(x);
    const auto products = [&](__m256i code) {
      const __m256i signs = _mm256_sign_epi8(four, code);
      const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(code), signs);
      return (Half)_mm256_madd_epi16(pairs, ones);
    };
    const IVec codes = w ^ (int32_t)0x80808080;
    sum.lo += products((__m256i)codes.lo), sum.hi += products((__m256i)codes.hi);
  }
  LLMC_METHOD IVec total() const { return sum; }
};
#endif
#define LLMC_SHORT_SUMS  // of products, in 16 bits

#else

// Lane i: a[2i] b[2i] + a[2i+1] b[2i+1] of 16-bit halves.
LLMC_INLINE IVec multiply_halves(IVec a, IVec b) {
#if defined(__SSE2__)
  typedef int32_t Quarter __attribute__((ext_vector_type(4)));
  auto quarter = [](Quarter x, Quarter y) {
    return __builtin_bit_cast(Quarter, _mm_madd_epi16((__m128i)x, (__m128i)y));
  };
  IVec y;
  y.lo.lo = quarter(a.lo.lo, b.lo.lo);
  y.lo.hi = quarter(a.lo.hi, b.lo.hi);
  y.hi.lo = quarter(a.hi.lo, b.hi.lo);
  y.hi.hi = quarter(a.hi.hi, b.hi.hi);
  return y;
#else
  return ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#endif
}

struct NibbleDot {
  IVec sum;
  static LLMC_METHOD NibbleDot start(int32_t from) { return {splat_int(from)}; }
  LLMC_METHOD void add(IVec w, int32_t x) {
    typedef int16_t SVec __attribute__((ext_vector_type(32)));
    SVec pairs = (SVec)splat_int(x);
    sum += multiply_halves(w & 0x00ff00ff, (IVec)((pairs << 8) >> 8));
    sum += multiply_halves((IVec)((UVec)w >> 8) & 0x00ff00ff, (IVec)(pairs >> 8));
  }
  LLMC_METHOD IVec total() const { return sum; }
};
using ByteDot = NibbleDot;

#endif

#if defined(LLMC_SHORT_SUMS)
struct FoldedDot {
  IVec sum, pairs;
  static LLMC_METHOD FoldedDot start(int32_t from) { return {splat_int(from), splat_int(0)}; }
  LLMC_METHOD void add(IVec w, int32_t x) {
    pairs = add_shorts(pairs, multiply_pairs(w, splat_int(x)));
  }
  LLMC_METHOD void fold() { sum += sum_neighbours(pairs), pairs = splat_int(0); }
  LLMC_METHOD IVec total() const { return sum; }
};
#else
struct FoldedDot : NibbleDot {
  static LLMC_METHOD FoldedDot start(int32_t from) { return {NibbleDot::start(from)}; }
  LLMC_METHOD void fold() {}
};
#endif

}  // namespace llmc
