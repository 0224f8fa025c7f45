"""From the name of a target to its backend; every row of `artifact/targets.py` has one."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import msgspec

from ..artifact.targets import TARGETS, CompileOptions
from ..base.errors import LlmcError
from .contract import Backend


def find_backend(target: str) -> Backend:
    """The backend of a target: `BACKEND` in its folder's `backend.py`.

    Raises:
        LlmcError: LLMC-E0203, no such target.
    """
    if target not in TARGETS:
        raise LlmcError(
            "LLMC-E0203", f"unknown target {target!r}", f"use one of {', '.join(TARGETS)}"
        )
    return import_module(f".{TARGETS[target].folder}.backend", __package__).BACKEND


def compile_options(target: str, given: Mapping[str, Any]) -> CompileOptions:
    """What was given for a target, checked.

    Raises:
        LlmcError: LLMC-E0205, an unknown option, or a value that it can't have.
    """
    try:
        return msgspec.convert(dict(given), TARGETS[target].request)
    except msgspec.ValidationError as error:
        known = ", ".join(TARGETS[target].request.__struct_fields__) or "none"
        raise LlmcError(
            "LLMC-E0205", f"options of target {target}: {error}", f"its options are: {known}"
        ) from error
