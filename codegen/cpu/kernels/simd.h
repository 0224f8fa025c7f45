// Vectors of 16 lanes: the one place that knows how wide the machine is.
//
// A `Vec` is 16 floats whatever the instruction set: one register with AVX-512, two with AVX2,
// four with SSE2 or NEON. Kernels are written once against it. Built on clang's vector extension
// (the libraries are always built with `ziglang`, which is clang), so the compiler splits wide
// vectors itself; intrinsics appear only where it does not find the instruction.
//
// Everything is exact or correctly rounded IEEE arithmetic, except exp (2 ulp) and what is built
// on it. Build with -ffp-contract=off: a multiply and an add fuse only where the source says
// `fma`.
#pragma once

#include <stddef.h>
#include <stdint.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define LLMC_INLINE static inline __attribute__((always_inline))
#define LLMC_METHOD inline __attribute__((always_inline))

namespace llmc {

constexpr int kLanes = 16;
typedef float Vec __attribute__((ext_vector_type(16)));
typedef int32_t IVec __attribute__((ext_vector_type(16)));
typedef uint32_t UVec __attribute__((ext_vector_type(16)));
typedef uint16_t HVec __attribute__((ext_vector_type(16)));  // 16 half-width floats, as bits

constexpr int round_up(int x, int to) { return (x + to - 1) / to * to; }
constexpr int ceil_div(int x, int by) { return (x + by - 1) / by; }
LLMC_INLINE int min_int(int a, int b) { return a < b ? a : b; }
LLMC_INLINE int max_int(int a, int b) { return a > b ? a : b; }

// ---- moving data -------------------------------------------------------------------------------

LLMC_INLINE Vec splat(float x) { return (Vec)(x); }
LLMC_INLINE IVec splat_int(int32_t x) { return (IVec)(x); }
LLMC_INLINE Vec as_float(IVec v) { return __builtin_bit_cast(Vec, v); }
LLMC_INLINE IVec as_int(Vec v) { return __builtin_bit_cast(IVec, v); }
LLMC_INLINE float as_float(int32_t v) { return __builtin_bit_cast(float, v); }
LLMC_INLINE int32_t as_int(float v) { return __builtin_bit_cast(int32_t, v); }
LLMC_INLINE Vec to_float(IVec v) { return __builtin_convertvector(v, Vec); }

LLMC_INLINE Vec load(const float* p) {
  Vec v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
LLMC_INLINE void store(float* p, Vec v) { __builtin_memcpy(p, &v, sizeof v); }

// The first n (0..16) lanes; the other lanes are 0 and their memory is not touched.
LLMC_INLINE Vec load_partial(const float* p, int n) {
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
  Vec v = splat(0.0f);
  for (int i = 0; i < kLanes; i++)
    if (i < n) v[i] = p[i];
  return v;
#endif
}
LLMC_INLINE void store_partial(float* p, Vec v, int n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#else
  for (int i = 0; i < kLanes; i++)
    if (i < n) p[i] = v[i];
#endif
}

// ---- arithmetic --------------------------------------------------------------------------------

// a * b + c with one rounding where the machine has it, two otherwise.
LLMC_INLINE Vec fma(Vec a, Vec b, Vec c) {
#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__)
  return __builtin_elementwise_fma(a, b, c);
#else
  return a * b + c;
#endif
}
LLMC_INLINE float fma(float a, float b, float c) {
#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
// As the x86 instructions: where a lane is NaN in either, the result is b.
LLMC_INLINE Vec max(Vec a, Vec b) { return a > b ? a : b; }
LLMC_INLINE Vec min(Vec a, Vec b) { return a < b ? a : b; }
LLMC_INLINE Vec sqrt(Vec a) { return __builtin_elementwise_sqrt(a); }
LLMC_INLINE Vec select(IVec mask, Vec yes, Vec no) { return mask ? yes : no; }

// From here on V is Vec or float: loops over single elements get the same bits, and compilers make
// vectors of them, which they can't of calls of the math library.
template <class V>
LLMC_INLINE V lanes(float x) {
  return (V)(x);
}
template <class V>
LLMC_INLINE V abs(V a) {
  return as_float(as_int(a) & 0x7fffffff);
}
template <class V>
LLMC_INLINE V copy_sign(V magnitude, V sign) {
  return as_float((as_int(magnitude) & 0x7fffffff) | (as_int(sign) & (int32_t)0x80000000));
}

// Sum and maximum of the lanes, always as the same balanced tree (so results do not depend on the
// machine).
LLMC_INLINE float reduce_add(Vec v) {
  auto a = v.lo + v.hi;
  auto b = a.lo + a.hi;
  auto c = b.lo + b.hi;
  return c.x + c.y;
}
LLMC_INLINE float reduce_max(Vec v) {
  auto a = v.lo > v.hi ? v.lo : v.hi;
  auto b = a.lo > a.hi ? a.lo : a.hi;
  auto c = b.lo > b.hi ? b.lo : b.hi;
  return c.x > c.y ? c.x : c.y;
}

// Round half to even, exact for |x| < 2^22 (adding 1.5 * 2^23 leaves no fraction bits).
LLMC_INLINE Vec round_even(Vec x) {
  const Vec magic = splat(12582912.0f);
  return (x + magic) - magic;
}

// ---- half-width floats -------------------------------------------------------------------------

LLMC_INLINE HVec load_half(const uint16_t* p) {
  HVec v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
LLMC_INLINE void store_half(uint16_t* p, HVec v) { __builtin_memcpy(p, &v, sizeof v); }

LLMC_INLINE Vec f16_to_float(HVec h) {
#if defined(__F16C__) || defined(__AVX512F__) || defined(__aarch64__)
  typedef _Float16 Half __attribute__((ext_vector_type(16)));
  return __builtin_convertvector(__builtin_bit_cast(Half, h), Vec);
#else
  // Exponent and mantissa moved into place; the multiplication rebiases and normalises subnormals.
  UVec bits = __builtin_convertvector(h, UVec);
  Vec magnitude = as_float((IVec)((bits & 0x7fff) << 13)) * splat(0x1p112f);
  IVec special = (IVec)((bits & 0x7c00) == 0x7c00);
  IVec out = as_int(magnitude) | (special & 0x7f800000) | (IVec)((bits & 0x8000) << 16);
  return as_float(out);
#endif
}
LLMC_INLINE Vec bf16_to_float(HVec h) {
  return as_float((IVec)(__builtin_convertvector(h, UVec) << 16));
}
// Round to nearest even; a NaN stays a NaN (made quiet).
LLMC_INLINE HVec float_to_bf16(Vec v) {
  UVec bits = (UVec)as_int(v);
  UVec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  UVec nan = (bits >> 16) | 0x40;
  IVec is_nan = v != v;
  return __builtin_convertvector(is_nan ? nan : rounded, HVec);
}
LLMC_INLINE float bf16_to_float(uint16_t h) { return __builtin_bit_cast(float, (uint32_t)h << 16); }
LLMC_INLINE uint16_t float_to_bf16(float x) {
  uint32_t bits = __builtin_bit_cast(uint32_t, x);
  if (x != x) return (uint16_t)((bits >> 16) | 0x40);
  return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// ---- functions ---------------------------------------------------------------------------------
// Polynomial coefficients are our own minimax fits in float64 (weighted least squares, Lawson's
// iteration).

// e^x within 2 ulp. Below -86.6 the result is 0 (no subnormals), above 88.72 infinity, NaN stays
// NaN.
template <class V>
LLMC_INLINE V exp(V x) {
  const V magic = lanes<V>(12582912.0f);
  V shifted = fma(x, lanes<V>(1.44269504f), magic);
  V n = shifted - magic;
  // ln 2 in two parts; the first has few bits, so that n times it is exact.
  V r = fma(n, lanes<V>(-0.693359375f), x);
  r = fma(n, lanes<V>(2.12194440e-4f), r);
  // e^r = 1 + r + r^2 q(r) for |r| <= ln(2)/2, error 3.2e-9
  V q = lanes<V>(0.00139508335f);
  q = fma(q, r, lanes<V>(0.00836908828f));
  q = fma(q, r, lanes<V>(0.0416662007f));
  q = fma(q, r, lanes<V>(0.166665172f));
  q = fma(q, r, lanes<V>(0.50000001f));
  V p = fma(q, r * r, r) + lanes<V>(1.0f);
  // 2^n as 2 * 2^(n-1), since 2^128 itself is not a float
  V scale = as_float((as_int(shifted) + 126) << 23);
  V y = p * scale * lanes<V>(2.0f);
  y = x < lanes<V>(-86.6f) ? lanes<V>(0.0f) : y;
  return x > lanes<V>(88.722f) ? lanes<V>(__builtin_inff()) : y;
}

template <class V>
LLMC_INLINE V sigmoid(V x) {
  return lanes<V>(1.0f) / (lanes<V>(1.0f) + exp(-x));
}
template <class V>
LLMC_INLINE V silu(V x) {
  return x / (lanes<V>(1.0f) + exp(-x));
}

// log(1 + e^x), as max(x, 0) + log1p(e) of e = e^-|x|: with s = e / (2 + e), log1p(e) = 2 atanh(s), whose
// series up to s^13 is within 2e-8 of it for s <= 1/3.
template <class V>
LLMC_INLINE V softplus(V x) {
  V e = exp(-abs(x));
  V s = e / (lanes<V>(2.0f) + e);
  V z = s * s;
  V p = lanes<V>(2.0f / 13);
  p = fma(p, z, lanes<V>(2.0f / 11));
  p = fma(p, z, lanes<V>(2.0f / 9));
  p = fma(p, z, lanes<V>(2.0f / 7));
  p = fma(p, z, lanes<V>(2.0f / 5));
  p = fma(p, z, lanes<V>(2.0f / 3));
  p = fma(p, z, lanes<V>(2.0f));
  return fma(p, s, x > lanes<V>(0.0f) ? x : lanes<V>(0.0f));
}

// tanh within 1e-7: odd polynomial near 0, 1 - 2 / (e^2x + 1) elsewhere.
template <class V>
LLMC_INLINE V tanh(V x) {
  V z = x * x;
  V p = lanes<V>(-0.00571703656f);
  p = fma(p, z, lanes<V>(0.020650579f));
  p = fma(p, z, lanes<V>(-0.0537434953f));
  p = fma(p, z, lanes<V>(0.133314912f));
  p = fma(p, z, lanes<V>(-0.333332839f));
  V near = fma(p * z, x, x);
  V far = lanes<V>(1.0f) - lanes<V>(2.0f) / (exp(abs(x) * lanes<V>(2.0f)) + lanes<V>(1.0f));
  return abs(x) < lanes<V>(0.625f) ? near : copy_sign(far, x);
}

// erf within 1e-7: odd polynomial up to 1, then 1 - e^-p(|x|) with p fitted to -log(erfc).
template <class V>
LLMC_INLINE V erf(V x) {
  V z = x * x;
  V p = lanes<V>(7.88911954e-05f);
  p = fma(p, z, lanes<V>(-0.000802084128f));
  p = fma(p, z, lanes<V>(0.00518953534f));
  p = fma(p, z, lanes<V>(-0.0268544446f));
  p = fma(p, z, lanes<V>(0.112836002f));
  p = fma(p, z, lanes<V>(-0.376126271f));
  p = fma(p, z, lanes<V>(1.12837917f));
  V a = abs(x) < lanes<V>(4.0f) ? abs(x) : lanes<V>(4.0f);          // erf(4) is 1 in float
  V q = lanes<V>(-0.000185574893f);
  q = fma(q, a, lanes<V>(0.00293961573f));
  q = fma(q, a, lanes<V>(-0.0218053512f));
  q = fma(q, a, lanes<V>(0.103037436f));
  q = fma(q, a, lanes<V>(0.638225602f));
  q = fma(q, a, lanes<V>(1.12704008f));
  q = fma(q, a, lanes<V>(0.00035370893f));
  V far = lanes<V>(1.0f) - exp(-q);
  V y = abs(x) < lanes<V>(1.0f) ? p * x : copy_sign(far, x);
  return x != x ? x : y;
}

template <class V>
LLMC_INLINE V gelu_erf(V x) {
  V half = x * lanes<V>(0.5f);
  return fma(half, erf(x * lanes<V>(0.70710678f)), half);
}
template <class V>
LLMC_INLINE V gelu_tanh(V x) {
  V inner = lanes<V>(0.79788456f) * fma(lanes<V>(0.044715f) * x * x, x, x);
  V half = x * lanes<V>(0.5f);
  return fma(half, tanh(inner), half);
}

// ---- activation functions, chosen at run time by kernels whose cost lies elsewhere -------------

enum class Act { none, relu, silu, gelu_tanh, gelu_erf, relu2, sigmoid, tanh_ };

LLMC_INLINE Vec apply_act(Act act, Vec x) {
  const Vec zero = splat(0.0f);
  switch (act) {
    case Act::none: return x;
    case Act::relu: return x < zero ? zero : x;
    case Act::silu: return silu(x);
    case Act::gelu_tanh: return gelu_tanh(x);
    case Act::gelu_erf: return gelu_erf(x);
    case Act::relu2: x = x < zero ? zero : x; return x * x;
    case Act::sigmoid: return sigmoid(x);
    case Act::tanh_: return tanh(x);
  }
  return x;
}

}  // namespace llmc
