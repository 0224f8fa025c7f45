// Mixture-of-experts bookkeeping around the grouped linear kernels.
//
// route_tokens sorts the step's (token, choice) pairs by expert; combine_experts adds each token's
// expert outputs back together. Both keep one order, so a token's result does not depend on its
// batch.
#pragma once

#include <stdint.h>

#include "simd.h"
#include "team.h"

namespace llmc {

// Stable counting sort of idx [T, topk] (each 0 <= idx < experts):
//   offsets [experts + 1]: expert e has the sorted slots offsets[e] .. offsets[e + 1]
//   row_index [T * topk]:  token of each sorted slot
//   slot [T, topk]:        sorted slot of each pair, the inverse
// One thread does it: a few thousand pairs at most, and any split would need a barrier.
inline void route_tokens(Team& team, int T, int topk, int experts, const int32_t* idx,
                         int32_t* row_index, int32_t* offsets, int32_t* slot) {
  if (team.id != 0) return;
  const int pairs = T * topk;
  for (int e = 0; e <= experts; ++e) offsets[e] = 0;
  for (int i = 0; i < pairs; ++i) ++offsets[idx[i] + 1];
  for (int e = 0; e < experts; ++e) offsets[e + 1] += offsets[e];
  // offsets[e] serves as the cursor of expert e and ends as offsets[e + 1]: shifted back below.
  for (int i = 0; i < pairs; ++i) {
    const int to = offsets[idx[i]]++;
    row_index[to] = i / topk;
    slot[i] = to;
  }
  for (int e = experts; e > 0; --e) offsets[e] = offsets[e - 1];
  offsets[0] = 0;
}

// out[t] = sum over j, in this order, of weights[t, j] * y[slot[t, j]], for n columns.
inline void combine_experts(Team& team, int T, int topk, int n, const float* y, const int32_t* slot,
                            const float* weights, float* out, int ldo) {
  // Columns are split too, so that decode (T = 1) uses the whole team.
  constexpr int kColumns = 64;
  const int chunks = ceil_div(n, kColumns);
  const Range items = team_range(team, T * chunks);
  for (int item = items.begin; item < items.end; ++item) {
    const int t = item / chunks;
    const int begin = item % chunks * kColumns;
    const int width = min_int(n - begin, kColumns);
    float sum[kColumns] = {};
    for (int j = 0; j < topk; ++j) {
      const float weight = weights[(int64_t)t * topk + j];
      const float* row = y + (int64_t)slot[(int64_t)t * topk + j] * n + begin;
      for (int i = 0; i < width; ++i) sum[i] += weight * row[i];
    }
    float* to = out + (int64_t)t * ldo + begin;
    for (int i = 0; i < width; ++i) to[i] = sum[i];
  }
}

}  // namespace llmc
