"""What kernels are chosen by: facts of each compute capability, and of one GPU that has it.

Sizes per block and multiprocessor are of the capability: CUDA C++ Programming Guide, "Technical
Specifications per Compute Capability". Multiprocessors, L2 and bandwidth are of the GPU that is
named, from its data sheet; others of the capability run the same kernels, with the grids that their
own number of multiprocessors gives. Nothing here is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

KIB, MIB = 1024, 1024 * 1024


class MatrixUnit(StrEnum):
    """The instruction by which tensor cores multiply, as Triton chooses it."""

    MMA = "mma.sync"
    WGMMA = "wgmma"
    TCGEN05 = "tcgen05.mma"


@dataclass(frozen=True, slots=True)
class Machine:
    """A kind of GPU.

    `shared_bytes`: shared memory that a block may take. `multiprocessor_shared_bytes`: what blocks
    on one multiprocessor share; each takes 1 KiB more than it asks for. `registers`: 32-bit ones of
    a multiprocessor. `bandwidth`: of memory, bytes a second.
    """

    sm: int
    name: str
    unit: MatrixUnit
    multiprocessors: int
    shared_bytes: int
    multiprocessor_shared_bytes: int
    l2_bytes: int
    bandwidth: float
    registers: int = 65536

    @property
    def natural_order(self) -> bool:
        """Whether tensor cores take rows of x from shared memory (see `kernels/panels.py`)."""
        return self.unit is not MatrixUnit.MMA

    @property
    def overlaps(self) -> bool:
        """A kernel may start before the one that it depends on has ended (from 9.0 on)."""
        return self.sm >= 90


def _machine(
    sm: int, name: str, unit: MatrixUnit, count: int, shared: int, l2: int, bandwidth: float
) -> Machine:
    """`shared` in KiB a multiprocessor, of which a block may take all but one; `l2` in MiB;
    `bandwidth` in GB/s."""
    return Machine(
        sm, name, unit, count, (shared - 1) * KIB, shared * KIB, l2 * MIB, bandwidth * 1e9
    )


MACHINES: dict[int, Machine] = {
    m.sm: m
    for m in (
        _machine(80, "A100 80GB SXM", MatrixUnit.MMA, 108, 164, 40, 2039),
        _machine(86, "A10", MatrixUnit.MMA, 72, 100, 6, 600),
        _machine(89, "L40S", MatrixUnit.MMA, 142, 100, 96, 864),
        _machine(90, "H200 SXM", MatrixUnit.WGMMA, 132, 228, 50, 4800),
        _machine(100, "B200", MatrixUnit.TCGEN05, 148, 228, 126, 8000),
        _machine(103, "B300", MatrixUnit.TCGEN05, 148, 228, 126, 8000),
        _machine(120, "RTX PRO 6000 Blackwell", MatrixUnit.MMA, 188, 100, 128, 1792),
    )
}
"""By compute capability. Of the B300, multiprocessors and L2 are taken to be those of the B200."""
