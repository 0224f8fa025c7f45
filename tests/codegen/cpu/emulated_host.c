/* Runs a shared library of another processor for a test: emulator.py talks to it over its pipes.
 *
 *   host LIBRARY
 *
 * Commands on stdin, a letter and 64-bit numbers; answers on stdout:
 *   a SIZE OFFSET          -> address of SIZE bytes, OFFSET behind a multiple of 4096
 *   f ADDRESS OFFSET       frees it
 *   w ADDRESS SIZE bytes   writes memory
 *   r ADDRESS SIZE         -> bytes
 *   c LENGTH name 8 words  -> result of the library's function; all words are integers or pointers
 * Only what the C library has: the same program serves kernels and compiled models.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef int64_t (*Function)(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t);

static void need(size_t got, size_t wanted) {
  if (got != wanted) exit(0); /* the other side has gone */
}
static int64_t number(void) {
  int64_t value;
  need(fread(&value, sizeof value, 1, stdin), 1);
  return value;
}
static void answer(const void* data, size_t size) { need(fwrite(data, 1, size, stdout), size); }

static int64_t allocate(int64_t size, int64_t offset) {
  void* memory;
  if (posix_memalign(&memory, 4096, (size_t)(size + offset + 1))) return 0;
  return (int64_t)memory + offset;
}

static int64_t call(void* library) {
  char name[64];
  const size_t length = (size_t)number();
  if (length >= sizeof name) exit(2);
  need(fread(name, 1, length, stdin), length);
  name[length] = 0;
  int64_t w[8];
  for (int i = 0; i < 8; i++) w[i] = number();
  const Function function = (Function)dlsym(library, name);
  if (!function) {
    fprintf(stderr, "%s\n", dlerror());
    exit(3);
  }
  return function(w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]);
}

int main(int argc, char** argv) {
  void* library = argc == 2 ? dlopen(argv[1], RTLD_NOW) : NULL;
  if (!library) {
    fprintf(stderr, "%s\n", argc == 2 ? dlerror() : "name a library");
    return 1;
  }
  for (;;) {
    fflush(stdout);
    const int command = getchar();
    if (command == EOF) return 0;
    int64_t first, second, result;
    switch (command) {
      case 'a':
        first = number(), second = number();
        result = allocate(first, second);
        answer(&result, sizeof result);
        break;
      case 'f':
        first = number(), second = number();
        free((void*)(first - second));
        break;
      case 'w':
        first = number(), second = number();
        need(fread((void*)first, 1, (size_t)second, stdin), (size_t)second);
        break;
      case 'r':
        first = number(), second = number();
        answer((const void*)first, (size_t)second);
        break;
      case 'c':
        result = call(library);
        answer(&result, sizeof result);
        break;
      default: return 4;
    }
  }
}
