"""The table of ATen operators that the importer knows.

Composite operators are spelled in the IR's own ops, so that the handlers behind this table are
the only place that knows ATen.
"""

from __future__ import annotations

from . import (
    aten_complex,
    aten_convolution,
    aten_elementwise,
    aten_index,
    aten_reduction,
    aten_shape,
    aten_tokens,
)
from .aten_base import Handler

ATEN: dict[str, Handler] = {
    **aten_elementwise.HANDLERS,
    **aten_shape.HANDLERS,
    **aten_index.HANDLERS,
    **aten_reduction.HANDLERS,
    **aten_convolution.HANDLERS,
    **aten_complex.HANDLERS,
    **aten_tokens.HANDLERS,
}
"""Handler by operator name (`aten::<name>`, any overload)."""
