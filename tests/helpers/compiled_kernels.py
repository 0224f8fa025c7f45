"""Kernels of the triton target compiled ahead of time, and what ptxas made of them.

In: a `@triton.jit` function, types of its parameters and values of its constants. Out: the bytes
of stack and local memory that a thread needs: anything above 0 is spilled registers.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import triton
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

SMS = (80, 90, 100, 120)


@cache
def _cuobjdump() -> Path:
    return Path(nvidia.__path__[0]) / "bin/cuobjdump"


def spilled_bytes(
    fn: Any, types: Mapping[str, str], constants: Mapping[str, Any], sm: int, num_warps: int
) -> int:
    """types: of parameters that are no constants ("*fp32", "i32"); pointers are aligned to 16.
    A constant may be None: a pointer that isn't used."""
    names = fn.arg_names
    values = {(names.index(name),): value for name, value in constants.items()}
    signature = {name: types.get(name, "constexpr") for name in names}
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature[n][0] == "*"
    }
    source = ASTSource(fn, signature=signature, constexprs=values, attrs=aligned)
    options = {"num_warps": num_warps, "num_stages": 1}
    kernel = triton.compile(source, target=GPUTarget("cuda", sm, 32), options=options)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(kernel.asm["cubin"])
        command = [str(_cuobjdump()), "--dump-resource-usage", str(file)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sum(int(n) for n in re.findall(r"(?:STACK|LOCAL):(\d+)", text))
