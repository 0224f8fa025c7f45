"""Triton's interpreter with less work for each operation: `install` it once.

Most of its time goes into describing shapes: each tensor makes new constants for its sizes and a
text that names its type, and each operation a table of all element types. Here these are made once
for each shape and type; nothing changes them later.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from triton import language as tl
from triton.language import core
from triton.runtime import interpreter

_ELEMENTS = interpreter._get_np_dtype
_BLOCK_TYPE = core.block_type.__init__


def install() -> None:
    """Replace what is slow, in this process."""
    setattr(core.tensor, "__init__", _tensor)  # noqa: B010
    setattr(core.block_type, "__init__", _block_type)  # noqa: B010
    setattr(interpreter, "_get_np_dtype", _np_dtype)  # noqa: B010


def _tensor(self: Any, handle: Any, type: Any) -> None:
    """`tl.tensor.__init__`."""
    self.handle, self.type, self.dtype = handle, type, type.scalar
    self.shape, self.numel = _sizes(type.shape if type.is_block() else ())


@cache
def _sizes(shape: tuple[int, ...]) -> tuple[Any, Any]:
    """As constants: each size, and their product."""
    return core.tuple([tl.constexpr(n) for n in shape]), tl.constexpr(int(np.prod(shape)))


def _block_type(self: Any, element_ty: Any, shape: Any) -> None:
    """`tl.block_type.__init__`."""
    sizes = tuple([n.value if isinstance(n, tl.constexpr) else n for n in shape])
    known = _KNOWN.get((element_ty.name, sizes))
    if known is None:
        _BLOCK_TYPE(self, element_ty, shape)
        _KNOWN[element_ty.name, sizes] = self.shape, self.numel, self.name
    else:
        self.element_ty = element_ty
        self.shape, self.numel, self.name = known


_KNOWN: dict[tuple[str, tuple[int, ...]], tuple[Any, Any, str]] = {}


def _np_dtype(type: Any) -> Any:
    """`interpreter._get_np_dtype`."""
    name = type.name
    if name not in _DTYPES:
        _DTYPES[name] = _ELEMENTS(type)
    return _DTYPES[name]


_DTYPES: dict[str, Any] = {}
