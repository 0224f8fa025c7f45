// A team of threads that runs one function together (SPMD), with a barrier.
//
//   TeamPool* pool = team_create(threads, spin);  // threads - 1 workers start and sleep
//   team_run(pool, fn, ctx);  // all threads, the caller as id 0, run fn(team, ctx)
//   team_destroy(pool);       // joins
//
// One primitive carries everything: the barrier. A run is "publish the function, barrier, run it,
// barrier". A thread that waits spins for a bounded time (a barrier inside a step is over in
// microseconds), then sleeps in the kernel: an idle model costs nothing. Where others use the cores
// too, the thread that is waited for may not be running, and spinning keeps it from running. So a
// thread spins half as long after it has spun in vain, twice as long after it has not, and not at
// all if there are more threads than the process may use cores.
#pragma once

#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#if defined(__linux__) && !defined(LLMC_NO_FUTEX)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#define LLMC_FUTEX 1
#else
#define LLMC_FUTEX 0
#endif

namespace llmc {

constexpr int kMaxThreads = 256;
constexpr size_t kScratchBytes = size_t{1} << 20;  // private to a thread; touched only if used
constexpr int kLeastSpin = 50;
// Pauses before sleeping, about 0.2 ms: threads stay awake from one decode step to the next.
constexpr int kDefaultSpin = 10000;

struct TeamPool;

struct alignas(64) Team {
  int id;
  int size;
  char* scratch;  // kScratchBytes, 64-byte aligned, contents undefined at the start of every kernel
  TeamPool* pool;
  int patience = 0;                // pauses before sleeping, now
  const uint8_t* ahead = nullptr;  // what to fetch into the cache while waiting: [ahead, ahead_end)
  const uint8_t* ahead_end = nullptr;

  void barrier();
};

typedef void (*TeamFn)(Team&, void* ctx);

struct alignas(64) TeamPool {
  alignas(64) uint32_t arrived;     // threads that reached the barrier
  alignas(64) uint32_t generation;  // barriers passed; what waiting threads watch
  uint32_t sleepers;
  alignas(64) TeamFn fn;            // null tells the workers to leave
  void* ctx;
  int size;
  int spin;
  char* scratch;
  pthread_mutex_t mutex;            // used where there is no futex
  pthread_cond_t wake;
  pthread_t threads[kMaxThreads];
  Team teams[kMaxThreads];
};

static inline void cpu_pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb");
#endif
}

