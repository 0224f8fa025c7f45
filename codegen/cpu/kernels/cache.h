// The paged key/value cache: its layout, and the kernels that write a step's keys and values.
//
// A group's memory is one block of 64 tokens after another. A block holds, for each attention site
// of the group, one page per kv head, so that what a query reads of a block lies side by side, and
// memory that was never used is never touched, even where it consists of huge pages. With head
// sizes rounded up to multiples of 16, a page is
//
//   keys    [dk / P][64][P]    values    [64 / P][dv][P]
//   int8 only: f32 scales of the 64 keys, f32 scales of the 64 values
//
// with P elements in 32 bits: f32 1, bf16 2, int8 4. Whatever the element, a vector of 16 lanes of
// 32 bits holds 16 keys x P dimensions, or 16 dimensions x P values, which is the shape that dot
// product instructions take.
//
// int8: keys and values are rotated by a Hadamard matrix (`rotate_hadamard`), which spreads the few
// large dimensions that they tend to have over all of them. A key is coded as round(x / scale) + 128
// with scale = max|x| / 127; queries are rotated alike, which leaves their products as they were. A
// value is coded as round(x / scale), with the least power of two for a scale that lets it fit; sums
// of values are rotated back.
//
// Where a step's last token does not end a group of P tokens, the writer clears the rest of the
// group, so that what stands beside a written value is finite.
#pragma once

#include <stdint.h>

#include "rotary.h"
#include "simd.h"
#include "team.h"

namespace llmc {

constexpr int BLOCK = 64;

// The sequences of one step. Query token j of sequence s has the absolute position
// context_len[s] - (query_start[s + 1] - query_start[s]) + j.
struct Batch {
  int T, S;
  const int32_t* query_start;  // [S + 1]
  const int32_t* context_len;  // [S], tokens in the cache after this step
};

// Block id of position p of sequence s: block_table[s * blocks_per_seq + p / BLOCK]. An entry of
// -1 was freed (outside the sliding window) and is never touched.
struct CacheGroup {
  const int32_t* block_table;
  int blocks_per_seq;
  int64_t block_bytes;  // from one block to the next: all sites of the group
};

// A cache element kept as bfloat16: the upper half of a float's bits.
struct bf16 {
  uint16_t bits;
};

inline int first_query_position(const Batch& batch, int s) {
  return batch.context_len[s] - (batch.query_start[s + 1] - batch.query_start[s]);
}

// One attention site's pages; dk and dv are the head sizes in memory, multiples of 16.
template <class KV>
struct Pages {
  using Element = KV;
  static constexpr int kPerWord = 4 / (int)sizeof(KV);
  static constexpr bool kCoded = sizeof(KV) == 1;
  static constexpr int kParts = 1;            // of a key, with scales of their own
  static constexpr bool kHoldsValues = true;  // behind the keys
  char* base;  // of the site in block 0
  int64_t block_bytes;
  int hkv, dk, dv;

