// Chooses a token from a row of logits: edits, masks, temperature, top-k, top-p, min-p, typical.
//
// Everything is a threshold on d = largest - x, how far a logit lies below the largest: a pass over
// the row keeps what is within it, equal logits together, so nothing is sorted but the few values
// around a threshold. Those are found with histograms: a pass adds the weights that fall into each
// of 256 bins, the next looks into the one bin that decides. The token is found along the ids, from
// sums of blocks, and only one block is looked at again. Weights are exp's (2 ulp) in float, their
// sums 16 lanes of float within a block and double between blocks: a token whose cumulative weight
// lies within about 1e-6 of the drawn number, or of the share that top-p asks for, may fall either
// way. A row is the work of one thread, in one order.
#pragma once

#include <float.h>
#include <math.h>

#include "llmc.h"
#include "sampling_passes.h"
#include "simd.h"
#include "team.h"

namespace llmc {

// ---- log-probabilities -------------------------------------------------------------------------

// `top` most likely tokens, best first and equals by id, into the choice (-1 behind the last of
// them); returns the logarithm of the sum over exp(x).
LLMC_OUTLINE double report(const llmc_choice& c, int n, Selection& work, Sums& sums) {
  float block_largest[kSampleBlocks];
  Kept kept = whole_row(c.logits, n, 1.0f, block_largest);
  add_up<false>(kept, sums);
  const double normalizer = (double)kept.largest + log(sums.weight);
  const int top = min_int(c.top, n);
  for (int i = 0; i < c.top; ++i) c.top_ids[i] = -1;
  if (top <= 0) return normalizer;
  kept.reach = reach_of(kept, work, top);
  int count = 0;
  kept.each<false>([&](int first, Vec, Vec, IVec is_kept) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const int id = first + lane;
      if (!is_kept[lane] || (count == top && c.logits[id] <= c.logits[c.top_ids[top - 1]])) continue;
      int place = count < top ? count++ : top - 1;
      for (; place > 0 && c.logits[c.top_ids[place - 1]] < c.logits[id]; --place)
        c.top_ids[place] = c.top_ids[place - 1];
      c.top_ids[place] = id;
    }
  });
  for (int i = 0; i < count; ++i)
    c.top_logprobs[i] = (float)(c.logits[c.top_ids[i]] - normalizer);
  return normalizer;
}

// ---- the choice --------------------------------------------------------------------------------

LLMC_OUTLINE void change(const llmc_choice& c, int n) {
  for (int e = 0; e < c.edits; ++e) {
    float& x = c.logits[c.edit_ids[e]];
    const float biased = x + c.bias[e];
    x = (biased > 0 ? biased / c.penalty[e] : biased * c.penalty[e]) - c.minus[e];
  }
  if (c.allowed) {
    for (int i = 0; i < n; i += kLanes) {
      const int32_t bits = (int32_t)(c.allowed[i / 32] >> (i % 32));
      const IVec allowed = ((splat_int(bits) >> kLaneIds) & 1) != 0;
      store_partial(c.logits + i, select(allowed, logits_at(c.logits, n, i), splat(-__builtin_inff())),
                    min_int(kLanes, n - i));
    }
  }
  for (int f = 0; f < c.forbidden_count; ++f) c.logits[c.forbidden[f]] = -__builtin_inff();
}

LLMC_OUTLINE int first_of(const float* x, int n, float value) {
  for (int i = 0; i < n; i += kLanes) {
    const IVec same = logits_at(x, n, i) == splat(value);
    if (!any(same)) continue;
    for (int lane = 0; lane < kLanes; ++lane)
      if (same[lane]) return i + lane;
  }
  return -1;
}

// How far down what matters for a share of the weight can reach: what lies below weighs so little
// that all of it is less than the rest (a margin of 1 % allows for rounding).
LLMC_OUTLINE float far_enough(const Kept& kept, const Sums& sums, float share) {
  const double rest = (1.0 - (double)share) * sums.weight / (double)kept.n;
  const double far = -log(rest) / (double)kept.rate * 1.01;
  return min_of((float)far, kept.reach);
}

// Keeps the largest that weigh `share` of all together: usually few, so first it looks near.
LLMC_OUTLINE void keep_top_p(Kept& kept, Selection& work, const Sums& sums, float share) {
  Kept some = kept;
  some.reach = min_of(kept.reach, near_reach(kept, work, kSampleBlocks / 4));
  float reach = threshold<true>(some, work, Below{}, some.reach, share * sums.weight);
  if (reach < 0) {
    some.reach = far_enough(kept, sums, share);
    reach = threshold<true>(some, work, Below{}, some.reach, share * sums.weight);
  }
  kept.reach = reach < 0 ? some.reach : reach;
}

