"""Values of weight recipes, by slices of rows.

In: a recipe and a `TensorReader` (the checkpoint). Out: float32 rows, or quantized rows.

Row-local recipes read only the rows asked for. Nodes that only move rows around are row gathers
(`weights/rows.py`), so blocks that a GGUF file holds go through them with their bits unchanged.
What isn't row-local (a transpose, norms of columns, an `Apply`) is evaluated for the smallest
leading index it depends on and kept in a small cache.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from math import prod
from typing import Protocol

import numpy as np

from ..ir.recipe import CheckpointTensor, Computed, Constant, Recipe, Shape
from ..ir.types import DType
from .formats.elements import rounded
from .formats.number_format import Quantized, concatenate
from .formats.registry import dequantize, format_of, quantize
from .recipes import (
    Apply,
    Cast,
    Concat,
    Elementwise,
    Norm,
    Permute,
    Product,
    Quantize,
    Reshape,
    Slice,
    Take,
)
from .rows import RowSource, lead_dims, matrix_shape, row_sources

Array = np.ndarray
_FUNCTIONS = {
    "add": np.add, "mul": np.multiply, "div": np.divide, "neg": np.negative, "log": np.log,
    "exp": np.exp,
}  # fmt: skip
_INTEGERS = {
    DType.I64: "int64", DType.I32: "int32", DType.I8: "int8", DType.U8: "uint8", DType.BOOL: "bool"
}  # fmt: skip
_CACHED_WHOLES = 2
_SUMMED_ELEMENTS = 1 << 20


class TensorReader(Protocol):
    """Rows of stored tensors; `rows` indexes the tensor taken as a matrix."""

    def rows(self, tensor: CheckpointTensor, rows: Array) -> Array:
        """Values [len(rows), K]: float32, or the stored integers.

        Raises:
            LlmcError: the file is damaged, or a value is not finite.
        """
        ...

    def blocks(self, tensor: CheckpointTensor, rows: Array) -> Quantized:
        """Stored blocks in the number format that has the same bits; only asked for where a format
        `holds` the tensor's."""
        ...


