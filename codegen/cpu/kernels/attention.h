// Causal attention of a step's queries over the paged cache (layout: cache.h).
//
// Keys are visited in tiles of 32 (a block) at absolute positions, tiles are grouped into segments
// of 256 keys. Inside a segment runs an online softmax; segments are merged in order. Both grids
// are fixed to absolute positions, so a query's result is the same bits alone or in a batch, in
// decode or in prefill, and on any number of threads, even when threads share one sequence.
//
// Work items are (sequence, kv head, tile of query tokens): the rows of an item are its tokens
// times the query heads that share the kv head, so each key and value is read once for all of
// them. Items lie behind one another on a line measured in estimated cost, and each thread takes
// an equal piece of it. Where a piece ends inside an item of few rows (decode with a long
// context), the item's segments are shared out: each goes to the scratch buffer and is merged
// after a barrier.
#pragma once

#include <stdint.h>

#include "attention_tile.h"
#include "cache.h"
#include "simd.h"
#include "team.h"

namespace llmc {

constexpr int kSegmentTiles = 8;
constexpr int kItemRows = 48;   // rows that share a pass over the keys
constexpr int kSplitRows = 16;  // items with at most so many rows can be shared between threads
constexpr int kTileCost = 8;    // reading a tile costs as much as computing so many rows with it

// Floats that `paged_attention` needs in `scratch` (shared by the team).
constexpr int64_t attention_scratch_floats(int threads, int max_context, int dv) {
  const int segments = ceil_div(ceil_div(max_context, BLOCK), kSegmentTiles);
  return (int64_t)(threads - 1) * segments * kSplitRows * (round_up(dv, kLanes) + 2);
}

template <class KV>
struct PagedAttention {
  Team& team;
  const Batch& batch;
  const CacheGroup& group;
  AttentionShape shape;
  const float* sinks;
  const float* slopes;
  const float* q;
  int ldq;
  const KV* kpool;
  const KV* vpool;
  float* y;
  int ldy;
  float* scratch;

  void run() {
    plan();
    bool shared = false;
    for_each_item([&](const Item& item) {
      const int first = owner(item, item.first_segment), last = owner(item, item.last_segment);
      shared |= first != last;
      if (team.id < first || team.id > last) return;
      load_rows(item);
      if (first == last) return attend_whole(item);
      for (int segment = item.first_segment; segment <= item.last_segment; ++segment)
        if (owner(item, segment) == team.id) attend_segment(item, segment, partial(first, segment));
    });
    if (!shared) return;  // the same on every thread
    team.barrier();
    for_each_item([&](const Item& item) {
      const int first = owner(item, item.first_segment);
      if (first == team.id && first != owner(item, item.last_segment)) merge_shared(item);
    });
  }

  // Everything below is for the methods only.
  struct Item {
    int sequence, kv_head;
    int head, heads;    // query heads head .. head + heads
    int token, tokens;  // query tokens of the step
    int position;       // absolute position of the first of them
    int first_tile, last_tile, first_segment, last_segment;
    int64_t start, tile_cost;  // place on the line of costs
    int rows() const { return heads * tokens; }
  };

  // Softmax of the keys seen so far: acc [rows, ldacc], max [rows], sum [rows].
  struct Softmax {
    float *acc, *max, *sum;
  };

  int ldacc, max_rows, segments;
  int64_t total_cost;
  Softmax running, segment_state;
  float *rows_q, *lanes;
  int position[kItemRows];
  float slope[kItemRows];

  void plan() {
    ldacc = round_up(shape.dv, kLanes);
    segments = ceil_div(group.blocks_per_seq, kSegmentTiles);
    const int row_floats = shape.dk + 2 * ldacc + 4 + kLanes;
    max_rows = min_int(kItemRows, (int)(kScratchBytes / sizeof(float)) / row_floats);
    float* at = (float*)team.scratch;
    const auto take = [&](int floats) { return (at += floats) - floats; };
    lanes = take(max_rows * kLanes);
    running.acc = take(max_rows * ldacc);
    segment_state.acc = take(max_rows * ldacc);
    rows_q = take(max_rows * shape.dk);
    running.max = take(max_rows);
    running.sum = take(max_rows);
    segment_state.max = take(max_rows);
    segment_state.sum = take(max_rows);
    total_cost = 0;
    for_each_item([&](const Item& item) { total_cost += tiles(item) * item.tile_cost; });
  }

