/* The C interface of a compiled llmc program.
 *
 * A library exports these functions and nothing else that a caller needs; llmc_sample, llmc_kernels
 * and llmc_profile may be missing. All structs carry their own size; every array is owned by the caller and only read
 * during the call (but logits, argmax and the results of a choice are written). A model is used by one thread at a time; it brings its own worker threads.
 *
 * Words: T query tokens in the step, S sequences, R rows of logits wanted, B blocks per sequence.
 */
#ifndef LLMC_H
#define LLMC_H

#include <stdint.h>

#define LLMC_ABI_VERSION 2
#define LLMC_MAX_GROUPS 16

#define LLMC_OK 0
#define LLMC_BAD_STRUCT_SIZE (-1)
#define LLMC_OVER_A_LIMIT (-2)
#define LLMC_NO_RESOURCES (-3) /* memory or threads could not be had */
#define LLMC_NO_PERMISSION (-4) /* the system withholds instructions that the library needs */
#define LLMC_BAD_POSITION (-5) /* a sequence would go on from a state that isn't its own */

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  uint64_t bytes_per_block; /* keys and values of all layers of the group */
  int32_t window;           /* positions that a query sees, itself included; 0: all of them */
} llmc_cache_group;

typedef struct {
  uint32_t struct_size; /* sizeof(llmc_info), set by the caller */
  int32_t vocab;
  int32_t max_tokens, max_sequences, max_context, max_logits_rows; /* the most that a step takes */
  int32_t block_size;                                              /* tokens in a cache block */
  int32_t groups;                                                  /* cache groups */
  uint64_t weights_bytes, arena_bytes;
  llmc_cache_group group[LLMC_MAX_GROUPS]; /* the first `groups` of them */
  uint64_t state_bytes_per_slot; /* what a sequence keeps whatever its length; 0: nothing */
} llmc_info;

typedef struct {
  uint32_t struct_size; /* sizeof(llmc_config) */
  uint32_t abi_version; /* LLMC_ABI_VERSION */
  int32_t threads;      /* team size, the calling thread included */
  const void* weights;  /* start of the safetensors data section, 64-byte aligned */
  uint64_t weights_bytes;
  void* arena; /* 64-byte aligned, at least llmc_info's arena_bytes */
  uint64_t arena_bytes;
  int32_t groups;              /* number of cache groups */
  void* const* cache;          /* [groups] one allocation each, 64-byte aligned: block after block,
                                  each of the group's bytes_per_block, with all layers in it; so a
                                  block can be copied to another one between steps */
  const int32_t* cache_blocks; /* [groups] number of blocks in each pool */
  int32_t spin;                /* rounds a waiting thread spins before it sleeps; < 0: default */
  void* state;                 /* slot after slot, each of state_bytes_per_slot, 64-byte aligned; a
                                  slot can be copied to another one between steps. Its first int32
                                  is how many tokens it has seen. NULL if those bytes are 0 */
  int32_t state_slots;         /* number of slots */
} llmc_config;

typedef struct {
  uint32_t struct_size;      /* sizeof(llmc_step_inputs) */
  int32_t tokens;            /* T */
  int32_t sequences;         /* S */
  int32_t logits_rows_count; /* R */
  const int32_t* token_ids;   /* [T] */
  const int32_t* positions;   /* [T] */
  const int32_t* query_start; /* [S + 1] tokens of sequence s: query_start[s] .. query_start[s+1] */
  const int32_t* context_len; /* [S] tokens in the cache after this step */
  const int32_t* logits_rows; /* [R] indices into 0 .. T-1 */
  const int32_t* const* block_table; /* per group [S, B]; -1: freed, outside the window */
  const int32_t* blocks_per_seq;     /* per group: B, the row stride of its table */
  float* logits;                     /* [R, vocab] */
  int32_t* argmax;                   /* [R], or NULL */
  const int32_t* state_slot;         /* [S] distinct: where each sequence's state lies. One whose
                                        query tokens begin at position 0 begins with an empty state;
                                        others must stand at their first position
                                        (LLMC_BAD_POSITION). NULL if there are no slots */
} llmc_step_inputs;

/* How a token is to be chosen from one row, in this order: edits; tokens that aren't allowed, or
 * are forbidden, are out; at temperature 0 the largest is taken, otherwise logits are divided by the
 * temperature, and top_k, top_p, min_p and typical_p each leave out tokens, equally likely ones
 * together; of what is left, the token at `uniform` of the whole weight, by id. */
typedef struct {
  uint32_t struct_size;      /* sizeof(llmc_choice) */
  int32_t target;            /* >= 0: choose nothing, report on this token; otherwise -1 */
  float* logits;             /* [vocab] the row, changed unless there is a target */
  const uint32_t* allowed;   /* [vocab / 32 rounded up] bit i % 32 of word i / 32; or NULL: all */
  float temperature;
  float top_p, min_p, typical_p; /* 1, 0, 1: off */
  int32_t top_k;                 /* 0: off */
  int32_t edits;                 /* number of tokens whose logits are changed */
  const int32_t* edit_ids;       /* [edits] distinct */
  const float* bias;             /* [edits] x += bias, */
  const float* penalty;          /* [edits] then x /= penalty if it is positive, else x *= penalty, */
  const float* minus;            /* [edits] then x -= minus */
  float* before;                 /* [edits] work space; may be NULL if top < 0 */
  const int32_t* forbidden;      /* [forbidden_count] */
  int32_t forbidden_count;
  int32_t top;         /* log-probabilities wanted: of the token and so many others; -1: none */
  double uniform;      /* in [0, 1) */
  int32_t* top_ids;    /* [top] out: by the unchanged logits, best first, equals by id; then -1 */
  float* top_logprobs; /* [top] out */
  int32_t token;       /* out; -1: nothing can be chosen */
  float logprob;       /* out, if top >= 0: of the token, by the unchanged logits */
} llmc_choice;

#define LLMC_MARK_ARGMAX (-1) /* the largest logit of each row is looked for */
#define LLMC_MARK_END (-2)    /* the step is over */

typedef struct {
  int32_t kernel; /* which one begins: a row of llmc_kernels, or LLMC_MARK_... */
  int32_t reserved;
  uint64_t ns; /* of CLOCK_MONOTONIC */
} llmc_mark;

typedef struct llmc_model llmc_model;

int llmc_describe(llmc_info* info); /* what the other calls need to be given */
int llmc_create(const llmc_config* config, llmc_model** out); /* 0, or a negative code */
int llmc_step(llmc_model* model, const llmc_step_inputs* inputs);
int llmc_sample(llmc_model* model, llmc_choice* choices, int32_t count); /* after a step */
void llmc_destroy(llmc_model* model);
/* JSON, one row a kernel: [name, module, [[bytes, unit, most], ...]]. It moves so many bytes for each
 * unit: "" once, "T", "S", "S1", "R" as above (S1 is S + 1), "C" each position of its context that a
 * sequence sees, of which `most` are seen if that isn't 0; of other units `most` limits the bytes. */
const char* llmc_kernels(void);
/* From now on steps note when the first thread begins a kernel: `capacity` marks at most, until this
 * is called again; NULL: no more. Returns how many were written since the last call. */
int llmc_profile(llmc_model* model, llmc_mark* marks, int32_t capacity);
const char* llmc_abi(void); /* "2;<level>" */

#ifdef __cplusplus
}
#endif
#endif
