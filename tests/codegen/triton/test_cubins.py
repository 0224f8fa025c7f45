"""Kernels become cubins: the same bytes on every build, nothing left behind, clear refusals."""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("triton")

import torch
from cubin_cases import SOURCE, add, product
from interpreted_kernels import interpreted_source
from llmc.base.errors import LlmcError
from llmc.codegen.triton import cubin_worker, kernel_build
from llmc.codegen.triton import cubins as cubins_module
from llmc.codegen.triton.cubin_worker import Job
from llmc.codegen.triton.cubins import (
    KernelSpec,
    compile_all,
    compile_kernel,
    require_sm,
    require_triton,
)
from llmc.codegen.triton.kernel_build import build_kernel
from llmc.codegen.triton.machines import MACHINES
from triton.backends.nvidia.compiler import get_ptxas


def refusal(spec: KernelSpec, sm: int = 90) -> LlmcError:
    with pytest.raises(LlmcError) as raised:
        compile_kernel(spec, sm)
    return raised.value


def test_the_same_bytes_on_every_build_and_nothing_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """From another folder, with another home, and with variables that change what Triton does."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    first = compile_all([add(), product(), add()], 90)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    monkeypatch.setenv("TRITON_OVERRIDE_ARCH", "sm80")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("DISABLE_PTXAS_OPT", "1")
    progress: list[float] = []
    again = compile_all([product(), add()], 90, progress=lambda _, done: progress.append(done))
    assert first == [again[1], again[0], again[1]]
    assert progress[-1] == 1.0
    assert progress == sorted(progress)
    assert list(home.iterdir()) == []
    assert list(elsewhere.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    for cubin in first:
        text = re.findall(rb"[\x20-\x7e]{5,}", cubin.data)
        assert any(b".nv.info" in word for word in text)
        # Of ptxas itself: its number.
        words = [word for word in text if not word.startswith(b"Build cuda_")]
        assert not [word for word in words if b"/" in word or b"generated" in word]
        assert b".debug_line" not in cubin.data


def test_what_a_launch_must_know() -> None:
    cubin = build_kernel(product(rows=16, columns=64, bk=64), 90)
    assert (cubin.name, cubin.threads, cubin.sm) == ("product", 128, 90)
    assert cubin.spill_bytes == 0
    # Tiles of two stages at least: 64 rows of w and 16 of x, 64 elements of 2 bytes each.
    assert cubin.shared >= 2 * (64 + 16) * 64 * 2
    assert cubin.parameter_bytes == 3 * 8 + 4 + 4 + 2 * 8  # the pointers behind are aligned
    assert cubin.scratch == 0
    assert cubin.ptx == ""


def test_pointers_are_taken_for_aligned_unless_told_otherwise() -> None:
    """The tiles of both operands are copied by 16 bytes, or those of one aren't."""
    copies = [
        build_kernel(product(unaligned=names), 90, keep_ptx=True).ptx.count("0x10")
        for names in ((), ("w_ptr",), ("w_ptr", "x_ptr"))
    ]
    assert copies[0] > copies[1] > copies[2] == 0


def test_every_gpu_that_is_promised() -> None:
    for sm in MACHINES:
        cubin = build_kernel(product(), sm)
        assert cubin.spill_bytes == 0
        assert cubin.registers <= 128


@pytest.mark.parametrize("sm", [75, 88, 101, 91, 130])
def test_gpus_that_cannot_be_compiled_for_are_refused(sm: int) -> None:
    error = refusal(add(), sm)
    assert (error.id, error.exit_code) == ("LLMC-E0202", 2)
    assert "80, 86" in error.hint
    assert "100" in error.hint
    require_sm(90)


def test_another_ptxas_gets_ptx_that_it_knows() -> None:
    """Triton brings an older one, which knows SM90, too."""
    older = Path(get_ptxas(80).path)
    newest = build_kernel(product(), 90, keep_ptx=True)
    cubin = compile_kernel(product(), 90, ptxas=older, keep_ptx=True)
    versions = [
        tuple(map(int, re.findall(r"^\.version (\d+)\.(\d+)", it.ptx, re.MULTILINE)[0]))
        for it in (cubin, newest)
    ]
    assert versions[0] < versions[1]
    assert cubin.data != newest.data
    with pytest.raises(LlmcError, match=r"LLMC-E0706: .*is no ptxas"):
        compile_kernel(add(), 90, ptxas=Path("/bin/false"))


def test_what_triton_refuses_is_one_line() -> None:
    wrong = KernelSpec(
        "unequal", (("x_ptr", "*fp32"), ("y_ptr", "*fp32"), ("n", "i32")), source=SOURCE
    )
    error = refusal(wrong)
    assert error.id == "LLMC-E0706"
    assert error.message.startswith("the kernel unequal can't be compiled for SM90: ")
    assert "tl.arange(0, 16)" in error.message
    assert "\n" not in error.message
    missing = KernelSpec("add", (("x_ptr", "*fp32"),), source=SOURCE)
    words = "it has x_ptr, y_ptr, out_ptr, n, scale, BLOCK, and is given x_ptr"
    assert words in refusal(missing).message
    assert "nowhere" in refusal(KernelSpec("nowhere.at_all", ())).message
    broken = KernelSpec("f", (), source="import triton\nraise SyntaxError('no such thing')\n")
    assert "no such thing" in refusal(broken).message