static inline void team_sleep(TeamPool* p, uint32_t seen) {
#if LLMC_FUTEX
  syscall(SYS_futex, &p->generation, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
#else
  pthread_mutex_lock(&p->mutex);
  while (__atomic_load_n(&p->generation, __ATOMIC_ACQUIRE) == seen)
    pthread_cond_wait(&p->wake, &p->mutex);
  pthread_mutex_unlock(&p->mutex);
#endif
}

static inline void team_wake(TeamPool* p) {
#if LLMC_FUTEX
  syscall(SYS_futex, &p->generation, FUTEX_WAKE_PRIVATE, kMaxThreads, nullptr, nullptr, 0);
#else
  // A thread between its check and its wait holds the mutex, so no wake is lost.
  pthread_mutex_lock(&p->mutex);
  pthread_cond_broadcast(&p->wake);
  pthread_mutex_unlock(&p->mutex);
#endif
}

static inline void team_wait(Team& team, uint32_t seen) {
  TeamPool* p = team.pool;
  for (int i = 0; i < team.patience; i++) {
    if (__atomic_load_n(&p->generation, __ATOMIC_ACQUIRE) != seen) {
      team.patience = 2 * team.patience < p->spin ? 2 * team.patience : p->spin;
      return;
    }
    if (team.ahead < team.ahead_end) {
      for (int line = 0; line < 4; line++) __builtin_prefetch(team.ahead + 64 * line, 0, 2);
      team.ahead += 4 * 64;
    }
    cpu_pause();
  }
  const int less = kLeastSpin + team.patience / 2;
  team.patience = less < p->spin ? less : p->spin;
  // Sequentially consistent on both sides: either the last thread sees this sleeper, or this
  // thread sees the new generation (the futex checks it again inside the kernel).
  __atomic_fetch_add(&p->sleepers, 1, __ATOMIC_SEQ_CST);
  while (__atomic_load_n(&p->generation, __ATOMIC_SEQ_CST) == seen) team_sleep(p, seen);
  __atomic_fetch_sub(&p->sleepers, 1, __ATOMIC_SEQ_CST);
}

inline void Team::barrier() {
  if (size == 1) return;
  TeamPool* p = pool;
  uint32_t seen = __atomic_load_n(&p->generation, __ATOMIC_RELAXED);
  uint32_t here = __atomic_add_fetch(&p->arrived, 1, __ATOMIC_ACQ_REL);
  if (here < (uint32_t)size) return team_wait(*this, seen);
  // The last one. Nobody arrives again before the generation changes.
  __atomic_store_n(&p->arrived, 0, __ATOMIC_RELAXED);
  __atomic_store_n(&p->generation, seen + 1, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(&p->sleepers, __ATOMIC_SEQ_CST) != 0) team_wake(p);
}

static void* team_worker(void* arg) {
  Team& team = *(Team*)arg;
  for (;;) {
    team.barrier();
    TeamFn fn = team.pool->fn;
    if (!fn) return nullptr;
    fn(team, team.pool->ctx);
    team.barrier();
  }
}

static inline int usable_cores() {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  return kMaxThreads;
}

static inline void team_free(TeamPool* p) {
  free(p->scratch);
  free(p);
}

static inline void team_destroy(TeamPool* p) {
  if (!p) return;
  p->fn = nullptr;
  p->teams[0].barrier();
  for (int i = 1; i < p->size; i++) pthread_join(p->threads[i], nullptr);
  team_free(p);
}

// Workers take no signals: those belong to the program around us.
static inline bool team_start(TeamPool* p, int i) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int failed = pthread_create(&p->threads[i], nullptr, team_worker, &p->teams[i]);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return failed == 0;
}

// Returns null when threads is not in 1..kMaxThreads, memory is short or a thread cannot start.
// `spin` < 0 means the default.
static inline TeamPool* team_create(int threads, int spin) {
  if (threads < 1 || threads > kMaxThreads) return nullptr;
  void* memory = nullptr;
  if (posix_memalign(&memory, 64, sizeof(TeamPool)) != 0) return nullptr;
  TeamPool* p = (TeamPool*)memory;
  void* scratch = nullptr;
  if (posix_memalign(&scratch, 4096, kScratchBytes * threads) != 0) {
    free(memory);
    return nullptr;
  }
  p->arrived = p->generation = p->sleepers = 0;
  p->fn = nullptr;
  p->ctx = nullptr;
  p->size = threads;
  p->spin = threads > usable_cores() ? 0 : spin < 0 ? kDefaultSpin : spin;
  p->scratch = (char*)scratch;
  pthread_mutex_init(&p->mutex, nullptr);
  pthread_cond_init(&p->wake, nullptr);
  for (int i = 0; i < threads; i++)
    p->teams[i] = Team{i, threads, p->scratch + kScratchBytes * i, p, p->spin};
  for (int i = 1; i < threads; i++) {
    if (team_start(p, i)) continue;
    // Let the workers that did start leave, as a smaller team; all of them wait before the size
    // changes.
    while (__atomic_load_n(&p->arrived, __ATOMIC_ACQUIRE) < (uint32_t)(i - 1)) sched_yield();
    for (int j = 0; j < i; j++) p->teams[j].size = i;
    p->size = i;
    team_destroy(p);
    return nullptr;
  }
  return p;
}

static inline void team_run(TeamPool* p, TeamFn fn, void* ctx) {
  Team& me = p->teams[0];
  p->fn = fn;
  p->ctx = ctx;
  me.barrier();
  fn(me, ctx);
  me.barrier();
}

// The part [begin, end) of `count` items that one thread takes: contiguous, sizes differ by at
// most one.
struct Range {
  int begin, end;
};
static inline Range team_range(const Team& team, int count) {
  int64_t n = count;
  return Range{(int)(n * team.id / team.size), (int)(n * (team.id + 1) / team.size)};
}

}  // namespace llmc
