"""Generated kernels compile for every generation of GPUs, with libdevice, and hold in registers."""

from __future__ import annotations

import pytest
from generated_graphs import GraphRun, Launched
from generic_cases import SIZES, given, graph_of, inputs_of, result
from llmc.codegen.triton.kernel_build import build_kernel
from llmc.codegen.triton.kernel_spec import KernelSpec
from llmc.codegen.triton.operands import POINTER
from llmc.ir.graph import Graph
from llmc.ir.ops import (
    Binary,
    Concat,
    CumSum,
    Full,
    Gather,
    MatMul,
    Reduce,
    Scatter,
    Softmax,
    TopK,
    Unary,
)
from llmc.ir.scalar import scalar
from llmc.ir.types import DType, T


def spec_of(kernel: Launched, overlaps: bool) -> KernelSpec:
    types = tuple((name, POINTER[s.dtype]) for name, s in kernel.storages.items())
    types += (("size", "i32"),) if kernel.sized else ()
    constants = {**kernel.constants, "OVERLAPS": overlaps}
    return KernelSpec(
        kernel.function, types, tuple(constants.items()), pdl=overlaps, source=kernel.source
    )


def kernels_of(graph: Graph) -> list[Launched]:
    run = GraphRun(graph, inputs_of(graph.name, graph), SIZES, interpret=False)
    run.run()
    return run.kernels


def every_template() -> Graph:
    g = Graph("every")
    x, at, w = given(g, T, 300), given(g, T, 4, dtype=DType.I64), given(g, 300, 24)
    scores = result(g, Softmax(-1), result(g, Unary("tanh"), x))
    g.outputs = [
        *g.append(TopK(3), [scores]).outputs,
        result(g, Reduce("argmax", (-1,)), x),
        result(g, Reduce("amax", (-1,)), x),
        result(g, CumSum(-1), x),
        result(g, MatMul(), x, w),
        result(g, Scatter(-1, accumulate=True), scores, at, result(g, Gather(-1), x, at)),
    ]
    return g


def every_libdevice_function() -> Graph:
    g = Graph("libdevice")
    x, y = given(g, T, 64, dtype=DType.BF16), given(g, T, 64)
    for fn in ("pow", "fmod", "remainder"):
        y = result(g, Binary(fn), x, y)
    for fn in ("exp", "expm1", "log1p", "tanh", "sin", "log2", "mish"):
        y = result(g, Unary(fn), y)
    g.outputs = [y]
    return g


def no_index() -> Graph:
    """A tile of one number is stored, reduced and put beside another."""
    g = Graph("constants")
    given(g, T, 1)
    flat = result(g, Full((T, 3)), scalar(2.5))
    g.outputs = [
        result(g, Unary("neg"), flat),
        result(g, Reduce("sum", (-1,)), flat),
        result(g, Concat(-1), flat, result(g, Full((T, 2)), scalar(float("nan")))),
    ]
    return g


@pytest.mark.parametrize("sm", [80, 90, 100, 120])
def test_compile(sm: int) -> None:
    kernels = kernels_of(every_libdevice_function()) + kernels_of(no_index())
    kernels += kernels_of(every_template()) if sm == 90 else kernels_of(graph_of("scatter"))
    for kernel in kernels:
        cubin = build_kernel(spec_of(kernel, overlaps=sm >= 90), sm)
        assert cubin.spill_bytes == 0
        assert cubin.name == kernel.function
