"""Libraries of other processors, run under qemu's user mode as if ctypes had loaded them.

`EmulatedLibrary(path, cpu)` starts `emulated_host.c` in the emulator. `library.name(...)` takes
what a ctypes function takes: numbers, `pointer(array)`, ctypes arrays and `byref` of structures.
The memory that they lead to (arrays that `pointer` has seen, wherever their addresses stand) is
copied over before the call and back after it, at the same alignment.

Needs `qemu-aarch64` and an aarch64 C library: Debian's packages qemu-user and libc6-arm64-cross.
"""

from __future__ import annotations

import atexit
import ctypes
import shutil
import struct
import subprocess
import sys
import tempfile
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from llmc.codegen.cpu.toolchain import cache_folder

SYSROOT = Path("/usr/aarch64-linux-gnu")
# A processor for each level that has what the level needs, and for the lower ones no more.
CPUS = {
    "aarch64": "cortex-a53",
    "aarch64-dotprod": "neoverse-n1",
    "aarch64-i8mm": "max,pauth-impdef=on",
}
_TARGET = "aarch64-linux-gnu.2.28"


MISSING = "needs qemu-aarch64 7 and an aarch64 libc: apt-get install qemu-user libc6-arm64-cross"


@cache
def emulated_machine() -> str | None:
    """The processor family that can be emulated here, or None."""
    if not shutil.which("qemu-aarch64") or not (SYSROOT / "lib/ld-linux-aarch64.so.1").exists():
        return None
    known = subprocess.run(
        ["qemu-aarch64", "-cpu", "help"], capture_output=True, text=True, check=False
    ).stdout
    return "aarch64" if CPUS["aarch64-dotprod"] in known else None  # older ones lack I8MM, too


# Memory that may be handed to a library: arrays by the address of the one that owns the bytes.
_MEMORY: dict[int, weakref.ref[np.ndarray]] = {}


def remember(array: np.ndarray) -> None:
    """Make the memory under `array` known to emulated libraries."""
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    _MEMORY[owner.ctypes.data] = weakref.ref(owner)


def _owner_of(address: int) -> np.ndarray | None:
    for start, reference in list(_MEMORY.items()):
        array = reference()
        if array is None:
            del _MEMORY[start]
        elif start <= address < start + array.nbytes:
            return array
    return None


@cache
def _host_program() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="llmc-host-")
    atexit.register(folder.cleanup)
    out = Path(folder.name) / "host"
    caches = {f"ZIG_{kind}_CACHE_DIR": str(cache_folder()) for kind in ("GLOBAL", "LOCAL")}
    source = Path(__file__).parent / "emulated_host.c"
    command = [sys.executable, "-m", "ziglang", "cc", "-target", _TARGET, "-O1"]
    command += [str(source), "-o", str(out), "-ldl"]
    subprocess.run(command, check=True, env={"PATH": "/usr/bin:/bin", **caches})
    return out