// Keeps those whose distance from the mean is smallest, as many as weigh `share` together.
LLMC_OUTLINE void keep_typical(Kept& kept, Selection& work, const Sums& sums, float share) {
  const float mean = (float)(sums.moment / sums.weight);
  const Distance distance{mean};
  Kept some = kept;
  float high = near_reach(kept, work, kSampleBlocks / 4) - mean, deviation = -1;
  if (high > 0) {
    some.reach = min_of(kept.reach, mean + high);
    deviation = threshold<true>(some, work, distance, high, share * sums.weight);
  }
  if (deviation < 0) {
    const float far = far_enough(kept, sums, share);
    high = far - mean > mean ? far - mean : mean;
    some.reach = min_of(kept.reach, mean + high);
    deviation = threshold<true>(some, work, distance, high, share * sums.weight);
  }
  kept.deviation = deviation < 0 ? high : deviation;
  kept.mean = mean;
  kept.typical = true;
}

LLMC_OUTLINE void apply_filters(const llmc_choice& c, Kept& kept, Selection& work, Sums& sums) {
  if (c.top_k > 0 && c.top_k < kept.n) kept.reach = reach_of(kept, work, c.top_k);
  if (c.top_p < 1) {
    add_up<false>(kept, sums);
    keep_top_p(kept, work, sums, c.top_p);
  }
  kept.least = c.min_p;
  if (c.min_p > 0) kept.reach = min_of(kept.reach, (1e-5f - logf(c.min_p)) / kept.rate * 1.01f);
  if (c.typical_p < 1) {
    add_up<true>(kept, sums);
    keep_typical(kept, work, sums, c.typical_p);
  }
  add_up<false>(kept, sums);
}

// The token at `uniform` of the whole weight, along the ids.
LLMC_OUTLINE int locate(const Kept& kept, const Sums& sums, double uniform) {
  const double target = uniform * sums.weight;
  double sum = 0;
  int chosen = 0;
  for (int b = 0; b < kSampleBlocks; ++b) {
    if (sums.blocks[b] == 0) continue;
    chosen = b;
    if (sum + sums.blocks[b] > target) break;
    sum += sums.blocks[b];
  }
  int token = -1;
  bool found = false;
  kept.each_of_block<true>(chosen, [&](int i, Vec, Vec w, IVec is_kept) {
    for (int lane = 0; lane < kLanes && !found; ++lane) {
      if (!is_kept[lane] || w[lane] == 0) continue;
      token = i + lane;
      sum += w[lane];
      found = sum > target;
    }
  });
  return token;
}

LLMC_OUTLINE int draw(const llmc_choice& c, int n, Selection& work, Sums& sums) {
  float block_largest[kSampleBlocks];
  const float rate = c.temperature > 0 ? 1.0f / c.temperature : 1.0f;
  Kept kept = whole_row(c.logits, n, min_of(rate, 1e38f), block_largest);
  if (!(kept.largest > -__builtin_inff())) return -1;
  if (c.temperature <= 0 || kept.largest > FLT_MAX) return first_of(c.logits, n, kept.largest);
  apply_filters(c, kept, work, sums);
  return locate(kept, sums, c.uniform);
}

// In the scratch memory of the thread.
struct SampleScratch {
  Selection work;
  Sums sums;
};

inline void sample_row(llmc_choice& c, int n, char* scratch) {
  SampleScratch& s = *(SampleScratch*)scratch;
  double normalizer = 0;
  if (c.top >= 0) normalizer = report(c, n, s.work, s.sums);
  if (c.target >= 0) {
    c.token = c.target;
  } else {
    const bool keep = c.top >= 0 && c.edits > 0;
    if (keep)
      for (int e = 0; e < c.edits; ++e) c.before[e] = c.logits[c.edit_ids[e]];
    change(c, n);
    c.token = draw(c, n, s.work, s.sums);
    if (keep)
      for (int e = 0; e < c.edits; ++e)
        if (c.token == c.edit_ids[e]) c.logits[c.token] = c.before[e];
  }
  if (c.top < 0 || c.token < 0) return;
  c.logprob = (float)((double)c.logits[c.token] - normalizer);
}

struct Choices {
  llmc_choice* choices;
  int count, vocab;
};

inline void sample_rows(Team& team, void* context) {
  const Choices& all = *(Choices*)context;
  const Range range = team_range(team, all.count);
  for (int i = range.begin; i < range.end; ++i)
    sample_row(all.choices[i], all.vocab, team.scratch);
}

}  // namespace llmc
