"""`torch.export` without work whose result nobody reads.

Each part stands in for something that export does at every operator, and gives the importer the
same program: the lines of model code are the same, and so are shapes and element types. The parts
replace names of torch's tracer for the duration of an export. A torch without such a name is traced
the slow way.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Iterator
from traceback import FrameSummary, StackSummary
from typing import Any

import torch
from torch.fx import proxy
from torch.fx.experimental import proxy_tensor
from torch.overrides import TorchFunctionMode

from .interfaces import linear_op


@contextlib.contextmanager
def lean_export() -> Iterator[None]:
    """While this is entered, `torch.export.export` skips what the importer doesn't need."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_replaced(proxy, "CapturedTraceback", ModelFrames))
        meta = getattr(proxy_tensor, "_extract_tensor_metadata", None)
        if meta is not None and "include_contiguity" in inspect.signature(meta).parameters:
            # Memory formats: a dozen comparisons of symbolic sizes for each tensor.
            lean = functools.partial(meta, include_contiguity=False)
            stack.enter_context(_replaced(proxy_tensor, "_extract_tensor_metadata", lean))
        stack.enter_context(_replaced(torch.no_grad, "__enter__", _enter_no_grad))
        stack.enter_context(_replaced(torch.no_grad, "__exit__", _exit_no_grad))
        yield


class LinearCalls(TorchFunctionMode):
    """Traces `linear` as one operator of ours.

    Export keeps `aten::linear` too, but finds its shape by taking it apart: five more operators.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.linear and _is_plain(*args, **(kwargs or {})):
            return linear_op(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _is_plain(input: Any, weight: Any, bias: Any = None) -> bool:
    """A product that eager torch would compute too; it says itself why not, if not."""
    return (
        weight.dim() == 2
        and input.dim() > 1
        and input.shape[-1] == weight.shape[1]
        and input.dtype == weight.dtype
        and (bias is None or (bias.shape == weight.shape[:1] and bias.dtype == weight.dtype))
    )


class ModelFrames:
    """Stands in for torch's `CapturedTraceback`: the innermost `forward` of a model, and what it
    called, instead of all frames of the process.
    """

    @staticmethod
    def extract(**_: Any) -> ModelFrames:
        return ModelFrames()

    def summary(self) -> StackSummary:
        """Outermost first; nothing if no frame outside of torch is called `forward`."""
        frames: list[FrameSummary] = []
        frame = sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            is_model = "/torch/" not in code.co_filename
            if is_model or frames:
                frames.append(FrameSummary(code.co_filename, frame.f_lineno, code.co_name))
            if is_model and code.co_name == "forward":
                return StackSummary.from_list(frames[::-1])
            frame = frame.f_back
        return StackSummary()


_enter, _exit = torch.no_grad.__enter__, torch.no_grad.__exit__


def _enter_no_grad(self: Any) -> None:
    """Where gradients are off already, nothing: a switch would be traced, and then the graph split
    at each switch and put together again.
    """
    self.was_on = torch.is_grad_enabled()
    if self.was_on:
        _enter(self)


def _exit_no_grad(self: Any, *error: Any) -> None:
    if self.was_on:
        _exit(self, *error)


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(owner, name, None)
    if original is None:
        yield
        return
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)
