// Causal convolution along the tokens, one filter a channel, with the last rows of each sequence kept.
#pragma once

#include <stdint.h>
#include <string.h>

#include "simd.h"
#include "slots.h"
#include "team.h"

namespace llmc {

constexpr int kConvTile = 64;    // channels
constexpr int kMaxConvWidth = 64;  // rows that a filter reads

// y[t, c] = sum over j of w[j, c] * x[t - K + 1 + j, c], then the bias, then silu: x, y [T, C] with row
// strides, w [K, C], bias [C] or null. A slot holds the last K - 1 rows of x, [K - 1, C].
inline void causal_conv(Team& team, const Batch& batch, const SlotPart& kept, int C, int K,
                        const float* x, int ldx, const float* w, const float* bias, bool silu_,
                        float* y, int ldy) {
  for_each_tile(team, batch, ceil_div(C, kConvTile), [&](int tile, const Span& span) {
    const int first = tile * kConvTile, channels = min_int(kConvTile, C - first);
    float* state = kept(span.s) + first;
    const float* row[kMaxConvWidth];  // the K rows that a token reads, the oldest first
    for (int j = 0; j + 1 < K; ++j) {
      if (span.fresh) memset(state + (int64_t)j * C, 0, channels * sizeof(float));
      row[j] = state + (int64_t)j * C;
    }
    for (int t = span.begin; t < span.end; ++t) {
      row[K - 1] = x + (int64_t)t * ldx + first;
      float* to = y + (int64_t)t * ldy + first;
      for (int c = 0; c < channels; c += kLanes) {
        const int n = min_int(kLanes, channels - c);
        const auto read = [&](const float* p) { return n == kLanes ? load(p + c) : load_partial(p + c, n); };
        Vec sum = splat(0.0f);
        for (int j = 0; j < K; ++j) sum = fma(read(w + (int64_t)j * C + first), read(row[j]), sum);
        if (bias) sum += read(bias + first);
        if (silu_) sum = silu(sum);
        n == kLanes ? store(to + c, sum) : store_partial(to + c, sum, n);
      }
      for (int j = 0; j + 1 < K; ++j) row[j] = row[j + 1];
    }
    // A row that stays is moved towards the beginning, so none is overwritten before it is read.
    for (int j = 0; j + 1 < K; ++j)
      memmove(state + (int64_t)j * C, row[j], channels * sizeof(float));
  });
}

}  // namespace llmc
