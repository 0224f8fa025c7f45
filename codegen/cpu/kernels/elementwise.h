// Scalar functions of the generic path: one per name in ir/ops/elementwise.py, with torch's results.
//
// Generated loops read an element with `load`, convert it with `as<C>` to the type C that the op
// computes in (float for bf16 and f16), call a function of namespace `op`, and write with `store`.
// What networks are full of (e^x and what is built on it) has the arithmetic of simd.h, so that loops are
// vectorized; the rest favours exactness over speed: the math library's functions, NaN as torch has
// it, Python's rounding of integer division. Integer arithmetic wraps; division of an integer by 0
// gives 0.
#pragma once

#include <stdint.h>

#include "cache.h"
#include "simd.h"

namespace llmc {

typedef _Float16 f16;

namespace op {

LLMC_INLINE float load(bf16 x) { return bf16_to_float(x.bits); }
LLMC_INLINE float load(f16 x) { return (float)x; }
template <class T>
LLMC_INLINE T load(T x) {
  return x;
}

template <class C, class T>
LLMC_INLINE C as(T x) {
  if constexpr (__is_same(C, bool)) return x != 0;
  else if constexpr (__is_same(C, uint8_t) || __is_same(C, int8_t)) return (C)(int64_t)x;  // negative floats wrap
  else return (C)x;
}

template <class T>
LLMC_INLINE void store(bf16& to, T x) {
  to.bits = float_to_bf16(as<float>(x));
}
template <class T>
LLMC_INLINE void store(f16& to, T x) {
  to = (f16)as<float>(x);
}
template <class D, class T>
LLMC_INLINE void store(D& to, T x) {
  to = as<D>(x);
}

// Order of argmax and top-k: the larger first, NaN before all numbers; equal elements keep their order.
template <class T>
LLMC_INLINE bool ranks_before(T x, T other) {
  return x != x ? other == other : x > other;
}

template <class T>
constexpr bool is_float = __is_same(T, float) || __is_same(T, double);
template <class T>
constexpr bool is_bool = __is_same(T, bool);

// ---- unary ------------------------------------------------------------------------------------------------

#define LLMC_MATH(name, call) \
  LLMC_INLINE float name(float x) { return call; }

LLMC_MATH(cos, __builtin_cosf(x))
LLMC_MATH(sin, __builtin_sinf(x))
LLMC_MATH(tan, __builtin_tanf(x))
LLMC_MATH(exp, llmc::exp(x))
LLMC_MATH(expm1, __builtin_expm1f(x))
LLMC_MATH(log, __builtin_logf(x))
LLMC_MATH(log1p, __builtin_log1pf(x))
LLMC_MATH(log2, __builtin_log2f(x))
LLMC_MATH(sqrt, __builtin_sqrtf(x))
LLMC_MATH(rsqrt, 1.0f / __builtin_sqrtf(x))
LLMC_MATH(tanh, llmc::tanh(x))
LLMC_MATH(erf, llmc::erf(x))
LLMC_MATH(reciprocal, 1.0f / x)
LLMC_MATH(sigmoid, llmc::sigmoid(x))
LLMC_MATH(silu, llmc::silu(x))
LLMC_MATH(elu, x > 0.0f ? x : __builtin_expm1f(x))
LLMC_MATH(selu, 1.05070098f * (x > 0.0f ? x : 1.67326324f * __builtin_expm1f(x)))
LLMC_MATH(softplus, llmc::softplus(x))
LLMC_MATH(mish, x * llmc::tanh(softplus(x)))
LLMC_MATH(gelu, llmc::gelu_erf(x))
LLMC_MATH(gelu_tanh, llmc::gelu_tanh(x))
LLMC_MATH(clip6, x < 0.0f ? 0.0f : (x > 6.0f ? 6.0f : x))
LLMC_MATH(hardsigmoid, clip6(x + 3.0f) / 6.0f)
LLMC_MATH(hardswish, x * clip6(x + 3.0f) / 6.0f)
#undef LLMC_MATH

template <class T>
LLMC_INLINE T abs(T x) {
  if constexpr (is_float<T>) return __builtin_fabsf(x);
  else return x < 0 ? (T)-x : x;
}
template <class T>
LLMC_INLINE T neg(T x) {
  return (T)-x;
}
template <class T>
LLMC_INLINE T relu(T x) {
  return x < 0 ? (T)0 : x;  // NaN stays
}
template <class T>
LLMC_INLINE T square(T x) {
  return (T)(x * x);
}
template <class T>
LLMC_INLINE T relu2(T x) {
  return square(relu(x));
}
template <class T>
LLMC_INLINE T sign(T x) {
  return (T)((x > 0) - (x < 0));
}
template <class T>
LLMC_INLINE T floor(T x) {
  if constexpr (is_float<T>) return __builtin_floorf(x);
  else return x;
}
template <class T>
LLMC_INLINE T ceil(T x) {
  if constexpr (is_float<T>) return __builtin_ceilf(x);
  else return x;
}
template <class T>
LLMC_INLINE T trunc(T x) {
  if constexpr (is_float<T>) return __builtin_truncf(x);
  else return x;
}
template <class T>
LLMC_INLINE T round(T x) {  // half to even
  if constexpr (is_float<T>) return __builtin_rintf(x);
  else return x;
}
template <class T>
LLMC_INLINE T bitwise_not(T x) {
  if constexpr (is_bool<T>) return !x;
  else return (T)~x;
}
template <class T>
LLMC_INLINE bool logical_not(T x) {
  return x == 0;
}
template <class T>
LLMC_INLINE bool isnan(T x) {
  return x != x;
}
template <class T>
LLMC_INLINE bool isinf(T x) {
  if constexpr (is_float<T>) return __builtin_fabsf(x) == __builtin_inff();
  else return false;
}
template <class T>
LLMC_INLINE bool isfinite(T x) {
  return !isnan(x) && !isinf(x);
}

// ---- binary -----------------------------------------------------------------------------------------------

template <class T>
LLMC_INLINE T add(T a, T b) {
  if constexpr (is_bool<T>) return a || b;
  else return (T)(a + b);
}
template <class T>
LLMC_INLINE T sub(T a, T b) {
  return (T)(a - b);
}
template <class T>
LLMC_INLINE T mul(T a, T b) {
  if constexpr (is_bool<T>) return a && b;
  else return (T)(a * b);
}
LLMC_INLINE float div(float a, float b) { return a / b; }
LLMC_INLINE float atan2(float a, float b) { return __builtin_atan2f(a, b); }

template <class T>
LLMC_INLINE T fmod(T a, T b) {  // sign of a
  if constexpr (is_float<T>) return __builtin_fmodf(a, b);
  else return b == 0 || b == (T)-1 ? (T)0 : (T)(a % b);
}
template <class T>
LLMC_INLINE T remainder(T a, T b) {  // sign of b
  T r = fmod(a, b);
  return r != 0 && ((r < 0) != (b < 0)) ? (T)(r + b) : r;
}
template <class T>
LLMC_INLINE T floor_divide(T a, T b) {
  if constexpr (is_float<T>) {
    if (b == 0) return a / b;
    // Through the remainder, so that the quotient is exact where a / b would round up to a whole
    // number.
    T r = __builtin_fmodf(a, b);
    T q = (a - r) / b;
    if (r != 0 && ((b < 0) != (r < 0))) q -= 1;
    if (q == 0) return __builtin_copysignf(0.0f, a / b);
    T whole = __builtin_floorf(q);
    return q - whole > 0.5f ? whole + 1 : whole;
  } else {
    if (b == 0) return 0;
    if (b == (T)-1) return (T)(0 - a);
    T q = (T)(a / b);
    return (T)(a % b != 0 && ((a < 0) != (b < 0)) ? q - 1 : q);
  }
}
template <class T>
LLMC_INLINE T pow(T a, T b) {
  if constexpr (is_float<T>) {
    return __builtin_powf(a, b);
  } else {
    if (b < 0) return a == 1 ? (T)1 : a == (T)-1 ? (T)(b % 2 ? -1 : 1) : (T)0;
    uint64_t base = (uint64_t)a, y = 1;
    for (uint64_t n = (uint64_t)b; n; n >>= 1, base *= base)
      if (n & 1) y *= base;
    return (T)y;
  }
}
template <class T>
LLMC_INLINE T maximum(T a, T b) {  // NaN if either is
  return a != a ? a : b != b ? b : a > b ? a : b;
}
template <class T>
LLMC_INLINE T minimum(T a, T b) {
  return a != a ? a : b != b ? b : a < b ? a : b;
}
template <class T>
LLMC_INLINE T bitwise_and(T a, T b) {
  return (T)(a & b);
}
template <class T>
LLMC_INLINE T bitwise_or(T a, T b) {
  return (T)(a | b);
}
template <class T>
LLMC_INLINE T bitwise_xor(T a, T b) {
  return (T)(a ^ b);
}
template <class T>
LLMC_INLINE T shift_left(T a, T b) {
  return b < 0 || (uint64_t)b >= sizeof(T) * 8 ? (T)0 : (T)((uint64_t)a << b);
}
template <class T>
LLMC_INLINE T shift_right(T a, T b) {  // arithmetic; shifts past the width leave the sign
  return (T)(a >> (b < 0 || (uint64_t)b >= sizeof(T) * 8 ? (T)(sizeof(T) * 8 - 1) : b));
}

#define LLMC_COMPARE(name, symbol)      \
  template <class T>                    \
  LLMC_INLINE bool name(T a, T b) {     \
    return a symbol b;                  \
  }
LLMC_COMPARE(eq, ==)
LLMC_COMPARE(ne, !=)
LLMC_COMPARE(lt, <)
LLMC_COMPARE(le, <=)
LLMC_COMPARE(gt, >)
LLMC_COMPARE(ge, >=)
#undef LLMC_COMPARE

LLMC_INLINE bool logical_and(bool a, bool b) { return a && b; }
LLMC_INLINE bool logical_or(bool a, bool b) { return a || b; }
LLMC_INLINE bool logical_xor(bool a, bool b) { return a != b; }

}  // namespace op
}  // namespace llmc
