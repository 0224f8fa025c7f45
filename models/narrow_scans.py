"""The sizes of a config's scans (Mamba 1 and 2), and what they become in a narrow twin of it.

In: the fields of a config, and the twin's hidden size. Out: the fields to change. A scan's heads
are together as wide as a multiple of the hidden size says, or as its own field says, or are free;
groups of heads that share their inputs stay groups of several, and several groups stay several.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class _Names(NamedTuple):
    """Fields for one thing or another; "" where a family has none."""

    heads: str
    size: str
    expand: str
    groups: str
    width: str = ""


_SCANS = (
    _Names("mamba_n_heads", "mamba_d_head", "mamba_expand", "mamba_n_groups", "mamba_d_ssm"),
    _Names("num_heads", "head_dim", "expand", "n_groups"),
    _Names("mamba_num_heads", "mamba_head_dim", "expand", "n_groups"),
    _Names("n_mamba_heads", "mamba_headdim", "mamba_expand", "mamba_ngroups"),
)
_MOST_GROUPS = 2
_MOST_HEADS = 4
"""Of a scan whose width the hidden size doesn't say: together, or in each of several groups."""


def narrow_scans(fields: Mapping[str, Any], hidden: int, narrow: int) -> dict[str, Any]:
    """The fields of all scans that change where the hidden size goes from `hidden` to `narrow`."""
    new: dict[str, Any] = {}
    for names in _SCANS:
        heads, size, expand = (_number(fields, name) for name in names[:3])
        if not (heads and size and expand):
            continue
        groups = _number(fields, names.groups) or 1
        few = min(groups, _MOST_GROUPS)
        if heads * size == expand * hidden:
            count, size = _heads_of(expand * narrow, size, few, heads)
        else:
            count = few * min(heads // groups, _MOST_HEADS // few)
        new |= {names.heads: count, names.size: size}
        if names.groups in fields:
            new[names.groups] = few
        if names.width and _number(fields, names.width):
            new[names.width] = count * size
    return new


def _heads_of(width: int, size: int, groups: int, heads: int) -> tuple[int, int]:
    """How many heads of what size are `width` together: of the old size where that is several."""
    count = width // size
    if width % size == 0 and count > groups and count % groups == 0:
        return count, size
    count = groups * max(1, min(heads, _MOST_HEADS) // groups)
    return count, width // count


def _number(fields: Mapping[str, Any], name: str) -> int:
    """A size, or 0."""
    value = fields.get(name)
    return value if type(value) is int and value > 0 else 0