  static Pages of(const KV* pool, const CacheGroup& group, int hkv, int dk, int dv) {
    return {(char*)pool, group.block_bytes, hkv, round_up(dk, kLanes), round_up(dv, kLanes)};
  }
  int part(int) const { return dk; }
  int64_t key_bytes() const { return (int64_t)BLOCK * dk * sizeof(KV); }
  int64_t page_bytes() const {
    return (int64_t)BLOCK * (dk + dv) * sizeof(KV) + (kCoded ? 2 * BLOCK * sizeof(float) : 0);
  }
  char* page(int block, int head) const { return base + block * block_bytes + head * page_bytes(); }
  uint32_t* keys(char* page) const { return (uint32_t*)page; }
  uint32_t* values(char* page) const { return (uint32_t*)(page + key_bytes()); }
  float* key_scales(char* page) const {
    return (float*)(page + page_bytes() - 2 * BLOCK * sizeof(float));
  }
  float* value_scales(char* page) const { return key_scales(page) + BLOCK; }
};

// ---- int8 codes --------------------------------------------------------------------------------

// Sums and differences at distance H within a vector, one stage of the Hadamard transform.
template <int H>
LLMC_INLINE Vec hadamard_stage(Vec x) {
#define LLMC_AT(i) (i) ^ H
  const Vec other = __builtin_shufflevector(
      x, x, LLMC_AT(0), LLMC_AT(1), LLMC_AT(2), LLMC_AT(3), LLMC_AT(4), LLMC_AT(5), LLMC_AT(6),
      LLMC_AT(7), LLMC_AT(8), LLMC_AT(9), LLMC_AT(10), LLMC_AT(11), LLMC_AT(12), LLMC_AT(13),
      LLMC_AT(14), LLMC_AT(15));
#undef LLMC_AT
  const IVec lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return select((lane & H) != 0, other - x, other + x);
}

// Dimensions that `rotate_hadamard` mixes: the largest power of two that divides n.
constexpr int hadamard_size(int n) { return n & -n; }

// x [n] times blocks of the Hadamard matrix (entries 1 and -1, Sylvester's order), in place. n is a
// multiple of 16. Products of two rotated vectors are hadamard_size(n) times those of the originals.
inline void rotate_hadamard(float* x, int n) {
  for (int i = 0; i < n; i += kLanes) {
    const Vec v = load(x + i);
    store(x + i, hadamard_stage<8>(hadamard_stage<4>(hadamard_stage<2>(hadamard_stage<1>(v)))));
  }
  for (int h = kLanes; h < hadamard_size(n); h *= 2)
    for (int i = 0; i < n; i += 2 * h)
      for (int j = i; j < i + h; j += kLanes) {
        const Vec a = load(x + j), b = load(x + j + h);
        store(x + j, a + b);
        store(x + j + h, a - b);
      }
}

LLMC_INLINE float largest_magnitude(const float* x, int n) {
  Vec most = splat(0.0f);
  for (int i = 0; i < n; i += kLanes) most = max(abs(load(x + i)), most);
  return reduce_max(most);
}

typedef int8_t Codes __attribute__((ext_vector_type(16)));

LLMC_INLINE Codes to_codes(Vec x) {
  return __builtin_convertvector(__builtin_convertvector(round_even(x), IVec), Codes);
}

// 1 / scale, or 0 where the scale is too small to divide by.
LLMC_INLINE float code_factor(float scale) {
  const float inverse = 1.0f / scale;
  return inverse <= __FLT_MAX__ ? inverse : 0.0f;
}

// ---- writing -----------------------------------------------------------------------------------

// A token's place in a page, and how many places after it (in its group of P tokens) to clear.
struct Place {
  int at, clear;
};

// x [dk rounded up to 16], zeros behind the head; overwritten.
inline void write_key(const Pages<float>& pages, char* page, int at, float* x) {
  float* to = (float*)pages.keys(page) + at;
  for (int i = 0; i < pages.dk; ++i) to[i * BLOCK] = x[i];
}
inline void write_key(const Pages<bf16>& pages, char* page, int at, float* x) {
  uint32_t* to = pages.keys(page) + at;
  for (int i = 0; i < pages.dk / 2; ++i)
    to[i * BLOCK] = float_to_bf16(x[2 * i]) | (uint32_t)float_to_bf16(x[2 * i + 1]) << 16;
}
inline void write_key(const Pages<int8_t>& pages, char* page, int at, float* x) {
  rotate_hadamard(x, pages.dk);
  const float scale = largest_magnitude(x, pages.dk) / 127.0f;
  const Vec factor = splat(code_factor(scale));
  uint32_t* to = pages.keys(page) + at;
  for (int i = 0; i < pages.dk; i += kLanes) {
    const Codes codes = to_codes(load(x + i) * factor);
    uint32_t words[4];
    __builtin_memcpy(words, &codes, sizeof words);
    for (int w = 0; w < 4; ++w) to[(i / 4 + w) * BLOCK] = words[w] ^ 0x80808080u;  // adds 128
  }
  pages.key_scales(page)[at] = scale / (float)hadamard_size(pages.dk);
}

inline void write_value(const Pages<float>& pages, char* page, Place place, float* x) {
  float* to = (float*)pages.values(page) + (int64_t)place.at * pages.dv;
  for (int i = 0; i < pages.dv; i += kLanes) store(to + i, load(x + i));
}
inline void write_value(const Pages<bf16>& pages, char* page, Place place, float* x) {
  bf16* to = (bf16*)pages.values(page) + (int64_t)(place.at / 2) * pages.dv * 2 + place.at % 2;
  for (int i = 0; i < pages.dv; ++i) to[2 * i].bits = float_to_bf16(x[i]);
  for (int i = 0; i < (place.clear ? pages.dv : 0); ++i) to[2 * i + 1].bits = 0;
}

// The least power of two that is not below x >= 0; at least 2^-60.
LLMC_INLINE float power_of_two(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x > 0x1p-60f ? x : 0x1p-60f);
  return __builtin_bit_cast(float, (bits + 0x7fffffu) & 0x7f800000u);
}
inline void write_value(const Pages<int8_t>& pages, char* page, Place place, float* x) {
  rotate_hadamard(x, pages.dv);
  const float scale = power_of_two(largest_magnitude(x, pages.dv) / 127.0f);
  const Vec factor = splat(1.0f / scale);
  int8_t* to = (int8_t*)pages.values(page) + (int64_t)(place.at / 4) * pages.dv * 4 + place.at % 4;
  for (int i = 0; i < pages.dv; i += kLanes) {
    const Codes codes = to_codes(load(x + i) * factor);
    for (int j = 0; j < kLanes; ++j) to[4 * (i + j)] = codes[j];
  }
  pages.value_scales(page)[place.at] = scale;
}

