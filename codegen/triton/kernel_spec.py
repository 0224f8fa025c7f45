"""What a kernel is compiled from, and what comes out of that."""

from __future__ import annotations

from dataclasses import dataclass

Constant = int | float | bool | str | None | tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class KernelSpec:
    """One kernel with its constants.

    `function`: `module.name` in `kernels/`; or, with `source`, the name of a function in that text,
    which is a module that may import from `kernels` (`from .norm import …`).
    `types`: parameters that a launch passes, in the kernel's order, in Triton's words (`*bf16`,
    `i32`, `fp32`); `constants`: all others but those with a default. `PORTABLE` has one: False.
    Pointers are to addresses that are multiples of 16 bytes but for the `unaligned`.
    `num_warps`: threads of a block in 32s; `num_stages`: of loads before their use in a loop. `pdl`
    and `cooperative`: how it is launched.
    """

    function: str
    types: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Constant], ...] = ()
    num_warps: int = 4
    num_stages: int = 1
    unaligned: tuple[str, ...] = ()
    pdl: bool = False
    cooperative: bool = False
    source: str = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KernelSpec) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> str:
        """Constants are compared as they are written: 1, 1.0 and True make other kernels."""
        return repr(self)

    @property
    def label(self) -> str:
        """A name for messages."""
        return self.function


@dataclass(frozen=True, slots=True)
class Parameter:
    """Where an argument of a launch lies among the others' bytes."""

    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Cubin:
    """A compiled kernel for compute capability `sm` (90: 9.0).

    `data`: an ELF file, the same bytes on every build. `name`: of the function in it. A block has
    `threads` and wants `shared` bytes of dynamic shared memory, which the launch must ask for, and
    `scratch` bytes of global memory, aligned to `scratch_align`.
    `parameters`: those of `KernelSpec.types`, then two pointers: to that scratch memory, and to a
    profiler's (null); `parameter_bytes` in all.
    `registers` of a thread; `spill_bytes` of memory of a thread, for what has no register;
    `static_shared` bytes beside the dynamic ones. `ptx`: the text, if it was asked for.
    """

    sm: int
    data: bytes
    name: str
    threads: int
    shared: int
    scratch: int
    scratch_align: int
    parameters: tuple[Parameter, ...]
    parameter_bytes: int
    registers: int
    spill_bytes: int
    static_shared: int
    ptx: str = ""
