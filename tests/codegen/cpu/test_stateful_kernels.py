"""Kernels of what sequences keep in slots: against the ops' references, and bit for bit.

Several sequences share steps, long ones beside one token; slots are shuffled, full of NaN where
nobody has written, and outputs poisoned. However a sequence is split into steps, and however many
threads share them, its bits are the same.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from kernel_harness import aligned, build, emulated_levels, pointer, runnable_levels
from llmc.ir.ops import CausalConv, LinearRecurrence, SelectiveScan
from llmc.ir.ops.stateful import Mixer
from llmc.ir.types import DType, TensorType

SOURCE = """
#include "convolution.h"
#include "recurrence.h"
#include "selective_scan.h"
using namespace llmc;

// n: T, S, bytes of a slot, then the kernel's own; p: query_start, context_len, slots, state, same.
struct Call { const int* n; float* const* p; };
#define KERNEL(name, ...) \\
  static void name##_body(Team& team, void* args) { \\
    const int* n = ((Call*)args)->n; float* const* p = ((Call*)args)->p; \\
    const Batch batch{n[0], n[1], (const int32_t*)p[0], (const int32_t*)p[1]}; \\
    const SlotPart part{(char*)p[3] + kSlotHeader, n[2], (const int32_t*)p[2]}; \\
    n += 3; p += 4; name(team, batch, part, __VA_ARGS__); } \\
  EXPORT void call_##name(int threads, const int* n, float* const* p) { \\
    Call c{n, p}; run_team(threads, name##_body, &c); }

KERNEL(causal_conv, n[0], n[1], p[0], n[2], p[1], p[2], n[3] != 0, p[3], n[4])
KERNEL(linear_recurrence, n[0], n[1], n[2], n[3], p[0], n[4], p[1], n[5], p[2], n[6], p[3], n[7],
       n[8] != 0, p[4], n[9], p[5], n[10])
KERNEL(selective_scan, n[0], n[1], p[0], n[2], p[1], n[3], p[2], n[4], p[3], n[5], p[4], p[5], n[6])
"""

LEVELS = [*runnable_levels()[-1:], *emulated_levels()]
ALL_LEVELS = [*(x for x in runnable_levels() if x in ("portable", "x86-64-v3")), *LEVELS]
HEADER = 64
GAP = 3
"""Elements between two rows of an operand, so that strides matter."""

Plan = Sequence[Sequence[tuple[int, int]]]
"""Steps: (sequence, how many further tokens)."""


@dataclass
class Case:
    """A mixer with what its kernel is called and given: `rows` by token, `constants`, `sizes`."""

    mixer: Mixer
    name: str
    sizes: tuple[int, ...]
    widths: tuple[int, ...]
    """Of a row of each operand, and of the result."""

    def inputs(self, tokens: int, rng: np.random.Generator) -> list[np.ndarray]:
        raise NotImplementedError

    def constants(self, rng: np.random.Generator) -> Sequence[np.ndarray | None]:
        return []


class Conv(Case):
    def __init__(self, channels: int, width: int, bias: bool, silu: bool) -> None:
        super().__init__(
            CausalConv(bias, silu), "causal_conv", (channels, width), (channels, channels)
        )

    def inputs(self, tokens, rng):
        return [rng.standard_normal((tokens, self.sizes[0]))]

    def constants(self, rng):
        channels, width = self.sizes
        bias = rng.standard_normal(channels) if self.mixer.bias else None  # type: ignore[attr-defined]
        return [rng.standard_normal((channels, width)), bias]

    def numbers(self, strides):
        (x, y) = strides
        return (*self.sizes, x, int(self.mixer.silu), y)  # type: ignore[attr-defined]

    def arrays(self, rows, constants, y):
        filters, bias = constants
        return [rows[0], np.ascontiguousarray(filters.T), bias, y]


class Recurrence(Case):
    def __init__(self, groups, heads, key, value, delta=False, by_channel=False) -> None:
        widths = [groups * key, groups * key, heads * value, heads * (key if by_channel else 1)]
        widths += [heads] if delta else []
        sizes = (groups, heads, key, value)
        super().__init__(
            LinearRecurrence(delta), "linear_recurrence", sizes, (*widths, heads * value)
        )
        self.by_channel = by_channel

    def inputs(self, tokens, rng):
        groups, heads, key, value = self.sizes
        q = rng.standard_normal((tokens, groups, key))
        k = rng.standard_normal((tokens, groups, key))
        k /= np.linalg.norm(k, axis=2, keepdims=True)
        decay = rng.uniform(0.7, 1, (tokens, heads, key) if self.by_channel else (tokens, heads))
        found = [q, k, rng.standard_normal((tokens, heads, value)), decay]
        return [*found, rng.uniform(0, 1, (tokens, heads))] if self.mixer.delta else found  # type: ignore[attr-defined]

    def numbers(self, strides):
        *given, y = strides
        given += [0] * (5 - len(given))
        return (*self.sizes, *given[:4], int(self.by_channel), given[4], y)

    def arrays(self, rows, constants, y):
        return [*rows, *[None] * (5 - len(rows)), y]


class Scan(Case):
    def __init__(self, channels: int, numbers: int) -> None:
        sizes = (channels, numbers)
        widths = (channels, channels, numbers, numbers, channels)
        super().__init__(SelectiveScan(), "selective_scan", sizes, widths)

    def inputs(self, tokens, rng):
        channels, numbers = self.sizes
        x, b, c = (rng.standard_normal((tokens, n)) for n in (channels, numbers, numbers))
        return [x, rng.uniform(0, 0.5, (tokens, channels)), b, c]

    def constants(self, rng):
        return [-rng.uniform(0, 8, self.sizes)]

    def numbers(self, strides):
        return (*self.sizes, *strides)

    def arrays(self, rows, constants, y):
        return [*rows, np.ascontiguousarray(constants[0].T), y]


CASES = {
    "conv-6": Conv(6, 3, bias=False, silu=False),
    "conv-80": Conv(80, 4, bias=True, silu=True),
    "conv-130": Conv(130, 2, bias=True, silu=False),
    "conv-wide": Conv(64, 9, bias=False, silu=True),
    "ssd": Recurrence(1, 3, 16, 80),
    "ssd-groups": Recurrence(2, 4, 128, 16),
    "linear-channels": Recurrence(1, 2, 80, 16, by_channel=True),
    "delta": Recurrence(2, 4, 16, 128, delta=True),
    "delta-odd": Recurrence(3, 3, 5, 5, delta=True),
    "delta-channels": Recurrence(1, 1, 37, 20, delta=True, by_channel=True),
    "scan": Scan(80, 16),
    "scan-odd": Scan(21, 5),
}
"""Sizes that fill vectors or don't, one head and several, and all the kernels' forms."""


class Run:
    """Some sequences of a case in slots of their own: `lengths` tokens each."""

    def __init__(self, case: Case, lengths: Sequence[int], seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.case, self.lengths = case, lengths
        self.given = [[np.float32(x) for x in case.inputs(n, rng)] for n in lengths]
        self.constants = [None if x is None else np.float32(x) for x in case.constants(rng)]
        types = [
            TensorType(DType.F32, x.shape)
            for x in (*self.given[0], *(c for c in self.constants if c is not None))
        ]
        floats = sum(int(np.prod(shape)) for shape in case.mixer.state_shapes(*types))
        self.slot_bytes = HEADER + 4 * floats + 64  # some more, which nobody may touch
        self.slots = rng.permutation(len(lengths) + 2)[: len(lengths)].astype(np.int32)

    def run(self, level: str, plan: Plan, threads: int) -> list[np.ndarray]:
        """The results of each sequence's tokens."""
        count = len(self.lengths) + 2
        state = aligned(count * self.slot_bytes, np.uint8, 0xFF)
        seen = [0] * len(self.lengths)
        results: list[list[np.ndarray]] = [[] for _ in self.lengths]
        for step in plan:
            for (s, n), rows in zip(
                step, self._step(level, step, seen, state, threads), strict=True
            ):
                results[s].append(rows)
                seen[s] += n
        slots = state.reshape(count, self.slot_bytes)
        assert (slots[:, :HEADER] == 0xFF).all(), "a kernel wrote into the header"
        assert (slots[:, -64:] == 0xFF).all(), "a kernel wrote past the slot's part"
        free = sorted(set(range(count)) - set(self.slots.tolist()))
        assert (slots[free] == 0xFF).all(), "a kernel wrote into another slot"
        return [np.concatenate(rows) for rows in results]

    def _step(self, level, step, seen, state, threads) -> list[np.ndarray]:
        starts = np.cumsum([0, *(n for _, n in step)]).astype(np.int32)
        ends = np.array([seen[s] + n for s, n in step], np.int32)
        slots = np.array([self.slots[s] for s, _ in step], np.int32)
        operands, strides = [], []
        for i, width in enumerate(self.case.widths[:-1]):
            rows = [self.given[s][i][seen[s] : seen[s] + n] for s, n in step]
            spaced = aligned((int(starts[-1]), width + GAP), np.float32, 0xFF)
            for start, own in zip(starts, rows, strict=False):
                spaced[start : start + len(own), :width] = own.reshape(len(own), -1)
            operands.append(spaced)
            strides.append(width + GAP)
        y = aligned((int(starts[-1]), self.case.widths[-1] + GAP), np.float32)
        own = self.case.numbers((*strides, y.shape[1]))  # type: ignore[attr-defined]
        numbers = np.array([int(starts[-1]), len(step), self.slot_bytes, *own], np.int32)
        arrays = self.case.arrays(operands, self.constants, y)  # type: ignore[attr-defined]
        pointers = [pointer(a) for a in (starts, ends, slots, state, *arrays)]
        function = getattr(build(SOURCE, level), f"call_{self.case.name}")
        function(
            threads,
            pointer(numbers),
            (ctypes.c_void_p * len(pointers))(*pointers),
        )
        gap = y[:, -GAP:]
        assert (gap.view(np.uint8) == 0xAA).all(), "wrote between rows"
        return [y[a:b, :-GAP].copy() for a, b in pairwise(starts)]

    def expected(self) -> list[np.ndarray]:
        """By the op's reference, in double precision."""
        constants = [torch.from_numpy(c).double() for c in self.constants if c is not None]
        found = []
        for rows in self.given:
            inputs = [torch.from_numpy(x).double() for x in rows]
            y = self.case.mixer.reference(*inputs, *constants)
            assert isinstance(y, torch.Tensor)
            found.append(y.reshape(len(y), -1).numpy())
        return found


def check(run: Run, found: list[np.ndarray]) -> None:
    """float32 sums over at most 128 products and as many tokens, against double precision."""
    for y, want in zip(found, run.expected(), strict=True):
        np.testing.assert_allclose(y, want, rtol=1e-4, atol=2e-5 * np.abs(want).max())


LENGTHS = (65, 1, 23, 2)
WHOLE: Plan = [[(2, 23), (0, 65), (1, 1), (3, 2)]]
PARTS: Plan = [
    [(0, 1), (2, 22)],
    [(3, 1), (0, 2), (1, 1)],
    [(0, 60), (3, 1), (2, 1)],
    [(0, 1)],
    [(0, 1)],
]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", CASES)
def test_they_compute_what_the_references_say(level: str, name: str) -> None:
    run = Run(CASES[name], LENGTHS, 1)
    check(run, run.run(level, WHOLE, 2))


@pytest.mark.parametrize("level", [x for x in ALL_LEVELS if x not in LEVELS])
@pytest.mark.parametrize("name", ["conv-80", "delta", "delta-channels", "ssd", "scan-odd"])
def test_other_levels_too(level: str, name: str) -> None:
    run = Run(CASES[name], LENGTHS, 2)
    check(run, run.run(level, WHOLE, 2))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", CASES)
def test_steps_and_threads_change_no_bits(level: str, name: str) -> None:
    """A foreign processor's steps are slow: two ways to split are enough there."""
    run = Run(CASES[name], LENGTHS, 3)
    expected = run.run(level, WHOLE, 1)
    ways = [(WHOLE, 3), (PARTS, 2)]
    if level in runnable_levels():
        ways += [
            (WHOLE, 2),
            (PARTS, 1),
            ([[(s, 1)] for s in range(4) for _ in range(LENGTHS[s])], 3),
        ]
    for plan, threads in ways:
        for y, want in zip(run.run(level, plan, threads), expected, strict=True):
            np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 131])
@pytest.mark.parametrize("name", ["conv-80", "delta", "ssd", "scan"])
def test_lengths(name: str, length: int) -> None:
    run = Run(CASES[name], (length,), length)
    check(run, run.run(runnable_levels()[-1], [[(0, length)]], 2))


def test_a_step_without_tokens_changes_nothing() -> None:
    run = Run(CASES["delta"], (3, 4), 5)
    whole = run.run(runnable_levels()[-1], [[(0, 3), (1, 4)]], 2)
    parts = run.run(runnable_levels()[-1], [[(0, 2), (1, 4)], [], [(0, 1)]], 2)
    np.testing.assert_array_equal(parts[0], whole[0])
