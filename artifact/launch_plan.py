"""The launch plan of a GPU program: which kernels run in a step, on what memory, in which order.

A plan is data: the executor packs arguments and launches, and decides nothing. It lies in the
manifest, typed, because a checker, a profiler and another runtime want to read it too.

A program's memory is five *spaces*, each allocated once:

| space     | what lies there                                                              |
|-----------|------------------------------------------------------------------------------|
| `arena`   | values that live within a step; the memory plan says where                    |
| `weights` | the data section of the weights entry                                         |
| `cache`   | blocks of a cache group (`group`)                                             |
| `step`    | what the host says about a step: one block, copied to the device as a whole   |
| `kept`    | zeroed once and kept: logits, chosen tokens, counters that kernels set back   |

Every launch has one list of arguments and, for each *form*, the kernel that takes them: a form is
for steps of at most so many rows. All launches of a step run in the order of the list; a kernel
marked `overlaps` may start while the one before it still runs, and waits for it before it touches
anything but the arguments marked `early`.
"""

import struct
from collections.abc import Iterable
from typing import Annotated, Literal

from msgspec import Meta, Struct

from .bounds import Count, Positive

Space = Literal["arena", "weights", "cache", "step", "kept"]
Symbol = Literal["", "T", "S", "R"]
"""Of a step: query tokens, sequences, logits rows; or none."""

NO_KERNEL = -1


class _Plan(Struct, frozen=True, forbid_unknown_fields=True):
    """Immutable and strict, as all of the manifest is."""


class _Short(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Written as an array: a plan has thousands of these."""


class Extent(_Short, frozen=True):
    """`ceil((scale * symbol + add) / divisor)`; no symbol counts as 1.

    `per_multiprocessor` > 0: at most so many times the number of multiprocessors.
    """

    symbol: Symbol = ""
    scale: Count = 1
    add: Count = 0
    divisor: Positive = 1
    per_multiprocessor: Count = 0

    def value(self, sizes: dict[str, int], multiprocessors: int = 0) -> int:
        """The number, for a step of these `sizes` (by symbol)."""
        count = self.scale * sizes[self.symbol] if self.symbol else self.scale
        found = -(-(count + self.add) // self.divisor)
        limit = self.per_multiprocessor * multiprocessors
        return min(found, limit) if limit else found


ONE = Extent()


class Pointer(_Short, frozen=True, tag="p"):
    """The address of bytes [offset, offset + nbytes) of a space; nbytes at the program's limits.

    In the cache, it is `offset` bytes into the first block of `group`, and `nbytes` are those that
    each block has there. `access`: `r` reads, `w` writes, `rw`. `early`: read before the kernel
    waits for the one before it.
    """

    space: Space
    offset: Count
    nbytes: Count
    access: Literal["r", "w", "rw"] = "r"
    group: Count = 0
    early: bool = False


class Size(_Short, frozen=True, tag="s"):
    """A size of the step, as i32."""

    extent: Extent


class Number(_Short, frozen=True, tag="n"):
    """A number that is the same in every step."""

    value: int | float
    dtype: Literal["i32", "i64", "f32"]


Argument = Pointer | Size | Number

_CODES = {"i32": "i", "i64": "q", "f32": "f"}
_SCRATCH_POINTERS = "QQ"


def parameter_layout(arguments: Iterable[Argument]) -> struct.Struct:
    """How a launch's parameters are packed: each aligned to its own size, and behind them two
    pointers to scratch memory."""
    codes = (_code(argument) for argument in arguments)
    return struct.Struct("@" + "".join(codes) + _SCRATCH_POINTERS)


def _code(argument: Argument) -> str:
    match argument:
        case Pointer():
            return "Q"
        case Size():
            return "i"
        case Number():
            return _CODES[argument.dtype]


class Kernel(_Plan, frozen=True, kw_only=True):
    """A kernel: bytes [offset, offset + nbytes) of the program entry are its cubin or PTX.

    `name`: of the function in it. `threads` of a block, `shared` bytes of dynamic shared memory,
    `parameter_bytes` that a launch passes in all (two pointers to scratch memory behind the
    arguments included), `scratch` bytes of global memory that each block wants. `registers` of a
    thread and `spill_bytes` are for people. `overlaps`: see above. `cooperative`: all blocks must
    be resident at once.
    """

    label: str
    name: str
    offset: Count
    nbytes: Count
    threads: Positive
    shared: Count = 0
    parameter_bytes: Count = 0
    scratch: Count = 0
    registers: Count = 0
    spill_bytes: Count = 0
    overlaps: bool = False
    cooperative: bool = False


class FormLaunch(_Short, frozen=True):
    """Which kernel a form launches, on how many blocks. `NO_KERNEL`: none."""

    kernel: Annotated[int, Meta(ge=NO_KERNEL, lt=2**31)] = NO_KERNEL
    grid: tuple[Extent, Extent, Extent] = (ONE, ONE, ONE)


class Traffic(_Short, frozen=True):
    """`nbytes` that a launch has to move for each `unit` of a step: "" (once), T, S, R, or C, a
    position that a sequence sees (at most `most`, if that isn't 0). Of other units `most` limits
    the bytes."""

    nbytes: Count
    unit: Literal["", "T", "S", "R", "C"] = ""
    most: Count = 0


class Launch(_Plan, frozen=True, kw_only=True):
    """One launch: its kernel and grid in each form, in the plan's order of forms. `traffic` is for
    profiles."""

    label: str
    forms: list[FormLaunch]
    arguments: list[Argument]
    traffic: list[Traffic] = []


class Region(_Short, frozen=True):
    """Named bytes of a space."""

    offset: Count
    nbytes: Count


class LaunchPlan(_Plan, frozen=True, kw_only=True):
    """All that a GPU program does.

    `sm`: what its cubins are for; `ptx`: kernels are PTX for it, each ended by a zero byte, which
    drivers compile for later GPUs, too. `forms`: the most rows (T) of each form, rising; the last
    takes any number. `step`: where each array of the step lies in its block: `token_ids`,
    `positions`, `query_start`, `context_len`, `logits_rows`, `table.G` (i32 [S, columns]) of each
    cache group. `kept`: `logits` f32 [R, vocab], `argmax` i32 [R] and others. `columns`: of block
    tables. `sampling`: launched when tokens are to be drawn from the logits.
    """

    sm: Positive
    ptx: bool = False
    kernels: list[Kernel]
    forms: list[Positive]
    launches: list[Launch]
    sampling: list[Launch] = []
    step: dict[str, Region]
    step_bytes: Count
    kept: dict[str, Region]
    kept_bytes: Count
    columns: Positive
    batch_invariant: bool = True

    def form_for(self, rows: int) -> int:
        """The smallest form that takes so many rows."""
        last = len(self.forms) - 1
        return next((i for i, most in enumerate(self.forms) if rows <= most), last)
