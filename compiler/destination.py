"""Where an artifact will be written, decided and checked before anything expensive is imported.

In: the output that was asked for and the model's name. Out: a path that can be written, and that is
no part of the model.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from ..artifact.writer import check_target
from ..base.errors import LlmcError


def output_path(output: str | Path | None, model: str) -> Path:
    """What was asked for, else the model's name with `.llmc` in the current folder."""
    if output is not None:
        return Path(output)
    named = Path(model).expanduser()
    name = named.resolve().name if named.exists() else named.name  # `.` has a name, too
    return Path(f"{name.removesuffix('.gguf')}.llmc")


def check_output(path: Path, format: Literal["file", "dir"], model: str) -> None:
    """Refuse an output that can't be written or that would replace a part of the model.

    Raises:
        LlmcError: E0701, E0702, E0707.
    """
    # Not `resolve`, which fails where links go round in circles.
    source, target = (Path(os.path.realpath(p)) for p in (Path(model).expanduser(), path))
    inside = source in target.parents and path.is_file() and path.suffix != ".llmc"
    if source.exists() and (target == source or inside):
        raise LlmcError("LLMC-E0702", f"cannot write {path}: it is a part of the model")
    check_target(path, format)
