// Causal attention of a step's queries over the paged cache (layout: cache.h).
//
// Keys are visited in tiles of 64 (a block) at absolute positions, tiles are grouped into segments
// of 256 keys. Inside a segment runs an online softmax; segments are merged in order. Both grids
// are fixed to absolute positions, so a query's result is the same bits alone or in a batch, in
// decode or in prefill, and on any number of threads, even when threads share one sequence.
//
// A work item is a kv head and some query tokens of a sequence: its rows are the tokens times the
// query heads that share the kv head, so each key and value is read once for all of them. Work
// lies on a line measured in estimated cost, and each thread takes an equal piece of it:
//
//   few query tokens (decode)   one unit per segment and kv head, in this order: memory is read in
//                               the order in which it lies. Where a piece of the line ends inside
//                               such a sequence, its segments go to the scratch buffer and are
//                               merged after a barrier.
//   many (prefill)              one unit per item, all segments.
#pragma once

#include <stdint.h>

#include "attention_tile.h"
#include "cache.h"
#include "rotary.h"
#include "simd.h"
#include "team.h"

namespace llmc {

constexpr int kSegmentTiles = 256 / BLOCK;
constexpr int kItemRows = 48;     // rows of a prefill item
constexpr int kSplitRows = 256;   // a sequence of few rows is split by segments (narrow_rows)
constexpr int kTileCost = 8;      // reading a tile costs as much as computing so many rows with it

// Floats that `paged_attention` needs in `scratch` (shared by the team).
constexpr int64_t attention_scratch_floats(int threads, int max_context, int dv) {
  const int segments = ceil_div(ceil_div(max_context, BLOCK), kSegmentTiles);
  return (int64_t)(threads - 1) * segments * kSplitRows * (round_up(dv, kLanes) + 2);
}

// P: the pages of a site. Q: its queries (attention_pages.h).
template <class P, class Q>
struct PagedAttention {
  using A = Arithmetic<typename P::Element>;

  // A kv head (or some of its query heads) and some query tokens of a sequence.
  struct Item {
    int sequence, kv_head;
    int head, heads;    // query heads head .. head + heads
    int token, tokens;  // query tokens of the step
    int position;       // absolute position of the first of them
    int first_tile, last_tile, first_segment, last_segment;
    int row;  // where its rows begin in this thread's buffers
    int rows() const { return heads * tokens; }
    int tiles() const { return last_tile - first_tile + 1; }
    int64_t tile_cost() const { return kTileCost + rows(); }
    // Tiles of a segment: [begin, end).
    int begin(int segment) const { return max_int(first_tile, segment * kSegmentTiles); }
    int end(int segment) const { return min_int(last_tile + 1, (segment + 1) * kSegmentTiles); }
  };

  // Softmax of the keys seen so far: acc [rows, ldacc], max [rows], sum [rows].
  struct Softmax {
    float *acc, *max, *sum;
    Softmax from(int row, int ldacc) const {
      return {acc + (int64_t)row * ldacc, max + row, sum + row};
    }
  };

  Team& team;
  const Batch& batch;
  const CacheGroup& group;
  AttentionShape shape;
  AttentionOperands in;
  Q queries;
  P pages;
  int reserved = 0;  // words at the end of a thread's scratch memory that others need

  int sharing, ldacc, ldq, max_rows, max_segments;
  int64_t total_cost;
  Softmax running, segment_state;
  float *rotated, *lanes, *q_scale, *slope;
  uint32_t *q_rows, *turned;
  int32_t *start, *position;

  void run() {
    plan();
    bool shared = false;
    for_each_work(
        [&](const Item& first, int64_t cost) {
          const int slot = owner(unit_middle(first, cost, first.first_segment, 0));
          const int last = owner(unit_middle(first, cost, first.last_segment, shape.hkv - 1));
          shared |= slot != last;
          if (team.id < slot || team.id > last) return;
          attend_narrow(first, cost, slot == last ? -1 : slot);
        },
        [&](const Item& item, int64_t cost) {
          if (is_mine(2 * cost + item.tiles() * item.tile_cost())) attend_wide(item);
        });
    if (!shared) return;  // the same on every thread
    team.barrier();
    for_each_work(
        [&](const Item& first, int64_t cost) {
          const int slot = owner(unit_middle(first, cost, first.first_segment, 0));
          const int last = owner(unit_middle(first, cost, first.last_segment, shape.hkv - 1));
          if (slot != last) merge_shared(first, slot);
        },
        [](const Item&, int64_t) {});
  }

  // ---- dividing the work -----------------------------------------------------------------------

