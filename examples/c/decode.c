/* Decode greedily with an artifact, without Python: token ids in, token ids out.
 *
 *     cc -O2 -I artifact examples/c/decode.c -o decode -ldl
 *     ./decode smol.llmc x86-64-v4 16 504 2365 6354
 *
 * Arguments: the artifact, the instruction-set level of the library to use (`llmc inspect` lists
 * those that are in it), how many tokens to generate, and the prompt's ids. One sequence, one
 * thread per processor. Linux (`memfd_create`, `/proc/self/fd`).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "llmc.h"

typedef struct {
  const uint8_t* data;
  uint64_t size;
} Bytes;

static void stop(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
  exit(1);
}

static uint64_t little(const uint8_t* bytes, int count) {
  uint64_t value = 0;
  for (int i = count - 1; i >= 0; i--) value = value << 8 | bytes[i];
  return value;
}

static Bytes map_file(const char* path) {
  struct stat status;
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0 || fstat(file, &status)) stop("cannot open %s", path);
  void* data = mmap(NULL, status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
  if (data == MAP_FAILED) stop("cannot map %s", path);
  close(file);
  return (Bytes){data, status.st_size};
}

/* An entry of the artifact, which is a zip file whose entries are stored as they are. Its end
 * record is the last 22 bytes; one that is too large for it has a 64-bit record before that. */
static Bytes find_entry(Bytes zip, const char* name) {
  if (zip.size < 22 || little(zip.data + zip.size - 22, 4) != 0x06054b50) stop("not an artifact");
  const uint8_t* end = zip.data + zip.size - 22;
  uint64_t size = little(end + 12, 4), at = little(end + 16, 4);
  if (zip.size >= 42 && little(end - 20, 4) == 0x07064b50) {
    const uint8_t* end64 = zip.data + little(end - 12, 8);
    size = little(end64 + 40, 8), at = little(end64 + 48, 8);
  }
  for (const uint8_t* entry = zip.data + at; entry + 46 <= zip.data + at + size;) {
    uint64_t bytes = little(entry + 24, 4), header = little(entry + 42, 4);
    uint64_t name_size = little(entry + 28, 2), extra_size = little(entry + 30, 2);
    const uint8_t* extra = entry + 46 + name_size; /* of 64-bit entries: id, size, 3 numbers */
    if (extra_size == 28) bytes = little(extra + 4, 8), header = little(extra + 20, 8);
    if (name_size == strlen(name) && !memcmp(entry + 46, name, name_size)) {
      const uint8_t* local = zip.data + header;
      return (Bytes){local + 30 + little(local + 26, 2) + little(local + 28, 2), bytes};
    }
    entry = extra + extra_size;
  }
  stop("the artifact has no entry %s", name);
  return zip;
}

/* Loads the library from memory: nothing is unpacked to disk. */
static void* load_library(Bytes library) {
  char path[64];
  int file = memfd_create("llmc", MFD_CLOEXEC);
  if (file < 0 || write(file, library.data, library.size) != (ssize_t)library.size)
    stop("no memory for the library");
  snprintf(path, sizeof path, "/proc/self/fd/%d", file);
  void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!handle) stop("%s", dlerror());
  return handle;
}

static void* allocate(uint64_t bytes) {
  void* memory = mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) stop("no memory");
  return memory;
}

static void* function(void* library, const char* name) {
  void* address = dlsym(library, name);
  if (!address) stop("the library has no %s", name);
  return address;
}

static int32_t parse_id(const char* text, int32_t end) {
  char* rest;
  long id = strtol(text, &rest, 10);
  if (*rest || id < 0 || id >= end) stop("%s is not a token id below %d", text, end);
  return (int32_t)id;
}

