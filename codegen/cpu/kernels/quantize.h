// Dynamic quantization of activations: f32 rows to int8 blocks of 32 along K.
//
// Per block: scale = max|x| / 127, q = round-half-even(x / scale), sum = scale * sum(q). A block of
// zeros (or one so small that 1 / scale overflows) gets q = 0. Blocks are independent, so threads
// split them freely and results depend on nothing else.
#pragma once

#include <stdint.h>

#include "int_dot.h"
#include "simd.h"
#include "team.h"

namespace llmc {

// Quantized rows: q [T, Kp], scale and sum [T, Kp/32] with Kp = k rounded up to 32. Who reads them
// takes every `step`-th one.
struct QRows {
  const int8_t* q;
  const float* scale;
  const float* sum;
  int k;
  int step = 1;
};

typedef int8_t CVec __attribute__((ext_vector_type(16)));

// One block, x given as two vectors: writes 32 codes, the scale and the sum.
LLMC_INLINE void quantize_block(Vec low, Vec high, int8_t* q, float* scale, float* sum) {
  float s = reduce_max(max(abs(low), abs(high))) / 127.0f;
  float inverse = 1.0f / s;
  Vec by = splat(inverse <= __FLT_MAX__ ? inverse : 0.0f);
  Vec a = round_even(low * by), b = round_even(high * by);
  CVec codes[2] = {__builtin_convertvector(__builtin_convertvector(a, IVec), CVec),
                   __builtin_convertvector(__builtin_convertvector(b, IVec), CVec)};
  __builtin_memcpy(q, codes, sizeof codes);
  *scale = s;
  *sum = s * reduce_add(a + b);  // whole numbers below 2^24: exact in any order
}

// x [T, k] with row stride ldx.
inline void quantize_rows(Team& team, int T, int k, const float* x, int ldx, int8_t* q,
                          float* scale, float* sum) {
  const int blocks = ceil_div(k, kBlock);
  Range range = team_range(team, T * blocks);
  for (int i = range.begin; i < range.end; i++) {
    const int t = i / blocks, at = i % blocks * kBlock, left = min_int(kBlock, k - at);
    const float* from = x + (int64_t)t * ldx + at;
    Vec low = left >= kLanes ? load(from) : load_partial(from, left);
    Vec high = left == kBlock ? load(from + kLanes)
                              : load_partial(from + kLanes, max_int(0, left - kLanes));
    quantize_block(low, high, q + (int64_t)i * kBlock, scale + i, sum + i);
  }
}

// Where quantized rows are made that the whole team reads next.
//
// Of many rows each thread makes its share, then all wait. Of few rows every thread makes all for
// itself, which takes less time than waiting: `team()` is then the calling thread alone, and q,
// scale and sum are places of its own in buffers that hold `capacity` rows.
constexpr int kFewRows = 4;
constexpr int kFewWidth = (int)(kScratchBytes / sizeof(float)) / kFewRows;

class RowsForTeam {
 public:
  int8_t* q;
  float *scale, *sum;

  RowsForTeam(Team& team, int rows, int capacity, int k, int8_t* q, float* scale, float* sum)
      : q(q), scale(scale), sum(sum), all_(team), alone_{0, 1, team.scratch, team.pool}, k_(k),
        few_(rows <= kFewRows && k <= kFewWidth && team.size * kFewRows <= capacity) {
    if (!few_) return;
    const int64_t blocks = (int64_t)team.id * kFewRows * ceil_div(k, kBlock);
    this->q += blocks * kBlock, this->scale += blocks, this->sum += blocks;
  }
  Team& team() { return few_ ? alone_ : all_; }
  // Where f32 rows [rows, k] go that the same kernel makes and others use later: if every thread
  // makes them, those of one count.
  float* other(float* y) const { return few_ && all_.id != 0 ? (float*)all_.scratch : y; }
  // All rows, ready for this thread to read.
  QRows done() {
    if (!few_) all_.barrier();
    return {q, scale, sum, k_};
  }

 private:
  Team& all_;
  Team alone_;
  int k_;
  bool few_;
};

}  // namespace llmc
