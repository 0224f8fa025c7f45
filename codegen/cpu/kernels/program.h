// What every compiled program has around its generated code: the C interface of llmc.h, the memory it is given
// and the team of threads. Generated code defines `program` (constants and the step function) and nothing else.
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "amx_permission.h"
#include "attention.h"
#include "cache.h"
#include "key_index.h"
#include "latent.h"
#include "llmc.h"
#include "sampling.h"
#include "simd.h"
#include "slots.h"
#include "team.h"

namespace llmc {

constexpr int kMaxGroups = LLMC_MAX_GROUPS;

// Where the first thread notes what it begins, while a caller asks for that.
struct Marks {
  llmc_mark *first, *next, *end;
};

// What one step works on; the same for all threads.
struct Step {
  int T, S, R;
  const int32_t *token_ids, *positions, *query_start, *context_len, *logits_rows;
  Batch batch;
  CacheGroup groups[kMaxGroups];
  char* const* pools;  // where each attention site lies in block 0 of its group
  const uint8_t* weights;
  char* arena;
  float* attention_scratch;
  float* logits;
  Marks* marks;  // null: nobody asks
  char* slots;  // one behind the other
  int64_t slot_bytes;
  const int32_t* state_slot;  // [S]

  // The part at `offset` of each sequence's slot.
  SlotPart part(int64_t offset) const { return {slots + offset, slot_bytes, state_slot}; }
  int32_t& tokens_seen(int slot) const { return *(int32_t*)(slots + slot * slot_bytes); }
};

__attribute__((noinline, cold)) inline void add_mark(Marks& marks, int kernel) {
  if (marks.next == marks.end) return;
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  *marks.next++ = llmc_mark{kernel, 0, (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec};
}

// Behind a barrier: what the first thread waits for there is part of the kernel before.
inline void mark(const Team& team, const Step& s, int kernel) {
  if (__builtin_expect(s.marks != nullptr, 0) && team.id == 0) add_mark(*s.marks, kernel);
}

// What one attention site takes of a block; the sites of a group follow one another in it.
struct SitePools {
  int group;
  int64_t bytes_per_block;
};

struct Program {
  const char* abi;
  int max_tokens, max_sequences, max_logits_rows, max_context, vocab;
  int block_size, groups;
  const llmc_cache_group* group;  // [groups]
  int sites;
  const SitePools* pools;  // [sites]
  int max_value_dim;
  uint64_t weights_bytes, arena_bytes;
  void (*run)(Team&, const Step&);
  const char* kernels;  // the table of llmc_kernels
  uint64_t slot_bytes;
};

extern const Program program;

// Index of the largest of each row's n values (the first of equals).
inline void argmax_rows(Team& team, int rows, int n, const float* x, int32_t* index) {
  const Range range = team_range(team, rows);
  for (int row = range.begin; row < range.end; ++row) {
    const float* values = x + (int64_t)row * n;
    Vec best = splat(-__builtin_inff());
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) best = max(load(values + i), best);
    float largest = reduce_max(best);
    for (; i < n; ++i) largest = values[i] > largest ? values[i] : largest;
    int at = 0;
    while (at < n - 1 && values[at] != largest) ++at;
    index[row] = at;
  }
}

}  // namespace llmc

struct llmc_model {
  llmc::TeamPool* team;
  llmc::Step step;
  char** pools;
  int64_t block_bytes[llmc::kMaxGroups];
  float* attention_scratch;
  int32_t* argmax;  // of the step that runs
  llmc::Marks marks;
  int state_slots;
};

namespace llmc {

// Where each site begins in its group's one allocation, and how far a group's blocks are apart.
inline void place_pools(const llmc_config& config, char** pools, int64_t* block_bytes) {
  for (int g = 0; g < kMaxGroups; ++g) block_bytes[g] = 0;
  for (int site = 0; site < program.sites; ++site) {
    const SitePools& p = program.pools[site];
    pools[site] = (char*)config.cache[p.group] + block_bytes[p.group];
    block_bytes[p.group] += p.bytes_per_block;
  }
}

// LLMC_OK if each sequence has a slot that stands at its first query token, or begins.
inline int check_slots(const llmc_model& model, const llmc_step_inputs& in) {
  if (!program.slot_bytes) return LLMC_OK;
  for (int s = 0; s < in.sequences; ++s) {
    const int slot = in.state_slot[s];
    if (slot < 0 || slot >= model.state_slots) return LLMC_OVER_A_LIMIT;
    const int first = in.context_len[s] - (in.query_start[s + 1] - in.query_start[s]);
    if (first && first != model.step.tokens_seen(slot)) return LLMC_BAD_POSITION;
  }
  return LLMC_OK;
}

inline void advance_slots(const Step& s) {
  for (int i = 0; program.slot_bytes && i < s.S; ++i)
    s.tokens_seen(s.state_slot[i]) = s.context_len[i];
}

inline void release(llmc_model* model) {
  team_destroy(model->team);
  free(model->attention_scratch);
  free(model->pools);
  free(model);
}

inline void run_step(Team& team, void* context) {
  llmc_model& model = *(llmc_model*)context;
  const Step& s = model.step;
  program.run(team, s);
  if (!model.argmax) return;
  team.barrier();
  mark(team, s, LLMC_MARK_ARGMAX);
  argmax_rows(team, s.R, program.vocab, s.logits, model.argmax);
}

}  // namespace llmc