// A sum of values as they were written, in place but for the factor that is returned.
template <class KV>
inline float rotate_back(const Pages<KV>& pages, float* x) {
  if (!Pages<KV>::kCoded) return 1.0f;
  rotate_hadamard(x, pages.dv);
  return 1.0f / (float)hadamard_size(pages.dv);
}

// Calls visit(token, head, block, place) for this thread's share of heads x tokens.
template <class Visit>
inline void for_each_new_token(Team& team, const Batch& batch, const CacheGroup& group, int heads,
                               int per_word, Visit visit) {
  const Range items = team_range(team, batch.T * heads);
  for (int begin = items.begin; begin < items.end;) {
    const int head = begin / batch.T, base = head * batch.T;
    const int lo = begin - base, hi = min_int(items.end - base, batch.T);
    for (int s = 0; s < batch.S; ++s) {
      const int32_t* blocks = group.block_table + (int64_t)s * group.blocks_per_seq;
      const int end = batch.query_start[s + 1];
      const int from = max_int(batch.query_start[s], lo);
      for (int t = from; t < min_int(end, hi); ++t) {
        const int position = first_query_position(batch, s) + t - batch.query_start[s];
        const int at = position % BLOCK;
        const int clear = t + 1 == end ? per_word - 1 - at % per_word : 0;
        visit(t, head, blocks[position / BLOCK], Place{at, clear});
      }
    }
    begin = base + hi;
  }
}

// k [T, hkv, dk] and v [T, hkv, dv] with token strides ldk, ldv, into their pages. Where the table
// has cosines, keys are rotated on their way (as `rotary` would, bit for bit).
template <class KV>
inline void cache_write(Team& team, const Batch& batch, const CacheGroup& group, int hkv, int dk,
                        int dv, const RotaryTable& table, const float* k, int ldk, const float* v,
                        int ldv, KV* pool) {
  const auto pages = Pages<KV>::of(pool, group, hkv, dk, dv);
  float* key = (float*)team.scratch;
  float* value = key + pages.dk;
  const auto write = [&](int t, int head, int block, Place place) {
    char* page = pages.page(block, head);
    rotate_or_copy(table, t, dk, k + (int64_t)t * ldk + (int64_t)head * dk, key);
    for (int i = dk; i < pages.dk; ++i) key[i] = 0.0f;
    write_key(pages, page, place.at, key);
    __builtin_memcpy(value, v + (int64_t)t * ldv + (int64_t)head * dv, dv * sizeof(float));
    for (int i = dv; i < pages.dv; ++i) value[i] = 0.0f;
    write_value(pages, page, place, value);
  };
  for_each_new_token(team, batch, group, hkv, Pages<KV>::kPerWord, write);
}

}  // namespace llmc
