"""What a sequence keeps between steps: the contract of a state kind.

In: an op of the model that relates tokens with earlier ones (a *mixer*). Out: inputs for what its
site keeps, and the ops that write and read them. `passes/lower_state.py` is the one algorithm over
all kinds; each kind is a file in `ir/states/`. Sites of equal geometry form a group, whose memory
the runtime hands out: block by block, or a slot for each sequence.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol

from ..artifact.manifest import CacheGroup
from .graph import Graph, Node, StateGroup, Value
from .ops.base import Op
from .roles import StepArray
from .types import DType, Env, TensorType


@dataclass(frozen=True)
class Site:
    """The inputs that one mixer works on.

    `arrays`: those of the step that its kind asks for; `table`: where each sequence's state lies,
    if the kind has tables; `parts`: the tensors that it keeps, in the kind's order.
    """

    arrays: tuple[Value, ...]
    table: Value | None
    parts: tuple[Value, ...]


class StateKind(Protocol):
    """How the state of one kind of mixer is described, written, read and allocated."""

    @property
    def name(self) -> str:
        """As graph text has it."""
        ...

    @property
    def mixer(self) -> type[Op]:
        """The op whose state this is."""
        ...

    @property
    def geometry(self) -> type[Any]:
        """A frozen dataclass of numbers and element types: what a site keeps."""
        ...

    @property
    def arrays(self) -> tuple[tuple[StepArray, TensorType], ...]:
        """What reading and writing must know of the step."""
        ...

    @property
    def table(self) -> TensorType | None:
        """The type of a group's table, if each of its groups has one."""
        ...

    @property
    def uniform_query(self) -> bool:
        """Whether row s of a step is slot s, so that all sequences bring equally many tokens."""
        ...

    def geometry_of(self, mixer: Node, cache: DType) -> Any:
        """What the site of `mixer` keeps, elements stored as `cache`."""
        ...

    def parts(self, group: StateGroup) -> dict[str, TensorType]:
        """The tensors of a site by name, first dimension: blocks or slots."""
        ...

    def content(self, mixer: Node) -> Hashable:
        """Equal for mixers that keep the same: they share a site, which is written once."""
        ...

    def write(self, graph: Graph, mixer: Node, site: Site) -> tuple[Value, ...]:
        """Add, before `mixer`, what updates the site; the parts as they are then."""
        ...

    def read(
        self, graph: Graph, mixer: Node, site: Site, parts: tuple[Value, ...]
    ) -> Value | tuple[Value, ...]:
        """Add, before `mixer`, what computes its result (or results) from the updated `parts`."""
        ...

    def sizes(self, group: StateGroup, count: int, block_size: int) -> Env:
        """The symbols in the parts' types, for `count` blocks or slots of `block_size` tokens."""
        ...

    def cache_group(self, group: StateGroup, block_size: int) -> CacheGroup | None:
        """The group as the manifest states it: who sees what, and bytes per block. None if it
        grows with no token: then its parts lie in the sequence's slot."""
        ...
