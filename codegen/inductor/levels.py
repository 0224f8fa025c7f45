"""The machines that the inductor target builds for.

Inductor vectorizes for one instruction set, with the intrinsics of torch's own headers, and takes
the compiler's `-march` for the rest. Whatever it finds on the build machine doesn't matter: a level
names both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..cpu.toolchain import LEVELS as CPU_LEVELS


@dataclass(frozen=True)
class Level:
    """`features`: what /proc/cpuinfo must name; `isa`: torch's class of the instruction set."""

    name: str
    isa: str

    @property
    def features(self) -> frozenset[str]:
        return CPU_LEVELS[self.name].features

    def prepare(self) -> dict[str, Any]:
        """Make Inductor, in this process, build for the level; the options to give it.

        The level says which instructions there are, so nothing has to be tried out.
        """
        from torch._inductor import cpu_vec_isa

        found = [getattr(cpu_vec_isa, self.isa)()]
        cpu_vec_isa.valid_vec_isa_list = lambda: found  # type: ignore[assignment]
        torch.cpu._is_avx512_bf16_supported = lambda: False  # would be added to the features
        return {"cpp.vec_isa_ok": True, "cpp.march": self.name}


LEVELS = {
    level.name: level for level in (Level("x86-64-v3", "VecAVX2"), Level("x86-64-v4", "VecAVX512"))
}
