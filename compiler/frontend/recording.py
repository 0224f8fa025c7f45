"""Arrays that record what is done to them: conversions of checkpoints become recipes.

In: the conversion functions of transformers (torch) and of its GGUF support (numpy), which rename,
cut, join and permute checkpoint tensors. They are run once on the stand-ins below, which hold no
data. Out: the recipe of each result. So a conversion that transformers adds tomorrow works as long
as it is made of the operations listed here; any other is refused by name, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ...base.errors import LlmcError
from ...ir.types import DType
from ...weights.recipes import (
    Cast,
    Computed,
    Elementwise,
    Recipe,
    Reshape,
    Slice,
    Take,
    add,
    concat,
    mul,
    permute,
    stack,
    unsqueeze,
)

aten = torch.ops.aten
_TORCH = {
    DType.F32: torch.float32, DType.BF16: torch.bfloat16, DType.F16: torch.float16,
    DType.I64: torch.int64, DType.I32: torch.int32, DType.I8: torch.int8, DType.U8: torch.uint8,
    DType.BOOL: torch.bool,
}  # fmt: skip


class RecordedTensor(torch.Tensor):
    """A torch tensor without data; `recipe` says what it is."""

    recipe: Recipe

    @staticmethod
    def __new__(cls, recipe: Recipe) -> RecordedTensor:
        # It claims the CPU: on "meta", conversions would move their index tensors there and lose
        # them. Strides are always contiguous: a recipe is a value, not a view.
        made = torch.Tensor._make_wrapper_subclass(
            cls, recipe.shape, dtype=_TORCH[recipe.dtype], device=torch.device("cpu")
        )
        made.recipe = recipe
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"RecordedTensor({self.recipe})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        handler = _ATEN.get(func.overloadpacket)
        if handler is None:
            raise unknown(str(func))
        return _wrap(handler(*_unwrap(args), **_unwrap(kwargs or {})))


class RecordedArray(np.lib.mixins.NDArrayOperatorsMixin):
    """A numpy array without data; `recipe` says what it is."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @property
    def shape(self) -> tuple[int, ...]:
        return self.recipe.shape

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def T(self) -> RecordedArray:
        return self.transpose()

    def reshape(self, *shape: Any) -> RecordedArray:
        sizes = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        return RecordedArray(_reshape(self.recipe, [int(s) for s in sizes]))

    def transpose(self, *dims: Any) -> RecordedArray:
        order = dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims
        return RecordedArray(_permute(self.recipe, order or range(self.ndim)[::-1]))

    def swapaxes(self, a: int, b: int) -> RecordedArray:
        return RecordedArray(_swap(self.recipe, a, b))

    def flatten(self) -> RecordedArray:
        return self.reshape(-1)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        handler = _UFUNCS.get(ufunc.__name__)
        if handler is None or method != "__call__" or kwargs:
            raise unknown(f"numpy.{ufunc.__name__}")
        return RecordedArray(handler(*_unwrap(inputs)))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        handler = _NUMPY.get(func.__name__)
        if handler is None:
            raise unknown(f"numpy.{func.__name__}")
        result = handler(*_unwrap(args), **_unwrap(kwargs))
        if isinstance(result, list):
            return [RecordedArray(r) for r in result]
        return RecordedArray(result)


def unknown(operation: str) -> LlmcError:
    """The error for a conversion that no recipe expresses."""
    return LlmcError(
        "LLMC-E0401",
        f"converting the checkpoint uses {operation}, which no weight recipe expresses",
        "save the model with this transformers (`save_pretrained`) and compile from that directory",
    )


def _unwrap(value: Any) -> Any:
    if isinstance(value, RecordedTensor | RecordedArray):
        return value.recipe
    if isinstance(value, list | tuple):
        return type(value)(_unwrap(v) for v in value)
    return {k: _unwrap(v) for k, v in value.items()} if isinstance(value, dict) else value


def _wrap(value: Any) -> Any:
    if isinstance(value, Recipe):
        return RecordedTensor(value)
    return [_wrap(v) for v in value] if isinstance(value, list | tuple) else value


