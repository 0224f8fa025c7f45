// Latents in the paged cache: their layout, the kernel that writes them, and attention to them.
//
// A block holds one page a site for all heads: keys of `latent` and `rope` elements, each rounded up to
// a multiple of 16, of which the latent is the value, too. A page is
//
//   keys [(latent + rope) / P][64][P]
//   int8 only: f32 exponents of the 64 latents, f32 scales of the 64 parts beside them
//
// with P elements in 32 bits (cache.h). Values lie the other way round ([64 / P][latent][P]); each
// thread makes a tile's of its keys, once for all rows that attend to it, which costs a small part of
// what these compute. To hold both would take twice the memory and twice the reading.
//
// int8: latent and part beside it are rotated and coded each on its own. A latent's code is
// round(x / 2^e) + 128 with e the least multiple of 1/16 that lets it fit: as a value it needs the
// logarithm of its scale.
#pragma once

#include <stdint.h>

#include "attention.h"
#include "cache.h"
#include "rotary.h"
#include "simd.h"
#include "team.h"

namespace llmc {

template <class KV>
struct LatentPages : Pages<KV> {
  using Pages<KV>::kPerWord;
  using Pages<KV>::kCoded;
  static constexpr int kParts = kCoded ? 2 : 1;
  static constexpr bool kHoldsValues = false;
  int latent, rope;  // in memory

