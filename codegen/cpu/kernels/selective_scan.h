// The selective scan (arXiv 2312.00752): of each channel N numbers that fade, are added to and read.
//
//   h[n] <- exp(dt a[n]) h[n] + b[n] (dt x);   y = sum over n of c[n] h[n]
//
// A tile is 16 channels, [N][16] in a slot (the last one as narrow as what is left).
#pragma once

#include <stdint.h>
#include <string.h>

#include "simd.h"
#include "slots.h"
#include "team.h"

namespace llmc {

// x, dt, y [T, D] and b, c [T, N] with token strides, a [N, D].
struct Scan {
  int D, N;
  const float *x, *dt, *b, *c, *a;
  int ldx, ld_dt, ldb, ldc;
  float* y;
  int ldy;
};

// All tokens of a span over one tile h [N][16], a [N][16] of channels [first, first + width).
inline void scan_tile(const Scan& r, const Span& span, int first, int width, const float* a, float* h) {
  const auto lanes = [&](const float* p) { return width == kLanes ? load(p) : load_partial(p, width); };
  for (int t = span.begin; t < span.end; ++t) {
    const Vec dt = lanes(r.dt + (int64_t)t * r.ld_dt + first);
    const Vec added = dt * lanes(r.x + (int64_t)t * r.ldx + first);
    const float *b = r.b + (int64_t)t * r.ldb, *c = r.c + (int64_t)t * r.ldc;
    Vec y = splat(0.0f);
    for (int n = 0; n < r.N; ++n) {
      const Vec faded = exp(dt * load(a + n * kLanes)) * load(h + n * kLanes);
      const Vec number = fma(splat(b[n]), added, faded);
      store(h + n * kLanes, number);
      y = fma(splat(c[n]), number, y);
    }
    float* to = r.y + (int64_t)t * r.ldy + first;
    width == kLanes ? store(to, y) : store_partial(to, y, width);
  }
}

inline void selective_scan(Team& team, const Batch& batch, const SlotPart& kept, int D, int N,
                           const float* x, int ldx, const float* dt, int ld_dt, const float* b,
                           int ldb, const float* c, int ldc, const float* a, float* y, int ldy) {
  const Scan r{D, N, x, dt, b, c, a, ldx, ld_dt, ldb, ldc, y, ldy};
  float* rates = (float*)team.scratch;
  float* wide = rates + N * kLanes;
  int ready = -1;  // the tile that `rates` are of
  for_each_tile(team, batch, ceil_div(D, kLanes), [&](int tile, const Span& span) {
    const int first = tile * kLanes, width = min_int(kLanes, D - first);
    if (tile != ready)
      for (int n = 0; n < N; ++n)
        store(rates + n * kLanes, load_partial(a + (int64_t)n * D + first, width));
    ready = tile;
    float* own = kept(span.s) + (int64_t)first * N;
    if (span.fresh) memset(own, 0, (int64_t)N * width * sizeof(float));
    if (width == kLanes) return scan_tile(r, span, first, width, rates, own);
    for (int n = 0; n < N; ++n) store(wide + n * kLanes, load_partial(own + n * width, width));
    scan_tile(r, span, first, width, rates, wide);
    for (int n = 0; n < N; ++n) store_partial(own + n * width, load(wide + n * kLanes), width);
  });
}

}  // namespace llmc
