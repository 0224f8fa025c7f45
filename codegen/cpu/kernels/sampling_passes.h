// Which values of a row are kept, and where to draw the line: the passes that choosing a token is made
// of (see sampling.h).
#pragma once

#include <float.h>
#include <string.h>

#include "simd.h"

// A pass is one function, called from many places: each place its own would take seconds to compile.
#define LLMC_OUTLINE __attribute__((noinline)) static

namespace llmc {

constexpr int kSampleBlocks = 256;
constexpr int kBins = 256;
constexpr int kNear = 4096;  // values that a threshold is looked for among, without the row
constexpr int kFew = 24;     // values that are sorted

constexpr IVec kLaneIds = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

LLMC_INLINE float min_of(float a, float b) { return a < b ? a : b; }
LLMC_INLINE bool any(IVec mask) { return __builtin_reduce_or(mask) != 0; }

// 16 logits from i on; those that do not exist are -inf.
LLMC_INLINE Vec logits_at(const float* x, int n, int i) {
  if (i + kLanes <= n) return load(x + i);
  return select(kLaneIds < n - i, load_partial(x + i, n - i), splat(-__builtin_inff()));
}

// What may still be drawn: d <= reach, weight >= least, and if `typical` |d - mean| <= deviation.
struct Kept {
  const float* x;
  int n;
  int block;      // tokens in each of kSampleBlocks
  float largest;  // of the row; finite
  float rate;     // 1 / temperature
  const float* block_largest;  // the largest of each block; or null, and then all are looked at
  float reach;
  float least;
  bool typical;
  float mean, deviation;

