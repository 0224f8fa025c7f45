"""Speed of the linear kernels, next to this machine's limits, measured in the same run.

    python benchmarks/kernels.py [--threads 2] [--level x86-64-v3] [--formats i4a] [--rows 1,512]

Decode (1 to 8 rows): bytes of packed weights per second, as a fraction of the read bandwidth of the
same threads on a 1 GiB array. The matrices of a shape are repeated until they exceed the caches,
and every call takes the next one. Prefill: multiply-adds (2 ops) per second, as a fraction of the
peak of the instruction that does the work (int8 dot, bf16 dot or FMA) on the same threads.

The peaks are taken before and after each case and the larger one counts; each case is the best of
several repeats. On a shared machine read the fractions, not the absolutes, or take the CPU time of
one thread (`--threads 1 --cpu-time`), which doesn't count when others run.
"""

import argparse
import ctypes
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from llmc.base.machine import machine, native_features
from llmc.codegen.cpu.packing import PACKED, packed_bytes
from llmc.codegen.cpu.toolchain import best_level, compile_library
from llmc.ir.types import DType

SOURCE = (Path(__file__).parent / "kernels.cpp").read_text(encoding="utf-8")
FORMATS = list(PACKED)
# (n, k) of the linear layers of one transformer layer: qkv, o, gate and up, down.
MODELS: dict[str, list[tuple[int, int]]] = {
    "smollm2-135m": [(960, 576), (576, 576), (3072, 576), (576, 1536)],
    "llama-1b": [(3072, 2048), (2048, 2048), (16384, 2048), (2048, 8192)],
}


@dataclass(frozen=True)
class Peak:
    """Limits of this machine with the given threads: GB/s and Gop/s."""

    read: float
    int8: float
    bf16: float
    fma: float


class Kernels:
    """The compiled kernels and a thread team that stays alive."""

    def __init__(
        self, level: str, threads: int, cpu_time: bool = False, library: Path | None = None
    ) -> None:
        """`library`: where the compiled kernels are, or are to be; a temporary place if None."""
        self._folder = tempfile.TemporaryDirectory()
        path = library or Path(self._folder.name) / "kernels.so"
        start = time.perf_counter()
        if not path.exists():
            compile_library(SOURCE, level, path)
        self.compile_seconds = time.perf_counter() - start
        self._lib = ctypes.CDLL(str(path))
        self._lib.create.restype = ctypes.c_void_p
        for name in ("read_bandwidth", "int8_peak", "bf16_peak", "fma_peak"):
            getattr(self._lib, name).restype = ctypes.c_double
        self._lib.run.restype = ctypes.c_double
        if cpu_time:
            self._lib.use_cpu_time()
        self._pool = ctypes.c_void_p(self._lib.create(threads))

    def peak(self) -> Peak:
        """Measures all limits now."""
        lib, pool = self._lib, self._pool
        return Peak(
            lib.read_bandwidth(pool), lib.int8_peak(pool), lib.bf16_peak(pool), lib.fma_peak(pool)
        )

    def seconds(self, format: DType, rows: int, n: int, k: int, copies: int) -> float:
        """Best seconds per call, each call on the next of `copies` matrices."""
        w = _weights(format, n, k, copies)
        rng = np.random.default_rng(0)
        x = rng.normal(size=(rows, k)).astype(np.float32)
        y = np.empty((rows, n), np.float32)
        args = (FORMATS.index(format), rows, n, k, _pointer(x), _pointer(w), _pointer(y), copies)
        return self._lib.run(self._pool, *args)


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _weights(format: DType, n: int, k: int, copies: int) -> np.ndarray:
    """Plausible bytes: speed doesn't depend on values as long as no float is denormal or NaN."""
    size = packed_bytes(format, n, k)
    raw = np.empty(size * copies + 4096, np.uint8)
    start = -raw.ctypes.data % 4096
    out = raw[start : start + size * copies]
    block = np.random.default_rng(1).integers(0x20, 0x3C, 1 << 20, np.uint8)
    for at in range(0, len(out), len(block)):
        out[at : at + len(block)] = block[: len(out) - at]
    return out


def measure(kernels: Kernels, model: str, format: DType, rows: int) -> dict[str, object]:
    """One layer's matrices together."""
    before = kernels.peak()
    seconds, nbytes, ops = 0.0, 0, 0.0
    for n, k in MODELS[model]:
        size = packed_bytes(format, n, k)
        copies = max(1, min(512, (200 << 20) // size))
        seconds += kernels.seconds(format, rows, n, k, copies)
        nbytes += size
        ops += 2.0 * rows * n * k
    after = kernels.peak()
    unit: Callable[[Peak], float] = {
        DType.F32: lambda p: p.fma,
        DType.BF16: lambda p: p.bf16 or p.fma,
    }.get(format, lambda p: p.int8 or p.fma)
    read, compute = max(before.read, after.read), max(unit(before), unit(after))
    gbs, gops = nbytes / seconds / 1e9, ops / seconds / 1e9
    return {
        "model": model,
        "format": format.value,
        "rows": rows,
        "us": round(seconds * 1e6, 1),
        "gbs": round(gbs, 1),
        "read_fraction": round(gbs / read, 3),
        "gops": round(gops),
        "peak_fraction": round(gops / compute, 3),
        "read_gbs": round(read, 1),
        "peak_gops": round(compute),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the linear kernels.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--level", default=best_level(machine(), native_features()).name)
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--rows", default="1,2,4,8,64,512")
    parser.add_argument("--cpu-time", action="store_true", help="of one thread, not wall time")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    options = parser.parse_args()
    if options.cpu_time and options.threads != 1:
        parser.error("--cpu-time measures one thread: add --threads 1")
    kernels = Kernels(options.level, options.threads, options.cpu_time)
    print(f"{options.level}, compiled in {kernels.compile_seconds:.1f} s", file=sys.stderr)
    for model, format, rows in itertools.product(
        options.models.split(","), options.formats.split(","), options.rows.split(",")
    ):
        case = measure(kernels, model, DType(format), int(rows))
        if options.json:
            print(json.dumps(case), flush=True)
            continue
        print(
            f"{case['model']:13} {case['format']:5} rows {case['rows']:4}  {case['us']:9} us  "
            f"{case['gbs']:6} GB/s {case['read_fraction']:6.1%} of {case['read_gbs']}   "
            f"{case['gops']:5} Gop/s {case['peak_fraction']:6.1%} of {case['peak_gops']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
