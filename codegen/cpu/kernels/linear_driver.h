// What all linear kernels share: who computes which part, and what happens to a finished tile.
//
// Weights come in panels of 16 output rows (layout: packing.py). The work is a list of units, each
// one panel (or a gate panel and its up panel) for one chunk of input rows; every thread takes a
// contiguous piece of the list. For few rows that means "each thread has its own panels", so each
// weight is read once; for many rows threads get different chunks. A unit goes through its rows in
// tiles of a fixed set of sizes; the weights of a panel stay in cache between tiles.
//
// Each output element is summed over k in one order, in one piece, whatever the tile: a row's result
// is bit for bit the same alone or in any batch, on any number of threads.
#pragma once

#include <stdint.h>

#include "simd.h"
#include "team.h"

namespace llmc {

// y = [residual +] softcap(act(x W^T + bias)), softcap(v) = c tanh(v / c), 0 = off.
// Gated: W holds gate and up rows in turns of 16, each padded to 16; n counts both, y has n/2 columns
// and v = act(gate) * up. `bias` has one entry per packed row, with `gated` in the same order and
// with the same padding.
struct Epilogue {
  Act act = Act::none;
  bool gated = false;
  const float* bias = nullptr;      // [n], or [2 * round_up(n/2, 16)] if gated
  const float* residual = nullptr;  // may be y itself
  int ld_residual = 0;
  float softcap = 0.0f;
};

// Rows of the largest tile: as many accumulators as there are registers for.
#if defined(__AVX512F__)
constexpr int kFloatTileRows = 8, kIntTileRows = 8;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int kFloatTileRows = 4, kIntTileRows = 2;
#else
constexpr int kFloatTileRows = 2, kIntTileRows = 1;
#endif

constexpr int kTileAlign = 16;  // the largest tile of any level: only the last chunk has smaller ones

// Weights are fetched ahead, since the hardware's own prefetch stops at every page. One or two rows
// only read: 4 KiB ahead, into the first-level cache, keeps the memory busy. More rows compute
// longer than a panel takes to come, so their first tile fetches the next panel into the second
// level, and later tiles fetch nothing.
constexpr int64_t kPrefetch = 4096;
inline int64_t prefetch_distance(int rows, int64_t panel_bytes) {
  return rows > 2 && panel_bytes > kPrefetch ? panel_bytes : kPrefetch;
}
template <int R>
LLMC_INLINE void prefetch_line(const uint8_t* p) {
  __builtin_prefetch(p, 0, R > 2 ? 2 : 3);
}

struct Output {
  float* y;
  int ldy;
  int columns;
};

// Columns [16 unit, 16 unit + 16) of `rows` rows from `row` on: sums [panels][rows][16] to y.
__attribute__((noinline)) static void finish_tile(const Epilogue& e, const Output& out, int unit,
                                                  int row, int rows, const float* sums) {
  const int column = unit * kLanes, count = min_int(kLanes, out.columns - column);
  for (int r = 0; r < rows; r++) {
    Vec v = load(sums + r * kLanes);
    if (e.gated) {
      Vec up = load(sums + (rows + r) * kLanes);
      if (e.bias) v += load(e.bias + 2 * column), up += load(e.bias + 2 * column + kLanes);
      v = apply_act(e.act, v) * up;
    } else {
      if (e.bias) v += load_partial(e.bias + column, count);
      if (e.act != Act::none) v = apply_act(e.act, v);
    }
    if (e.softcap != 0.0f) v = tanh(v / splat(e.softcap)) * splat(e.softcap);
    if (e.residual)
      v += load_partial(e.residual + (int64_t)(row + r) * e.ld_residual + column, count);
    store_partial(out.y + (int64_t)(row + r) * out.ldy + column, v, count);
  }
}

// One unit: rows [0, rows) of the chunk that `x` describes; `row` is the output row of the first.
template <class F>
inline void linear_unit(const typename F::Chunk& x, int row, int rows, int k, const uint8_t* panels,
                        const Epilogue& e, const Output& out, int unit) {
  const int per_unit = e.gated ? 2 : 1;
  const int64_t bytes = F::panel_bytes(k);
  const uint8_t* panel = panels + unit * per_unit * bytes;
  alignas(64) float sums[2 * F::kTileRows * kLanes];
  int64_t ahead = prefetch_distance(rows, per_unit * bytes);
  for (int r = 0; r < rows;) {
    const int left = rows - r;
    int size = 0;
#define LLMC_TILE(R)                                                                   \
  if constexpr (R <= F::kTileRows)                                                     \
    if (size == 0 && left >= R) {                                                      \
      size = R;                                                                        \
      for (int p = 0; p < per_unit; p++)                                               \
        F::template tile<R>(x, r, k, panel + p * bytes, ahead, sums + p * R * kLanes); \
    }
    LLMC_TILE(16) LLMC_TILE(8) LLMC_TILE(4) LLMC_TILE(3) LLMC_TILE(2) LLMC_TILE(1)
#undef LLMC_TILE
    finish_tile(e, out, unit, row + r, size, sums);
    r += size;
    ahead = 0;
  }
}

// The part of one thread, `id` of `size`.
template <class F>
inline void linear_part(int id, int size, char* scratch, int rows, int n, int k,
                        const typename F::Input& x, const uint8_t* w, const Epilogue& e, float* y,
                        int ldy, const int32_t* row_index) {
  const Output out{y, ldy, e.gated ? n / 2 : n};
  const int units = ceil_div(out.columns, kLanes);
  // Chunks of one size, since threads share them out by number.
  const int largest = F::chunk_rows(k), chunks = ceil_div(rows, largest);
  const int chunk = min_int(largest, round_up(ceil_div(rows, max_int(1, chunks)), kTileAlign));
  const int64_t items = (int64_t)chunks * units;
  int64_t item = items * id / size;
  const int64_t end = items * (id + 1) / size;
  while (item < end) {
    const int row = (int)(item / units) * chunk, count = max_int(0, min_int(chunk, rows - row));
    const int first = (int)(item % units), last = (int)(min_int(units, (int)(end - item) + first));
    const typename F::Chunk part(x, row_index, row, count, k, scratch);
    for (int unit = first; unit < last; unit++)
      linear_unit<F>(part, row, count, k, w, e, out, unit);
    item += last - first;
  }
}

// What a later layer of `units` units will read first in this thread, to be fetched while threads
// wait for one another until then: of few rows, which leave the memory idle meanwhile.
inline void fetch_ahead(Team& team, int rows, int units, int64_t unit_bytes, const uint8_t* w) {
  constexpr int64_t kMost = 128 << 10;  // an eighth of a usual second-level cache
  const Range mine = team_range(team, units);
  const int64_t bytes = rows > 2 ? 0 : (mine.end - mine.begin) * unit_bytes;
  team.ahead = w + mine.begin * unit_bytes;
  team.ahead_end = team.ahead + (bytes < kMost ? bytes : kMost);
}

// y [rows, n] = epilogue(x W^T); input row i is x[row_index[i]] where that is given. No barrier.
template <class F>
inline void linear(Team& team, int rows, int n, int k, const typename F::Input& x, const uint8_t* w,
                   const Epilogue& e, float* y, int ldy, const int32_t* row_index) {
  team.ahead = team.ahead_end;  // these were the weights to fetch
  linear_part<F>(team.id, team.size, team.scratch, rows, n, k, x, w, e, y, ldy, row_index);
}

// Expert i's packed weights (behind one another) take rows offsets[i] .. offsets[i+1] of y; their
// inputs are x[row_index[row]] (or x[row]). `e.bias` has one row per expert. Every expert's panels
// are spread over all threads; who gets the odd one rotates.
template <class F>
inline void grouped_linear(Team& team, int experts, const int32_t* offsets, int n, int k,
                           const typename F::Input& x, const uint8_t* w, const Epilogue& e,
                           float* y, int ldy, const int32_t* row_index) {
  const int padded = e.gated ? 2 * round_up(n / 2, kLanes) : round_up(n, kLanes);
  const int64_t bytes = F::panel_bytes(k) * (padded / kLanes);
  for (int i = 0; i < experts; i++) {
    const int row = offsets[i], rows = offsets[i + 1] - row;
    if (rows == 0) continue;
    Epilogue mine = e;
    if (e.bias) mine.bias = e.bias + (int64_t)i * (e.gated ? padded : n);
    if (e.residual) mine.residual = e.residual + (int64_t)row * e.ld_residual;
    linear_part<F>((team.id + i) % team.size, team.size, team.scratch, rows, n, k,
                   F::skip_rows(x, row_index ? 0 : row), w + i * bytes, mine,
                   y + (int64_t)row * ldy, ldy, row_index ? row_index + row : nullptr);
  }
}

// y[t, h] = W[h] x[t, h] with y [rows, heads, n]: each head has its own packed weights, behind one
// another. `step`: from a head of x to the next one (F::of_head). Threads share every head's panels.
template <class F>
inline void head_linear(Team& team, int rows, int heads, int n, int k, const typename F::Input& x,
                        int step, const uint8_t* w, float* y, int ldy) {
  const int64_t bytes = F::panel_bytes(k) * ceil_div(n, kLanes);
  for (int h = 0; h < heads; h++)
    linear_part<F>((team.id + h) % team.size, team.size, team.scratch, rows, n, k,
                   F::of_head(x, h, step), w + h * bytes, Epilogue{}, y + (int64_t)h * n, ldy,
                   nullptr);
}

}  // namespace llmc
