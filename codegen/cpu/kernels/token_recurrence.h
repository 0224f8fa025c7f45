// Recurrences without a kernel of their own: generated code for one token, run on one after the other.
#pragma once

#include <stdint.h>

#include "program.h"
#include "slots.h"
#include "team.h"

namespace llmc {

// Calls visit(team, s, tile, token, sequence, carried, first) for the tokens of each sequence in turn,
// shared out over tiles x sequences. `team` is this thread alone, in `s` there is one token. `carried`
// is what the sequence keeps of this site; before its `first` token that holds anything.
template <class Visit>
inline void token_recurrence(Team& team, const Step& step, const SlotPart& kept, int tiles,
                             Visit visit) {
  Step one = step;
  one.T = 1;
  Team alone = team;
  alone.id = 0;
  alone.size = 1;
  for_each_tile(team, step.batch, tiles, [&](int tile, const Span& span) {
    for (int t = span.begin; t < span.end; ++t)
      visit(alone, one, tile, (int64_t)t, span.s, kept(span.s), span.fresh && t == span.begin);
  });
}

}  // namespace llmc