class RecipeValues:
    """Evaluates recipes over one checkpoint; may be used from several threads."""

    def __init__(self, reader: TensorReader) -> None:
        self._reader = reader
        self._lock = threading.RLock()
        self._wholes: OrderedDict[tuple[Recipe, int], Array] = OrderedDict()

    def value(self, recipe: Recipe) -> Array:
        """The whole tensor in its shape; float32 for every floating dtype."""
        return self.rows(recipe).reshape(recipe.shape)

    def rows(self, recipe: Recipe, start: int = 0, stop: int | None = None) -> Array:
        """Rows `start:stop` as [stop - start, K]."""
        return self._gather(recipe, _range(recipe, start, stop))

    def quantized_rows(
        self, recipe: Recipe, dtype: DType, start: int = 0, stop: int | None = None
    ) -> Quantized:
        """Rows `start:stop` in a number format; stored blocks that it holds keep their bits."""
        return self._quantized(recipe, _range(recipe, start, stop), dtype)

    def _gather(self, recipe: Recipe, rows: Array) -> Array:
        match recipe:
            case CheckpointTensor():
                return self._reader.rows(recipe, rows)
            case Computed():
                return recipe.value.reshape(matrix_shape(recipe.shape))[rows]
            case Constant():
                return np.full((len(rows), 1), recipe.value, np.float32)
            case Elementwise():
                operands = [self._broadcast(a, recipe.shape, rows) for a in recipe.operands]
                return _FUNCTIONS[recipe.kind](*operands)
            case Cast():
                return rounded(self._gather(recipe.arg, rows), recipe.to)
            case Quantize():
                return dequantize(self._quantized(recipe.arg, rows, recipe.format))
            case Product():
                left = self._gather(recipe.left, rows).astype(np.float64)
                return (left @ self.rows(recipe.right)).astype(np.float32)
            case Norm(dim=1):
                squares = self._gather(recipe.arg, rows).astype(np.float64) ** 2
                return np.sqrt(squares.sum(1, keepdims=True)).astype(np.float32)
        sources = row_sources(recipe, rows)
        if sources is not None:
            return self._assemble(recipe, sources, len(rows))
        if isinstance(recipe, Slice | Take | Concat):
            return self._columns(recipe, rows)
        return self._from_wholes(recipe, rows)

    def _assemble(self, recipe: Recipe, sources: list[RowSource], count: int) -> Array:
        if len(sources) == 1 and sources[0].recipe is not None:
            return self._gather(sources[0].recipe, sources[0].rows)
        dtype = np.float32 if recipe.dtype.is_float else np.dtype(_INTEGERS[recipe.dtype])
        out = np.zeros((count, matrix_shape(recipe.shape)[1]), dtype)
        for source in sources:
            if source.recipe is not None:
                out[_as_slice(source.at)] = self._gather(source.recipe, source.rows)
        return out

    def _columns(self, recipe: Slice | Take | Concat, rows: Array) -> Array:
        if isinstance(recipe, Concat):
            return np.concatenate([self._gather(p, rows) for p in recipe.parts], axis=1)
        values = self._gather(recipe.arg, rows)
        if isinstance(recipe, Slice):
            return np.ascontiguousarray(values[:, recipe.start : recipe.stop])
        return values[:, recipe.index.value]

    def _broadcast(self, arg: Recipe, shape: Shape, rows: Array) -> Array:
        """The part of `arg` that rows of a result of `shape` see; broadcasts against them."""
        if len(arg.shape) <= 1 and len(shape) > 1:
            return self.rows(arg).reshape(1, -1)
        if prod(arg.shape) == 1:
            return self.rows(arg)
        if arg.shape == shape:
            return self._gather(arg, rows)
        padded = (1,) * (len(shape) - len(arg.shape)) + arg.shape
        index = np.unravel_index(rows, lead_dims(shape))
        clipped = tuple(i if d > 1 else i * 0 for i, d in zip(index, padded, strict=False))
        return self._gather(arg, np.ravel_multi_index(clipped, lead_dims(padded)))

    def _from_wholes(self, recipe: Recipe, rows: Array) -> Array:
        depth = _independent_dims(recipe)
        per_group = matrix_shape(recipe.shape)[0] // prod(recipe.shape[:depth])
        groups = rows // per_group
        out: Array | None = None
        for group in np.unique(groups):
            at = np.flatnonzero(groups == group)
            part = self._whole(recipe, depth, int(group))[rows[at] - group * per_group]
            if len(at) == len(rows):
                return part
            out = np.empty((len(rows), part.shape[1]), part.dtype) if out is None else out
            out[at] = part
        return self._whole(recipe, depth, 0)[:0] if out is None else out

    def _whole(self, recipe: Recipe, depth: int, group: int) -> Array:
        """All rows of `recipe` at one index of its first `depth` dimensions, cached."""
        key = (recipe, group)
        with self._lock:
            found = self._wholes.pop(key, None)
            if found is None:
                found = self._evaluate_whole(recipe, depth, group)
                while len(self._wholes) >= _CACHED_WHOLES:
                    self._wholes.popitem(last=False)
            self._wholes[key] = found
            return found

    def _evaluate_whole(self, recipe: Recipe, depth: int, group: int) -> Array:
        if isinstance(recipe, Apply):
            value = self._apply(recipe)
        elif isinstance(recipe, Norm):
            value = self._column_norms(recipe.arg)
        elif isinstance(recipe, Permute | Reshape):
            arg = recipe.arg
            count = matrix_shape(arg.shape)[0] // prod(arg.shape[:depth])
            part = self._gather(arg, np.arange(group * count, (group + 1) * count))
            value = part.reshape(arg.shape[depth:])
            if isinstance(recipe, Permute):
                value = value.transpose([d - depth for d in recipe.dims[depth:]])
        else:
            raise TypeError(f"{type(recipe).__name__} has no values of its own")
        columns = matrix_shape(recipe.shape)[1]
        return np.ascontiguousarray(value).reshape(-1, columns)

    def _column_norms(self, arg: Recipe) -> Array:
        """Summed up over slices of rows, so that `arg` is never there as a whole."""
        count, columns = matrix_shape(arg.shape)
        squares = np.zeros(columns)
        step = max(1, _SUMMED_ELEMENTS // columns)
        for start in range(0, count, step):
            rows = np.arange(start, min(count, start + step))
            squares += (self._gather(arg, rows).astype(np.float64) ** 2).sum(0)
        return np.sqrt(squares).astype(np.float32)

    def _apply(self, recipe: Apply) -> Array:
        import torch

        tensors = [torch.from_numpy(np.array(self.value(a))) for a in recipe.operands]
        with torch.no_grad():
            result = recipe.op.reference(*tensors)
        if isinstance(result, tuple | list):
            result = result[recipe.output]
        if result.dtype.is_floating_point:
            result = result.float()
        value = result.contiguous().numpy()
        if value.shape != recipe.shape:
            raise ValueError(f"{recipe} gave shape {value.shape}, not {recipe.shape}")
        return value

    def _quantized(self, recipe: Recipe, rows: Array, dtype: DType) -> Quantized:
        if isinstance(recipe, Quantize) and recipe.format is dtype:
            return self._quantized(recipe.arg, rows, dtype)
        format = format_of(dtype)
        if isinstance(recipe, CheckpointTensor) and recipe.stored in format.holds:
            kept = format.hold(self._reader.blocks(recipe, rows))
            if kept is not None:
                return kept
        sources = row_sources(recipe, rows)
        if not sources:
            return quantize(self._gather(recipe, rows), dtype)
        columns = matrix_shape(recipe.shape)[1]
        parts = [
            format.zero_rows(len(s.rows), columns)
            if s.recipe is None
            else self._quantized(s.recipe, s.rows, dtype)
            for s in sources
        ]
        if len(parts) == 1:
            return parts[0]
        order = np.concatenate([s.at for s in sources])
        joined = concatenate(parts)
        return joined if bool((np.diff(order) == 1).all()) else joined.take(np.argsort(order))


def _independent_dims(recipe: Recipe) -> int:
    """Leading dimensions that a result shares with its argument, index by index."""
    if isinstance(recipe, Permute):
        pairs = [d == i for i, d in enumerate(recipe.dims)]
    elif isinstance(recipe, Reshape):
        pairs = [a == b for a, b in zip(recipe.shape, recipe.arg.shape, strict=False)]
    else:
        return 0
    depth = pairs.index(False) if False in pairs else len(pairs)
    return min(depth, len(recipe.shape) - 1, len(recipe.args[0].shape) - 1)


def _range(recipe: Recipe, start: int, stop: int | None) -> Array:
    count = matrix_shape(recipe.shape)[0]
    return np.arange(start, count if stop is None else min(stop, count))


def _as_slice(at: Array) -> Array | slice:
    """Ascending neighbours as a slice, which assigns faster than an index."""
    contiguous = len(at) and at[-1] - at[0] == len(at) - 1
    return slice(int(at[0]), int(at[-1]) + 1) if contiguous else at
