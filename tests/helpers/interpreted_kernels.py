"""Kernels of the triton target under Triton's interpreter, on the CPU.

In: the name of a module of `codegen/triton/kernels/`, or the text of a generated one. Out: the
module, whose `@triton.jit` functions take torch tensors of the CPU. They are a second copy of the
package, so that the first can still be compiled.

Whoever imports this module gets the interpreter with five things mended:
- float32 was cut off where it becomes bf16; GPUs round to nearest, ties to even;
- whole numbers that become bf16 were taken for its bits;
- products of bf16 took the bits for whole numbers; and those of f32 matrices came out differently
  according to where in its tile a row stands, so they are summed in float64 now;
- the language's own functions (`tl.sum`, `tl.cdiv`) could only be called if the whole process
  interprets from its start, and then nothing compiles;
- every call of a function within a kernel replaced the language again (slow), and left it so.
"""

from __future__ import annotations

import importlib
import importlib.util
import linecache
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import faster_interpreter
import numpy as np
import torch
import triton.language as tl
from triton import knobs
from triton.runtime import interpreter
from triton.runtime.jit import JITFunction

KERNELS = Path(__file__).parents[2] / "codegen/triton/kernels"
PACKAGE = "interpreted_kernels_pkg"


@cache
def interpreted(name: str) -> Any:
    """The module `kernels/NAME.py`: `interpreted("norm").rms_norm[(grid,)](x, …, PORTABLE=True)`.

    Launches need no setting of the interpreter's own; only the decorators read it.
    """
    with _interpreting():
        _package()
        return importlib.import_module(f"{PACKAGE}.{name}")


def interpreted_source(text: str, name: str) -> Any:
    """The same for the text of a generated module, which may import from `kernels` (`.norm`)."""
    with _interpreting():
        _package()
        return _module_of(text, f"{PACKAGE}.{name}")


def _module_of(text: str, name: str) -> ModuleType:
    """Run `text` as the module `name`. `linecache` has it then: Triton reads functions' source."""
    file = f"<{name}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    module = ModuleType(name)
    module.__package__, module.__file__ = name.rpartition(".")[0], file
    sys.modules[name] = module
    exec(compile(text, file, "exec"), module.__dict__)
    return module


def _convert_rounding(data: np.ndarray, source: Any, to: Any, mode: Any) -> np.ndarray:
    """`interpreter._convert_float`: bits of `to`. Other pairs of types than these are its own."""
    if (source.name, to.name) != ("fp32", "bf16"):
        return _CONVERT(data, source, to, mode)
    numbers = np.ascontiguousarray(data).view(np.float32)
    rounded = torch.from_numpy(numbers.copy()).to(torch.bfloat16)
    return rounded.view(torch.int16).numpy().view(np.uint16)


def _from_int(builder: Any, source: Any, to: Any) -> Any:
    """`create_si_to_fp` of `interpreter`."""
    if to.scalar.name != "bf16":
        return _FROM_INT(builder, source, to)
    data = _convert_rounding(source.data.astype(np.float32), tl.float32, to.scalar, None)
    return interpreter.TensorHandle(data.reshape(source.data.shape), to.scalar)


def _multiply(builder: Any, a: Any, b: Any) -> Any:
    """`create_fmul` of `interpreter`: a times b, element by element."""
    if a.dtype.scalar.name != "bf16":
        return builder.binary_op(a, b, np.multiply)
    left, right = (_bf16(each.data) for each in (a, b))
    bits = (left * right).view(torch.int16).numpy().view(np.uint16)
    return interpreter.TensorHandle(bits, a.dtype.scalar)


def _bf16(bits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(bits.view(np.int16).copy()).view(torch.bfloat16)


def _dot(builder: Any, a: Any, b: Any, d: Any, precision: Any, imprecise: Any) -> Any:
    """`create_dot` of `interpreter`: a [M, K] times b [K, N], plus d."""
    if "int" in a.dtype.name:
        return _DOT(builder, a, b, d, precision, imprecise)
    left, right = (_float64(operand) for operand in (a, b))
    total = np.matmul(left, right).astype(d.data.dtype) + d.data
    return interpreter.TensorHandle(total, d.dtype.scalar)


def _float64(operand: Any) -> np.ndarray:
    """The numbers of a floating tensor; the interpreter keeps narrow ones as bits."""
    data = operand.data
    if not np.issubdtype(data.dtype, np.floating):
        data = interpreter._convert_float(data, operand.dtype, tl.float32, None)
    return (
        data.view(np.float32).astype(np.float64)
        if data.dtype == np.uint32
        else data.astype(np.float64)
    )


def _patch_once(fn: Any) -> Any:
    """`interpreter._patch_lang`: the language's replacement for a launch, functions included."""
    if _Replaced.running:
        return interpreter._LangPatchScope()  # nothing to restore
    language = SimpleNamespace(__globals__={"tl": tl, "core": tl.core})
    scope = _Replaced(_PATCH(language))
    _Replaced.running = True
    return scope


class _Replaced:
    """What a launch restores at its end."""

    running = False

    def __init__(self, scope: Any) -> None:
        self._scope = scope

    def restore(self) -> None:
        _Replaced.running = False
        self._scope.restore()


def _call(function: JITFunction, *args: Any, **named: Any) -> Any:
    """`JITFunction.__call__`, which else can't be called at all."""
    if not _Replaced.running:
        return _REFUSE(function, *args, **named)
    return _rewritten(function.fn)(*args, **named)


@cache
def _rewritten(fn: Any) -> Any:
    return interpreter.InterpretedFunction(fn).rewrite()


_CONVERT, _FROM_INT, _DOT, _PATCH, _REFUSE = (
    interpreter._convert_float,
    interpreter.InterpreterBuilder.create_si_to_fp,
    interpreter.InterpreterBuilder.create_dot,
    interpreter._patch_lang,
    JITFunction.__call__,
)
interpreter._convert_float = _convert_rounding
setattr(interpreter.InterpreterBuilder, "create_si_to_fp", _from_int)  # noqa: B010
setattr(interpreter.InterpreterBuilder, "create_dot", _dot)  # noqa: B010
setattr(interpreter.InterpreterBuilder, "create_fmul", _multiply)  # noqa: B010
interpreter._patch_lang = _patch_once
setattr(JITFunction, "__call__", _call)  # noqa: B010
faster_interpreter.install()


@cache
def _package() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        PACKAGE, KERNELS / "__init__.py", submodule_search_locations=[str(KERNELS)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package
    spec.loader.exec_module(package)
    return package


@contextmanager
def _interpreting() -> Iterator[None]:
    """Functions that are decorated meanwhile are interpreted; the environment stays as it was."""
    with knobs.runtime.scope():
        knobs.runtime.interpret = True
        yield
