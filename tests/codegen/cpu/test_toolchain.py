"""The toolchain: levels, reproducible libraries, clear errors, nothing left behind."""

import ctypes
import importlib.util
import itertools
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from kernel_harness import PRELUDE
from llmc.base.errors import LlmcError
from llmc.codegen.cpu import toolchain
from llmc.codegen.cpu.toolchain import (
    LEVELS,
    USER_LEVELS,
    best_level,
    compile_library,
    resolve_levels,
)

SMALL = """
#include "simd.h"
extern "C" __attribute__((visibility("default"))) float twice(float x) { return 2 * x; }
extern "C" float hidden(float x) { return 3 * x; }
extern "C" __attribute__((visibility("default"))) const char* file(void) { return __FILE__; }
"""


_USE_I4A = """
EXPORT void product(llmc::Team& team, int rows, llmc::QRows x, const uint8_t* w, float* y) {
  llmc::linear_i4a(team, rows, 64, 64, x, w, llmc::Epilogue{}, y, 64);
}"""


def macros_of(level: str, tmp_path: Path) -> set[str]:
    """The macros among those of any level that the compiler predefines for `level`."""
    names = sorted({name for other in LEVELS.values() for name in other.macros})
    source = 'extern "C" __attribute__((visibility("default"))) const char flags[] = "flags="'
    source += "".join(f'\n#ifdef {name}\n"{name},"\n#endif' for name in names) + "\n;"
    compile_library(source, level, tmp_path / "flags.so")
    text = (tmp_path / "flags.so").read_bytes().partition(b"flags=")[2].partition(b"\0")[0]
    return set(text.decode().split(",")) - {""}


@pytest.mark.parametrize("level", LEVELS)
def test_levels_set_their_macros(level: str, tmp_path: Path):
    found = macros_of(level, tmp_path)
    assert found >= set(LEVELS[level].macros)
    if level == "x86-64-v4":
        assert "__AVX512VNNI__" not in found
    if level == "portable":
        assert not found
    if level == "aarch64":
        assert found == {"__ARM_NEON"}
    if level == "aarch64-dotprod":
        assert "__ARM_FEATURE_MATMUL_INT8" not in found


def test_libraries_export_only_what_is_marked(tmp_path: Path):
    compile_library(SMALL, "portable", tmp_path / "a.so")
    library = ctypes.CDLL(str(tmp_path / "a.so"))
    library.twice.restype, library.twice.argtypes = ctypes.c_float, [ctypes.c_float]
    assert library.twice(21.0) == 42
    assert not hasattr(library, "hidden")


def test_the_same_source_gives_the_same_bytes_everywhere(tmp_path: Path):
    outputs = []
    for name in ("one", "another-much-longer-name"):
        folder = tmp_path / name
        folder.mkdir()
        compile_library(SMALL + PRELUDE, "x86-64-v3", folder / f"{name}.so")
        outputs.append((folder / f"{name}.so").read_bytes())
        assert [path.name for path in folder.iterdir()] == [f"{name}.so"]
    assert outputs[0] == outputs[1]
    for text in (str(tmp_path), str(toolchain.KERNELS), os.environ.get("HOME", "/nowhere")):
        assert text.encode() not in outputs[0]


def test_sources_may_be_files_with_their_own_headers(tmp_path: Path):
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "answer.h").write_text("#define ANSWER 42\n")
    source = tmp_path / "program.cpp"
    source.write_text(
        '#include "answer.h"\n'
        'extern "C" __attribute__((visibility("default"))) int answer() { return ANSWER; }'
    )
    out = tmp_path / "a.so"
    assert compile_library(
        source, "portable", out, extra_include=[tmp_path / "include"]
    ) == LEVELS["portable"]  # fmt: skip
    assert ctypes.CDLL(str(out)).answer() == 42


def test_libraries_for_other_processors(tmp_path: Path):
    out = tmp_path / "arm.so"
    compile_library(PRELUDE, "aarch64", out)
    header = out.read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64


# Vector length, prefix and opcode in map 0F38 of instructions that few machines of ours have.
VPDPBUSD_256, TDPBSUD = (1, 1, b"\x50"), (0, 2, b"\x5e")


def count_vex(code: bytes, length: int, prefix: int, opcode: bytes) -> int:
    """How often an instruction occurs: C4, inverted RXB and map 2, W = 0 vvvv L pp, opcode."""
    second = bytes(rxb << 5 | 2 for rxb in range(8))
    third = bytes(vvvv << 3 | length << 2 | prefix for vvvv in range(16))
    pattern = b"\xc4[" + re.escape(second) + b"][" + re.escape(third) + b"]" + re.escape(opcode)
    return len(re.findall(pattern, code, re.DOTALL))


@pytest.mark.parametrize(
    ("instruction", "level", "below", "least"),
    [
        (VPDPBUSD_256, "x86-64-v3-vnni", "x86-64-v3", 16),
        (TDPBSUD, "x86-64-v4-amx", "x86-64-v4-bf16", 2),
    ],
)
def test_levels_use_the_instructions_that_they_are_for(
    instruction: tuple[int, int, bytes], level: str, below: str, least: int, tmp_path: Path
):
    for name, fits in ((level, lambda n: n >= least), (below, lambda n: n == 0)):
        compile_library(f'{PRELUDE}#include "linear.h"\n{_USE_I4A}', name, tmp_path / "a.so")
        assert fits(count_vex((tmp_path / "a.so").read_bytes(), *instruction)), name


