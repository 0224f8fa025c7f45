// An index that chooses keys, and attention to the chosen ones.
//
// The index has one small key a token, in pages of keys without values (cache.h). A query token scores
// all earlier ones: the sum over its heads of weight * relu(scale * q k). The `topk` with the highest
// scores are its choice, in ascending order; of equal scores the earlier is taken. Attention copies the
// chosen keys into tiles as if they lay side by side, and goes on as over whole pages: a choice of all
// keys gives the bits of attention without one. Nothing depends on other tokens of the step.
#pragma once

#include <stdint.h>

#include "attention.h"
#include "cache.h"
#include "latent.h"
#include "simd.h"
#include "team.h"

namespace llmc {

// k [T, dk] with token stride ldk, into its pages.
template <class KV>
inline void key_index_write(Team& team, const Batch& batch, const CacheGroup& group, int dk,
                            const float* k, int ldk, KV* pool) {
  const auto pages = Pages<KV>::of(pool, group, 1, dk, 0);
  float* key = (float*)team.scratch;
  for_each_new_token(team, batch, group, 1, 1, [&](int t, int, int block, Place place) {
    __builtin_memcpy(key, k + (int64_t)t * ldk, dk * sizeof(float));
    for (int i = dk; i < pages.dk; ++i) key[i] = 0.0f;
    write_key(pages, pages.page(block, 0), place.at, key);
  });
}

struct Scored {
  float score;
  int32_t position;
  bool worse_than(const Scored& other) const {
    return score < other.score || (score == other.score && position > other.position);
  }
};

// The best `most` of what it was given, in ascending order of position; the worst is the heap's root.
struct Best {
  Scored* heap;
  int most, count;

  void add(Scored x) {
    if (count < most) {
      int i = count++;
      for (; i > 0 && x.worse_than(heap[(i - 1) / 2]); i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
      heap[i] = x;
    } else if (heap[0].worse_than(x)) {
      int i = 0;
      for (int child; (child = 2 * i + 1) < count; i = child) {
        if (child + 1 < count && heap[child + 1].worse_than(heap[child])) ++child;
        if (!heap[child].worse_than(x)) break;
        heap[i] = heap[child];
      }
      heap[i] = x;
    }
  }
};

// Products of `count` <= R rows with a tile's keys.
template <int R, class P>
inline void score_rows(const P& pages, const QueryRows& rows, int count, const Tile& tile, float* s) {
  if (count == R) return tile_scores<R>(pages, rows, tile, s);
  if constexpr (R > 1) score_rows<R - 1>(pages, rows, count, tile, s);
}

// Bytes of scratch memory a thread needs, but for a bit a position.
constexpr int64_t key_index_bytes(int heads, int dk, int topk) {
  return 8 * (int64_t)topk + 4 * (int64_t)(round_up(dk, kLanes) * (2 * heads + 1) + 2 * heads + 64);
}

template <class KV>
struct KeyChooser {
  using P = Pages<KV>;
  using A = Arithmetic<KV>;
  const CacheGroup& group;
  P pages;
  int heads, dk, topk;
  float scale;
  Best best;
  float *query, *q_scale;
  int32_t* start;
  uint32_t* rows;
  uint64_t* chosen;  // a bit a position

  KeyChooser(char* scratch, const CacheGroup& group, P pages, int heads, int dk, int topk,
             float scale)
      : group(group), pages(pages), heads(heads), dk(dk), topk(topk), scale(scale) {
    char* at = scratch;
    const auto take = [&](int64_t words) {
      char* got = at;
      at += round_up((int)words, kLanes) * sizeof(float);
      return got;
    };
    best = {(Scored*)take(2 * topk), topk, 0};
    query = (float*)take(pages.dk);
    rows = (uint32_t*)take((int64_t)heads * row_words());
    q_scale = (float*)take(heads);
    start = (int32_t*)take(heads);
    chosen = (uint64_t*)at;
  }
  int row_words() const { return pages.dk / P::kPerWord * A::Keys::kRowWords; }

