"""The state kinds: one file each, one row here."""

from __future__ import annotations

from ...artifact.manifest import CacheGroup, StateSlots, make_state_slots
from ..graph import Graph
from ..ops import (
    CausalConv,
    CausalConvUpdate,
    LinearRecurrence,
    LinearRecurrenceUpdate,
    Recurrence,
    RecurrenceUpdate,
    SelectiveScan,
    SelectiveScanUpdate,
)
from ..state import StateKind
from .key_index import INDEX
from .latent import LATENT
from .paged import PAGED
from .slot_state import SlotState, is_slot_part
from .slots import SLOTS

__all__ = [
    "INDEX",
    "KINDS",
    "LATENT",
    "PAGED",
    "SLOTS",
    "STATEFUL",
    "cache_groups",
    "is_slot_part",
    "state_slots",
]

STATEFUL: tuple[StateKind, ...] = (
    SlotState("convolution", CausalConv, CausalConvUpdate),
    SlotState("recurrence", LinearRecurrence, LinearRecurrenceUpdate),
    SlotState("scan", SelectiveScan, SelectiveScanUpdate),
    SlotState("generic", Recurrence, RecurrenceUpdate),
)
"""What grows with no token."""

KINDS: dict[str, StateKind] = {kind.name: kind for kind in (PAGED, SLOTS, LATENT, INDEX, *STATEFUL)}
"""By the names that graph text has for them."""


def cache_groups(graph: Graph, block_size: int) -> list[CacheGroup]:
    """A lowered graph's groups as the manifest states them, but those without one."""
    found = (KINDS[group.kind].cache_group(group, block_size) for group in graph.groups)
    return [group for group in found if group is not None]


def state_slots(graph: Graph) -> StateSlots | None:
    """What a slot of a lowered graph holds, by site; None if its state all grows with tokens."""
    parts = [
        (site, name, tuple(dim for dim in type.shape if isinstance(dim, int)))
        for group in graph.groups
        if (kind := KINDS[group.kind]) in STATEFUL
        for site in group.sites
        for name, type in kind.parts(group).items()
    ]
    return make_state_slots(sorted(parts)) if parts else None