class Host:
    """One process of the emulator with one library in it."""

    def __init__(self, library: Path, cpu: str) -> None:
        command = ["qemu-aarch64", "-cpu", cpu, "-L", str(SYSROOT)]
        self._process = subprocess.Popen(
            [*command, str(_host_program()), str(library)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin
        assert self._process.stdout
        self._to, self._from = self._process.stdin, self._process.stdout

    def _command(self, letter: str, *numbers: int, data: bytes = b"") -> None:
        try:
            self._to.write(letter.encode() + struct.pack(f"<{len(numbers)}q", *numbers) + data)
        except BrokenPipeError:
            self._ended()

    def _answer(self, size: int) -> bytes:
        try:
            self._to.flush()
        except BrokenPipeError:
            self._ended()
        data = self._from.read(size)
        if len(data) != size:
            self._ended()
        return data

    def _ended(self) -> None:
        raise RuntimeError(f"the emulated library ended with {self._process.wait(timeout=10)}")

    def allocate(self, nbytes: int, offset: int = 0) -> int:
        """The address of `nbytes`, `offset` behind a multiple of 4096."""
        self._command("a", nbytes, offset)
        return int.from_bytes(self._answer(8), "little")

    def free(self, address: int, offset: int = 0) -> None:
        self._command("f", address, offset)

    def write(self, address: int, data: bytes | memoryview) -> None:
        data = bytes(data)
        self._command("w", address, len(data), data=data)

    def read(self, address: int, nbytes: int) -> bytes:
        self._command("r", address, nbytes)
        return self._answer(nbytes)

    def call(self, name: str, *words: int) -> int:
        """Call a function of up to 8 integers and pointers; the result as a signed number."""
        text = name.encode()
        padded = [*words, *[0] * (8 - len(words))]
        self._command("c", len(text), data=text + struct.pack("<8q", *padded))
        return int.from_bytes(self._answer(8), "little", signed=True)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class EmulatedLibrary:
    """The face of a ctypes library, with the functions of one that runs in the emulator."""

    def __init__(self, library: Path, cpu: str) -> None:
        self.path, self.host = library, Host(library, cpu)
        atexit.register(self.host.close)
        self._functions: dict[str, _Function] = {}

    def __getattr__(self, name: str) -> _Function:
        return self._functions.setdefault(name, _Function(self.host, name))


class _Function:
    def __init__(self, host: Host, name: str) -> None:
        self._host, self._name = host, name
        self.restype: Any = ctypes.c_int

    def __call__(self, *arguments: Any) -> int:
        call = _Transfer(self._host)
        words = [call.word(argument) for argument in arguments]
        result = self._host.call(self._name, *words)
        call.bring_back()
        return self.restype(result).value if self.restype else result


class _Transfer:
    """Memory of one call: sent over as arguments lead to it, brought back, freed."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._sent: dict[int, tuple[int, int]] = {}  # owner's address -> over there, alignment
        self._arrays: list[np.ndarray] = []
        self._others: list[int] = []

    def word(self, value: Any) -> int:
        """An argument as the number that the function gets."""
        value = getattr(value, "_obj", value)  # what byref holds
        if isinstance(value, int):
            return value
        if isinstance(value, ctypes.c_void_p):
            return self._address(value.value)
        if isinstance(value, ctypes.Structure | ctypes.Array):
            data = self._bytes(value)
            self._others.append(self._host.allocate(len(data)))
            self._host.write(self._others[-1], data)
            return self._others[-1]
        return int(value.value)

    def _bytes(self, value: ctypes.Structure | ctypes.Array) -> bytes:
        """A structure or array with its pointers replaced by those of the other side."""
        data = bytearray(value)
        if isinstance(value, ctypes.Structure):
            kind = type(value)
            fields = [(getattr(kind, f[0]).offset, f[1]) for f in kind._fields_]  # pyright: ignore
        else:
            size = ctypes.sizeof(value._type_)
            fields = [(i * size, value._type_) for i in range(len(value))]
        for offset, kind in fields:
            if kind is ctypes.c_void_p:
                address = struct.unpack_from("<Q", data, offset)[0]
                struct.pack_into("<Q", data, offset, self._address(address))
        return bytes(data)

    def _address(self, here: int | None) -> int:
        if not here:
            return 0
        owner = _owner_of(here)
        assert owner is not None, "an address that no array known by `pointer` contains"
        start = owner.ctypes.data
        if start not in self._sent:
            offset = start % 4096
            there = self._host.allocate(owner.nbytes, offset)
            self._host.write(there, owner.tobytes())
            self._sent[start] = there, offset
            self._arrays.append(owner)
        return self._sent[start][0] + here - start

    def bring_back(self) -> None:
        for array in self._arrays:
            there, offset = self._sent[array.ctypes.data]
            data = self._host.read(there, array.nbytes)
            if array.flags.writeable:
                array.reshape(-1).view(np.uint8)[:] = np.frombuffer(data, np.uint8)
            self._host.free(there, offset)
        for address in self._others:
            self._host.free(address)
