"""What kernels must know of a GPU before there is one: the facts that tiles follow from.

Shared memory of a block is what compute capabilities promise (CUDA C++ Programming Guide, table
"Technical Specifications per Compute Capability"); the rest is that of the best-known GPU of each
(NVIDIA's data sheets and architecture white papers). A grid asks the GPU itself for its number of
multiprocessors; here that number only helps to choose.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Machine:
    """`sm`: compute capability, 90 for 9.0. `gpu`: whose numbers these are.

    `shared_bytes`: that one block may have; `l2_bytes`; `bandwidth`: of memory, bytes a second;
    `has_wgmma`: matrices are multiplied by warp groups, from shared memory.
    """

    sm: int
    gpu: str
    multiprocessors: int
    shared_bytes: int
    l2_bytes: int
    bandwidth: float

    @property
    def has_wgmma(self) -> bool:
        return self.sm == 90

    @property
    def multiplies_from_shared(self) -> bool:
        """Tensor cores take an operand from shared memory: Hopper and the Blackwell of servers."""
        return self.sm in (90, 100, 103)

    @property
    def overlaps(self) -> bool:
        """A kernel may begin before the one in front of it has ended (from Hopper on)."""
        return self.sm >= 90


_KB, _MB = 1 << 10, 1 << 20

MACHINES: dict[int, Machine] = {
    machine.sm: machine
    for machine in (
        Machine(80, "A100 80 GB", 108, 163 * _KB, 40 * _MB, 2.04e12),
        Machine(86, "RTX A6000", 84, 99 * _KB, 6 * _MB, 0.77e12),
        Machine(89, "L40S", 142, 99 * _KB, 96 * _MB, 0.86e12),
        Machine(90, "H200", 132, 227 * _KB, 50 * _MB, 4.8e12),
        Machine(100, "B200", 148, 227 * _KB, 126 * _MB, 8.0e12),
        Machine(103, "B300", 160, 227 * _KB, 126 * _MB, 8.0e12),
        Machine(120, "RTX PRO 6000", 188, 99 * _KB, 128 * _MB, 1.79e12),
        Machine(121, "GB10", 48, 99 * _KB, 24 * _MB, 0.27e12),
    )
}
"""By compute capability: what the target builds for."""