def test_a_compiler_error_is_reported_in_one_line_and_leaves_nothing(tmp_path: Path):
    with pytest.raises(LlmcError) as caught:
        compile_library("int f() { return undeclared; }", "portable", tmp_path / "a.so")
    assert caught.value.id == "LLMC-E0706"
    assert "undeclared" in caught.value.message
    assert "\n" not in caught.value.message
    assert not list(tmp_path.iterdir())


def test_a_missing_compiler_names_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LlmcError) as caught:
        compile_library(SMALL, "portable", tmp_path / "a.so")
    assert caught.value.id == "LLMC-E0703"
    assert caught.value.hint == "pip install 'llmc-compiler[compile]'"


def test_unknown_levels_are_refused(tmp_path: Path):
    for act in (
        lambda: compile_library(SMALL, "x86-64-v5", tmp_path / "a.so"),
        lambda: resolve_levels("x86-64-v5", "x86_64", ()),
    ):
        with pytest.raises(LlmcError) as caught:
            act()
        assert caught.value.id == "LLMC-E0202"


def test_user_words_resolve_to_levels():
    v4 = resolve_levels("x86-64-v4", "x86_64", ())
    assert [level.name for level in v4] == ["x86-64-v4", "x86-64-v4-vnni", "x86-64-v4-bf16"]
    assert {name for names in USER_LEVELS.values() for name in names} <= set(LEVELS)
    zen2 = LEVELS["x86-64-v3"].features | {"sse4a"}
    skylake = LEVELS["x86-64-v4"].features
    cascade_lake = skylake | {"avx512_vnni"}
    zen4 = cascade_lake | {"avx512_bf16"}
    for features, expected in (
        (set(), "portable"),
        (zen2, "x86-64-v3"),
        (zen2 | {"avx_vnni"}, "x86-64-v3-vnni"),
        (skylake, "x86-64-v4"),
        (cascade_lake, "x86-64-v4-vnni"),
        (zen4, "x86-64-v4-bf16"),
        (zen4 | {"avx_vnni"}, "x86-64-v4-bf16"),
        (
            zen4 | {"avx_vnni", "amx_tile", "amx_bf16", "amx_int8"},
            "x86-64-v4-bf16",
        ),  # AMX by name only
        (skylake | {"avx512_bf16"}, "x86-64-v4"),
    ):
        assert best_level("x86_64", features).name == expected
        assert resolve_levels("native", "x86_64", features)[0].name == expected
    pi4, graviton2 = {"fp", "asimd", "crc32"}, {"fp", "asimd", "asimdhp", "asimddp"}
    graviton3 = graviton2 | {"sve", "i8mm", "bf16"}
    for features, expected in (
        (pi4, "aarch64"),
        (graviton2, "aarch64-dotprod"),
        (graviton2 | {"bf16"}, "aarch64-dotprod"),
        (graviton3, "aarch64-i8mm"),
    ):
        assert best_level("aarch64", features).name == expected
    with pytest.raises(LlmcError) as caught:
        best_level("riscv64", ())
    assert caught.value.id == "LLMC-E0416"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_better_levels_need_more(machine: str):
    # The loader takes the level with most features, `best_level` the last: the same one.
    order = [level for level in LEVELS.values() if level.machine == machine]
    assert len(order) > 2
    for lower, higher in itertools.pairwise(order):
        assert len(lower.features) < len(higher.features)
        assert lower.features < higher.features or lower.name == "x86-64-v3-vnni"


def test_a_fresh_cache_may_be_filled_by_several_at_once(tmp_path: Path):
    # Two processes build the same library with an empty cache; both must succeed and agree.
    code = (
        "import sys; from pathlib import Path\n"
        "from llmc.codegen.cpu.toolchain import compile_library\n"
        "compile_library('int answer = 42;', 'portable', Path(sys.argv[1]))"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    outs = [tmp_path / f"{i}.so" for i in range(2)]
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(out)], env=environment) for out in outs
    ]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert (tmp_path / "cache" / "llmc" / "zig").is_dir()


def test_an_unwritable_cache_falls_back_to_a_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert os.access(toolchain.cache_folder(), os.W_OK)


def test_a_build_is_stopped_with_all_its_processes(tmp_path: Path):
    headers, stop = tmp_path / "headers", threading.Event()
    headers.mkdir()
    os.mkfifo(headers / "waits.h")  # the compiler reads it until somebody writes: never
    threading.Timer(1, stop.set).start()
    began = time.monotonic()
    with pytest.raises(LlmcError, match=r"E0706.*stopped"):
        compile_library(
            f'#include "waits.h" // {tmp_path}\n',
            "portable",
            tmp_path / "x.so",
            extra_include=(headers,),
            stop=stop,
        )
    assert 1 <= time.monotonic() - began < 20
    assert list(tmp_path.iterdir()) == [headers]


def test_a_full_disk_is_not_the_toolchains_fault(tmp_path: Path):
    with pytest.raises(LlmcError, match="E0701"):
        compile_library("#error No space left on device\n", "portable", tmp_path / "x.so")
