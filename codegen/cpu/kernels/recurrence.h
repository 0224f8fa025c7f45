// Linear recurrences: a matrix for each head that every token lets fade, adds to and reads.
//
//   S <- decay S;  u = v, or by the delta rule beta (v - k^T S);  S <- S + k u^T;  y = q^T S
//
// A tile is 16 columns of one head's matrix, [K][16] in a slot (the last one of a head is as narrow as
// what is left). It stays in the first-level cache while the tokens of a sequence run over it, once
// a token: a row is read, fades, is added to, written, and multiplied with this token's query
// and the next token's key. Sums over rows run in two chains, even rows and odd rows.
#pragma once

#include <stdint.h>
#include <string.h>

#include "simd.h"
#include "slots.h"
#include "team.h"

namespace llmc {

// q, k [T, G, K], v, y [T, H, V], decay [T, H] or, by key channel, [T, H, K], beta [T, H] or null,
// with token strides. Head h has the queries and keys of group h / (H / G).
struct Recurrence {
  int G, H, K, V;
  const float *q, *k, *v, *decay, *beta;
  int ldq, ldk, ldv, ld_decay, ld_beta;
  float* y;
  int ldy;
};

LLMC_INLINE Vec read_lanes(const float* p, int n) { return n == kLanes ? load(p) : load_partial(p, n); }
LLMC_INLINE void write_lanes(float* p, Vec v, int n) {
  n == kLanes ? store(p, v) : store_partial(p, v, n);
}

// k^T S of the rows as they are: sum over i of k[i] * S[i].
LLMC_INLINE Vec read_matrix(int K, const float* k, const float* S) {
  Vec even = splat(0.0f), odd = splat(0.0f);
  int i = 0;
  for (; i + 2 <= K; i += 2) {
    even = fma(splat(k[i]), load(S + i * kLanes), even);
    odd = fma(splat(k[i + 1]), load(S + (i + 1) * kLanes), odd);
  }
  if (i < K) even = fma(splat(k[i]), load(S + i * kLanes), even);
  return even + odd;
}

// One token: S <- decay S + k u^T. Returns q^T S in y, and k_next^T S in `next` if there is a next one.
template <bool kChannels, bool kNext>
LLMC_INLINE void pass_over(int K, float* S, const float* decay, const float* k, const float* q,
                           const float* k_next, Vec u, Vec& y, Vec& next) {
  const Vec fade = splat(decay[0]);
  Vec sum[2] = {splat(0.0f), splat(0.0f)}, ahead[2] = {splat(0.0f), splat(0.0f)};
  const auto row = [&](int i, int chain) __attribute__((always_inline)) {
    const Vec faded = load(S + i * kLanes) * (kChannels ? splat(decay[i]) : fade);
    const Vec s = fma(splat(k[i]), u, faded);
    store(S + i * kLanes, s);
    sum[chain] = fma(splat(q[i]), s, sum[chain]);
    if (kNext) ahead[chain] = fma(splat(k_next[i]), s, ahead[chain]);
  };
  int i = 0;
  for (; i + 2 <= K; i += 2) row(i, 0), row(i + 1, 1);
  if (i < K) row(i, 0);
  y = sum[0] + sum[1];
  next = ahead[0] + ahead[1];
}

// The keys that read a matrix before it fades: k itself for one decay, which multiplies the sum, else
// k * decay, put into `product`.
template <bool kChannels>
LLMC_INLINE const float* reading_key(int K, const float* k, const float* decay, float* product) {
  if (!kChannels) return k;
  for (int i = 0; i < K; i += kLanes) {
    const int n = min_int(kLanes, K - i);
    write_lanes(product + i, read_lanes(k + i, n) * read_lanes(decay + i, n), n);
  }
  return product;
}

// All tokens of a span over one tile S [K][16] of head h, columns [first, first + width).
template <bool kDelta, bool kChannels>
inline void run_tile(const Recurrence& r, const Span& span, int h, int first, int width, float* S,
                     float* product) {
  const int K = r.K, group = h / (r.H / r.G);
  const auto key = [&](int t) { return r.k + (int64_t)t * r.ldk + group * K; };
  const auto decay = [&](int t) {
    return r.decay + (int64_t)t * r.ld_decay + (kChannels ? h * K : h);
  };
  const auto reading = [&](int t) { return reading_key<kChannels>(K, key(t), decay(t), product); };
  Vec known = splat(0.0f);
  if (kDelta && span.begin < span.end) known = read_matrix(K, reading(span.begin), S);
  for (int t = span.begin; t < span.end; ++t) {
    const int64_t at = (int64_t)h * r.V + first;
    Vec u = read_lanes(r.v + (int64_t)t * r.ldv + at, width), y, next;
    if (kDelta) {
      if (!kChannels) known *= splat(decay(t)[0]);
      u = splat(r.beta[(int64_t)t * r.ld_beta + h]) * (u - known);
    }
    const float* q = r.q + (int64_t)t * r.ldq + group * K;
    if (kDelta && t + 1 < span.end)
      pass_over<kChannels, true>(K, S, decay(t), key(t), q, reading(t + 1), u, y, next);
    else
      pass_over<kChannels, false>(K, S, decay(t), key(t), q, nullptr, u, y, next);
    known = next;
    write_lanes(r.y + (int64_t)t * r.ldy + at, y, width);
  }
}

// A narrow tile works on a copy whose rows have 16 columns.
inline void widen(int K, int width, const float* from, float* S) {
  for (int i = 0; i < K; ++i) store(S + i * kLanes, load_partial(from + i * width, width));
}
inline void narrow(int K, int width, const float* S, float* to) {
  for (int i = 0; i < K; ++i) store_partial(to + i * width, load(S + i * kLanes), width);
}

template <bool kDelta, bool kChannels>
inline void recur(Team& team, const Batch& batch, const SlotPart& kept, const Recurrence& r) {
  const int K = r.K, tiles = ceil_div(r.V, kLanes);
  float* product = (float*)team.scratch;
  float* wide = product + round_up(K, kLanes);
  for_each_tile(team, batch, r.H * tiles, [&](int tile, const Span& span) {
    const int h = tile / tiles, first = tile % tiles * kLanes, width = min_int(kLanes, r.V - first);
    float* own = kept(span.s) + (int64_t)h * K * r.V + (int64_t)first * K;
    if (span.fresh) memset(own, 0, (int64_t)K * width * sizeof(float));
    if (width == kLanes) return run_tile<kDelta, kChannels>(r, span, h, first, kLanes, own, product);
    widen(K, width, own, wide);
    run_tile<kDelta, kChannels>(r, span, h, first, width, wide, product);
    narrow(K, width, wide, own);
  });
}

inline void linear_recurrence(Team& team, const Batch& batch, const SlotPart& kept, int G, int H, int K,
                              int V, const float* q, int ldq, const float* k, int ldk,
                              const float* v, int ldv, const float* decay, int ld_decay,
                              bool by_channel, const float* beta, int ld_beta, float* y, int ldy) {
  const Recurrence r{G, H, K, V, q, k, v, decay, beta, ldq, ldk, ldv, ld_decay, ld_beta, y, ldy};
  if (beta) {
    by_channel ? recur<true, true>(team, batch, kept, r) : recur<true, false>(team, batch, kept, r);
  } else {
    by_channel ? recur<false, true>(team, batch, kept, r) : recur<false, false>(team, batch, kept, r);
  }
}

}  // namespace llmc
