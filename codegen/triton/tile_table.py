"""Tables of tiles: rows of `linear_tiles.toml`, or of a user's file that goes before it.

In: TOML. Out: `TileRow`s that are known to be possible; and TOML again.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from functools import cache
from math import log2
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from ...base.errors import LlmcError
from ...ir.types import DType
from ...weights.formats.registry import is_quantized
from .layout import in_panels
from .machines import MACHINES

NEAR = 1.0
"""Largest distance, in factors of two of N and K together, of a row of the table."""
HEIGHTS = (8, 16, 32, 64, 128)
WIDTHS = (32, 64, 128, 256)
MOST_STAGES = 8
_HEADER = "# Tiles of linear layers for `llmc compile --tiles`. See docs/triton.md.\n"

_Size = Annotated[int, Meta(ge=1, le=1 << 31)]


class TileRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tile of BLOCK_N `block_n` for weights [`n`, `k`] in `format` on SM `sm` and up to `block_t`
    rows (128: or any more). `measured`: on what, or "not measured"."""

    sm: int
    format: str
    n: _Size
    k: _Size
    block_t: int
    block_n: int
    num_warps: int
    num_stages: Annotated[int, Meta(ge=1, le=MOST_STAGES)]
    measured: Annotated[str, Meta(min_length=1)]

    @property
    def key(self) -> tuple[int, str, int, int, int]:
        """What a table has one row of."""
        return self.sm, self.format, self.n, self.k, self.block_t


class _Table(Struct, forbid_unknown_fields=True):
    tile: list[TileRow] = []


def parse_tiles(text: str, name: str) -> tuple[TileRow, ...]:
    """The rows of a table; `name` is for messages.

    Raises:
        LlmcError: LLMC-E0205, it is no such table, or a row of it can't be.
    """
    try:
        rows = msgspec.convert(tomllib.loads(text), _Table).tile
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise _wrong(name, str(error).splitlines()[0]) from error
    for number, row in enumerate(rows, 1):
        if (why := _impossible(row)) is not None:
            raise _wrong(name, f"row {number}: {why}")
    return tuple(rows)


def read_tiles(path: Path) -> tuple[TileRow, ...]:
    """The rows of a file. Errors: LLMC-E0205, it can't be read; those of `parse_tiles`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise _wrong(str(path), f"it can't be read: {why}") from error
    return parse_tiles(text, str(path))


def tiles_text(rows: Iterable[TileRow]) -> str:
    """The table as TOML: the same rows give the same text."""
    parts = [_HEADER]
    for row in sorted(rows, key=lambda row: row.key):
        lines = [f"{name} = {_toml(value)}" for name, value in msgspec.structs.asdict(row).items()]
        parts.append("\n[[tile]]\n" + "\n".join(lines) + "\n")
    return "".join(parts)


@cache
def table() -> tuple[TileRow, ...]:
    """The rows of `linear_tiles.toml`."""
    return read_tiles(Path(__file__).with_name("linear_tiles.toml"))


def nearest(
    rows: Sequence[TileRow], sm: int, format: str, n: int, k: int, block_t: int
) -> TileRow | None:
    """The row whose shape is the nearest, if that is near."""

    def distance(row: TileRow) -> float:
        return abs(log2(row.n / n)) + abs(log2(row.k / k))

    key = (sm, format, block_t)
    rows = [row for row in rows if (row.sm, row.format, row.block_t) == key]
    best = min(rows, key=distance, default=None)
    return best if best is not None and distance(best) <= NEAR else None


def widths_of(sm: int, dtype: DType) -> tuple[int, ...]:
    """What BLOCK_N may be without another kind of instruction, see `linear_tiles.py`."""
    whole = MACHINES[sm].multiplies_from_shared and not in_panels(dtype)
    return WIDTHS[1:] if whole else WIDTHS


def warps_of(dtype: DType, block_n: int, block_t: int) -> tuple[int, ...]:
    """How many warps may share such a tile: no spilled sums, no warp without rows of its own."""
    panels = in_panels(dtype)
    sums = block_n * block_t * (4 if panels else 1)  # of panels, those of 4 blocks side by side
    most = 64 if panels else 128  # registers of a thread
    four = (4,) if sums <= most * 128 else ()
    large = block_n >= 128 or block_n * block_t >= 64 * (64 if panels else 128)
    return (*four, 8) if large and sums <= most * 256 else four


def _impossible(row: TileRow) -> str | None:
    """Why a row can't be."""
    try:
        dtype = DType(row.format)
    except ValueError:
        dtype = DType.BOOL
    if not (dtype.is_float or is_quantized(dtype)):
        return f"no layer has weights in format {row.format!r}"
    if row.sm not in MACHINES:
        return f"there are no kernels for SM {row.sm}, only for {_list(MACHINES)}"
    if row.block_t not in HEIGHTS:
        return f"block_t is one of {_list(HEIGHTS)}, not {row.block_t}"
    if row.block_n not in (widths := widths_of(row.sm, dtype)):
        return f"block_n is one of {_list(widths)} here, not {row.block_n}"
    warps = warps_of(dtype, row.block_n, row.block_t)
    if row.num_warps not in warps:
        return f"num_warps is one of {_list(warps) or 'none'} for this tile, not {row.num_warps}"
    return None


def _list(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))


def _toml(value: str | int) -> str:
    """A basic string's escapes are those of JSON."""
    return msgspec.json.encode(value).decode()


def _wrong(name: str, why: str) -> LlmcError:
    hint = "docs/triton.md says what a table of tiles has"
    return LlmcError("LLMC-E0205", f"tiles of {name}: {why}", hint)
