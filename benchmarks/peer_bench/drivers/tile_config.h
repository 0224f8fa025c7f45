// Included before each C++ file of llama.cpp when it is built here.
//
// GCC's _tile_loadconfig (seen in 12.2) tells the optimizer that 8 of the configuration's 64 bytes are
// read. llama.cpp fills a local variable with it, the other stores are dropped as dead, and the first
// AMX instruction behind it is illegal. This one says what is read.
#if defined(__GNUC__) && !defined(__clang__) && defined(__AMX_TILE__)
#include <immintrin.h>
#define _tile_loadconfig(config) \
    __asm__ volatile("ldtilecfg\t%X0" ::"m"(*(const char(*)[64])(config)))
#endif