  // The choice of a query at position `count` - 1 of a sequence: q [heads, dk], weights [heads].
  void choose(const int32_t* blocks, int count, const float* q, const float* weights,
              int32_t* choice) {
    for (int i = 0; i < topk; ++i) choice[i] = i < count ? i : -1;
    if (count <= topk) return;
    for (int h = 0; h < heads; ++h) {
      __builtin_memcpy(query, q + (int64_t)h * dk, dk * sizeof(float));
      for (int i = dk; i < pages.dk; ++i) query[i] = 0.0f;
      A::query_row(query, pages.dk, rows + (int64_t)h * row_words(), q_scale + h, start + h);
    }
    best.count = 0;
    for (int first = 0; first < count; first += BLOCK) score_tile(blocks, first, count, weights);
    const int words = ceil_div(count, 64);
    for (int i = 0; i < words; ++i) chosen[i] = 0;
    for (int i = 0; i < topk; ++i)
      chosen[best.heap[i].position / 64] |= uint64_t{1} << best.heap[i].position % 64;
    for (int i = 0; i < words; ++i)
      for (uint64_t bits = chosen[i]; bits; bits &= bits - 1)
        *choice++ = 64 * i + __builtin_ctzll(bits);
  }

  void score_tile(const int32_t* blocks, int first, int count, const float* weights) {
    constexpr int kVecs = BLOCK / kLanes;
    alignas(64) float s[kTileRows * BLOCK], total[BLOCK];
    const Tile tile{first, pages.page(blocks[first / BLOCK], 0), nullptr, nullptr};
    Vec sum[kVecs];
    for (int v = 0; v < kVecs; ++v) sum[v] = splat(0.0f);
    for (int h = 0; h < heads; h += kTileRows) {
      const int some = min_int(kTileRows, heads - h);
      const QueryRows part{rows + (int64_t)h * row_words(), row_words(), q_scale + h, start + h,
                           0, nullptr, nullptr, nullptr, nullptr, nullptr};
      score_rows<kTileRows>(pages, part, some, tile, s);
      for (int r = 0; r < some; ++r)
        for (int v = 0; v < kVecs; ++v) {
          const Vec product = load(s + r * BLOCK + v * kLanes) * splat(scale);
          sum[v] = fma(max(product, splat(0.0f)), splat(weights[h + r]), sum[v]);
        }
    }
    for (int v = 0; v < kVecs; ++v) store(total + v * kLanes, sum[v]);
    for (int i = 0; i < min_int(BLOCK, count - first); ++i) best.add({total[i], first + i});
  }
};

// choice [T, topk] of q [T, heads, dk] and weights [T, heads] with token strides ldq, ldw: positions,
// then -1. Threads share tokens.
template <class KV>
inline void key_index(Team& team, const Batch& batch, const CacheGroup& group, int heads, int dk,
                      int topk, float scale, const float* q, int ldq, const float* weights, int ldw,
                      const KV* pool, int32_t* choice) {
  const auto pages = Pages<KV>::of(pool, group, 1, dk, 0);
  KeyChooser<KV> chooser(team.scratch, group, pages, heads, dk, topk, scale);
  const Range mine = team_range(team, batch.T);
  for (int s = 0; s < batch.S; ++s) {
    const int begin = batch.query_start[s], end = batch.query_start[s + 1];
    const int32_t* blocks = group.block_table + (int64_t)s * group.blocks_per_seq;
    for (int t = max_int(begin, mine.begin); t < min_int(end, mine.end); ++t)
      chooser.choose(blocks, first_query_position(batch, s) + t - begin + 1, q + (int64_t)t * ldq,
                     weights + (int64_t)t * ldw, choice + (int64_t)t * topk);
  }
}

// ---- attention to chosen latents ---------------------------------------------------------------

template <class KV>
struct SelectedAttention : PagedAttention<LatentPages<KV>, LatentQueries> {
  using P = LatentPages<KV>;
  using Base = PagedAttention<P, LatentQueries>;
  const int32_t* choice;  // [T, topk]
  int topk;

  SelectedAttention(const Base& base, const int32_t* choice, int topk)
      : Base(base), choice(choice), topk(topk) {
    this->reserved = round_up((int)(this->pages.page_bytes() / sizeof(float)), kLanes);
  }

  void run() {
    this->plan();
    const Batch& batch = this->batch;
    const int heads = min_int(this->shape.heads, min_int(kItemRows, this->max_rows));
    const int pieces = ceil_div(this->shape.heads, heads);
    const Range mine = team_range(this->team, batch.T * pieces);
    for (int s = 0; s < batch.S; ++s)
      for (int t = batch.query_start[s]; t < batch.query_start[s + 1]; ++t)
        for (int piece = 0; piece < pieces; ++piece) {
          const int item = t * pieces + piece, head = piece * heads;
          if (item < mine.begin || item >= mine.end) continue;
          attend(this->item_of(s, head, min_int(heads, this->shape.heads - head), t, 1));
        }
  }