  void plan() {
    sharing = shape.heads / shape.hkv;
    ldacc = pages.dv;
    ldq = pages.dk / P::kPerWord * A::Keys::kRowWords;
    max_segments = ceil_div(group.blocks_per_seq, kSegmentTiles);
    const int row_floats = ldq + 2 * ldacc + kLanes + 6 + 2 * P::kParts;
    const int turned_words = turned_value_words(pages);
    const int free = (int)(kScratchBytes / sizeof(float)) - reserved;
    max_rows = min_int(kSplitRows, (free - pages.dk - turned_words - 256) / row_floats);
    char* at = team.scratch;
    const auto take = [&](int64_t floats) {
      char* got = at;
      at += round_up((int)floats, kLanes) * sizeof(float);
      return (float*)got;
    };
    rotated = take(pages.dk);
    turned = (uint32_t*)take(turned_words);
    running.acc = take((int64_t)max_rows * ldacc);
    segment_state.acc = take((int64_t)max_rows * ldacc);
    q_rows = (uint32_t*)take((int64_t)max_rows * ldq);
    lanes = take(max_rows * kLanes);
    running.max = take(max_rows);
    running.sum = take(max_rows);
    segment_state.max = take(max_rows);
    segment_state.sum = take(max_rows);
    q_scale = take(P::kParts * max_rows);
    slope = take(max_rows);
    start = (int32_t*)take(P::kParts * max_rows);
    position = (int32_t*)take(max_rows);
    total_cost = 0;
    for_each_work(
        [&](const Item& first, int64_t) {
          total_cost += first.tiles() * first.tile_cost() * shape.hkv;
        },
        [&](const Item& item, int64_t) { total_cost += item.tiles() * item.tile_cost(); });
  }

  // Calls narrow(item of kv head 0, place on the line) for sequences of few rows, and
  // wide(item, place on the line) for every item of the others.
  template <class Narrow, class Wide>
  void for_each_work(Narrow narrow, Wide wide) {
    int64_t cost = 0;
    for (int s = 0; s < batch.S; ++s) {
      const int begin = batch.query_start[s], end = batch.query_start[s + 1], count = end - begin;
      if (count == 0) continue;
      if (count * sharing <= narrow_rows(pages) && count * shape.heads <= max_rows) {
        const Item item = item_of(s, 0, sharing, begin, count);
        narrow(item, cost);
        cost += item.tiles() * item.tile_cost() * shape.hkv;
        continue;
      }
      const int item_rows = min_int(kItemRows, max_rows), heads = min_int(sharing, item_rows);
      const int tokens = item_rows / heads;
      for (int kv_head = 0; kv_head < shape.hkv; ++kv_head)
        for (int h = 0; h < sharing; h += heads)
          for (int token = begin; token < end; token += tokens) {
            const int head = kv_head * sharing + h;
            const Item item = item_of(s, head, min_int(heads, sharing - h), token,
                                      min_int(tokens, end - token));
            wide(item, cost);
            cost += item.tiles() * item.tile_cost();
          }
    }
  }

  Item item_of(int sequence, int head, int heads, int token, int tokens) const {
    Item item;
    item.sequence = sequence;
    item.kv_head = head / sharing;
    item.head = head;
    item.heads = heads;
    item.token = token;
    item.tokens = tokens;
    item.row = 0;
    item.position = first_query_position(batch, sequence) + token - batch.query_start[sequence];
    item.first_tile = shape.window ? max_int(0, item.position - shape.window + 1) / BLOCK : 0;
    item.last_tile = (item.position + tokens - 1) / BLOCK;
    item.first_segment = item.first_tile / kSegmentTiles;
    item.last_segment = item.last_tile / kSegmentTiles;
    return item;
  }

  // The item of another kv head of a narrow sequence; rows of kv heads lie behind one another.
  Item for_kv_head(Item item, int kv_head) const {
    item.kv_head = kv_head;
    item.head = kv_head * sharing;
    item.row = kv_head * item.rows();
    return item;
  }

  // Twice the place on the line of the middle of a narrow sequence's unit.
  int64_t unit_middle(const Item& item, int64_t cost, int segment, int kv_head) const {
    const int64_t before = item.begin(segment) - item.first_tile;
    const int64_t tiles = item.end(segment) - item.begin(segment);
    return 2 * cost + (2 * before * shape.hkv + (2 * kv_head + 1) * tiles) * item.tile_cost();
  }
  int owner(int64_t twice_place) const {
    return (int)(twice_place * team.size / (2 * total_cost));
  }
  bool is_mine(int64_t twice_place) const {
    const int64_t scaled = twice_place * team.size, piece = 2 * total_cost;
    return scaled >= piece * team.id && scaled < piece * (team.id + 1);
  }

