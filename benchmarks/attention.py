"""Speed of the paged attention kernels beside what the machine can do, measured in the same run.

    python benchmarks/attention.py [--threads N] [--repeat N] [--cpu-time] [--json]

Prefill is compared with the f32 multiply-add peak, counting the 2 * T^2 * D * H operations that a
causal prompt of T tokens needs (half of the square, two products). Decode is compared with the read
bandwidth of a large buffer, counting each key and value once; it cycles over enough layers that
nothing stays in a cache. On a machine that does other work at the same time, `--threads 1
--cpu-time` counts only the time that the thread had a core.
"""

import argparse
import ctypes
import json
import mmap
import os
import platform
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from llmc.codegen.cpu.toolchain import best_level, compile_library

SOURCE = r"""
#include <time.h>
#include "attention.h"
#define EXPORT extern "C" __attribute__((visibility("default")))
using namespace llmc;

static double now() {
  timespec t;
  clock_gettime(CLOCK, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// Best of `repeat` runs of body, in seconds, with the whole team.
template <class F> struct Timing { F* body; int repeat; double best; };
template <class F> static void timed(Team& team, void* p) {
  Timing<F>& t = *(Timing<F>*)p;
  for (int i = 0; i < t.repeat; ++i) {
    team.barrier();
    const double start = now();
    (*t.body)(team, i);
    team.barrier();
    const double took = now() - start;
    if (team.id == 0 && (i == 0 || took < t.best)) t.best = took;
  }
}
template <class F> static double best_time(int threads, int repeat, F body) {
  TeamPool* pool = team_create(threads, 100000);
  Timing<F> t{&body, repeat, 0};
  team_run(pool, timed<F>, &t);
  team_destroy(pool);
  return t.best;
}

constexpr int kChains = kTileRows * kTileVecs;  // what the kernel itself keeps in registers
static float sink[kMaxThreads];

// Operations a second of independent multiply-adds in registers.
EXPORT double fma_peak(int threads, int repeat) {
  constexpr int kRounds = 1 << 18;
  const double seconds = best_time(threads, repeat, [](Team& team, int) {
    Vec acc[kChains], a = splat(0.999f), b = splat(1e-3f);
    for (int i = 0; i < kChains; ++i) acc[i] = splat((float)i);
    for (int n = 0; n < kRounds; ++n) {
      for (int i = 0; i < kChains; ++i) acc[i] = fma(acc[i], a, b);
      __asm__ volatile("" : "+m"(*sink));
    }
    for (int i = 1; i < kChains; ++i) acc[0] += acc[i];
    sink[team.id] = reduce_add(acc[0]);
  });
  return 2.0 * kLanes * kChains * kRounds * threads / seconds;
}

// Bytes a second of summing a buffer.
EXPORT double read_bandwidth(int threads, int repeat, const float* data, int64_t bytes) {
  const int chunks = (int)(bytes / 4096);
  const double seconds = best_time(threads, repeat, [=](Team& team, int) {
    const Range range = team_range(team, chunks);
    Vec sum[4] = {splat(0), splat(0), splat(0), splat(0)};
    for (int c = range.begin; c < range.end; ++c)
      for (int i = 0; i < 1024; i += 4 * kLanes)
        for (int v = 0; v < 4; ++v) sum[v] += load(data + (int64_t)c * 1024 + i + v * kLanes);
    sink[team.id] = reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3]));
  });
  return (double)chunks * 4096 / seconds;
}

struct Problem {
  int T, S, blocks_per_seq, heads, hkv, dk, dv, window, layers;
  const int32_t *query_start, *context_len, *block_table;
  const float* q;
  const void* cache;       // blocks, each of them all layers
  int64_t block_bytes;     // of all layers
  float *y, *scratch;
};

template <class KV> static double run(int threads, int repeat, const Problem& p) {
  const double all = best_time(threads, repeat, [&](Team& team, int) {
    for (int layer = 0; layer < p.layers; ++layer) {
      const KV* pool = (const KV*)((const char*)p.cache + layer * (p.block_bytes / p.layers));
      const Batch batch{p.T, p.S, p.query_start, p.context_len};
      const CacheGroup group{p.block_table, p.blocks_per_seq, p.block_bytes};
      paged_attention<KV>(team, batch, group, p.heads, p.hkv, p.dk, p.dv, 0.125f, 0.0f, p.window,
                          nullptr, nullptr, kNoRotary, p.q, p.heads * p.dk, pool, p.y,
                          p.heads * p.dv, p.scratch);
      team.barrier();
    }
  });
  return all / p.layers;
}
EXPORT double attention_f32(int threads, int repeat, Problem p) {
  return run<float>(threads, repeat, p);
}
EXPORT double attention_bf16(int threads, int repeat, Problem p) {
  return run<bf16>(threads, repeat, p);
}
EXPORT double attention_i8(int threads, int repeat, Problem p) {
  return run<int8_t>(threads, repeat, p);
}
EXPORT int64_t scratch_floats(int threads, int max_context, int dv) {
  return attention_scratch_floats(threads, max_context, dv);
}
"""