def test_what_ptxas_refuses_is_one_line() -> None:
    text = """
import triton
import triton.language as tl
@triton.jit
def f(x_ptr):
    tl.store(x_ptr, tl.inline_asm_elementwise("nonsense $0, $1;", "=r,r", [tl.load(x_ptr)],
             dtype=tl.int32, is_pure=True, pack=1))
"""
    error = refusal(KernelSpec("f", (("x_ptr", "*i32"),), source=text))
    assert "error" in error.message
    assert "nonsense" in error.message
    assert "\n" not in error.message


def test_more_shared_memory_than_a_block_gets_is_refused() -> None:
    """Found here, not when the GPU loads the kernel."""
    large = product(rows=16, columns=128, bk=256)  # tiles of 144 * 256 * 2 bytes
    assert "bytes of shared memory of 101376" in refusal(large, 86).message
    assert 101376 < build_kernel(large, 90).shared <= MACHINES[90].shared_bytes


@pytest.mark.parametrize(
    ("number", "id"), [(errno.ENOSPC, "LLMC-E0701"), (errno.EACCES, "LLMC-E0707")]
)
def test_what_the_system_refuses_is_told(
    number: int, id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(kernel_build.tempfile, "TemporaryDirectory", refuse)
    answer = cubin_worker._answer(Job(add(), 90))
    assert answer.cubin is None
    assert answer.failure is not None
    assert answer.failure.id == id
    assert os.strerror(number) in answer.failure.message


def test_a_process_that_ends_is_told_of() -> None:
    text = (
        "import os, sys\nprint('LLVM ERROR: too much', file=sys.stderr, flush=True)\nos.abort()\n"
    )
    error = refusal(KernelSpec("f", (), source=text))
    assert error.id == "LLMC-E0706"
    assert error.message.endswith("compiled the kernel f: LLVM ERROR: too much")


def test_constants_are_of_many_kinds_and_may_have_defaults() -> None:
    """Each decides what is stored, or there would be nothing to see."""
    text = """
import triton
import triton.language as tl
@triton.jit
def f(x_ptr, w_ptr, n, SIZES: tl.constexpr, NAME: tl.constexpr, LEAST: tl.constexpr,
      PORTABLE: tl.constexpr, MORE: tl.constexpr = 3):
    tl.static_assert(w_ptr is None)
    tl.static_assert(NAME == "name")
    tl.static_assert(LEAST < -1e30)
    tl.static_assert(len(SIZES) == 2)
    for i in tl.static_range(len(SIZES)):
        if n == i:
            tl.store(x_ptr + SIZES[i], 0x1234 + MORE)
    if PORTABLE:
        tl.store(x_ptr, 0x4321)
"""
    constants = (("w_ptr", None), ("SIZES", (5, 70)), ("NAME", "name"), ("LEAST", -float("inf")))
    spec = KernelSpec("f", (("x_ptr", "*i32"), ("n", "i32")), constants, source=text)
    given = KernelSpec("f", spec.types, (*constants, ("MORE", 4), ("PORTABLE", True)), source=text)
    for kernel, stored in ((spec, {0x1237}), (given, {0x1238, 0x4321})):
        ptx = compile_kernel(kernel, 90, keep_ptx=True).ptx
        numbers = {
            int(number, 0) for number in re.findall(r"mov\.[bu]32 \s*%r\d+, (0x\w+|\d+);", ptx)
        }
        assert {n for n in numbers if n > 0x1000} == stored
        assert "+280]" in ptx or "280;" in ptx  # 70 elements


def test_stop_ends_it_at_once(tmp_path: Path) -> None:
    """Its processes, too."""
    stop, started = threading.Event(), tmp_path / "started"
    text = f"""
import os, time
with open({str(started)!r}, "a") as file:
    file.write(f"{{os.getpid()}}\\n")
time.sleep(600)
"""
    specs = [KernelSpec("f", (), (("N", n),), source=text) for n in range(5)]

    def when_started() -> None:
        while not started.exists() or not started.read_text().strip():
            time.sleep(0.05)
        stop.set()

    thread = threading.Thread(target=when_started)
    thread.start()
    with pytest.raises(LlmcError, match="LLMC-E0706: the compile of kernels was stopped"):
        compile_all(specs, 90, stop)
    thread.join()
    for pid in map(int, started.read_text().split()):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_failing_progress_ends_it() -> None:
    def interrupted(stage: str, fraction: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_all([add(256), add(512), add(64)], 90, progress=interrupted)


def test_no_kernels_are_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compile_all([], 90) == []
    monkeypatch.setattr(cubins_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LlmcError, match="LLMC-E0703") as raised:
        require_triton()
    assert "llmc-compiler[triton]" in raised.value.hint


def test_kernels_still_compile_where_others_are_interpreted() -> None:
    """The interpreter replaces parts of the language while it runs, and puts them back."""
    before = build_kernel(add(), 80).data
    x, y, out = torch.randn(5), torch.randn(5), torch.full((5,), float("nan"))
    interpreted_source(SOURCE, "cubins").add[(1,)](x, y, out, 5, 2.0, BLOCK=8)
    torch.testing.assert_close(out, x * 2 + y)
    assert build_kernel(add(), 80).data == before
