"""The graph: three slotted classes, `Graph`, `Node`, `Value`.

Producer and uses are kept consistent here and nowhere else: passes call `append`,
`insert_before`, `replace_uses`, `set_inputs` and `erase`, and never touch a
value's `uses` or a node's `inputs`. Constants are values with a weight recipe
instead of a producer; no bytes are held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .ops.base import Op
from .phase import Phase
from .roles import Role, State
from .types import TensorType, infer_types

_BEFORE = 64
"""How far before the last place a pass may look for a node without a search from the start."""


class Value:
    """One tensor: a graph input (of a `role`), a constant (of a `recipe`) or a node's result."""

    __slots__ = ("_uses", "name", "producer", "recipe", "role", "type")

    def __init__(
        self,
        type: TensorType,
        *,
        name: str = "",
        producer: Node | None = None,
        recipe: Any = None,
        role: Role | None = None,
    ) -> None:
        self.type = type
        self.name = name
        self.producer = producer
        self.recipe = recipe
        self.role = role
        self._uses: dict[Node, None] = {}

    @property
    def users(self) -> tuple[Node, ...]:
        """The nodes that read this value, each once, in the order they began to."""
        return tuple(self._uses)

    def is_read_by(self, node: Node) -> bool:
        return node in self._uses

    @property
    def is_constant(self) -> bool:
        return self.recipe is not None

    @property
    def index(self) -> int:
        """Which output of its producer this is."""
        assert self.producer is not None
        return next(i for i, v in enumerate(self.producer.outputs) if v is self)

    @property
    def state(self) -> Value | None:
        """The state input whose memory this is: itself, or what an op in place was given."""
        if self.producer is None:
            return self if isinstance(self.role, State) else None
        places = self.producer.op.in_place
        return self.producer.inputs[places[self.index]].state if self.index < len(places) else None

    def __repr__(self) -> str:
        return f"<Value {self.name or id(self):} {self.type}>"


class Node:
    """One operation. `scope` is the module path, `source` the line of model code it is from."""

    __slots__ = ("inputs", "op", "outputs", "scope", "source")

    def __init__(self, op: Op, inputs: Sequence[Value], scope: str, source: str) -> None:
        self.op = op
        self.inputs: tuple[Value, ...] = tuple(inputs)
        self.scope = scope
        self.source = source
        self.outputs: tuple[Value, ...] = ()

    @property
    def output(self) -> Value:
        """The single output.

        Raises:
            ValueError: the node has several.
        """
        (value,) = self.outputs
        return value

    def __repr__(self) -> str:
        return f"<Node {self.op} at {self.scope}>"


@dataclass
class StateGroup:
    """Sites whose state lives and dies together: same kind, same geometry.

    `sites`: the numbers of the inputs with role `State` that hold it. `kind` is a name in
    `ir/states/`, `geometry` that kind's own description of what a site keeps.
    """

    name: str
    kind: str
    geometry: Any
    sites: list[int]


