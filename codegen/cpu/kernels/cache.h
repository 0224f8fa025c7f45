// The paged key/value cache: its layout, and the kernels that write a step's keys and values.
//
// Layout of one layer's pool (element f32 or bf16), block = 32 tokens:
//   K [num_blocks][hkv][dk][32]  transposed: 32 keys of one dimension are contiguous
//   V [num_blocks][hkv][32][dv]
// Block tables map absolute positions to blocks; attention.h reads what is written here.
#pragma once

#include <stdint.h>

#include "rotary.h"
#include "simd.h"
#include "team.h"

namespace llmc {

constexpr int BLOCK = 32;

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
};

// A cache element kept as bfloat16: the upper half of a float's bits.
struct bf16 {
  uint16_t bits;
};

LLMC_INLINE Vec load(const bf16* p) { return bf16_to_float(load_half(&p->bits)); }
LLMC_INLINE Vec load_partial(const bf16* p, int n) {
  uint16_t bits[kLanes] = {};
  for (int i = 0; i < n; ++i) bits[i] = p[i].bits;
  return bf16_to_float(load_half(bits));
}
LLMC_INLINE void put(float* to, float x) { *to = x; }
LLMC_INLINE void put(bf16* to, float x) { to->bits = float_to_bf16(x); }

inline int first_query_position(const Batch& batch, int s) {
  return batch.context_len[s] - (batch.query_start[s + 1] - batch.query_start[s]);
}

template <class KV>
inline KV* key_block(KV* pool, int block, int hkv, int head, int dk) {
  return pool + ((int64_t)block * hkv + head) * dk * BLOCK;
}

template <class KV>
inline KV* value_block(KV* pool, int block, int hkv, int head, int dv) {
  return pool + ((int64_t)block * hkv + head) * BLOCK * dv;
}

// Calls visit(token, head, block, place in the block) for this thread's share of heads x tokens.
template <class Visit>
inline void for_each_new_token(Team& team, const Batch& batch, const CacheGroup& group, int heads,
                               Visit visit) {
  const Range items = team_range(team, batch.T * heads);
  for (int begin = items.begin; begin < items.end;) {
    const int head = begin / batch.T, base = head * batch.T;
    const int lo = begin - base, hi = min_int(items.end - base, batch.T);
    for (int s = 0; s < batch.S; ++s) {
      const int32_t* blocks = group.block_table + (int64_t)s * group.blocks_per_seq;
      const int from = max_int(batch.query_start[s], lo);
      const int to = min_int(batch.query_start[s + 1], hi);
      for (int t = from; t < to; ++t) {
        const int position = first_query_position(batch, s) + t - batch.query_start[s];
        visit(t, head, blocks[position / BLOCK], position % BLOCK);
      }
    }
    begin = base + hi;
  }
}

template <class KV>
inline void write_value(int dv, const float* v, KV* to) {
  for (int i = 0; i < dv; ++i) put(to + i, v[i]);
}

// k [T, hkv, dk] and v [T, hkv, dv] with token strides ldk, ldv, into their blocks.
template <class KV>
inline void cache_write(Team& team, const Batch& batch, const CacheGroup& group, int hkv, int dk,
                        int dv, const float* k, int ldk, const float* v, int ldv, KV* kpool,
                        KV* vpool) {
  for_each_new_token(team, batch, group, hkv, [=](int t, int head, int block, int place) {
    const float* from = k + (int64_t)t * ldk + (int64_t)head * dk;
    KV* keys = key_block(kpool, block, hkv, head, dk) + place;
    for (int i = 0; i < dk; ++i) put(keys + i * BLOCK, from[i]);
    KV* values = value_block(vpool, block, hkv, head, dv) + place * dv;
    write_value(dv, v + (int64_t)t * ldv + (int64_t)head * dv, values);
  });
}

// The same, with the keys rotated on their way (as `rotary` would, bit for bit).
template <class KV>
inline void rotary_cache_write(Team& team, const Batch& batch, const CacheGroup& group, int hkv,
                               int dk, int dv, const RotaryTable& table, const float* k, int ldk,
                               const float* v, int ldv, KV* kpool, KV* vpool) {
  for_each_new_token(team, batch, group, hkv, [=](int t, int head, int block, int place) {
    KV* keys = key_block(kpool, block, hkv, head, dk) + place;
    rotate_head(table, t, dk, k + (int64_t)t * ldk + (int64_t)head * dk,
                [keys](int i, float value) { put(keys + i * BLOCK, value); });
    KV* values = value_block(vpool, block, hkv, head, dv) + place * dv;
    write_value(dv, v + (int64_t)t * ldv + (int64_t)head * dv, values);
  });
}

}  // namespace llmc
