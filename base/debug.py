"""Every `LLMC_*` environment variable, in one place.

| variable | effect |
|---|---|
| `LLMC_DEBUG=1` | say why a pattern did not apply; print tracebacks of errors |
| `LLMC_API_KEY=keys` | API keys of `llmc serve` |
| `LLMC_DUMP=dir` | write, a folder a target: graphs after each pass, schedule, plan, source |
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path


def debugging() -> bool:
    """Whether LLMC_DEBUG is set."""
    return os.environ.get("LLMC_DEBUG", "0") not in ("", "0")


def debug(message: str) -> None:
    """Print `message` to stderr if LLMC_DEBUG is set."""
    if debugging():
        print(f"llmc: {message}", file=sys.stderr)


_PLACE: ContextVar[str] = ContextVar("place", default="")


@contextmanager
def dumps_under(place: str) -> Iterator[None]:
    """What is dumped inside goes to the subfolder `place` of LLMC_DUMP."""
    token = _PLACE.set(place)
    try:
        yield
    finally:
        _PLACE.reset(token)


def dump_folder() -> Path | None:
    """Where dumps go now, or None if LLMC_DUMP isn't set."""
    value = os.environ.get("LLMC_DUMP")
    return Path(value) / _PLACE.get() if value else None


def dump(name: str, text: str) -> None:
    """Write `text` into the file `name` of the dumps, if there are any."""
    folder = dump_folder()
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