  static int tiles(const Item& item) { return item.last_tile - item.first_tile + 1; }

  template <class Visit>
  void for_each_item(Visit visit) {
    const int sharing = shape.heads / shape.hkv;
    const int heads = min_int(sharing, max_rows);
    const int tokens = max_rows / heads;
    int64_t cost = 0;
    for (int s = 0; s < batch.S; ++s) {
      const int begin = batch.query_start[s], end = batch.query_start[s + 1];
      for (int head = 0; head < (begin < end ? shape.heads : 0); head += heads) {
        const int kv_head = head / sharing;
        Item item;
        item.sequence = s;
        item.kv_head = kv_head;
        item.head = head;
        item.heads = min_int(heads, (kv_head + 1) * sharing - head);
        for (int token = begin; token < end; token += tokens) {
          place(item, token, min_int(tokens, end - token), cost);
          visit(item);
          cost += tiles(item) * item.tile_cost;
        }
        head -= heads - item.heads;  // a last slice of a kv head may be narrower
      }
    }
  }

  void place(Item& item, int token, int tokens, int64_t start) const {
    item.token = token;
    item.tokens = tokens;
    item.position =
        first_query_position(batch, item.sequence) + token - batch.query_start[item.sequence];
    item.first_tile = shape.window ? max_int(0, item.position - shape.window + 1) / BLOCK : 0;
    item.last_tile = (item.position + tokens - 1) / BLOCK;
    item.first_segment = item.first_tile / kSegmentTiles;
    item.last_segment = item.last_tile / kSegmentTiles;
    item.start = start;
    item.tile_cost = kTileCost + item.rows();
  }

  // The thread on whose piece of the line the middle of a segment lies; that of the whole item if
  // it has too many rows to be shared.
  int owner(const Item& item, int segment) const {
    int from = item.first_tile, to = item.last_tile + 1;
    if (item.rows() <= kSplitRows) {
      from = max_int(from, segment * kSegmentTiles);
      to = min_int(to, (segment + 1) * kSegmentTiles);
    }
    const int64_t twice_offset = (from + to - 2 * item.first_tile) * item.tile_cost;
    return (int)((2 * item.start + twice_offset) * team.size / (2 * total_cost));
  }

  // At most one item begins on a thread's piece and ends on another's: one slot a thread is enough.
  Softmax partial(int first_owner, int segment) const {
    float* at = scratch + ((int64_t)first_owner * segments + segment) * kSplitRows * (ldacc + 2);
    return Softmax{at, at + kSplitRows * ldacc, at + kSplitRows * (ldacc + 1)};
  }

  void load_rows(const Item& item) {
    for (int r = 0; r < item.rows(); ++r) {
      const int token = r / item.heads, head = item.head + r % item.heads;
      position[r] = item.position + token;
      slope[r] = slopes ? slopes[head] : 0.0f;
      const float* from = q + (int64_t)(item.token + token) * ldq + (int64_t)head * shape.dk;
      float* to = rows_q + (int64_t)r * shape.dk;
      for (int i = 0; i < shape.dk; ++i) to[i] = from[i] * shape.scale;
    }
  }

  void clear(float* acc, int rows) const {
    for (int64_t i = 0; i < (int64_t)rows * ldacc; i += kLanes) store(acc + i, splat(0.0f));
  }

  // The sink is a key without a value that every query sees before all others.
  void start(const Item& item) {
    clear(running.acc, item.rows());
    for (int r = 0; r < item.rows(); ++r) {
      running.max[r] = sinks ? sinks[item.head + r % item.heads] : kNoMax;
      running.sum[r] = sinks ? 1.0f : 0.0f;
    }
  }

  Tile<KV> find_tile(const Item& item, int i) const {
    const int32_t* blocks = group.block_table + (int64_t)item.sequence * group.blocks_per_seq;
    const auto k = [&](int b) { return key_block(kpool, b, shape.hkv, item.kv_head, shape.dk); };
    const auto v = [&](int b) { return value_block(vpool, b, shape.hkv, item.kv_head, shape.dv); };
    const int block = blocks[i];
    if (i == item.last_tile) return {i * BLOCK, k(block), v(block), nullptr, nullptr};
    return {i * BLOCK, k(block), v(block), k(blocks[i + 1]), v(blocks[i + 1])};
  }