  // visit(i, d, weight, kept) for each 16 tokens of block b of which any is within reach; the weights
  // of those that are not kept are 0. Without `weigh` all weights are 1.
  template <bool weigh, class Visit>
  LLMC_METHOD void each_of_block(int b, Visit visit) const {
    if (block_largest && largest - block_largest[b] > reach) return;
    for (int i = begin(b); i < end(b); i += kLanes) {
      const Vec d = splat(largest) - logits_at(x, n, i);
      IVec kept = d <= splat(reach);
      if (!any(kept)) continue;
      if (typical) kept &= abs(d - splat(mean)) <= splat(deviation);
      Vec weight = splat(1.0f);
      if (weigh) {
        weight = exp(d * splat(-rate));
        kept &= weight >= splat(least);
      }
      visit(i, d, select(kept, weight, splat(0.0f)), kept);
    }
  }
  template <bool weigh, class Visit>
  LLMC_METHOD void each(Visit visit) const {
    for (int b = 0; b < kSampleBlocks; ++b) each_of_block<weigh>(b, visit);
  }
  LLMC_METHOD int begin(int b) const { return min_int(b * block, n); }
  LLMC_METHOD int end(int b) const { return min_int((b + 1) * block, n); }
};

// The sum of the weights, that of weight * d, and the weight of each block.
struct Sums {
  double weight, moment;
  double blocks[kSampleBlocks];
};

template <bool moments>
LLMC_OUTLINE void add_up(const Kept& kept, Sums& sums) {
  sums.weight = sums.moment = 0;
  for (int b = 0; b < kSampleBlocks; ++b) {
    Vec weight = splat(0.0f), moment = splat(0.0f);
    kept.each_of_block<true>(b, [&](int, Vec d, Vec w, IVec) {
      weight += w;
      if (moments) moment += w * min(d, splat(kept.reach));  // w is 0 where d may be infinite
    });
    sums.blocks[b] = reduce_add(weight);
    sums.weight += sums.blocks[b];
    if (moments) sums.moment += reduce_add(moment);
  }
}

struct Near {
  float key, weight;
};

static inline void sift_down(Near* heap, int at, int n) {
  const Near value = heap[at];
  for (int child; (child = 2 * at + 1) < n; at = child) {
    if (child + 1 < n && heap[child + 1].key > heap[child].key) ++child;
    if (heap[child].key <= value.key) break;
    heap[at] = heap[child];
  }
  heap[at] = value;
}
LLMC_OUTLINE void sort_by_key(Near* a, int n) {  // heap sort has no worst case
  for (int i = n / 2 - 1; i >= 0; --i) sift_down(a, i, n);
  for (int end = n - 1; end > 0; --end) {
    const Near largest = a[0];
    a[0] = a[end];
    a[end] = largest;
    sift_down(a, 0, end);
  }
}

// Work space for one threshold.
struct Selection {
  double bins[4][kBins];
  int count;  // of those found, all of which are there if they are not more than kNear
  Near near[kNear + kLanes + 1];
};

// Which of kBins bins over [low, high] a key falls into.
struct Bins {
  float low, high;
  LLMC_METHOD IVec holds(Vec key) const { return (key >= splat(low)) & (key <= splat(high)); }
  LLMC_METHOD IVec of(Vec key) const {
    const float scale = high > low ? (float)kBins / (high - low) : 0.0f;
    const Vec place = min((key - splat(low)) * splat(scale), splat(kBins - 1.0f));
    return __builtin_convertvector(place, IVec);
  }
};

// The bin in which the weight reaches `share`; `before` becomes the weight of the bins before it.
LLMC_OUTLINE int deciding_bin(const Selection& work, double share, double& before) {
  for (int bin = 0; bin < kBins; ++bin) {
    const double weight = (work.bins[0][bin] + work.bins[1][bin]) +
                          (work.bins[2][bin] + work.bins[3][bin]);
    if (before + weight >= share) return bin;
    before += weight;
  }
  return -1;
}

// The decision among the values found, all of which are there; -1 if they weigh less than `share`.
LLMC_OUTLINE float decide(Selection& work, double before, double share) {
  while (work.count > kFew) {
    Bins bins{work.near[0].key, work.near[0].key};
    for (int i = 1; i < work.count; ++i) {
      const float key = work.near[i].key;
      bins.low = key < bins.low ? key : bins.low;
      bins.high = key > bins.high ? key : bins.high;
    }
    memset(work.bins, 0, sizeof work.bins);
    auto bin_of = [&](const Near& value) { return bins.of(splat(value.key))[0]; };
    for (int i = 0; i < work.count; ++i)
      work.bins[i & 3][bin_of(work.near[i])] += work.near[i].weight;
    const int chosen = deciding_bin(work, share, before);
    if (chosen < 0 || bins.low == bins.high) return chosen < 0 ? -1 : bins.low;
    int count = 0;
    for (int i = 0; i < work.count; ++i)
      if (bin_of(work.near[i]) == chosen) work.near[count++] = work.near[i];
    work.count = count;
  }
  sort_by_key(work.near, work.count);
  for (int i = 0; i < work.count; ++i) {
    before += work.near[i].weight;
    if (before >= share) return work.near[i].key;
  }
  return -1;
}

// Collects kept tokens whose key lies in the bins, in bin `only` if it is not negative; the bins
// shrink to what was found.
template <bool weigh, class Key>
LLMC_OUTLINE void find(const Kept& kept, Selection& work, Key key, Bins& bins, int only) {
  work.count = 0;
  Vec lowest = splat(bins.high), highest = splat(bins.low);
  kept.each<weigh>([&](int, Vec d, Vec w, IVec is_kept) {
    const Vec k = key(d);
    IVec inside = is_kept & bins.holds(k);
    if (only >= 0) inside &= bins.of(select(inside, k, splat(bins.low))) == only;
    if (!any(inside)) return;
    lowest = min(select(inside, k, splat(bins.high)), lowest);
    highest = max(select(inside, k, splat(bins.low)), highest);
    if (work.count > kNear) {  // too many: only how many
      work.count += -__builtin_reduce_add(inside);
      return;
    }
    float keys[kLanes], weights[kLanes];
    int32_t found[kLanes];
    store(keys, k);
    store(weights, w);
    __builtin_memcpy(found, &inside, sizeof found);
    for (int lane = 0; lane < kLanes; ++lane) {  // no branch, which could not be foretold
      work.near[work.count] = {keys[lane], weights[lane]};
      work.count -= found[lane];
    }
  });
  bins = {-reduce_max(-lowest), reduce_max(highest)};
}

template <bool weigh, class Key>
LLMC_OUTLINE void fill_bins(const Kept& kept, Selection& work, Key key, const Bins& bins) {
  memset(work.bins, 0, sizeof work.bins);
  kept.each<weigh>([&](int, Vec d, Vec w, IVec is_kept) {
    const Vec k = key(d);
    const IVec inside = is_kept & bins.holds(k);
    if (!any(inside)) return;
    float weights[kLanes];
    int32_t bin[kLanes];
    store(weights, select(inside, w, splat(0.0f)));
    const IVec places = bins.of(select(inside, k, splat(bins.low)));
    __builtin_memcpy(bin, &places, sizeof bin);
    for (int lane = 0; lane < kLanes; ++lane) work.bins[lane & 3][bin[lane]] += weights[lane];
  });
}

// The smallest key such that kept tokens with keys up to it weigh at least `share` together; -1 if
// all with keys up to `high` weigh less.
template <bool weigh, class Key>
LLMC_OUTLINE float threshold(const Kept& kept, Selection& work, Key key, float high, double share) {
  Bins bins{0, high};
  double before = 0;  // weight of the keys below the bins
  find<weigh>(kept, work, key, bins, -1);
  while (work.count > kNear) {
    if (bins.low == bins.high) return bins.low;
    fill_bins<weigh>(kept, work, key, bins);
    const int chosen = deciding_bin(work, share, before);
    if (chosen < 0) return -1;
    find<weigh>(kept, work, key, bins, chosen);
  }
  return decide(work, before, share);
}

// What a threshold is for: how far below the largest, or how far from the mean.
struct Below {
  LLMC_METHOD Vec operator()(Vec d) const { return d; }
};
struct Distance {
  float mean;
  LLMC_METHOD Vec operator()(Vec d) const { return abs(d - splat(mean)); }
};

// The largest logit, how far the smallest finite one lies below it, and the largest of each block.
LLMC_OUTLINE void survey(Kept& kept, float* block_largest) {
  Vec smallest = splat(FLT_MAX);
  kept.largest = -__builtin_inff();
  for (int b = 0; b < kSampleBlocks; ++b) {
    Vec best = splat(-__builtin_inff());
    for (int i = kept.begin(b); i < kept.end(b); i += kLanes) {
      const Vec v = logits_at(kept.x, kept.n, i);
      best = max(v, best);
      smallest = min(select(v > splat(-__builtin_inff()), v, splat(FLT_MAX)), smallest);
    }
    block_largest[b] = reduce_max(best);
    if (block_largest[b] > kept.largest) kept.largest = block_largest[b];
  }
  kept.reach = min_of(kept.largest + reduce_max(-smallest), FLT_MAX);
}

LLMC_OUTLINE Kept whole_row(const float* x, int n, float rate, float* block_largest) {
  const int block = round_up(ceil_div(n, kSampleBlocks), kLanes);
  Kept kept{x, n, block, 0, rate, block_largest, 0, 0, false, 0, 0};
  survey(kept, block_largest);
  return kept;
}

// The reach of the k-th of the blocks' largest, within which there are at least k tokens and not
// many more, or of everything if there are not so many blocks.
LLMC_OUTLINE float near_reach(const Kept& kept, Selection& work, int k) {
  if (k > kSampleBlocks / 2) return kept.reach;
  Kept blocks = kept;
  blocks.x = kept.block_largest;
  blocks.n = kSampleBlocks;
  blocks.block = kLanes;
  blocks.block_largest = nullptr;
  const float reach = threshold<false>(blocks, work, Below{}, kept.reach, k);
  return reach < 0 ? kept.reach : reach;
}

// How far down the k largest reach, equal ones included.
LLMC_OUTLINE float reach_of(const Kept& kept, Selection& work, int k) {
  Kept some = kept;
  some.reach = near_reach(kept, work, k);
  const float reach = threshold<false>(some, work, Below{}, some.reach, k);
  return reach < 0 ? some.reach : reach;
}

}  // namespace llmc