def _reshape(x: Recipe, sizes: Sequence[int]) -> Recipe:
    known = int(np.prod([s for s in sizes if s != -1], dtype=np.int64))
    total = int(np.prod(x.shape, dtype=np.int64))
    to = tuple(total // max(known, 1) if s == -1 else int(s) for s in sizes)
    return x if to == x.shape else Reshape(x, to)


def _permute(x: Recipe, dims: Sequence[int]) -> Recipe:
    return permute(x, tuple(dims))


def _swap(x: Recipe, a: int, b: int) -> Recipe:
    dims = list(range(len(x.shape)))
    dims[a], dims[b] = dims[b], dims[a]
    return _permute(x, dims)


def _slice(
    x: Recipe, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Recipe:
    dim %= len(x.shape)
    begin, stop, step = slice(start, end, step).indices(x.shape[dim])
    if step != 1:
        return Take(x, dim, Computed.of("index", np.arange(begin, stop, step)))
    whole = (begin, stop) == (0, x.shape[dim])
    return x if whole else Slice(x, dim, begin, max(begin, stop))


def _split(x: Recipe, size: int | Sequence[int], dim: int = 0) -> list[Recipe]:
    total = x.shape[dim]
    if isinstance(size, int):
        size = [min(size, total - at) for at in range(0, total, size)]
    ends = np.cumsum(size)
    return [_slice(x, dim, int(e) - s, int(e)) for s, e in zip(size, ends, strict=True)]


def _select(x: Recipe, dim: int, index: int) -> Recipe:
    dim, index = dim % len(x.shape), index % x.shape[dim]
    return _squeeze(_slice(x, dim, index, index + 1), dim)


def _squeeze(x: Recipe, dim: int | Sequence[int] | None = None) -> Recipe:
    rank = len(x.shape)
    dims = range(rank) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = {d % rank for d in dims if x.shape[d] == 1}
    return _reshape(x, [s for i, s in enumerate(x.shape) if i not in gone])


def _index(x: Recipe, indices: Sequence[torch.Tensor | None]) -> Recipe:
    used = [(dim, index) for dim, index in enumerate(indices) if index is not None]
    if len(used) != 1 or used[0][1].ndim != 1 or used[0][1].dtype == torch.bool:
        raise unknown("an index by several tensors")
    return _index_select(x, *used[0])


def _index_select(x: Recipe, dim: int, index: torch.Tensor) -> Recipe:
    chosen = index.numpy() % x.shape[dim]
    return Take(x, dim % len(x.shape), Computed.of("index", chosen))


def _to_copy(x: Recipe, dtype: torch.dtype | None = None, **_: Any) -> Recipe:
    """A change of dtype: none among full floats, a rounding for the short ones."""
    if dtype in (None, torch.float32, torch.float64, _TORCH[x.dtype]):
        if not x.dtype.is_float:
            raise unknown(f"a cast from {x.dtype}")
        return x if x.dtype is DType.F32 or dtype is None else Cast(x, DType.F32)
    if dtype in (torch.bfloat16, torch.float16) and x.dtype.is_float:
        return Cast(x, DType.BF16 if dtype is torch.bfloat16 else DType.F16)
    raise unknown(f"a cast to {dtype}")


def _subtract(a: Any, b: Any, alpha: float = 1) -> Recipe:
    return add(a, mul(b, -alpha) if isinstance(b, Recipe) else -alpha * b)


def _unary(kind: str) -> Callable[..., Recipe]:
    return lambda x: Elementwise(kind, (x,))


def _same(x: Recipe, *_: Any, **__: Any) -> Recipe:
    return x


def _unbind(x: Recipe, dim: int = 0) -> list[Recipe]:
    return [_select(x, dim, i) for i in range(x.shape[dim])]


def _array_split(x: Recipe, sections: int, axis: int = 0) -> list[Recipe]:
    bounds = [len(part) for part in np.array_split(np.arange(x.shape[axis]), sections)]
    return _split(x, bounds, axis)


_ATEN: dict[Any, Callable[..., Any]] = {
    aten.cat: lambda xs, dim=0: concat(xs, dim),
    aten.stack: lambda xs, dim=0: stack(xs, dim % (len(xs[0].shape) + 1)),
    aten.split: _split,
    aten.split_with_sizes: _split,
    aten.unbind: _unbind,
    aten.slice: _slice,
    aten.select: _select,
    aten.index: _index,
    aten.index_select: _index_select,
    aten.view: _reshape,
    aten._unsafe_view: _reshape,
    aten._reshape_alias: lambda x, size, stride: _reshape(x, size),
    aten.transpose: _swap,
    aten.t: lambda x: _swap(x, 0, -1) if len(x.shape) == 2 else x,
    aten.permute: _permute,
    aten.unsqueeze: unsqueeze,
    aten.squeeze: _squeeze,
    aten.clone: _same,
    aten.detach: _same,
    aten.alias: _same,
    aten._to_copy: _to_copy,
    aten.add: lambda a, b, alpha=1: add(a, b if alpha == 1 else mul(b, alpha)),
    aten.sub: _subtract,
    aten.mul: mul,
    aten.neg: _unary("neg"),
    aten.log: _unary("log"),
    aten.exp: _unary("exp"),
}

_UFUNCS: dict[str, Callable[..., Recipe]] = {
    "add": add, "subtract": _subtract, "multiply": mul, "negative": _unary("neg"),
    "log": _unary("log"), "exp": _unary("exp"),
}  # fmt: skip

_NUMPY: dict[str, Callable[..., Any]] = {
    "expand_dims": lambda x, axis: unsqueeze(x, axis),
    "array_split": _array_split,
    "stack": lambda xs, axis=0: stack(xs, axis),
    "concatenate": lambda xs, axis=0: concat(xs, axis),
    "transpose": lambda x, axes=None: _permute(x, axes or range(len(x.shape))[::-1]),
    "swapaxes": _swap,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "copy": _same,
}
