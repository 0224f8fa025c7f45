"""The state kinds: one file each, one row here."""

from __future__ import annotations

from ...artifact.manifest import CacheGroup
from ..graph import Graph
from ..state import StateKind
from .latent import LATENT
from .paged import PAGED
from .slots import SLOTS

__all__ = ["KINDS", "LATENT", "PAGED", "SLOTS", "cache_groups"]

KINDS: dict[str, StateKind] = {kind.name: kind for kind in (PAGED, SLOTS, LATENT)}
"""By the names that graph text has for them."""


def cache_groups(graph: Graph, block_size: int) -> list[CacheGroup]:
    """A lowered graph's groups as the manifest states them."""
    return [KINDS[group.kind].cache_group(group, block_size) for group in graph.groups]
