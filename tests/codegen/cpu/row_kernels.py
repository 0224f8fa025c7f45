"""The row kernels (norm, rotary, cache, attention, moe) behind one calling convention for tests.

Every kernel is called as `call(level, name, threads, ints, floats, arrays)`: the wrappers below
pick the arguments out of three lists, in the order of the kernel's own parameters. One library a
level holds them all.
"""

import ctypes
from collections.abc import Sequence

import numpy as np
from kernel_harness import build, foreign_levels, pointer, runnable_levels

# The levels between which these kernels' code differs, and one of each other processor.
LEVELS = [
    *(x for x in runnable_levels()[:-1] if x in ("portable", "x86-64-v3")),
    runnable_levels()[-1],
    *foreign_levels()[:1],
]

SOURCE = """
#include "attention.h"
#include "cache.h"
#include "key_index.h"
#include "latent.h"
#include "moe.h"
#include "norm.h"
#include "rotary.h"
using namespace llmc;

struct Call { const int* n; const float* f; void* const* p; };
#define KERNEL(name, ...) \\
  static void name##_body(Team& team, void* args) { \\
    const Call& c = *(Call*)args; const int* n = c.n; const float* f = c.f; void* const* p = c.p; \\
    (void)n; (void)f; (void)p; __VA_ARGS__; } \\
  EXPORT void call_##name(int threads, const int* n, const float* f, void* const* p) { \\
    Call c{n, f, p}; run_team(threads, name##_body, &c); }
#define F(i) ((float*)p[i])
#define I(i) ((int32_t*)p[i])

KERNEL(rms_norm, rms_norm(team, n[0], n[1], F(0), n[2], F(1), f[0], F(2), n[3]))
KERNEL(layer_norm, layer_norm(team, n[0], n[1], F(0), n[2], F(1), F(2), f[0], F(3), n[3]))
KERNEL(add_rms_norm,
       add_rms_norm(team, n[0], n[1], F(0), n[2], F(1), n[3], F(2), n[4], F(3), f[0], F(4), n[5]))
KERNEL(add_layer_norm,
       add_layer_norm(team, n[0], n[1], F(0), n[2], F(1), n[3], F(2), n[4], F(3), F(4), f[0],
                      F(5), n[5]))
KERNEL(rms_norm_heads, rms_norm_heads(team, n[0], n[1], n[2], F(0), n[3], F(1), f[0], F(2), n[4]))
KERNEL(layer_norm_heads,
       layer_norm_heads(team, n[0], n[1], n[2], F(0), n[3], F(1), F(2), f[0], F(3), n[4]))
KERNEL(quantize_rows,
       quantize_rows(team, n[0], n[1], F(0), n[2], (int8_t*)p[1], F(2), F(3)))
KERNEL(rms_norm_quant,
       rms_norm_quant(team, n[0], n[1], F(0), n[2], F(1), f[0], F(2), n[3], (int8_t*)p[3], F(4),
                      F(5)))
KERNEL(layer_norm_quant,
       layer_norm_quant(team, n[0], n[1], F(0), n[2], F(1), F(2), f[0], F(3), n[3], (int8_t*)p[4],
                        F(5), F(6)))
KERNEL(add_rms_norm_quant,
       add_rms_norm_quant(team, n[0], n[1], F(0), n[2], F(1), n[3], F(2), n[4], F(3), f[0], F(4),
                          n[5], (int8_t*)p[5], F(6), F(7)))
KERNEL(add_layer_norm_quant,
       add_layer_norm_quant(team, n[0], n[1], F(0), n[2], F(1), n[3], F(2), n[4], F(3), F(4), f[0],
                            F(5), n[5], (int8_t*)p[6], F(7), F(8)))
KERNEL(rotary,
       rotary(team, n[0], n[1], n[2], n[3], n[4], F(0), n[5], F(1), n[6], F(2), n[7], F(3), n[8],
              n[9]))

static Batch batch(const int* n, void* const* p) { return Batch{n[0], n[1], I(0), I(1)}; }
static CacheGroup group(const int* n, void* const* p) { return CacheGroup{I(2), n[2], n[3]}; }

// Rotary arguments: rotary_dim (0: none), interleaved, half_table, ldc, lds; cos, sin.
static RotaryTable table(const int* n, const float* cos, const float* sin) {
  return n[0] ? RotaryTable{n[0], n[1] != 0, n[2] != 0, cos, n[3], sin, n[4]} : kNoRotary;
}

// ints: T, S, blocks_per_seq, block_bytes, hkv, dk, dv, ldk, ldv, rotary arguments
// arrays: query_start, context_len, block_table, k, v, pool, cos, sin
template <class KV> static void write(Team& team, const int* n, void* const* p) {
  cache_write(team, batch(n, p), group(n, p), n[4], n[5], n[6], table(n + 9, F(6), F(7)), F(3),
              n[7], F(4), n[8], (KV*)p[5]);
}
KERNEL(cache_write_f32, write<float>(team, n, p))
KERNEL(cache_write_bf16, write<bf16>(team, n, p))
KERNEL(cache_write_i8, write<int8_t>(team, n, p))

// ints: T, S, blocks_per_seq, block_bytes, heads, hkv, dk, dv, window, ldq, ldy, rotary arguments
// floats: scale, softcap
// arrays: query_start, context_len, block_table, sinks, slopes, q, pool, y, scratch, cos, sin
template <class KV>
static void attention(Team& team, const int* n, const float* f, void* const* p) {
  paged_attention<KV>(team, batch(n, p), group(n, p), n[4], n[5], n[6], n[7], f[0], f[1], n[8],
                      F(3), F(4), table(n + 11, F(9), F(10)), F(5), n[9], (const KV*)p[6], F(7),
                      n[10], F(8));
}
KERNEL(paged_attention_f32, attention<float>(team, n, f, p))
KERNEL(paged_attention_bf16, attention<bf16>(team, n, f, p))
KERNEL(paged_attention_i8, attention<int8_t>(team, n, f, p))
EXPORT int64_t scratch_floats(int threads, int max_context, int dv) {
  return attention_scratch_floats(threads, max_context, dv);
}

// ints: T, S, blocks_per_seq, block_bytes, latent, rope, ldc, ldk, rotary arguments
// arrays: query_start, context_len, block_table, c, k_rope, pool, cos, sin
template <class KV> static void write_latents(Team& team, const int* n, void* const* p) {
  latent_write(team, batch(n, p), group(n, p), n[4], n[5], table(n + 8, F(6), F(7)), F(3), n[6],
               F(4), n[7], (KV*)p[5]);
}
KERNEL(latent_write_f32, write_latents<float>(team, n, p))
KERNEL(latent_write_bf16, write_latents<bf16>(team, n, p))
KERNEL(latent_write_i8, write_latents<int8_t>(team, n, p))

// ints: T, S, blocks_per_seq, block_bytes, heads, latent, rope, window, ldq, ld_rope, head_rope,
// ldy, rotary arguments; floats: scale, softcap
// arrays: query_start, context_len, block_table, sinks, q, q_rope, pool, y, scratch, cos, sin
template <class KV>
static void attend_latents(Team& team, const int* n, const float* f, void* const* p) {
  latent_attention<KV>(team, batch(n, p), group(n, p), n[4], n[5], n[6], f[0], f[1], n[7], F(3),
                       table(n + 12, F(9), F(10)), F(4), n[8], F(5), n[9], n[10], (const KV*)p[6],
                       F(7), n[11], F(8));
}
KERNEL(latent_attention_f32, attend_latents<float>(team, n, f, p))
KERNEL(latent_attention_bf16, attend_latents<bf16>(team, n, f, p))
KERNEL(latent_attention_i8, attend_latents<int8_t>(team, n, f, p))

// As latent_attention, then choice; after the rotary arguments topk.
template <class KV>
static void attend_chosen(Team& team, const int* n, const float* f, void* const* p) {
  selected_latent_attention<KV>(team, batch(n, p), group(n, p), n[4], n[5], n[6], f[0], f[1], n[7],
                                F(3), table(n + 12, F(9), F(10)), F(4), n[8], F(5), n[9], n[10],
                                (const KV*)p[6], F(7), n[11], F(8), I(11), n[17]);
}
KERNEL(selected_latent_attention_f32, attend_chosen<float>(team, n, f, p))
KERNEL(selected_latent_attention_bf16, attend_chosen<bf16>(team, n, f, p))
KERNEL(selected_latent_attention_i8, attend_chosen<int8_t>(team, n, f, p))

// ints: T, S, blocks_per_seq, block_bytes, dk, ldk, heads, ldq, ldw, topk; floats: scale
// arrays: query_start, context_len, block_table, k of the step, q, weights, pool, choice
template <class KV>
static void index_keys(Team& team, const int* n, const float* f, void* const* p) {
  key_index_write(team, batch(n, p), group(n, p), n[4], F(3), n[5], (KV*)p[6]);
  team.barrier();
  key_index(team, batch(n, p), group(n, p), n[6], n[4], n[9], f[0], F(4), n[7], F(5), n[8],
            (const KV*)p[6], I(7));
}
KERNEL(key_index_f32, index_keys<float>(team, n, f, p))
KERNEL(key_index_bf16, index_keys<bf16>(team, n, f, p))

KERNEL(route_tokens, route_tokens(team, n[0], n[1], n[2], I(0), I(1), I(2), I(3)))
KERNEL(combine_experts, combine_experts(team, n[0], n[1], n[2], F(0), I(1), F(2), F(3), n[3]))
"""


def library(level: str) -> ctypes.CDLL:
    lib = build(SOURCE, level)
    lib.scratch_floats.restype = ctypes.c_int64
    return lib


def call(
    level: str,
    name: str,
    threads: int,
    ints: Sequence[int],
    floats: Sequence[float],
    arrays: Sequence[np.ndarray | None],
) -> None:
    """Run one kernel on a team of `threads`; None is a null pointer."""
    function = getattr(library(level), f"call_{name}")
    function(
        ctypes.c_int(threads),
        (ctypes.c_int * len(ints))(*ints),
        (ctypes.c_float * len(floats))(*floats),
        (ctypes.c_void_p * len(arrays))(*[pointer(a) for a in arrays]),
    )


def to_bf16(x: np.ndarray) -> np.ndarray:
    """float32 -> the bits of bfloat16 (uint16), rounded to nearest even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)