  // Segments of a shared sequence: at most one sequence begins on a thread's piece and ends on
  // another's, so one slot a thread is enough.
  Softmax partial(const Item& item, int slot, int segment) const {
    float* at = in.scratch + (int64_t)slot * max_segments * kSplitRows * (ldacc + 2);
    const int rows = item.rows() * shape.hkv;
    at += (int64_t)(segment - item.first_segment) * rows * (ldacc + 2);
    return Softmax{at, at + (int64_t)rows * ldacc, at + (int64_t)rows * (ldacc + 1)};
  }

  // ---- attention -------------------------------------------------------------------------------

  // This thread's units of a narrow sequence. slot: where its segments go, -1 if all are its own.
  void attend_narrow(const Item& first, int64_t cost, int slot) {
    const auto mine = [&](int segment, int kv_head) {
      return is_mine(unit_middle(first, cost, segment, kv_head));
    };
    bool loaded[kSplitRows] = {};
    if (slot < 0) reset(first, 0, first.rows() * shape.hkv);
    for (int segment = first.first_segment; segment <= first.last_segment; ++segment) {
      int from = 0, to = shape.hkv;
      while (from < to && !mine(segment, from)) ++from;
      while (from < to && !mine(segment, to - 1)) --to;
      for (int h = from; h < to; ++h) {
        if (!loaded[h]) load_rows(for_kv_head(first, h));
        loaded[h] = true;
      }
      if (from == to) continue;
      const Softmax out = slot < 0 ? segment_state : partial(first, slot, segment);
      attend_segment(for_kv_head(first, from), to - from, segment, out);
      if (slot < 0) merge(first.rows() * shape.hkv, running, out);
    }
    if (slot < 0)
      for (int h = 0; h < shape.hkv; ++h) finish(for_kv_head(first, h), 0, first.rows());
  }

  void attend_wide(const Item& item) {
    load_rows(item);
    reset(item, 0, item.rows());
    for (int segment = item.first_segment; segment <= item.last_segment; ++segment) {
      attend_segment(item, 1, segment, segment_state);
      merge(item.rows(), running, segment_state);
    }
    finish(item, 0, item.rows());
  }

  // Merges the segments that several threads computed; each thread does a share of the rows.
  void merge_shared(const Item& first, int slot) {
    const Range mine = team_range(team, first.rows() * shape.hkv);
    reset(first, mine.begin, mine.end);
    for (int segment = first.first_segment; segment <= first.last_segment; ++segment)
      merge(mine.end - mine.begin, running.from(mine.begin, ldacc),
            partial(first, slot, segment).from(mine.begin, ldacc));
    for (int h = 0; h < shape.hkv; ++h) {
      const Item item = for_kv_head(first, h);
      finish(item, max_int(0, mine.begin - item.row), min_int(item.rows(), mine.end - item.row));
    }
  }

  // Queries of an item: rotated, scaled, as rows of the products' kind.
  void load_rows(const Item& item) {
    const float scale = shape.softcap != 0.0f ? shape.scale / shape.softcap : shape.scale * kLog2E;
    for (int i = 0; i < item.rows(); ++i) {
      const int r = item.row + i, token = i / item.heads, head = item.head + i % item.heads;
      position[r] = item.position + token;
      slope[r] = in.slopes ? in.slopes[head] : 0.0f;
      queries.load_to(rotated, item.token + token, head);
      for (int j = 0; j < pages.dk; j += kLanes) store(rotated + j, load(rotated + j) * splat(scale));
      uint32_t* row = q_rows + (int64_t)r * ldq;
      for (int part = 0, from = 0; part < P::kParts; from += pages.part(part++))
        A::query_row(rotated + from, pages.part(part), row + from / P::kPerWord * A::Keys::kRowWords,
                     q_scale + part * max_rows + r, start + part * max_rows + r);
    }
  }

  // Running states of rows [begin, end) that start with an item's: a sink is a key without a value
  // that every query sees before all others.
  void reset(const Item& item, int begin, int end) {
    for (int r = begin; r < end; ++r) {
      const int head = item.head + r / item.rows() * item.heads + r % item.heads;
      running.max[r] = in.sinks ? in.sinks[head] * kLog2E : kNoMax;
      running.sum[r] = in.sinks ? 1.0f : 0.0f;
    }
    clear(running.acc + (int64_t)begin * ldacc, end - begin);
  }

  void clear(float* acc, int rows) const {
    for (int64_t i = 0; i < (int64_t)rows * ldacc; i += kLanes) store(acc + i, splat(0.0f));
  }

