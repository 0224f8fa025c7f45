"""JSON files of a checkpoint, which are hostile until they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...base.errors import LlmcError


def json_object(path: Path, data: bytes) -> dict[str, Any]:
    """The JSON object in `data`, which came from `path`.

    Raises:
        LlmcError: E0418 for a config file, E0417 for any other.
    """
    try:
        value = json.loads(data.decode("utf-8"))  # bytes would be guessed to be UTF-16, too
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        id = "LLMC-E0418" if path.name.endswith("config.json") else "LLMC-E0417"
        raise LlmcError(id, f"{path} is not a JSON object")
    return value