class Graph:
    """Nodes in execution order, with the values that enter and leave.

    `bodies` holds the graphs that `Call` nodes refer to by name (rolled layers);
    `groups` describes what sequences keep between steps, once that is lowered.
    """

    __slots__ = ("_near", "bodies", "groups", "inputs", "name", "nodes", "outputs", "phase")

    def __init__(self, name: str = "main", phase: Phase = Phase.TRACED) -> None:
        self.name = name
        self.phase = phase
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.nodes: list[Node] = []
        self._near = 0
        self.bodies: dict[str, Graph] = {}
        self.groups: list[StateGroup] = []

    def add_input(self, name: str, type: TensorType, role: Role | None = None) -> Value:
        value = Value(type, name=name, role=role)
        self.inputs.append(value)
        return value

    def input_as(self, role: Role) -> Value | None:
        """The input with this role, if there is one."""
        return next((v for v in self.inputs if v.role == role), None)

    @property
    def vocab_size(self) -> int:
        """Width of the logits, which are the only output."""
        (logits,) = self.outputs
        width = logits.type.shape[-1]
        assert isinstance(width, int)
        return width

    @property
    def state_inputs(self) -> list[Value]:
        """Inputs that outlive a step: the parts of all sites, in order."""
        return [v for v in self.inputs if isinstance(v.role, State)]

    @staticmethod
    def constant(name: str, recipe: Any, type: TensorType) -> Value:
        """A constant; it belongs to the graph for as long as a node reads it."""
        return Value(type, name=name, recipe=recipe)

    def append(self, op: Op, inputs: Sequence[Value], scope: str = "", source: str = "") -> Node:
        """Add a node at the end; output types come from the op's type rule.

        Raises:
            TypeError, ValueError: the op refuses these input types.
        """
        return self._insert(len(self.nodes), op, inputs, scope, source)

    def insert_before(
        self, anchor: Node, op: Op, inputs: Sequence[Value], like: Node | None = None
    ) -> Node:
        """Add a node right before `anchor`; it takes scope and source of `like` (or anchor)."""
        like = like or anchor
        return self._insert(self._position(anchor), op, inputs, like.scope, like.source)

    def insert_after(
        self, anchor: Node, op: Op, inputs: Sequence[Value], like: Node | None = None
    ) -> Node:
        like = like or anchor
        return self._insert(self._position(anchor) + 1, op, inputs, like.scope, like.source)

    def _insert(self, at: int, op: Op, inputs: Sequence[Value], scope: str, source: str) -> Node:
        types = infer_types(op, tuple(v.type for v in inputs))
        node = Node(op, inputs, scope, source)
        node.outputs = tuple(Value(t, producer=node) for t in types)
        for value in node.inputs:
            value._uses[node] = None
        self.nodes.insert(at, node)
        self._near = at
        return node

    def _position(self, node: Node) -> int:
        """Where `node` stands. Passes go forward, so it is looked for near the last place first."""
        try:
            at = self.nodes.index(node, max(self._near - _BEFORE, 0))
        except ValueError:
            at = self.nodes.index(node)
        self._near = at
        return at

    def set_inputs(self, node: Node, inputs: Sequence[Value]) -> None:
        """Give `node` other inputs; its output types must stay what they are."""
        for value in node.inputs:
            value._uses.pop(node, None)
        node.inputs = tuple(inputs)
        for value in node.inputs:
            value._uses[node] = None

    def replace_op(self, node: Node, op: Op, inputs: Sequence[Value] | None = None) -> None:
        """Change op (and inputs) in place and infer the output types again."""
        if inputs is not None:
            self.set_inputs(node, inputs)
        node.op = op
        types = infer_types(op, tuple(v.type for v in node.inputs))
        assert len(types) == len(node.outputs), "replace_op keeps the number of outputs"
        for value, type in zip(node.outputs, types, strict=True):
            value.type = type

    def replace_uses(
        self, old: Value, new: Value, where: Callable[[Node | None], bool] = lambda _: True
    ) -> None:
        """Let readers of `old` for which `where` holds read `new`; None is the graph's outputs."""
        for user in old.users:
            if where(user):
                self.set_inputs(user, [new if v is old else v for v in user.inputs])
        if where(None):
            self.outputs = [new if v is old else v for v in self.outputs]

    def erase(self, node: Node) -> None:
        """Remove a node that nobody reads.

        Raises:
            ValueError: an output is still read.
        """
        if self._is_read(node):
            raise ValueError(f"{node} is still read")
        for value in node.inputs:
            value._uses.pop(node, None)
        del self.nodes[self._position(node)]

    def erase_unread(self, node: Node) -> None:
        """Remove `node` if nothing reads it and it has no effect, then what only it has read."""
        pending = {node: None}
        while pending:
            node, _ = pending.popitem()
            if self._is_read(node) or node.op.has_effect:
                continue
            self.erase(node)
            pending |= {v.producer: None for v in node.inputs if v.producer is not None}

    def _is_read(self, node: Node) -> bool:
        return any(v._uses or v in self.outputs for v in node.outputs)

    def erase_dead(self) -> bool:
        """Remove nodes that nothing reads and that have no effect; True if any was."""
        live_outputs = set(map(id, self.outputs))
        kept: list[Node] = []
        for node in reversed(self.nodes):
            read = any(v._uses or id(v) in live_outputs for v in node.outputs)
            if read or node.op.has_effect:
                kept.append(node)
                continue
            for value in node.inputs:
                value._uses.pop(node, None)
        changed = len(kept) != len(self.nodes)
        self.nodes = kept[::-1]
        return changed

    def constants(self) -> list[Value]:
        """Constants in the order of first use."""
        seen: dict[int, Value] = {}
        for value in self._read_values():
            if value.is_constant:
                seen.setdefault(id(value), value)
        return list(seen.values())

    def _read_values(self) -> Iterator[Value]:
        for node in self.nodes:
            yield from node.inputs
        yield from self.outputs

    def replace_nodes(self, nodes: Iterable[Node]) -> None:
        """Set a new execution order (or a subset whose rest was moved to a body)."""
        keep = list(nodes)
        kept = set(map(id, keep))
        for node in self.nodes:
            if id(node) not in kept:
                for value in node.inputs:
                    value._uses.pop(node, None)
        self.nodes = keep