BLOCK = 64
DECODE_BYTES = (
    256 << 20
)  # cache read by one timed decode pass, several times any last-level cache here


class Problem(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int) for name in ("T", "S", "blocks_per_seq", "heads", "hkv")),
        *((name, ctypes.c_int) for name in ("dk", "dv", "window", "layers")),
        *((name, ctypes.c_void_p) for name in ("query_start", "context_len", "block_table")),
        *((name, ctypes.c_void_p) for name in ("q", "cache")),
        ("block_bytes", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("y", "scratch")),
    ]


@dataclass(frozen=True)
class Case:
    """Equal sequences of `context` tokens in the cache, the last `tokens` of them queries."""

    name: str
    sequences: int
    context: int
    tokens: int
    heads: int = 9
    hkv: int = 3
    dim: int = 64
    kv: str = "f32"

    @property
    def operations(self) -> float:
        pairs = self.tokens * (self.context - self.tokens) + self.tokens**2 / 2
        return 4.0 * self.sequences * pairs * self.dim * self.heads

    @property
    def cache_bytes(self) -> int:
        return self.sequences * self.context * self.hkv * self.token_bytes

    @property
    def token_bytes(self) -> int:
        """Key and value of one token and head, scales included."""
        return {"f32": 8, "bf16": 4, "i8": 2}[self.kv] * self.dim + (8 if self.kv == "i8" else 0)


KINDS = ("f32", "bf16", "i8")
CASES = [
    *(Case(f"prefill {t}", 1, t, t, kv=kv) for t in (128, 512, 2048) for kv in KINDS),
    *(Case("chunk 512 at 4096", 1, 4096, 512, kv=kv) for kv in KINDS),
    *(Case("chunk 512 at 4096, 32/8 heads", 1, 4096, 512, 32, 8, kv=kv) for kv in KINDS[1:]),
    Case("prefill 512, 32/8 heads of 128", 1, 512, 512, 32, 8, 128, "i8"),
    *(Case(f"decode at {c}", 1, c, 1, kv=kv) for c in (128, 512, 4096) for kv in KINDS),
    *(Case("decode at 4096, 32/8 heads", 1, 4096, 1, 32, 8, kv=kv) for kv in KINDS[1:]),
    *(Case("decode 8 sequences at 1024", 8, 1024, 1, kv=kv) for kv in KINDS),
    Case("decode at 4096, 32/8 heads of 128", 1, 4096, 1, 32, 8, 128, "i8"),
    Case("decode at 4096, 8/1 heads of 256", 1, 4096, 1, 8, 1, 256, "i8"),
    Case("decode at 4096, 8/8 heads of 64", 1, 4096, 1, 8, 8, 64, "i8"),
]


def build(folder: Path, clock: str) -> tuple[ctypes.CDLL, str]:
    flags = next(x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("flags"))
    level = best_level(platform.machine(), flags.split(":", 1)[1].split())
    path = folder / "attention.so"
    compile_library(f"#define CLOCK {clock}\n{SOURCE}", level.name, path)
    lib = ctypes.CDLL(str(path))
    for name in ("fma_peak", "read_bandwidth", *(f"attention_{kv}" for kv in KINDS)):
        getattr(lib, name).restype = ctypes.c_double
    lib.scratch_floats.restype = ctypes.c_int64
    return lib, level.name


def pointer(array: np.ndarray) -> int:
    return array.ctypes.data


