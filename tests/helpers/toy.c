// A language model of one line: the logits are a hash of the tokens that the cache groups show.
// One layer, one head, key and value of one float: the key holds the token. Group 0 sees all
// positions; group 1, if there is one, a window of `WINDOW`. VOCAB and WINDOW come from the build, and
// so may ABI: 1 for a library that was built when the structs ended earlier.
#include "llmc.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

// A block has room for keys and values of 16 floats, of which a key's first is used.
enum { BLOCK = 32, BLOCK_BYTES = 2 * 16 * 4 * BLOCK, BLOCK_FLOATS = BLOCK_BYTES / 4 };

#if defined(ABI) && ABI == 1
enum { CONFIG_BYTES = offsetof(llmc_config, state), INPUTS_BYTES = offsetof(llmc_step_inputs, state_slot) };
#define ABI_TEXT "1;toy"
#else
enum { CONFIG_BYTES = sizeof(llmc_config), INPUTS_BYTES = sizeof(llmc_step_inputs) };
#define ABI_TEXT "2;toy"
#endif

struct llmc_model {
  llmc_config config;
  float* cache[2];
};

int llmc_describe(llmc_info* info) {
  if (info->struct_size != sizeof(llmc_info)) return LLMC_BAD_STRUCT_SIZE;
  *info = (llmc_info){sizeof(llmc_info), VOCAB, 48, 6, 320, 6, BLOCK, 2, 4992, 4096, {{BLOCK_BYTES, 0}, {BLOCK_BYTES, WINDOW}}};
  return LLMC_OK;
}

int llmc_create(const llmc_config* config, llmc_model** out) {
  if (config->struct_size != CONFIG_BYTES) return LLMC_BAD_STRUCT_SIZE;
  if ((uintptr_t)config->weights % 64 || (uintptr_t)config->arena % 64) return LLMC_OVER_A_LIMIT;
  if (config->arena_bytes < 4096 || config->groups < 1 || config->groups > 2) return LLMC_OVER_A_LIMIT;
  llmc_model* model = malloc(sizeof *model);
  memcpy(&model->config, config, CONFIG_BYTES);
  for (int g = 0; g < config->groups; g++) model->cache[g] = config->cache[g];
  memset(config->arena, 0xAA, config->arena_bytes);
  *out = model;
  return LLMC_OK;
}

int llmc_step(llmc_model* model, const llmc_step_inputs* in) {
  if (in->struct_size != INPUTS_BYTES) return LLMC_BAD_STRUCT_SIZE;
  int row = 0;
  for (int s = 0; s < in->sequences; s++) {
    for (int t = in->query_start[s]; t < in->query_start[s + 1]; t++) {
      int position = in->positions[t];
      for (int g = 0; g < model->config.groups; g++) {
        int block = in->block_table[g][s * in->blocks_per_seq[g] + position / BLOCK];
        model->cache[g][block * BLOCK_FLOATS + position % BLOCK] = (float)in->token_ids[t];
      }
      if (row == in->logits_rows_count || in->logits_rows[row] != t) continue;
      uint64_t hash;
      memcpy(&hash, model->config.weights, 8);
      for (int g = 0; g < model->config.groups; g++) {
        int first = g == 0 || position < WINDOW ? 0 : position - WINDOW + 1;
        for (int p = first; p <= position; p++) {
          int block = in->block_table[g][s * in->blocks_per_seq[g] + p / BLOCK];
          hash = (hash ^ (uint64_t)(model->cache[g][block * BLOCK_FLOATS + p % BLOCK] + 1)) * 1099511628211u;
        }
      }
      float* logits = in->logits + (int64_t)row * VOCAB;
      int best = 0;
      for (int v = 0; v < VOCAB; v++) {
        uint64_t mixed = (hash ^ (uint64_t)v * 0x9E3779B97F4A7C15u) * 0xBF58476D1CE4E5B9u;
        logits[v] = (float)(mixed >> 40) / 16777216.0f;
        if (logits[v] > logits[best]) best = v;
      }
      if (in->argmax) in->argmax[row] = best;
      row++;
    }
  }
  return row == in->logits_rows_count ? LLMC_OK : LLMC_OVER_A_LIMIT;
}

void llmc_destroy(llmc_model* model) { free(model); }

const char* llmc_abi(void) { return ABI_TEXT; }