  void attend(const typename Base::Item& item) {
    const int32_t* keys = choice + (int64_t)item.token * topk;
    int count = 0;
    while (count < topk && keys[count] >= 0) ++count;
    const int window = this->shape.window;
    while (window && count > 0 && *keys <= item.position - window) ++keys, --count;
    this->load_rows(item);
    this->reset(item, 0, item.rows());
    for (int r = 0; r < item.rows(); ++r) this->position[r] = count - 1;  // sees all of them
    for (int first = 0; first < count; first += kSegmentTiles * BLOCK) {
      attend_tiles(item, keys, first, min_int(count, first + kSegmentTiles * BLOCK));
      this->merge(item.rows(), this->running, this->segment_state);
    }
    this->finish(item, 0, item.rows());
  }

  // Keys [first, end) of the choice.
  void attend_tiles(const typename Base::Item& item, const int32_t* keys, int first, int end) {
    const auto& out = this->segment_state;
    const int rows = item.rows();
    this->clear(out.acc, rows);
    for (int r = 0; r < rows; ++r) {
      out.max[r] = kNoMax;
      store(this->lanes + r * kLanes, splat(0.0f));
    }
    const QueryRows all{this->q_rows, this->ldq, this->q_scale, this->start, this->max_rows,
                        this->position, nullptr, out.acc, out.max, this->lanes};
    AttentionShape whole = this->shape;
    whole.window = 0;
    char* page = this->team.scratch + kScratchBytes - (int64_t)this->reserved * sizeof(float);
    for (int at = first; at < end; at += BLOCK) {
      const int count = min_int(BLOCK, end - at);
      gather(item.sequence, keys + at, count, page);
      const Tile tile{at, page, values_of(this->pages, page, count, this->turned), nullptr};
      for (int r = 0; r < rows; r += kTileRows)
        attend_rows<kTileRows>(whole, this->pages, all.from(r, this->ldacc),
                               min_int(kTileRows, rows - r), tile);
    }
    for (int r = 0; r < rows; ++r) out.sum[r] = reduce_add(load(this->lanes + r * kLanes));
  }

  // Copies of `count` keys side by side.
  void gather(int sequence, const int32_t* keys, int count, char* to) const {
    const P& pages = this->pages;
    const int32_t* blocks =
        this->group.block_table + (int64_t)sequence * this->group.blocks_per_seq;
    for (int i = 0; i < count; ++i) {
      char* page = pages.page(blocks[keys[i] / BLOCK], 0);
      const int at = keys[i] % BLOCK, words = pages.dk / P::kPerWord;
      const uint32_t* from = pages.keys(page) + at;
      for (int w = 0; w < words; ++w) pages.keys(to)[w * BLOCK + i] = from[w * BLOCK];
      if (!P::kCoded) continue;
      pages.exponents(to)[i] = pages.exponents(page)[at];
      pages.rope_scales(to)[i] = pages.rope_scales(page)[at];
    }
  }
};

// `latent_attention` to the keys of choice [T, topk], as far as a query's window reaches. No barrier.
template <class KV>
inline void selected_latent_attention(Team& team, const Batch& batch, const CacheGroup& group,
                                      int heads, int latent, int rope, float scale, float softcap,
                                      int window, const float* sinks, const RotaryTable& rotary,
                                      const float* q, int ldq, const float* q_rope, int ld_rope,
                                      int head_rope, const KV* pool, float* y, int ldy,
                                      float* scratch, const int32_t* choice, int topk) {
  if (batch.T == 0) return;
  const AttentionShape shape{heads, 1, latent + rope, latent, scale, softcap, window};
  const AttentionOperands operands{sinks, nullptr, y, ldy, scratch};
  const LatentQueries queries{q, ldq, latent, q_rope, ld_rope, head_rope, rope, rotary};
  using Base = PagedAttention<LatentPages<KV>, LatentQueries>;
  const Base base{team, batch, group, shape, operands, queries,
                  LatentPages<KV>::of(pool, group, latent, rope)};
  SelectedAttention<KV>(base, choice, topk).run();
}

}  // namespace llmc