  // One segment of an item and of the `heads - 1` kv heads after it.
  void attend_segment(const Item& item, int heads, int segment, const Softmax& out) {
    const int rows = item.rows(), first = item.row, last = first + rows * heads;
    clear(out.acc + (int64_t)first * ldacc, last - first);
    for (int r = first; r < last; ++r) {
      out.max[r] = kNoMax;
      store(lanes + r * kLanes, splat(0.0f));
    }
    const QueryRows all{q_rows,   ldq,     q_scale, start, max_rows, position,
                        in.slopes ? slope : nullptr, out.acc, out.max, lanes};
    const int32_t* blocks = group.block_table + (int64_t)item.sequence * group.blocks_per_seq;
    for (int tile = item.begin(segment); tile < item.end(segment); ++tile)
      for (int h = 0; h < heads; ++h) {
        char* page = pages.page(blocks[tile], item.kv_head + h);
        const int written = item.position + item.tokens - tile * BLOCK;
        Tile at{tile * BLOCK, page, values_of(pages, page, written, turned), nullptr};
        if (h + 1 < heads)
          at.next = pages.page(blocks[tile], item.kv_head + h + 1);
        else if (tile < item.last_tile)
          at.next = pages.page(blocks[tile + 1], item.kv_head);
        for (int r = 0; r < rows; r += kTileRows) {
          attend_rows<kTileRows>(shape, pages, all.from(first + h * rows + r, ldacc),
                                 min_int(kTileRows, rows - r), at);
          at.next = nullptr;  // fetched once
        }
      }
    for (int r = first; r < last; ++r) out.sum[r] = reduce_add(load(lanes + r * kLanes));
  }

  // Adds a segment's rows to the running ones. One in which a row saw no key changes nothing: its
  // factor is 0, the other one 1.
  void merge(int rows, const Softmax& to, const Softmax& segment) const {
    for (int first = 0; first < rows; first += kLanes) {
      const int count = min_int(kLanes, rows - first);
      const Vec a = load_partial(to.max + first, count);
      const Vec b = load_partial(segment.max + first, count);
      const Vec top = max(a, b), keep = exp2(a - top), add = exp2(b - top);
      const Vec sum = load_partial(to.sum + first, count) * keep;
      store_partial(to.max + first, top, count);
      store_partial(to.sum + first,
                    fma(load_partial(segment.sum + first, count), add, sum), count);
      for (int r = 0; r < count; ++r) {
        float* acc = to.acc + (int64_t)(first + r) * ldacc;
        const float* from = segment.acc + (int64_t)(first + r) * ldacc;
        const Vec k = splat(keep[r]), f = splat(add[r]);
        for (int i = 0; i < ldacc; i += kLanes)
          store(acc + i, fma(load(from + i), f, load(acc + i) * k));
      }
    }
  }

  // Rows [begin, end) of an item, from the running state to the output.
  void finish(const Item& item, int begin, int end) const {
    for (int i = begin; i < end; ++i) {
      const int r = item.row + i, token = item.token + i / item.heads;
      float* from = running.acc + (int64_t)r * ldacc;
      const Vec inverse = splat(rotate_back(pages, from) / running.sum[r]);
      float* to = in.y + (int64_t)token * in.ldy + (int64_t)(item.head + i % item.heads) * shape.dv;
      for (int j = 0; j < shape.dv; j += kLanes) {
        // Masked tiles turn -0 into +0; adding 0 does so for the rows that had none.
        const Vec value = load(from + j) * inverse + splat(0.0f);
        store_partial(to + j, value, min_int(kLanes, shape.dv - j));
      }
    }
  }
};

// heads is a multiple of hkv, and query head h reads kv head h / (heads / hkv).
// Score of a key: softcap * tanh(scale * q k / softcap) + slope * (key - query position).
// Visible: keys up to the query's own position; with window > 0 only the last `window` of them.
// scratch: attention_scratch_floats(...) floats, contents undefined.
// May wait at the team's barrier (on all threads or on none).
template <class KV>
inline void paged_attention(Team& team, const Batch& batch, const CacheGroup& group, int heads,
                            int hkv, int dk, int dv, float scale, float softcap, int window,
                            const float* sinks, const float* slopes, const RotaryTable& rotary,
                            const float* q, int ldq, const KV* pool, float* y, int ldy,
                            float* scratch) {
  if (batch.T == 0) return;
  const AttentionShape shape{heads, hkv, dk, dv, scale, softcap, window};
  const AttentionOperands operands{sinks, slopes, y, ldy, scratch};
  const HeadQueries queries{q, ldq, dk, rotary};
  PagedAttention<Pages<KV>, HeadQueries> attention{
      team, batch, group, shape, operands, queries, Pages<KV>::of(pool, group, hkv, dk, dv)};
  attention.run();
}

}  // namespace llmc