int main(int argc, char** argv) {
  if (argc < 5) stop("usage: decode FILE LEVEL COUNT ID...");
  char name[256];
  snprintf(name, sizeof name, "programs/cpu/%s.so", argv[2]);
  Bytes file = map_file(argv[1]);
  void* library = load_library(find_entry(file, name));
  const char* (*abi)(void) = (const char* (*)(void))function(library, "llmc_abi");
  int (*describe)(llmc_info*) = (int (*)(llmc_info*))function(library, "llmc_describe");
  int (*create)(const llmc_config*, llmc_model**) =
      (int (*)(const llmc_config*, llmc_model**))function(library, "llmc_create");
  int (*step)(llmc_model*, const llmc_step_inputs*) =
      (int (*)(llmc_model*, const llmc_step_inputs*))function(library, "llmc_step");
  void (*destroy)(llmc_model*) = (void (*)(llmc_model*))function(library, "llmc_destroy");

  llmc_info info = {.struct_size = sizeof info};
  if (atoi(abi()) != LLMC_ABI_VERSION || describe(&info)) stop("the library has interface %s", abi());
  int prompt = argc - 4, wanted = atoi(argv[3]), total = prompt + wanted;
  if (wanted < 1 || total > info.max_context) stop("at most %d tokens", info.max_context);

  /* The data of a safetensors file lies behind its header, whose size is in the first 8 bytes. */
  Bytes weights = find_entry(file, "weights/cpu.safetensors");
  uint64_t header = 8 + little(weights.data, 8);

  /* One sequence: block b of the cache holds its positions from b * block_size on. */
  int32_t blocks = (total + info.block_size - 1) / info.block_size;
  int32_t* table = calloc(blocks, sizeof *table);
  for (int b = 0; b < blocks; b++) table[b] = b;
  void* cache[LLMC_MAX_GROUPS];
  int32_t cache_blocks[LLMC_MAX_GROUPS];
  const int32_t* tables[LLMC_MAX_GROUPS];
  for (int g = 0; g < info.groups; g++) {
    cache[g] = allocate(blocks * info.group[g].bytes_per_block);
    cache_blocks[g] = blocks;
    tables[g] = table;
  }
  llmc_config config = {
      .struct_size = sizeof config,
      .abi_version = LLMC_ABI_VERSION,
      .threads = (int32_t)sysconf(_SC_NPROCESSORS_ONLN),
      .weights = weights.data + header,
      .weights_bytes = weights.size - header,
      .arena = allocate(info.arena_bytes),
      .arena_bytes = info.arena_bytes,
      .groups = info.groups,
      .cache = cache,
      .cache_blocks = cache_blocks,
      .spin = -1,
      .state = info.state_bytes_per_slot ? allocate(info.state_bytes_per_slot) : NULL,
      .state_slots = info.state_bytes_per_slot ? 1 : 0,
  };
  llmc_model* model;
  int code = create(&config, &model);
  if (code) stop("llmc_create: %d", code);

  int32_t* tokens = calloc(total, sizeof *tokens);
  int32_t* positions = calloc(total, sizeof *positions);
  for (int i = 0; i < total; i++) positions[i] = i;
  for (int i = 0; i < prompt; i++) tokens[i] = parse_id(argv[4 + i], info.vocab);
  float* logits = allocate(info.vocab * sizeof *logits);

  /* The prompt in steps of at most max_tokens, then a token a step; each step computes what the
   * cache lacks, and gives the next token if that was all there is. */
  for (int known = prompt, computed = 0; computed < total - 1;) {
    int32_t count = known - computed < info.max_tokens ? known - computed : info.max_tokens;
    int32_t query_start[2] = {0, count}, context = computed + count, row = count - 1, slot = 0, next;
    llmc_step_inputs inputs = {
        .struct_size = sizeof inputs,
        .tokens = count,
        .sequences = 1,
        .logits_rows_count = context == known,
        .token_ids = tokens + computed,
        .positions = positions + computed,
        .query_start = query_start,
        .context_len = &context,
        .logits_rows = &row,
        .block_table = tables,
        .blocks_per_seq = cache_blocks,
        .logits = logits,
        .argmax = &next,
        .state_slot = &slot,
    };
    code = step(model, &inputs);
    if (code) stop("llmc_step: %d", code);
    computed = context;
    if (computed < known) continue;
    tokens[known++] = next;
    printf("%d%c", next, known < total ? ' ' : '\n');
    fflush(stdout);
  }
  destroy(model);
  return 0;
}
