"""The TensorRT library: which one is installed, and what it says while it works.

TensorRT for RTX comes as `tensorrt_rtx` and as its bare bindings, `tensorrt_rtx_bindings`; the
first one that can be imported is used. The datacenter library `tensorrt` has the same names but
builds other engines, for the GPU at hand only: it isn't used.

TensorRT keeps one logger a process (a second one is ignored with a warning), so there is one here.
It prints nothing: messages are collected, and the first error of a build becomes the user's line.
Some internal errors go to the C library's stderr past any logger; they say the same.
"""

from __future__ import annotations

import importlib
import re
from functools import cache
from importlib import metadata
from typing import Any

from ...base.errors import LlmcError

MODULES = ("tensorrt_rtx", "tensorrt_rtx_bindings")
INSTALL = 'pip install "llmc-compiler[trt]"'


@cache
def library() -> Any:
    """The TensorRT module.

    Raises:
        LlmcError: LLMC-E0703, none is installed.
    """
    for name in MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise LlmcError("LLMC-E0703", "the trt target needs TensorRT for RTX", hint=INSTALL)


@cache
def distribution() -> tuple[str, str]:
    """Name and version of the installed package that `library` is from."""
    name = library().__name__
    owners = metadata.packages_distributions().get(name, [name])
    return owners[0], metadata.version(owners[0])


class Messages:
    """Errors and warnings of TensorRT, in order; `take` empties them."""

    def __init__(self) -> None:
        self._errors: list[str] = []
        self._warnings: list[str] = []

    def add(self, is_error: bool, text: str) -> None:
        (self._errors if is_error else self._warnings).append(text)

    def take(self) -> tuple[list[str], list[str]]:
        """(errors, warnings) since the last call."""
        taken = self._errors, self._warnings
        self._errors, self._warnings = [], []
        return taken


MESSAGES = Messages()


@cache
def logger() -> Any:
    """The process's logger; it feeds `MESSAGES`."""
    trt = library()

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity <= trt.ILogger.WARNING:
                MESSAGES.add(severity < trt.ILogger.WARNING, text)

    return Logger()


_PREFIXES = re.compile(r"^(?:[A-Za-z:]+: )?(?:Error Code \d+: )?(?:\w+ )?")
_NOISE = re.compile(
    r"\[\w+\.(?:cpp|h|hpp):\d+: \w+\] |\s*In \w+ at /\S+?:\d+\)?$|MyelinCheckException: "
)


def readable(errors: list[str]) -> str:
    """The first of TensorRT's errors as one line without places in its own source."""
    if not errors:
        return "no reason given"
    line = " ".join(errors[0].split())
    line = _NOISE.sub("", _PREFIXES.sub("", line, count=1)).strip(" ().")
    return line[:400]
