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

# Tiles of their own for every thread; using one that isn't set up, or with shapes that don't match,
# ends the process, as the processor would.
AMX_INT8 = """
#include <immintrin.h>
#include <stdlib.h>
#include <string.h>
#define LLMC_EMULATED_AMX 1
#define __AMX_TILE__ 1
#define __AMX_INT8__ 1
namespace amx {
struct Tile { int rows, bytes; unsigned char data[16][64]; };
static __thread Tile tiles[8];
static inline Tile& tile(int i) {
  if (tiles[i].rows == 0) abort();
  return tiles[i];
}
static inline void load_config(const void* config) {
  const unsigned char* c = (const unsigned char*)config;
  if (c[0] != 1) abort();
  memset(tiles, 0, sizeof tiles);
  for (int i = 0; i < 8; i++) {
    tiles[i].rows = c[48 + i];
    tiles[i].bytes = c[16 + 2 * i] | c[17 + 2 * i] << 8;
    if (tiles[i].rows > 16 || tiles[i].bytes > 64) abort();
  }
}
static inline void release() { memset(tiles, 0, sizeof tiles); }
static inline void zero(int i) { memset(tile(i).data, 0, sizeof tile(i).data); }
static inline void load(int i, const void* from, long stride) {
  Tile& t = tile(i);
  zero(i);
  for (int r = 0; r < t.rows; r++) memcpy(t.data[r], (const char*)from + r * stride, t.bytes);
}
static inline void store(int i, void* to, long stride) {
  Tile& t = tile(i);
  for (int r = 0; r < t.rows; r++) memcpy((char*)to + r * stride, t.data[r], t.bytes);
}
static inline void multiply(int sum, int left, int right) {  // signed by unsigned
  Tile &c = tile(sum), &a = tile(left), &b = tile(right);
  if (a.rows != c.rows || b.bytes != c.bytes || a.bytes != 4 * b.rows) abort();
  for (int m = 0; m < c.rows; m++)
    for (int n = 0; n < c.bytes / 4; n++) {
      int total;
      memcpy(&total, c.data[m] + 4 * n, 4);
      for (int k = 0; k < a.bytes; k++)
        total += (signed char)a.data[m][k] * (int)b.data[k / 4][4 * n + k % 4];
      memcpy(c.data[m] + 4 * n, &total, 4);
    }
}
}
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbsud
#define _tile_loadconfig amx::load_config
#define _tile_release amx::release
#define _tile_zero amx::zero
#define _tile_loadd amx::load
#define _tile_stored amx::store
#define _tile_dpbsud amx::multiply
"""

INSTRUCTIONS = {
    "x86-64-v3-vnni": ("x86-64-v3", AVX_VNNI),
    "x86-64-v4-amx": ("x86-64-v4-bf16", AMX_INT8),
}
