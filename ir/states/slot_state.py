"""State of a fixed size: one slot a sequence, which holds what all such mixers of a model keep.

    mixer(x, …)  =>  state…, y = mixer_update(x, …, state…, query_start, context_len, state_slot)

A kind for each mixer; sites whose parts have equal shapes are a group. All groups share the slots,
so one number a sequence says where its state lies, and the manifest lists one slot's parts.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, fields

from ..graph import Graph, Node, StateGroup, Value
from ..ops.stateful import Mixer, Update
from ..roles import StepArray
from ..state import Site
from ..types import DType, Env, S, Sym, TensorType

SLOTS_DIM = Sym("N")
"""Slots that there are."""


def is_slot_part(value: Value) -> bool:
    """Whether a graph input with the role `State` is part of slots, not of blocks."""
    return value.type.shape[0] == SLOTS_DIM


@dataclass(frozen=True)
class SlotGeometry:
    """`shapes`: of each part, what one sequence keeps of one site, in f32."""

    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class SlotState:
    """The kind of one mixer, which `update` computes on slots."""

    name: str
    mixer: type[Mixer]
    update: type[Update]
    geometry = SlotGeometry
    arrays = (
        (StepArray.QUERY_START, TensorType(DType.I32, (Sym("S1"),))),
        (StepArray.CONTEXT_LEN, TensorType(DType.I32, (S,))),
        (StepArray.STATE_SLOT, TensorType(DType.I32, (S,))),
    )
    table = None
    uniform_query = False

    def geometry_of(self, mixer: Node, cache: DType) -> SlotGeometry:
        """The shapes that the op says; states are f32 whatever the cache is."""
        assert isinstance(mixer.op, Mixer)
        return SlotGeometry(mixer.op.state_shapes(*(v.type for v in mixer.inputs)))

    def parts(self, group: StateGroup) -> dict[str, TensorType]:
        """A row for each slot."""
        kept: SlotGeometry = group.geometry
        return {
            part: TensorType(DType.F32, (SLOTS_DIM, *shape))
            for part, shape in zip(self.mixer.parts, kept.shapes, strict=True)
        }

    def content(self, mixer: Node) -> Hashable:
        """Each keeps its own."""
        return id(mixer)

    def write(self, graph: Graph, mixer: Node, site: Site) -> tuple[Value, ...]:
        """The update, whose results are the new state and what the mixer gives."""
        op = self.update(*(getattr(mixer.op, field.name) for field in fields(mixer.op)))
        operands = [*mixer.inputs, *site.parts, *site.arrays]
        return graph.insert_before(mixer, op, operands).outputs

    def read(
        self, graph: Graph, mixer: Node, site: Site, parts: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        """What the update gives behind the new state."""
        return parts[len(self.mixer.parts) :]

    def cache_group(self, group: StateGroup, block_size: int) -> None:
        """None: its parts lie in the sequence's slot."""

    def sizes(self, group: StateGroup, count: int, block_size: int) -> Env:
        """`count` slots."""
        return {SLOTS_DIM.name: count}
