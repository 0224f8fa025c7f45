"""Builds a native library per instruction-set level, with the C++ compiler of `ziglang`.

In: C++ source (generated code that includes `kernels/*.h`) and a level. Out: a shared library that
needs nothing but the system's libc, libm and libpthread (glibc 2.28 or later). The same source
gives the same bytes wherever and however often it is built: no paths, times, build ids or symbols
get in.

A level is a fixed set of CPU features with a name. What a user asks for (`--cpu`) is a word for
one or more levels, since "AVX-512 with VNNI and BF16 where present" is three different libraries:

=================  ====================================================================
user's word        levels built
=================  ====================================================================
`portable`         `portable` (any x86-64)
`x86-64-v3`        `x86-64-v3` (AVX2, FMA, F16C), `x86-64-v3-vnni` (AVX-VNNI)
`x86-64-v4`        `x86-64-v4`, `x86-64-v4-vnni`, `x86-64-v4-bf16` (which has VNNI, too)
`sapphire-rapids`  `x86-64-v4-amx` (VNNI, BF16, and AMX for int8 products)
`aarch64`          `aarch64` (NEON), `aarch64-dotprod`, `aarch64-i8mm` (which has BF16, too)
`native`           the best of all these that the build machine runs
=================  ====================================================================

The loader takes the last level, in the order of `LEVELS`, whose features the machine has.
"""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...base.errors import LlmcError

KERNELS = Path(__file__).parent / "kernels"

_DISK_FULL = ("No space left on device", "NoSpaceLeft", "Disk quota exceeded", "DiskQuota")
# glibc 2.28 is the oldest that supported distributions have (RHEL 8, Debian 10).
_X86 = "x86_64-linux-gnu.2.28"
_ARM = "aarch64-linux-gnu.2.28"


@dataclass(frozen=True, slots=True)
class Level:
    """One instruction-set level.

    `target` and `cpu` are what the compiler is told (`-target`, `-mcpu`); `features` are the
    names, as in the `flags` (on Arm: `Features`) of /proc/cpuinfo, that a machine must have to run
    the library. `macros` are the predefined macros by which the kernels choose their code (listed
    for readers and tests; the compiler sets them). `by_name`: never chosen for `native`, since it
    has only been run with its instructions emulated.
    """

    name: str
    target: str
    cpu: str
    features: frozenset[str]
    macros: tuple[str, ...] = ()
    by_name: bool = False

    @property
    def machine(self) -> str:
        """The processor family, as `platform.machine()` names it."""
        return self.target.split("-", 1)[0]


