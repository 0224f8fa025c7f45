"""Instructions of newer x86 processors in C++, so that their levels run on older ones.

A level in `INSTRUCTIONS` is compiled for its base level, whose instructions the machine has, after
text that defines the level's macros and puts functions in the place of its intrinsics. All else is
the level's own code.
"""

AVX_VNNI = """
#include <immintrin.h>
#define __AVXVNNI__ 1
static inline __m256i emulated_dpbusd(__m256i sum, __m256i a, __m256i b) {
  const __m256i even_a = _mm256_and_si256(a, _mm256_set1_epi16(255));
  const __m256i even_b = _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8);
  const __m256i even = _mm256_madd_epi16(even_a, even_b);
  const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(b, 8));
  return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
}
#define _mm256_dpbusd_avx_epi32 emulated_dpbusd
"""

INSTRUCTIONS = {"x86-64-v3-vnni": ("x86-64-v3", AVX_VNNI)}
