"""JSON files of a checkpoint, which anyone may have written.

In: a path. Out: the object in it, or what is wrong with the file.
"""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

from ...base.errors import LlmcError
from .row_file import not_the_file

_MARKS = {
    codecs.BOM_UTF8: "begins with a byte order mark",
    codecs.BOM_UTF16_LE: "is UTF-16",
    codecs.BOM_UTF16_BE: "is UTF-16",
}


def json_object(path: Path, data: bytes | None = None) -> dict[str, Any]:
    """The JSON object in the file `path`, whose content `data` is if it was read before.

    Raises:
        LlmcError: E0418 for a config file, E0417 for any other.
    """
    data = path.read_bytes() if data is None else data
    why, hint = _flaw(data)
    if not why:
        try:
            value = json.loads(data.decode("utf-8"))  # bytes would be guessed to be UTF-16, too
        except UnicodeDecodeError as error:
            why = f"is not UTF-8 (byte {error.start})"
        except json.JSONDecodeError as error:
            why = f"is not JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        except (ValueError, RecursionError):
            why = "is not JSON that can be read"
        else:
            if isinstance(value, dict):
                return value
            why = f"is not a JSON object but a {type(value).__name__}"
    id = "LLMC-E0418" if path.name.endswith("config.json") else "LLMC-E0417"
    raise LlmcError(id, f"{path} {why}", hint)


def _flaw(data: bytes) -> tuple[str, str]:
    """What is wrong with the bytes of a text file before they are text, and what to do."""
    if not data.strip(b"\0 \t\r\n"):
        return "is empty" if not data else f"holds {len(data)} bytes of nothing", ""
    for mark, what in _MARKS.items():
        if data.startswith(mark):
            return what, "save it as UTF-8 without a byte order mark"
    return not_the_file(data) or ("", "")
