// What attention asks of the pages that it reads, and of its queries. Pages of keys and values answer
// here (layout: cache.h), those of latents in latent.h.
#pragma once

#include <stdint.h>

#include "cache.h"
#include "rotary.h"
#include "simd.h"

namespace llmc {

// A sequence with at most so many rows a kv head is split by segments.
template <class KV>
inline int narrow_rows(const Pages<KV>&) {
  return 16;
}

// Where a page's values are. Pages that hold none have them made of the first `written` keys in
// `room`, of `turned_value_words` words.
template <class KV>
inline const uint32_t* values_of(const Pages<KV>& pages, char* page, int, uint32_t*) {
  return pages.values(page);
}
template <class KV>
inline int turned_value_words(const Pages<KV>&) {
  return 0;
}

// What scales a part of 16 keys' products, from key `at` on.
template <class KV>
LLMC_INLINE Vec part_scale(const Pages<KV>& pages, char* page, int, int at) {
  return load(pages.key_scales(page) + at);
}
// Of 16 values from key `at` on: the logarithm of their scales, and what undoes these.
struct ValueScales {
  Vec log, inverse;
};
template <class KV>
LLMC_INLINE ValueScales value_scales(const Pages<KV>& pages, char* page, int at) {
  const IVec bits = as_int(load(pages.value_scales(page) + at));  // powers of two
  return {to_float((bits >> 23) - 127), as_float(0x7f000000 - bits)};
}

// What attention reads besides the cache and queries, and where it writes.
struct AttentionOperands {
  const float* sinks;   // [heads] or null: one more logit in each softmax's denominator
  const float* slopes;  // [heads] or null: slope * (key - query position) is added to scores
  float* y;             // [T, heads, dv] with token stride ldy
  int ldy;
  float* scratch;
};

// q [T, heads, size] with token stride ld; cosines null: rotated already.
struct HeadQueries {
  const float* q;
  int ld, size;
  RotaryTable rotary;
  // A head, and zeros up to a multiple of 16.
  void load_to(float* to, int token, int head) const {
    rotate_or_copy(rotary, token, size, q + (int64_t)token * ld + (int64_t)head * size, to);
    for (int i = size; i < round_up(size, kLanes); ++i) to[i] = 0.0f;
  }
};

}  // namespace llmc
