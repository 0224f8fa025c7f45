// What sequences keep whatever their length, and how its update is shared out among threads.
//
// A sequence has one slot: kSlotHeader bytes, whose first int32 is how many tokens it has seen, then
// the parts of all sites at their offsets, in f32. A part is cut into tiles that have nothing to do with
// one another: channels of a convolution, columns of a matrix. Tokens of a sequence run one after the
// other within a tile, so that bits don't depend on how many of them a step brings, nor on threads.
#pragma once

#include <stdint.h>

#include "cache.h"
#include "simd.h"
#include "team.h"

namespace llmc {

constexpr int kSlotHeader = 64;

// One part of one site: where each sequence of the step has it.
struct SlotPart {
  char* base;  // in slot 0
  int64_t slot_bytes;
  const int32_t* slot;  // [S]
  float* operator()(int s) const { return (float*)(base + slot[s] * slot_bytes); }
};

// Tokens [begin, end) of sequence s; `fresh`: they are its first ones, whatever the slot holds.
struct Span {
  int s, begin, end;
  bool fresh;
};

// Calls visit(tile, span) for this thread's share of tiles x sequences, all of a tile's in turn. A
// sequence weighs as many tokens as it has, and a few for its state, which is read and written.
template <class Visit>
inline void for_each_tile(Team& team, const Batch& batch, int tiles, Visit visit) {
  constexpr int64_t kStateWeight = 2;
  const int64_t weight = batch.T + kStateWeight * batch.S, whole = weight * tiles;
  const int64_t lo = whole * team.id / team.size, hi = whole * (team.id + 1) / team.size;
  for (int64_t tile = weight ? lo / weight : tiles; tile * weight < hi; ++tile)
    for (int s = 0; s < batch.S; ++s) {
      const int begin = batch.query_start[s];
      const int64_t place = tile * weight + begin + kStateWeight * s;
      if (place < lo || place >= hi) continue;
      visit((int)tile, Span{s, begin, batch.query_start[s + 1], first_query_position(batch, s) == 0});
    }
}

}  // namespace llmc
