"""Kernels of the triton target compiled ahead of time, and what ptxas made of them.

In: a `@triton.jit` function of `kernels/`, types of its parameters and values of its constants.
Out: the bytes of local memory that a thread needs: anything above 0 is spilled registers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmc.codegen.triton.kernel_build import build_kernel
from llmc.codegen.triton.kernel_spec import KernelSpec

SMS = (80, 90, 100, 120)


def spilled_bytes(
    fn: Any,
    types: Mapping[str, str],
    constants: Mapping[str, Any],
    sm: int,
    num_warps: int,
    num_stages: int = 1,
) -> int:
    """types: of parameters that are no constants ("*fp32", "i32"); pointers are aligned to 16.
    A constant may be None: a pointer that isn't used. The kernel is proven to wait for the one in
    front of it."""
    spec = KernelSpec(
        function=f"{fn.__module__.rpartition('.')[2]}.{fn.__name__}",
        types=tuple((name, types[name]) for name in fn.arg_names if name in types),
        constants=tuple(constants.items()),
        num_warps=num_warps,
        num_stages=num_stages,
        pdl=not constants.get("PORTABLE", False),
    )
    return build_kernel(spec, sm).spill_bytes
