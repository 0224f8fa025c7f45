"""A target as a compile configures it, from a few words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmc.codegen.contract import Request
from llmc.codegen.registry import compile_options, find_backend


def configured(
    target: str,
    scheme: str = "f32",
    kv_cache: str | None = None,
    *,
    levels: Sequence[str] = (),
    exact: bool = False,
    **options: Any,
) -> Any:
    """The backend's own configuration: `levels` are words, or names if `exact`."""
    asked = compile_options(target, options)
    return find_backend(target).configure(Request(scheme, kv_cache, asked, tuple(levels), exact))
