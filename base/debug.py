"""Every `LLMC_*` environment variable, in one place.

| variable | effect |
|---|---|
| `LLMC_DEBUG=1` | say why a pattern did not apply; print tracebacks of errors |
| `LLMC_API_KEY=keys` | API keys of `llmc serve` |
| `LLMC_DUMP=dir` | write `NN-pass.txt` with the graph after each pass |
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def debugging() -> bool:
    """Whether LLMC_DEBUG is set."""
    return os.environ.get("LLMC_DEBUG", "0") not in ("", "0")


def debug(message: str) -> None:
    """Print `message` to stderr if LLMC_DEBUG is set."""
    if debugging():
        print(f"llmc: {message}", file=sys.stderr)


def dump_folder() -> Path | None:
    """The folder of LLMC_DUMP, or None."""
    value = os.environ.get("LLMC_DUMP")
    return Path(value) if value else None