#define LLMC_EXPORT __attribute__((visibility("default")))

extern "C" LLMC_EXPORT const char* llmc_abi(void) { return llmc::program.abi; }

extern "C" LLMC_EXPORT int llmc_describe(llmc_info* info) {
  using namespace llmc;
  if (info->struct_size != sizeof(llmc_info)) return LLMC_BAD_STRUCT_SIZE;
  *info = llmc_info{sizeof(llmc_info),
                    program.vocab,
                    program.max_tokens,
                    program.max_sequences,
                    program.max_context,
                    program.max_logits_rows,
                    program.block_size,
                    program.groups,
                    program.weights_bytes,
                    program.arena_bytes,
                    {},
                    program.slot_bytes};
  for (int g = 0; g < program.groups; ++g) info->group[g] = program.group[g];
  return LLMC_OK;
}

extern "C" LLMC_EXPORT int llmc_create(const llmc_config* config, llmc_model** out) {
  using namespace llmc;
  *out = nullptr;
  if (!request_instructions()) return LLMC_NO_PERMISSION;
  if (config->struct_size != sizeof(llmc_config) || config->abi_version != LLMC_ABI_VERSION)
    return LLMC_BAD_STRUCT_SIZE;
  if (config->weights_bytes < program.weights_bytes || config->arena_bytes < program.arena_bytes ||
      config->groups != program.groups || (program.slot_bytes && (!config->state || config->state_slots < 1)))
    return LLMC_OVER_A_LIMIT;
  llmc_model* model = (llmc_model*)calloc(1, sizeof(llmc_model));
  if (!model) return LLMC_NO_RESOURCES;
  const int64_t floats = attention_scratch_floats(config->threads, program.max_context, program.max_value_dim);
  void* scratch = nullptr;
  model->pools = (char**)calloc(program.sites + 1, sizeof(char*));
  model->team = team_create(config->threads, config->spin);
  if (!model->pools || !model->team || posix_memalign(&scratch, 64, floats * sizeof(float) + 64)) {
    release(model);
    return LLMC_NO_RESOURCES;
  }
  place_pools(*config, model->pools, model->block_bytes);
  model->attention_scratch = (float*)scratch;
  model->step.pools = model->pools;
  model->step.weights = (const uint8_t*)config->weights;
  model->step.arena = (char*)config->arena;
  model->step.attention_scratch = (float*)scratch;
  model->step.slots = (char*)config->state;
  model->step.slot_bytes = (int64_t)program.slot_bytes;
  model->state_slots = config->state_slots;
  *out = model;
  return LLMC_OK;
}

extern "C" LLMC_EXPORT int llmc_step(llmc_model* model, const llmc_step_inputs* in) {
  using namespace llmc;
  if (in->struct_size != sizeof(llmc_step_inputs)) return LLMC_BAD_STRUCT_SIZE;
  if (in->tokens < 0 || in->tokens > program.max_tokens || in->sequences < 0 ||
      in->sequences > program.max_sequences || in->logits_rows_count < 0 ||
      in->logits_rows_count > program.max_logits_rows)
    return LLMC_OVER_A_LIMIT;
  for (int i = 0; i < in->sequences; ++i)
    if (in->context_len[i] > program.max_context) return LLMC_OVER_A_LIMIT;
  if (const int code = check_slots(*model, *in)) return code;
  Step& s = model->step;
  s.T = in->tokens;
  s.S = in->sequences;
  s.R = in->logits_rows_count;
  s.token_ids = in->token_ids;
  s.positions = in->positions;
  s.query_start = in->query_start;
  s.context_len = in->context_len;
  s.logits_rows = in->logits_rows;
  s.batch = Batch{s.T, s.S, s.query_start, s.context_len};
  for (int g = 0; g < program.groups; ++g)
    s.groups[g] = CacheGroup{in->block_table[g], in->blocks_per_seq[g], model->block_bytes[g]};
  s.logits = in->logits;
  s.state_slot = in->state_slot;
  model->argmax = in->argmax;
  team_run(model->team, run_step, model);
  advance_slots(s);
  if (s.marks) add_mark(*s.marks, LLMC_MARK_END);
  return LLMC_OK;
}

// One row isn't worth waking the team for; a row's token doesn't depend on who does it.
extern "C" LLMC_EXPORT int llmc_sample(llmc_model* model, llmc_choice* choices, int32_t count) {
  using namespace llmc;
  for (int i = 0; i < count; ++i)
    if (choices[i].struct_size != sizeof(llmc_choice)) return LLMC_BAD_STRUCT_SIZE;
  Choices all{choices, count, program.vocab};
  if (count > 1) {
    team_run(model->team, sample_rows, &all);
  } else {
    Team alone = model->team->teams[0];
    alone.size = 1;
    sample_rows(alone, &all);
  }
  return LLMC_OK;
}

extern "C" LLMC_EXPORT const char* llmc_kernels(void) { return llmc::program.kernels; }

extern "C" LLMC_EXPORT int llmc_profile(llmc_model* model, llmc_mark* marks, int32_t capacity) {
  using namespace llmc;
  const int written = (int)(model->marks.next - model->marks.first);
  model->marks = Marks{marks, marks, marks + (marks ? capacity : 0)};
  model->step.marks = marks ? &model->marks : nullptr;
  return written;
}

extern "C" LLMC_EXPORT void llmc_destroy(llmc_model* model) {
  if (model) llmc::release(model);
}