  static LatentPages of(const KV* pool, const CacheGroup& group, int latent, int rope) {
    const int wide = round_up(latent, kLanes), beside = round_up(rope, kLanes);
    return {{(char*)pool, group.block_bytes, 1, wide + beside, wide}, wide, beside};
  }
  int part(int number) const { return kParts == 1 ? this->dk : number ? rope : latent; }
  int64_t page_bytes() const {
    return this->key_bytes() + (kCoded ? 2 * BLOCK * sizeof(float) : 0);
  }
  char* page(int block, int) const { return this->base + block * this->block_bytes; }
  float* exponents(char* page) const { return (float*)(page + this->key_bytes()); }
  float* rope_scales(char* page) const { return exponents(page) + BLOCK; }
};

// ---- writing -----------------------------------------------------------------------------------

constexpr float kExponentSteps = 16.0f, kLeastExponent = -60.0f;

// log2 of the factor by which products of rotated vectors of n elements exceed those of the originals.
constexpr int hadamard_log(int n) { return __builtin_ctz((unsigned)n); }

// Codes of x [n] times `factor`, 128 too large, for the key `at` from dimension `first` on.
inline void write_codes(uint32_t* keys, int at, int first, const float* x, int n, float factor) {
  uint32_t* to = keys + first / 4 * BLOCK + at;
  for (int i = 0; i < n; i += kLanes) {
    const Codes codes = to_codes(load(x + i) * splat(factor));
    uint32_t words[4];
    __builtin_memcpy(words, &codes, sizeof words);
    for (int w = 0; w < 4; ++w) to[(i / 4 + w) * BLOCK] = words[w] ^ 0x80808080u;
  }
}

// x [latent + rope], zeros behind each part; overwritten.
template <class KV>
inline void write_latent(const LatentPages<KV>& pages, char* page, int at, float* x) {
  if constexpr (!LatentPages<KV>::kCoded) return write_key(pages, page, at, x);
  const int latent = pages.latent, rope = pages.rope;
  rotate_hadamard(x, latent);
  const float log = __builtin_log2f(largest_magnitude(x, latent) / 127.0f);
  const float fitting = __builtin_ceilf(log * kExponentSteps) / kExponentSteps;
  const float exponent = fitting > kLeastExponent ? fitting : kLeastExponent;
  write_codes(pages.keys(page), at, 0, x, latent, exp2(splat(-exponent))[0]);
  pages.exponents(page)[at] = exponent - (float)hadamard_log(latent);
  if (rope == 0) return;
  x += latent;
  rotate_hadamard(x, rope);
  const float scale = largest_magnitude(x, rope) / 127.0f;
  write_codes(pages.keys(page), at, latent, x, rope, code_factor(scale));
  pages.rope_scales(page)[at] = scale / (float)hadamard_size(rope);
}

// c [T, latent] and k_rope [T, rope] with token strides ldc, ldk, into their pages. Where the table has
// cosines, k_rope is rotated on its way (as `rotary` would, bit for bit).
template <class KV>
inline void latent_write(Team& team, const Batch& batch, const CacheGroup& group, int latent, int rope,
                         const RotaryTable& table, const float* c, int ldc, const float* k_rope,
                         int ldk, KV* pool) {
  const auto pages = LatentPages<KV>::of(pool, group, latent, rope);
  float* key = (float*)team.scratch;
  float* beside = key + pages.latent;
  const auto write = [&](int t, int, int block, Place place) {
    __builtin_memcpy(key, c + (int64_t)t * ldc, latent * sizeof(float));
    for (int i = latent; i < pages.latent; ++i) key[i] = 0.0f;
    if (rope) rotate_or_copy(table, t, rope, k_rope + (int64_t)t * ldk, beside);
    for (int i = rope; i < pages.rope; ++i) beside[i] = 0.0f;
    write_latent(pages, pages.page(block, 0), place.at, key);
  };
  for_each_new_token(team, batch, group, 1, 1, write);
}

// ---- keys as values ----------------------------------------------------------------------------

LLMC_INLINE IVec zip_low(IVec a, IVec b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
LLMC_INLINE IVec zip_high(IVec a, IVec b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

// 16 x 16 words: lane j of vector i and lane i of vector j change places. Each round deals the vectors
// out as two halves of a pack of cards are shuffled; after four of them rows are columns.
LLMC_INLINE void transpose(IVec (&x)[kLanes]) {
  for (int round = 0; round < 4; ++round) {
    IVec y[kLanes];
    for (int i = 0; i < 8; ++i) {
      y[2 * i] = zip_low(x[i], x[i + 8]);
      y[2 * i + 1] = zip_high(x[i], x[i + 8]);
    }
    for (int i = 0; i < kLanes; ++i) x[i] = y[i];
  }
}

LLMC_INLINE void store_words(uint32_t* p, IVec v) { __builtin_memcpy(p, &v, sizeof v); }

// 16 words of each of P keys to P vectors of 16 dimensions, P keys each.
LLMC_INLINE void deal(const float*, const IVec* keys, IVec* out) { out[0] = keys[0]; }
LLMC_INLINE void deal(const bf16*, const IVec* keys, IVec* out) {
  const IVec even = (keys[0] & 0xffff) | (keys[1] << 16);
  const IVec odd = (IVec)((UVec)keys[0] >> 16) | (keys[1] & (int32_t)0xffff0000);
  out[0] = zip_low(even, odd);
  out[1] = zip_high(even, odd);
}
LLMC_INLINE void deal(const int8_t*, const IVec* keys, IVec* out) {
  constexpr int32_t kEven = 0x00ff00ff, kOdd = (int32_t)0xff00ff00, kHigh = (int32_t)0xffff0000;
  IVec pair[2][2];  // of keys 2i and 2i + 1: bytes 0 and 2, bytes 1 and 3
  for (int i = 0; i < 2; ++i) {
    const IVec a = keys[2 * i], b = keys[2 * i + 1];
    pair[i][0] = (a & kEven) | ((b & kEven) << 8);
    pair[i][1] = ((IVec)((UVec)a >> 8) & kEven) | (b & kOdd);
  }
  IVec byte[4];
  for (int i = 0; i < 2; ++i) {
    byte[i] = (pair[0][i] & 0xffff) | (pair[1][i] << 16);
    byte[i + 2] = (IVec)((UVec)pair[0][i] >> 16) | (pair[1][i] & kHigh);
  }
  const IVec even[2] = {zip_low(byte[0], byte[2]), zip_high(byte[0], byte[2])};
  const IVec odd[2] = {zip_low(byte[1], byte[3]), zip_high(byte[1], byte[3])};
  for (int i = 0; i < 2; ++i) {
    out[2 * i] = zip_low(even[i], odd[i]);
    out[2 * i + 1] = zip_high(even[i], odd[i]);
  }
}

template <class KV>
inline int turned_value_words(const LatentPages<KV>& pages) {
  return BLOCK / LatentPages<KV>::kPerWord * pages.latent;
}

// Keys that were never written may be anything, and become zeros.
template <class KV>
inline const uint32_t* values_of(const LatentPages<KV>& pages, char* page, int written,
                                 uint32_t* room) {
  constexpr int P = LatentPages<KV>::kPerWord;
  const uint32_t* keys = pages.keys(page);
  const int words = pages.latent / P, vectors = kLanes / P;  // words of a vector of dimensions
  for (int key = 0; key < min_int(written, BLOCK); key += kLanes)
    for (int word = 0; word < words; word += kLanes) {
      const int count = min_int(kLanes, words - word);
      IVec x[kLanes];
      for (int i = 0; i < kLanes; ++i)
        x[i] = i < count ? load_words(keys + (word + i) * BLOCK + key) : splat_int(0);
      transpose(x);
      for (int i = 0; i < kLanes; ++i) {
        if (P == 4) x[i] ^= (int32_t)0x80808080;
        if (key + i >= written) x[i] = splat_int(0);
      }
      for (int i = 0; i < kLanes; i += P) {
        IVec out[P];
        deal((const KV*)nullptr, x + i, out);
        uint32_t* to = room + (int64_t)(key + i) / P * pages.latent + word * P;
        for (int j = 0; j < min_int(P, count / vectors); ++j) store_words(to + j * kLanes, out[j]);
      }
    }
  return room;
}

// ---- attention ---------------------------------------------------------------------------------

// All heads share the latents: a sequence is split as soon as its rows fit.
template <class KV>
inline int narrow_rows(const LatentPages<KV>&) {
  return kSplitRows;
}
template <class KV>
LLMC_INLINE Vec part_scale(const LatentPages<KV>& pages, char* page, int part, int at) {
  return part ? load(pages.rope_scales(page) + at) : exp2(load(pages.exponents(page) + at));
}
template <class KV>
LLMC_INLINE ValueScales value_scales(const LatentPages<KV>& pages, char* page, int at) {
  const Vec log = load(pages.exponents(page) + at);
  return {log, exp2(-log)};
}
template <class KV>
inline float rotate_back(const LatentPages<KV>& pages, float* x) {
  if (LatentPages<KV>::kCoded) rotate_hadamard(x, pages.latent);
  return 1.0f;
}

// q [T, heads, latent] and q_rope [T, heads, rope] with strides of tokens and, of q_rope, of heads.
struct LatentQueries {
  const float* q;
  int ld, latent;
  const float* q_rope;
  int ld_rope, head_rope, rope;
  RotaryTable rotary;
  void load_to(float* to, int token, int head) const {
    HeadQueries{q, ld, latent, kNoRotary}.load_to(to, token, head);
    if (rope == 0) return;
    const float* from = q_rope + (int64_t)token * ld_rope + (int64_t)head * head_rope;
    to += round_up(latent, kLanes);
    rotate_or_copy(rotary, token, rope, from, to);
    for (int i = rope; i < round_up(rope, kLanes); ++i) to[i] = 0.0f;
  }
};

// y [T, heads, latent] = sums of latents. Scores, windows, scratch and barrier: as `paged_attention`.
template <class KV>
inline void latent_attention(Team& team, const Batch& batch, const CacheGroup& group, int heads,
                             int latent, int rope, float scale, float softcap, int window,
                             const float* sinks, const RotaryTable& rotary, const float* q, int ldq,
                             const float* q_rope, int ld_rope, int head_rope, const KV* pool,
                             float* y, int ldy, float* scratch) {
  if (batch.T == 0) return;
  const AttentionShape shape{heads, 1, latent + rope, latent, scale, softcap, window};
  const AttentionOperands operands{sinks, nullptr, y, ldy, scratch};
  const LatentQueries queries{q, ldq, latent, q_rope, ld_rope, head_rope, rope, rotary};
  PagedAttention<LatentPages<KV>, LatentQueries> attention{
      team, batch, group, shape, operands, queries, LatentPages<KV>::of(pool, group, latent, rope)};
  attention.run();
}

}  // namespace llmc
