// The measured loops of kernels.py: the machine's limits, and linear layers on a list of matrices.

#include <sys/mman.h>
#include <time.h>

#include "linear.h"

#define EXPORT extern "C" __attribute__((visibility("default")))
using namespace llmc;

static clockid_t used_clock = CLOCK_MONOTONIC;

EXPORT void use_cpu_time() { used_clock = CLOCK_THREAD_CPUTIME_ID; }

static double now() {
  timespec t;
  clock_gettime(used_clock, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

// Best of `repeats` runs of `fn`, in seconds.
static double best(void* pool, int repeats, TeamFn fn, void* ctx) {
  double least = 1e30;
  for (int i = 0; i < repeats; i++) {
    const double start = now();
    team_run((TeamPool*)pool, fn, ctx);
    const double seconds = now() - start;
    least = seconds < least ? seconds : least;
  }
  return least;
}

EXPORT void* create(int threads) { return team_create(threads, -1); }

// ---- limits -----------------------------------------------------------------------------------

constexpr int64_t kReadBytes = int64_t{1} << 30;
static uint8_t* read_array = nullptr;

static void read_part(Team& team, void*) {
  const int64_t part = kReadBytes / team.size / 4096 * 4096;
  const uint8_t* p = read_array + part * team.id;
  IVec sum[4] = {splat_int(0), splat_int(0), splat_int(0), splat_int(0)};
  for (int64_t i = 0; i < part; i += 256)
    for (int j = 0; j < 4; j++) {
      __builtin_prefetch(p + i + j * 64 + 2048);
      sum[j] ^= load_int(p + i + j * 64);
    }
  *(volatile int*)team.scratch = (sum[0] ^ sum[1] ^ sum[2] ^ sum[3])[0];
}

EXPORT double read_bandwidth(void* pool) {
  if (!read_array) {
    read_array = (uint8_t*)aligned_alloc(2 << 20, kReadBytes);
    madvise(read_array, kReadBytes, MADV_HUGEPAGE);  // as numpy does for the weights
    for (int64_t i = 0; i < kReadBytes; i += 8) *(int64_t*)(read_array + i) = i;
  }
  return (double)kReadBytes / best(pool, 3, read_part, nullptr) * 1e-9;
}

constexpr int kSteps = 4000000, kChains = 12;

// 12 independent chains of one instruction, kept in registers.
template <class V, class Step>
static void chains(Team& team, V start, Step step) {
  V a[kChains];
  for (auto& v : a) v = start;
  for (int i = 0; i < kSteps; i++) {
    for (auto& v : a) v = step(v);
#if defined(__x86_64__)
    for (auto& v : a) __asm__ volatile("" : "+x"(v));
#endif
  }
  float total = 0;
  for (auto& v : a) total += (float)v[0];
  *(volatile float*)team.scratch = total;
}

static double chain_rate(void* pool, TeamFn fn, double ops) {
  return ((TeamPool*)pool)->size * ops * kSteps * kChains / best(pool, 2, fn, nullptr) * 1e-9;
}

#if defined(__AVX512VNNI__)
static void int8_chain(Team& team, void*) {
  const IVec w = splat_int(0x01020304);
  chains(team, splat_int(0), [=](IVec v) {
    return (IVec)_mm512_dpbusd_epi32((__m512i)v, (__m512i)w, (__m512i)w);
  });
}
EXPORT double int8_peak(void* pool) { return chain_rate(pool, int8_chain, 128); }
#else
EXPORT double int8_peak(void*) { return 0; }
#endif

#if defined(__AVX512BF16__)
static void bf16_chain(Team& team, void*) {
  const __m512bh w = (__m512bh)_mm512_set1_epi32(0x3f003f00);
  chains(team, splat(1.0f), [=](Vec v) { return (Vec)_mm512_dpbf16_ps((__m512)v, w, w); });
}
EXPORT double bf16_peak(void* pool) { return chain_rate(pool, bf16_chain, 64); }
#else
EXPORT double bf16_peak(void*) { return 0; }
#endif

// One register of floats.
#if defined(__AVX512F__)
typedef float Register __attribute__((ext_vector_type(16)));
#elif defined(__AVX__)
typedef float Register __attribute__((ext_vector_type(8)));
#else
typedef float Register __attribute__((ext_vector_type(4)));
#endif
static void fma_chain(Team& team, void*) {
  const Register w = (Register)(0.5f);
#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__)
  chains(team, (Register)(1.0f), [=](Register v) { return __builtin_elementwise_fma(v, w, w); });
#else
  chains(team, (Register)(1.0f), [=](Register v) { return v * w + w; });
#endif
}
EXPORT double fma_peak(void* pool) {
  return chain_rate(pool, fma_chain, 2.0 * sizeof(Register) / sizeof(float));
}

// ---- linear layers ----------------------------------------------------------------------------

struct Case {
  int format, rows, n, k;
  const float* x;
  const uint8_t* w;
  float* y;
  int64_t bytes;
  int calls, copies, next;
  int8_t* q;
  float *scale, *sum;
};

static void linear_calls(Team& team, void* ctx) {
  Case& c = *(Case*)ctx;
  Epilogue e;
  const QRows q{c.q, c.scale, c.sum, c.k};
  for (int i = 0; i < c.calls; i++) {
    const uint8_t* w = c.w + (c.next + i) % c.copies * c.bytes;
    switch (c.format) {
      case 0: linear_f32(team, c.rows, c.n, c.k, c.x, c.k, w, e, c.y, c.n); break;
      case 1: linear_bf16(team, c.rows, c.n, c.k, c.x, c.k, w, e, c.y, c.n); break;
      case 2: linear_i8c(team, c.rows, c.n, c.k, q, w, e, c.y, c.n); break;
      case 3: linear_i8b(team, c.rows, c.n, c.k, q, w, e, c.y, c.n); break;
      case 4: linear_i4s(team, c.rows, c.n, c.k, q, w, e, c.y, c.n); break;
      case 5: linear_i4a(team, c.rows, c.n, c.k, q, w, e, c.y, c.n); break;
    }
    team.barrier();
  }
}

static int64_t panel_bytes(int format, int k) {
  switch (format) {
    case 0: return F32::panel_bytes(k);
    case 1: return Bf16::panel_bytes(k);
    case 2: return I8C::panel_bytes(k);
    case 3: return I8B::panel_bytes(k);
    case 4: return I4S::panel_bytes(k);
    default: return I4A::panel_bytes(k);
  }
}

static void quantize_input(Team& team, void* ctx) {
  Case& c = *(Case*)ctx;
  quantize_rows(team, c.rows, c.k, c.x, c.k, c.q, c.scale, c.sum);
}

// Seconds per call: the best of several rounds, each long enough to time.
EXPORT double run(void* pool, int format, int rows, int n, int k, const float* x, const uint8_t* w,
                  float* y, int copies) {
  const int blocks = ceil_div(k, kBlock);
  const size_t count = (size_t)rows * blocks;
  Case c{format, rows, n, k, x, w, y, panel_bytes(format, k) * ceil_div(n, kLanes), 1, copies, 0,
         (int8_t*)malloc(count * kBlock), (float*)malloc(count * 4), (float*)malloc(count * 4)};
  team_run((TeamPool*)pool, quantize_input, &c);
  c.calls = copies;  // first all matrices once, so that no page is touched for the first time
  const double once = best(pool, 1, linear_calls, &c) / copies;
  c.calls = (int)(0.03 / once) + 1;
  double least = 1e30;
  for (int i = 0; i < 8; i++) {
    const double seconds = best(pool, 1, linear_calls, &c) / c.calls;
    least = seconds < least ? seconds : least;
    c.next = (c.next + c.calls) % copies;
  }
  free(c.q), free(c.scale), free(c.sum);
  return least;
}
