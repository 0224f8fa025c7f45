"""Why a model can't be traced, in one line with the line of model code.

In: what `torch.export` raised for a model, and a way to export it again. Out: the `LlmcError` for
the user. torch's own messages speak of symbols and guards; what its user can look at is the line of
the model's code that branches on a value or needs one length.
"""

from __future__ import annotations

import contextlib
import linecache
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import torch

from ...base.errors import LlmcError

_SPECIALIZED = "Constraints violated"
"""How torch begins when code needs the number of tokens as a plain number."""


def untraceable(model: Any, error: Exception, export: Callable[[], object]) -> LlmcError:
    """LLMC-E0430 for `error`, which `export` raised for `model`."""
    reason, line = _first_line(error), _raised_at(error)
    if reason.startswith(_SPECIALIZED):
        reason, line = "it needs the number of tokens as a plain number", _number_taken_at(export)
    where = f" ({line})" if line else ""
    return LlmcError(
        "LLMC-E0430",
        f"{type(model).__name__} can't be traced as one packed step: {reason}{where}",
        hint="its forward pass depends on values or shapes at run time",
    )


def narrow_range(model: Any, lower: Any, upper: Any) -> LlmcError:
    """LLMC-E0430 for a trace that only holds for some numbers of tokens in a step."""
    hint = "it may compute in blocks of tokens or keep a table of that many positions"
    if lower <= 2:
        hint += f"; compile it with --max-context {upper}"
    return LlmcError(
        "LLMC-E0430",
        f"{type(model).__name__} can't be traced as one packed step: "
        f"what it computes holds for {lower} to {upper} tokens only",
        hint=hint,
    )


def _raised_at(error: BaseException) -> str:
    """The innermost line of model code on the way to `error`, or ""."""
    frames = traceback.walk_tb(error.__traceback__)
    return _line(reversed([(frame.f_code.co_filename, number) for frame, number in frames]))


def _line(frames: Iterable[tuple[str, int]]) -> str:
    """The first of `frames` in a model's file, as "file.py:line `code`"."""
    for file, number in frames:
        if _is_model_code(file):
            return f"{Path(file).name}:{number} `{linecache.getline(file, number).strip()}`"
    return ""


def _is_model_code(file: str) -> bool:
    """Model files of transformers, and code that came with a checkpoint."""
    name = Path(file).name
    return name.startswith("modeling_") and name != "modeling_utils.py" and "/torch/" not in file


class _FoundError(Exception):
    """Ends an export whose only purpose was to find a line."""


def _number_taken_at(export: Callable[[], object]) -> str:
    """The first line of model code that makes a number of a size, found by a second try.

    It ends there: a loop over all tokens would take as long again as the first try did.
    """
    found: list[str] = []
    with _watched(found), contextlib.suppress(Exception):
        export()
    return found[0] if found else ""


@contextlib.contextmanager
def _watched(found: list[str]) -> Iterator[None]:
    """Note the line that calls `int(size)`, or uses it where Python needs a number, and stop."""

    def watching(original: Callable[[Any], int]) -> Callable[[Any], int]:
        def convert(size: Any) -> int:
            line = _line(_callers(sys._getframe(1)))
            if line:
                found.append(line)
                raise _FoundError
            return original(size)

        return convert

    with contextlib.ExitStack() as patches:
        for name in ("__index__", "__int__"):
            original = getattr(torch.SymInt, name)
            patches.enter_context(mock.patch.object(torch.SymInt, name, watching(original)))
        yield


def _callers(frame: FrameType | None) -> Iterator[tuple[str, int]]:
    while frame is not None:
        yield frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back


def _first_line(error: BaseException) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    if isinstance(error, RuntimeError | ValueError):
        return text
    return f"{type(error).__name__}: {text}"