  void attend_segment(const Item& item, int segment, const Softmax& out) {
    const int count = item.rows();
    clear(out.acc, count);
    for (int r = 0; r < count; ++r) {
      out.max[r] = kNoMax;
      store(lanes + r * kLanes, splat(0.0f));
    }
    const QueryRows rows{rows_q, out.acc, out.max, lanes, position, slopes ? slope : nullptr};
    const int last = min_int(item.last_tile, (segment + 1) * kSegmentTiles - 1);
    for (int i = max_int(item.first_tile, segment * kSegmentTiles); i <= last; ++i) {
      Tile<KV> tile = find_tile(item, i);
      for (int r = 0; r < count; r += kTileRows) {
        attend_rows<kTileRows>(shape, rows, r, min_int(kTileRows, count - r), tile);
        tile.next_k = tile.next_v = nullptr;  // fetched once
      }
    }
    for (int r = 0; r < count; ++r) out.sum[r] = reduce_add(load(lanes + r * kLanes));
  }

  // A segment in which a row saw no key changes nothing: its factor is 0, the other one 1.
  void merge(const Item& item, const Softmax& segment) {
    for (int r = 0; r < item.rows(); ++r) {
      const float a = running.max[r], b = segment.max[r], top = a > b ? a : b;
      const Vec keep = exp(splat(a - top)), add = exp(splat(b - top));
      running.max[r] = top;
      running.sum[r] = running.sum[r] * keep[0] + segment.sum[r] * add[0];
      float* to = running.acc + (int64_t)r * ldacc;
      const float* from = segment.acc + (int64_t)r * ldacc;
      for (int i = 0; i < ldacc; i += kLanes)
        store(to + i, load(to + i) * keep + load(from + i) * add);
    }
  }

  void attend_whole(const Item& item) {
    start(item);
    for (int segment = item.first_segment; segment <= item.last_segment; ++segment) {
      attend_segment(item, segment, segment_state);
      merge(item, segment_state);
    }
    finish(item);
  }

  void merge_shared(const Item& item) {
    start(item);
    for (int segment = item.first_segment; segment <= item.last_segment; ++segment)
      merge(item, partial(team.id, segment));
    finish(item);
  }

  void finish(const Item& item) const {
    for (int r = 0; r < item.rows(); ++r) {
      const int token = item.token + r / item.heads, head = item.head + r % item.heads;
      const Vec inverse = splat(1.0f / running.sum[r]);
      const float* from = running.acc + (int64_t)r * ldacc;
      float* to = y + (int64_t)token * ldy + (int64_t)head * shape.dv;
      for (int i = 0; i < shape.dv; i += kLanes) {
        // Masked tiles turn -0 into +0; adding 0 does so for the rows that had none.
        const Vec value = load(from + i) * inverse + splat(0.0f);
        store_partial(to + i, value, min_int(kLanes, shape.dv - i));
      }
    }
  }
};

// q [T, heads, dk] and y [T, heads, dv] with token strides; heads is a multiple of hkv, and query
// head h reads kv head h / (heads / hkv).
// Score of a key: softcap * tanh(scale * q k / softcap) + slope * (key - query position).
// Visible: keys up to the query's own position; with window > 0 only the last `window` of them.
// sinks [heads] or null: one more logit in each softmax's denominator. slopes: [heads] or null.
// scratch: attention_scratch_floats(...) floats, contents undefined.
// May wait at the team's barrier (on all threads or on none).
template <class KV>
inline void paged_attention(Team& team, const Batch& batch, const CacheGroup& group, int heads,
                            int hkv, int dk, int dv, float scale, float softcap, int window,
                            const float* sinks, const float* slopes, const float* q, int ldq,
                            const KV* kpool, const KV* vpool, float* y, int ldy, float* scratch) {
  if (batch.T == 0) return;
  const AttentionShape shape{heads, hkv, dk, dv, scale, softcap, window};
  PagedAttention<KV> attention{team, batch, group, shape, sinks, slopes, q,
                               ldq,  kpool, vpool, y,     ldy,   scratch};
  attention.run();
}

}  // namespace llmc