_V3 = frozenset(
    {"cx16", "lahf_lm", "popcnt", "pni", "ssse3", "sse4_1", "sse4_2"}
    | {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"}
)
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
# LLVM's generic v4 avoids 512-bit registers, for processors that slow down when they are used.
_WIDE = "x86_64_v4-prefer_256_bit"

LEVELS: dict[str, Level] = {
    level.name: level
    for level in (
        Level("portable", _X86, "x86_64", frozenset()),
        Level("aarch64", _ARM, "generic", frozenset({"asimd"}), ("__ARM_NEON",)),
        Level(
            "aarch64-dotprod",
            _ARM,
            "generic+dotprod",
            frozenset({"asimd", "asimddp"}),
            ("__ARM_NEON", "__ARM_FEATURE_DOTPROD"),
        ),
        Level(
            "aarch64-i8mm",
            _ARM,
            "generic+dotprod+i8mm+bf16",
            frozenset({"asimd", "asimddp", "i8mm", "bf16"}),
            ("__ARM_FEATURE_MATMUL_INT8", "__ARM_FEATURE_BF16_VECTOR_ARITHMETIC"),
        ),
        Level("x86-64-v3", _X86, "x86_64_v3", _V3, ("__AVX2__", "__FMA__", "__F16C__")),
        Level(
            "x86-64-v3-vnni",
            _X86,
            "x86_64_v3+avxvnni",
            _V3 | {"avx_vnni"},
            ("__AVX2__", "__FMA__", "__F16C__", "__AVXVNNI__"),
        ),
        Level("x86-64-v4", _X86, _WIDE, _V4, ("__AVX512F__", "__AVX512BW__")),
        Level(
            "x86-64-v4-vnni",
            _X86,
            f"{_WIDE}+avx512vnni",
            _V4 | {"avx512_vnni"},
            ("__AVX512F__", "__AVX512VNNI__"),
        ),
        Level(
            "x86-64-v4-bf16",
            _X86,
            f"{_WIDE}+avx512vnni+avx512bf16",
            _V4 | {"avx512_vnni", "avx512_bf16"},
            ("__AVX512F__", "__AVX512VNNI__", "__AVX512BF16__"),
        ),
        Level(
            "x86-64-v4-amx",
            _X86,
            f"{_WIDE}+avx512vnni+avx512bf16+amx_tile+amx_int8",
            _V4 | {"avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8"},
            ("__AVX512VNNI__", "__AVX512BF16__", "__AMX_TILE__", "__AMX_INT8__"),
            by_name=True,
        ),
    )
}

USER_LEVELS: dict[str, tuple[str, ...]] = {
    "portable": ("portable",),
    "sapphire-rapids": ("x86-64-v4-amx",),
    "aarch64": ("aarch64", "aarch64-dotprod", "aarch64-i8mm"),
    "x86-64-v3": ("x86-64-v3", "x86-64-v3-vnni"),
    "x86-64-v4": ("x86-64-v4", "x86-64-v4-vnni", "x86-64-v4-bf16"),
}


def best_level(machine: str, features: Collection[str]) -> Level:
    """The level for `native`: the best that a machine runs, given its family and its flags."""
    runnable = [
        level
        for level in LEVELS.values()
        if level.machine == machine and level.features <= set(features) and not level.by_name
    ]
    if not runnable:
        raise LlmcError("LLMC-E0416", f"the cpu target doesn't build for {machine!r}")
    return runnable[-1]


def resolve_levels(word: str, machine: str, features: Collection[str]) -> tuple[Level, ...]:
    """The levels to build for what the user asked for; `native` is about the given machine."""
    if word == "native":
        return (best_level(machine, features),)
    names = USER_LEVELS.get(word, (word,) if word in LEVELS else ())
    if not names:
        raise LlmcError("LLMC-E0202", f"unknown instruction-set level {word!r}")
    return tuple(LEVELS[name] for name in names)


def compile_library(
    source: str | Path,
    level: str,
    out: Path,
    *,
    extra_include: Sequence[Path] = (),
    stop: threading.Event | None = None,
) -> Level:
    """Compile C++ `source` (text, or the path of a file) into the shared library `out`.

    `level` is a key of `LEVELS`. Headers are found in `kernels/` and in `extra_include`. `out`
    appears complete or not at all; setting `stop` ends the compiler. Raises
    LLMC-E0703 when ziglang isn't installed, LLMC-E0706 when the compiler refuses the source,
    LLMC-E0202 for an unknown level.
    """
    if level not in LEVELS:
        raise LlmcError("LLMC-E0202", f"unknown instruction-set level {level!r}")
    require_compiler()
    text = source if isinstance(source, str) else source.read_text(encoding="utf-8")
    # The library is built beside its destination, so that moving it there is atomic.
    with tempfile.TemporaryDirectory(prefix=".llmc-build-", dir=out.parent) as folder:
        built = _run_compiler(text, LEVELS[level], Path(folder), extra_include, stop)
        built.replace(out)
    return LEVELS[level]


def require_compiler() -> None:
    """Raise LLMC-E0703 unless ziglang is installed."""
    if importlib.util.find_spec("ziglang") is None:
        raise LlmcError(
            "LLMC-E0703",
            "ziglang, the C++ compiler for the cpu target, isn't installed",
            hint="pip install 'llmc-compiler[compile]'",
        )


def _run_compiler(
    text: str,
    level: Level,
    folder: Path,
    extra_include: Sequence[Path],
    stop: threading.Event | None,
) -> Path:
    # The compiler runs inside the folder and sees relative names only: absolute ones could get
    # into the output.
    (folder / "program.cpp").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "ziglang", "c++", *_flags(level)]
    command += [f"-I{path}" for path in (KERNELS, *(path.resolve() for path in extra_include))]
    command += ["program.cpp", "-o", "program.so", "-lpthread", "-lm"]
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # a group of its own, to be ended with all its children
        )
    except OSError as error:
        raise LlmcError("LLMC-E0706", f"the C++ compiler couldn't be run: {error}") from error
    stderr = _wait(process, stop)
    if process.returncode != 0:
        if any(sign in stderr for sign in _DISK_FULL):
            raise LlmcError(
                "LLMC-E0701",
                f"no space left for the C++ compiler, which uses {cache_folder()} and {folder}",
                hint="free space there, or set XDG_CACHE_HOME and TMPDIR to other places",
            )
        raise LlmcError("LLMC-E0706", f"the C++ compiler failed: {_first_error(stderr)}")
    return folder / "program.so"


def _wait(process: subprocess.Popen[str], stop: threading.Event | None) -> str:
    """What the compiler wrote to stderr, once it has ended by itself or because of `stop`."""
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.communicate(timeout=0.1)[1]
            if stop is not None and stop.is_set():
                raise LlmcError("LLMC-E0706", "the C++ compiler was stopped")
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise


def _flags(level: Level) -> list[str]:
    return [
        *("-target", level.target, f"-mcpu={level.cpu}"),
        *("-std=c++17", "-O3", "-g0", "-fPIC", "-shared", "-fvisibility=hidden"),
        # No C++ runtime: nothing in the kernels needs one.
        *("-nostdlib++", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics"),
        # Arithmetic happens as written, so that every kernel variant gives the same bits; errno
        # isn't read.
        *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
        *("-fno-sanitize=all", "-fomit-frame-pointer", "-Wno-psabi"),
        # The same bytes on every build.
        *("-s", "-Wl,--build-id=none", "-Wl,-soname,llmc-program.so"),
    ]


def _first_error(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line]
    return (errors or lines or ["no message"])[0]


def _environment() -> dict[str, str]:
    cache = str(cache_folder())
    return {**os.environ, "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}


def cache_folder() -> Path:
    """Where the compiler keeps what it built before (it locks its entries itself).

    `$XDG_CACHE_HOME/llmc/zig`, by default `~/.cache/llmc/zig`; a folder for temporary files where
    that can't be written, as in a container without a home.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    wanted = (Path(base) if base else Path("~/.cache").expanduser()) / "llmc" / "zig"
    with contextlib.suppress(OSError):
        wanted.mkdir(parents=True, exist_ok=True)
    if os.access(wanted, os.W_OK):
        return wanted
    temporary = Path(tempfile.gettempdir()) / f"llmc-zig-{os.getuid()}"
    temporary.mkdir(mode=0o700, exist_ok=True)
    return temporary