def measure(lib: ctypes.CDLL, case: Case, cache: np.ndarray, threads: int, repeat: int) -> float:
    """Seconds of one layer's attention."""
    rng = np.random.default_rng(0)
    blocks = -(-case.context // BLOCK)
    total = case.sequences * blocks
    layer_bytes = BLOCK * case.hkv * case.token_bytes
    layers = max(1, DECODE_BYTES // (layer_bytes * total)) if case.tokens == 1 else 2
    rows = case.sequences * case.tokens
    starts = np.arange(case.sequences + 1, dtype=np.int32) * case.tokens
    contexts = np.full(case.sequences, case.context, np.int32)
    table = np.arange(total, dtype=np.int32).reshape(case.sequences, blocks)
    q = rng.standard_normal((rows, case.heads * case.dim)).astype(np.float32)
    y = np.empty((rows, case.heads * case.dim), np.float32)
    scratch = np.empty(lib.scratch_floats(threads, case.context, case.dim), np.float32)
    problem = Problem(
        rows, case.sequences, blocks, case.heads, case.hkv, case.dim, case.dim, 0, layers,
        pointer(starts), pointer(contexts), pointer(table), pointer(q), pointer(cache),
        layers * layer_bytes, pointer(y), pointer(scratch),
    )  # fmt: skip
    seconds = getattr(lib, f"attention_{case.kv}")(threads, repeat, problem)
    assert np.isfinite(y).all()
    return seconds


def cache_memory() -> np.ndarray:
    """Memory larger than any case reads, on huge pages: random bits of moderate floats, which are
    moderate bf16 pairs, codes and scales, too."""
    mapping = mmap.mmap(-1, DECODE_BYTES + (64 << 20), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping.madvise(mmap.MADV_HUGEPAGE)
    memory = np.frombuffer(mapping, np.uint16)
    bits = np.random.default_rng(1).integers(0, 1 << 16, 1 << 20, dtype=np.uint16)
    # Exponents of both halves between 2^-16 and 2: every value is finite as any of the types.
    bits = (bits & 0x87FF) | 0x3800
    memory[:] = np.resize(bits, memory.size)
    return memory


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.cpu_time and args.threads != 1:
        parser.error("--cpu-time is the time of one thread: add --threads 1")
    clock = "CLOCK_THREAD_CPUTIME_ID" if args.cpu_time else "CLOCK_MONOTONIC"
    with tempfile.TemporaryDirectory() as folder:
        lib, level = build(Path(folder), clock)
        data = cache_memory()
        peak = lib.fma_peak(args.threads, args.repeat)
        read = lib.read_bandwidth(
            args.threads, 5, ctypes.c_void_p(pointer(data)), ctypes.c_int64(DECODE_BYTES)
        )
        rows = []
        for case in (c for c in CASES if args.only in f"{c.name}, {c.kv}"):
            seconds = measure(lib, case, data, args.threads, args.repeat)
            rows.append(
                asdict(case)
                | {
                    "us": seconds * 1e6,
                    "gflops": case.operations / seconds / 1e9,
                    "peak_fraction": case.operations / seconds / peak,
                    "gbs": case.cache_bytes / seconds / 1e9,
                    "read_fraction": case.cache_bytes / seconds / read,
                }
            )
    machine = {
        "level": level,
        "threads": args.threads,
        "peak_gflops": peak / 1e9,
        "read_gbs": read / 1e9,
    }
    if args.json:
        print(json.dumps({"machine": machine, "cases": rows}))
        return
    print(f"{level}, {args.threads} threads", end=": ")
    print(f"{peak / 1e9:.0f} GFLOP/s multiply-add peak, {read / 1e9:.1f} GB/s read")
    print(
        f"{'case':40} {'cache':5} {'us/layer':>9} {'GFLOP/s':>8} {'of peak':>8} {'GB/s':>6}"
        f" {'of read':>8}"
    )
    for r in rows:
        print(
            f"{r['name']:40} {r['kv']:5} {r['us']:9.1f} {r['gflops']:8.1f}"
            f" {r['peak_fraction']:8.0%} {r['gbs']:6.1f} {r['read_fraction']:8.0%}"
        )


if __name__ == "__main__":
    main()
