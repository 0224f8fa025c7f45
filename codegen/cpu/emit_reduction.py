"""Generic path: ops that read along a dimension. One output row at a time, serial inside."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from ...ir.graph import Node
from ...ir.ops import CumSum, MatMul, Reduce, Softmax, TopK
from ...ir.types import DType
from ..views import View, expand
from .emit_elementwise import compute_type
from .emitters import emits
from .function import Function
from .loops import Body, Nest, element, loop_nest, term, wrap

# fn: (start, update of `a` with element `x`). Sums of floats are kept in double, which is more
# exact than torch's blocked float sums and independent of any blocking.
_REDUCERS: dict[str, tuple[str, str]] = {
    "sum": ("0", "a += x;"),
    "mean": ("0", "a += x;"),
    "prod": ("1", "a *= x;"),
    "amax": ("", "a = op::maximum(a, x);"),
    "amin": ("", "a = op::minimum(a, x);"),
    "any": ("false", "a = a || x;"),
    "all": ("true", "a = a && x;"),
}


@emits(Reduce)
def reduce(fn: Function, node: Node, op: Reduce) -> None:
    x = fn.view(node.inputs[0])
    out = fn.result(node.output)
    dims = sorted(d % len(x.shape) for d in op.dims)
    kept, inner = _split(x, dims)
    target = _keep_dims(out, x, dims)
    if op.fn == "argmax":
        body = _argmax(fn, x, dims, kept, target)
    else:
        body = _fold(op.fn, x, kept, inner, target)
    fn.step(loop_nest(kept.shape, [kept, target], body), [x], [out], rowwise=True)


def _fold(name: str, x: View, kept: View, inner: View, target: View) -> Body:
    start, update = _REDUCERS[name]
    c_type = _accumulator(name, x.dtype)
    result = f"a / {prod(_sizes(inner))}" if name == "mean" else "a"

    def body(nest: Nest) -> list[str]:
        inside = Nest(inner.shape, [inner], prefix="r")
        here = element(kept, nest.terms(kept) + inside.terms(inner))
        return [
            f"{c_type} a = {start or f'op::load({nest.at(kept)})'};",
            *wrap(inside.loops, [f"const auto x = op::as<{c_type}>(op::load({here}));", update]),
            f"op::store({nest.at(target)}, {result});",
        ]

    return body


def _argmax(fn: Function, x: View, dims: list[int], kept: View, target: View) -> Body:
    if len(dims) != 1:
        raise fn.refuse("argmax over several dimensions")
    size, stride = x.shape[dims[0]], x.strides[dims[0]]
    c_type = compute_type(x.dtype)

    def body(nest: Nest) -> list[str]:
        return [
            f"int64_t best = 0; {c_type} a = op::load({nest.at(kept)});",
            f"for (int64_t r = 1; r < {size}; ++r) {{",
            f"  const {c_type} x = op::load({nest.at(kept, *term('r', stride))});",
            "  if (op::ranks_before(x, a)) { a = x; best = r; }",
            "}",
            f"op::store({nest.at(target)}, best);",
        ]

    return body


def _accumulator(name: str, dtype: DType) -> str:
    if name in ("any", "all"):
        return "bool"
    if name in ("amax", "amin"):
        return compute_type(dtype)
    return "double" if dtype.is_float else "int64_t"


@emits(Softmax)
def softmax(fn: Function, node: Node, op: Softmax) -> None:
    x = fn.view(node.inputs[0])
    out = fn.result(node.output)
    dim = op.dim % len(x.shape)
    size = x.shape[dim]
    source, target = (_split(v, [dim])[0] for v in (x, out))

    def body(nest: Nest) -> list[str]:
        read = nest.at(source, *term("r", x.strides[dim]))
        write = nest.at(target, *term("r", out.strides[dim]))
        last = "x - largest - log_sum" if op.log else "op::exp(x - largest) * scale"
        loop = f"for (int64_t r = 0; r < {size}; ++r)"
        return [
            "float largest = -__builtin_inff();",
            f"{loop} largest = op::maximum(largest, op::as<float>(op::load({read})));",
            "double sum = 0;",
            f"{loop} sum += op::exp(op::as<float>(op::load({read})) - largest);",
            "const float log_sum = op::log((float)sum);"
            if op.log
            else "const float scale = (float)(1.0 / sum);",
            f"{loop} {{",
            f"  const float x = op::as<float>(op::load({read}));",
            f"  op::store({write}, {last});",
            "}",
        ]

    fn.step(loop_nest(source.shape, [source, target], body), [x], [out], rowwise=True)


@emits(CumSum)
def cumsum(fn: Function, node: Node, op: CumSum) -> None:
    x = fn.view(node.inputs[0])
    out = fn.result(node.output)
    dim = op.dim % len(x.shape)
    source, target = (_split(v, [dim])[0] for v in (x, out))
    c_type = "double" if x.dtype.is_float else "int64_t"

    def body(nest: Nest) -> list[str]:
        read = nest.at(source, *term("r", x.strides[dim]))
        write = nest.at(target, *term("r", out.strides[dim]))
        return [
            f"{c_type} a = 0;",
            f"for (int64_t r = 0; r < {x.shape[dim]}; ++r) {{",
            f"  a += op::as<{c_type}>(op::load({read}));",
            f"  op::store({write}, a);",
            "}",
        ]

    fn.step(loop_nest(source.shape, [source, target], body), [x], [out], rowwise=True)


@emits(TopK)
def top_k(fn: Function, node: Node, op: TopK) -> None:
    """Insertion into a list of k: stable, and cheap for the k of routers. NaN ranks first."""
    x = fn.view(node.inputs[0])
    values, indices = (fn.result(v) for v in node.outputs)
    views = [_split(v, [len(x.shape) - 1])[0] for v in (x, values, indices)]
    strides = [v.strides[-1] for v in (x, values, indices)]
    c_type = compute_type(x.dtype)

    def body(nest: Nest) -> list[str]:
        read = nest.at(views[0], *term("r", strides[0]))

        def place(which: int, at: str) -> str:
            return nest.at(views[which], *term(at, strides[which]))

        return [
            "int64_t held = 0;",
            f"for (int64_t r = 0; r < {x.shape[-1]}; ++r) {{",
            f"  const {c_type} x = op::load({read});",
            "  int64_t j = held;",
            f"  while (j > 0 && op::ranks_before(x, op::load({place(1, '(j - 1)')}))) --j;",
            f"  if (j == {op.k}) continue;",
            f"  if (held < {op.k}) ++held;",
            "  for (int64_t m = held - 1; m > j; --m) {",
            f"    {place(1, 'm')} = {place(1, '(m - 1)')};",
            f"    {place(2, 'm')} = {place(2, '(m - 1)')};",
            "  }",
            f"  op::store({place(1, 'j')}, x);",
            f"  op::store({place(2, 'j')}, r);",
            "}",
        ]

    fn.step(loop_nest(views[0].shape, views, body), [x], [values, indices], rowwise=True)


@emits(MatMul)
def matmul(fn: Function, node: Node, _: MatMul) -> None:
    """One output element at a time, or one output row where that vectorizes."""
    a, b = (fn.view(v) for v in node.inputs)
    out = fn.result(node.output)
    left = expand(_column(a), out.shape)
    right = expand(_row(b), out.shape)
    steps = (a.strides[-1], b.strides[-2], a.shape[-1])
    by_rows = out.dtype == DType.F32 and b.dtype == DType.F32 and isinstance(out.shape[-1], int)
    if by_rows and b.strides[-1] == out.strides[-1] == 1:
        lines = _matmul_rows(out, left, right, steps)
    else:
        lines = _matmul_elements(out, left, right, steps)
    fn.step(lines, [a, b], [out], rowwise=True)


def _matmul_rows(out: View, left: View, right: View, steps: tuple) -> list[str]:
    columns = out.shape[-1]
    heads = [_split(v, [len(out.shape) - 1])[0] for v in (out, left, right)]
    a_step, b_step, size = steps

    def body(nest: Nest) -> list[str]:
        to, x, y = heads
        loop = f"for (int64_t n = 0; n < {columns}; ++n)"
        return [
            f"{loop} {nest.at(to, 'n')} = 0;",
            f"for (int64_t r = 0; r < {size}; ++r) {{",
            f"  const float x = op::as<float>(op::load({nest.at(x, *term('r', a_step))}));",
            "  #pragma clang loop vectorize(assume_safety)",
            f"  {loop} {nest.at(to, 'n')} += x * {nest.at(y, *term('r', b_step), 'n')};",
            "}",
        ]

    return loop_nest(heads[0].shape, heads, body)


def _matmul_elements(out: View, left: View, right: View, steps: tuple) -> list[str]:
    a_step, b_step, size = steps
    c_type = compute_type(out.dtype)

    def body(nest: Nest) -> list[str]:
        x = f"op::as<{c_type}>(op::load({nest.at(left, *term('r', a_step))}))"
        y = f"op::as<{c_type}>(op::load({nest.at(right, *term('r', b_step))}))"
        return [
            f"{c_type} a = 0;",
            f"for (int64_t r = 0; r < {size}; ++r) a += {x} * {y};",
            f"op::store({nest.at(out)}, a);",
        ]

    return loop_nest(out.shape, [out, left, right], body)


def _column(a: View) -> View:
    """a [..., M, K] at k = 0, as [..., M, 1]."""
    return replace(a, shape=(*a.shape[:-1], 1), strides=(*a.strides[:-1], 0))


def _row(b: View) -> View:
    """b [..., K, N] at k = 0, as [..., 1, N]."""
    shape = (*b.shape[:-2], 1, b.shape[-1])
    return replace(b, shape=shape, strides=(*b.strides[:-2], 0, b.strides[-1]))


def _split(view: View, dims: list[int]) -> tuple[View, View]:
    """`view` fixed at the start of `dims`, and what `dims` add to it."""
    inside = set(dims)
    rank = range(len(view.shape))
    kept = replace(
        view,
        shape=tuple(1 if i in inside else view.shape[i] for i in rank),
        strides=tuple(0 if i in inside else view.strides[i] for i in rank),
    )
    inner = replace(
        view,
        shape=tuple(view.shape[i] for i in dims),
        strides=tuple(view.strides[i] for i in dims),
    )
    return kept, inner


def _keep_dims(out: View, x: View, dims: list[int]) -> View:
    """`out` with the reduced dimensions of `x` put back as size 1."""
    if len(out.shape) == len(x.shape):
        return out
    shape, strides = list(out.shape), list(out.strides)
    for dim in dims:
        shape.insert(dim, 1)
        strides.insert(dim, 0)
    return replace(out, shape=tuple(shape), strides=tuple(strides))


def _sizes(view: View) -> list[int]:
    return [d for d in view.shape if isinstance(d, int)]
