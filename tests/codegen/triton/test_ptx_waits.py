"""Kernels that may begin early wait whichever way they go, and write nothing before."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from llmc.base.errors import LlmcError
from llmc.codegen.triton.kernel_build import build_kernel
from llmc.codegen.triton.kernel_spec import KernelSpec
from llmc.codegen.triton.ptx_waits import never_waits


def ptx(body: str) -> str:
    return f".version 8.8\n.visible .entry f(\n .param .u64 p\n)\n.reqntid 128\n{{\n{body}\n}}\n"


GOOD = (
    "ld.param.b64 %rd1, [p]; griddepcontrol.wait ; st.global.b32 [%rd1], 1; ret;",
    # A loop that prefetches first.
    """$L__BB0_1: ld.global.b32 %r1, [%rd1]; @%p1 bra $L__BB0_1;
       griddepcontrol.wait; @%p2 bra $L__BB0_2; st.global.b32 [%rd1], 1; $L__BB0_2: ret;""",
    # Two ways, both of which wait.
    """@%p1 bra $L__BB0_1; griddepcontrol.wait; bra.uni $L__BB0_2;
       $L__BB0_1: griddepcontrol.wait; $L__BB0_2: st.global.b32 [%rd1], 1; ret;""",
    # Shared memory is the block's own.
    "st.shared.b32 [%r1], 1; griddepcontrol.wait; ret;",
    # Code that nothing leads to.
    "griddepcontrol.wait; bra $L__BB0_2; $L__BB0_1: ret; $L__BB0_2: ret;",
    # Braces of operands are no scopes.
    "ld.global.v2.b32 {%r1, %r2}, [%rd1]; griddepcontrol.wait; mov.b64 %rd2, {%r1, %r2}; ret;",
    # A scope of inline assembly, with labels of its own, twice.
    """{ .reg .pred p; wait: mbarrier.try_wait.b64 p, [%r1]; @!p bra.uni wait; }
       griddepcontrol.wait; { wait: mbarrier.try_wait.b64 p, [%r1]; @!p bra.uni wait; } ret;""",
)

BAD = {
    "it never waits": "st.global.b32 [%rd1], 1; // griddepcontrol.wait;\n ret;",
    "it may end": "@%p1 bra $L__BB0_1; griddepcontrol.wait; $L__BB0_1: ret;",
    "it may end without": "@%p1 ret; griddepcontrol.wait; ret;",
    "it may end without waiting": "@%p1 bra $L__BB0_1; griddepcontrol.wait; ret; $L__BB0_1:",
    "st.global": "st.global.v4.b32 [%rd1], {%r1, %r1, %r1, %r1}; griddepcontrol.wait; ret;",
    "@%p1 st.global": "@%p1 st.global.b32 [%rd1], 1; griddepcontrol.wait; ret;",
    "atom.global": "@%p1 bra $L__BB0_1; griddepcontrol.wait; bra $L__BB0_2; "
    "$L__BB0_1: atom.global.add.u32 %r1, [%rd1], 1; griddepcontrol.wait; $L__BB0_2: ret;",
    "can't be followed": "griddepcontrol.wait; brx.idx %r1, table; ret;",
}


@pytest.mark.parametrize("body", GOOD)
def test_kernels_that_wait(body: str) -> None:
    assert never_waits(ptx(body)) is None


@pytest.mark.parametrize("why", BAD)
def test_kernels_that_do_not(why: str) -> None:
    assert why in str(never_waits(ptx(BAD[why])))


SOURCE = """
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

@triton.jit
def copy(x_ptr, w_ptr, out_ptr, n, WAIT: tl.constexpr):
    at = tl.program_id(0) * 128 + tl.arange(0, 128)
    w = tl.load(w_ptr + at)
    if WAIT == "late":
        if tl.program_id(0) * 128 >= n:
            return
    if WAIT == "sometimes":
        if n > 5:
            gdc_wait()
    elif WAIT != "never":
        gdc_wait()
    gdc_launch_dependents()
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=at < n, other=0) * w)
"""


def spec(wait: str, pdl: bool = True) -> KernelSpec:
    types = (("x_ptr", "*fp32"), ("w_ptr", "*fp32"), ("out_ptr", "*fp32"), ("n", "i32"))
    return KernelSpec("copy", types, (("WAIT", wait),), pdl=pdl, source=SOURCE)


def test_triton_s_kernels_are_understood() -> None:
    for sm in (90, 120):
        build_kernel(spec("always"), sm)
        build_kernel(spec("never", pdl=False), sm)


@pytest.mark.parametrize("wait", ["late", "sometimes", "never"])
def test_triton_s_kernels_that_may_not_wait_are_refused(wait: str) -> None:
    with pytest.raises(LlmcError, match=r"LLMC-E0706: .* for SM90: it (never|may|writes)"):
        build_kernel(spec(wait), 90)


def test_before_sm90_nothing_begins_early() -> None:
    """These GPUs have no such instructions."""
    for sm in (80, 89):
        cubin = build_kernel(spec("always"), sm, keep_ptx=True)
        assert "griddepcontrol" not in cubin.ptx
        assert cubin.data == build_kernel(spec("never"), sm).data
