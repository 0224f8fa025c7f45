"""Prints this machine's limits with some threads as a JSON line.

    measure_limits.py THREADS LIBRARY    where the compiled loops are, or are to be

GB/s of reading memory, and Gop/s of the int8, bf16 and f32 instructions that products are made of
(0 where the CPU has none). The loops are those of `benchmarks/kernels.cpp`. Bandwidth is the median
of several readings, since on a shared machine it changes from second to second; a peak is the best.
"""

import json
import sys
from pathlib import Path
from statistics import median

from llmc.base.machine import machine, native_features
from llmc.benchmarks.kernels import Kernels
from llmc.codegen.cpu.toolchain import best_level

_READINGS = 3


def main(threads: int, library: Path) -> None:
    level = best_level(machine(), native_features()).name
    kernels = Kernels(level, threads, library=library)
    found = [kernels.peak() for _ in range(_READINGS)]
    limits = {
        "read": median(peak.read for peak in found),
        "int8": max(peak.int8 for peak in found),
        "bf16": max(peak.bf16 for peak in found),
        "fma": max(peak.fma for peak in found),
    }
    print(json.dumps(limits))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
