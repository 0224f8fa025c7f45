"""In-place operators of a trace, read as functional ones where that is proven to be the same.

    scores.div_(total); y = scores * 2    =>    new = div(scores, total); y = new * 2
    keys[..., :8].copy_(part)             =>    new = slice_scatter(keys, part, -1, 0, 8)

`torch.export` keeps `div_` as it stands. Making the program functional with `run_decompositions`
traces all of it once more, for one operator a layer; here the importer gets the rewrite instead: a
node that is read after a write means the written value. That is right if nothing else that lives in
the same memory is read later, which is checked for every write. Programs in which it can't be shown
are for `run_decompositions`, so a doubt costs time, never a result.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Node

from ...base.errors import LlmcError
from .aten import ATEN

SCATTERS = {"aten::slice": "slice_scatter", "aten::select": "select_scatter"}
"""Views that a write is carried through, and what puts the view's new values into its base."""
_FRESH = ("aten::linear", "aten::matmul", "aten::softmax", "aten::log_softmax", "aten::layer_norm")
"""Composite operators that are known to give new memory; the schemas of others don't tell."""
_IDENTITIES = ("aten::dropout", "aten::feature_dropout", "aten::type_as")
"""Operators that may return their very input, where torch's decomposition takes it for a copy."""


class Unproven(Exception):
    """A write that can't be shown to equal its functional form: the node, and why."""

    def __init__(self, node: Node, why: str) -> None:
        super().__init__(why)
        self.node = node


@dataclass(frozen=True)
class Write:
    """What an in-place node does: it gives `tensor` a new value, and so do its bases.

    `tensor` is the node that made the tensor, whose value later reads mean; `views` are views, the
    first of them `tensor`, each of which passes its new value on to its base (`base_of`).
    """

    tensor: Node
    views: tuple[Node, ...]


Writes = Mapping[Node, Write]


def tensor_of(node: Node, writes: Writes) -> Node:
    """The node that made the tensor that `node` returns: itself, unless it is an in-place one."""
    write = writes.get(node)
    return node if write is None else write.tensor


def base_of(view: Node, writes: Writes) -> Node:
    """The node that made the tensor that `view` is a view of."""
    base = view.args[0]
    assert isinstance(base, Node)
    return tensor_of(base, writes)


def is_write(node: Node) -> bool:
    """Whether the node's operator writes values into one of its arguments."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target is torch.ops.aten.detach_.default:
        return False
    return target._schema.is_mutable


def functional_name(target: torch._ops.OpOverload) -> str | None:
    """`div` for `aten::div_`: the operator that computes what `target` writes, if there is one with
    the same arguments that the importer knows.
    """
    namespace, name = target._schema.name.split("::")
    plain = name.removesuffix("_")
    if namespace != "aten" or plain == name or plain not in ATEN:
        return None
    if torch.Tag.inplace_view in target.tags or not _writes_first_only(target):
        return None
    packet = getattr(torch.ops.aten, plain, None)
    overload = getattr(packet, target._overloadname, None)
    if overload is None or len(overload._schema.returns) != 1:
        return None
    wanted = [(a.name, a.kwarg_only) for a in target._schema.arguments]
    given = [(a.name, a.kwarg_only) for a in overload._schema.arguments]
    return plain if wanted == given and not overload._schema.is_mutable else None


def _writes_first_only(target: torch._ops.OpOverload) -> bool:
    written = [a.alias_info is not None and a.alias_info.is_write for a in target._schema.arguments]
    return written[0] and not any(written[1:]) and len(target._schema.returns) == 1


def find_writes(graph: torch.fx.Graph) -> Writes:
    """What each in-place node writes.

    Raises:
        Unproven: a write whose memory is read later under another view, that reaches an input,
            a parameter or a buffer, or that has no functional form which the importer knows.
        LlmcError: LLMC-E0430, such a write of which `run_decompositions` can't be trusted either.
    """
    if not any(map(is_write, graph.nodes)):
        return {}
    memory = _Memory({node: position for position, node in enumerate(graph.nodes)})
    for node in graph.nodes:
        if is_write(node):
            memory.write(node)
        memory.add(node)
    return memory.writes


def is_proven(program: torch.export.ExportedProgram) -> bool:
    """Whether the importer can read the program as it is: its writes, if any, are proven, and so is
    that each of its operators is known (an unknown one may be made of known ones).

    Raises:
        LlmcError: LLMC-E0430, see `find_writes`.
    """
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    literals = _literals(program)
    unknown = [node for node in calls if not _is_known(node) and node not in literals]
    if not any(map(is_write, calls)):
        return not any(map(_is_composite, unknown))
    if unknown:
        return False
    try:
        find_writes(program.graph)
    except Unproven:
        return False
    return True


def decomposed(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program made functional by torch, which traces it again.

    Raises:
        LlmcError: LLMC-E0430, it changes a buffer, a parameter or an input: a compiled step keeps
            nothing but the attention cache.
    """
    functional = program.run_decompositions({})
    outputs = functional.graph_signature.output_specs
    written = [str(spec.target) for spec in outputs if spec.kind.name.endswith("MUTATION")]
    if written:
        raise LlmcError("LLMC-E0430", f"the model's forward pass changes {', '.join(written)}")
    return functional


def _literals(program: torch.export.ExportedProgram) -> set[Node]:
    """Tensors that model code spells out and what is made of these alone: any operator will do."""
    given = program.graph_signature.inputs_to_lifted_tensor_constants
    found: set[Node] = set()
    for node in program.graph.nodes:
        inputs = node.all_input_nodes
        if node.name in given or (inputs and all(n in found for n in inputs)):
            found.add(node)
    return found


def _is_composite(node: Node) -> bool:
    """Whether torch can say the node's operator in other ones."""
    target: Any = node.target
    composite = torch._C.DispatchKey.CompositeImplicitAutograd
    return target.has_kernel_for_dispatch_key(composite)


def _is_known(node: Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload) or is_write(node):
        return True
    namespace, name = node.target._schema.name.split("::")
    return namespace == "llmc" or name in ATEN or name == "sym_size"


@dataclass
class _Memory:
    """Which nodes may share memory, as far as the walk over the graph has come.

    A region is a storage of the trace, with what may be the same one; a node that returns several
    tensors is in several.
    """

    positions: Mapping[Node, int]
    writes: dict[Node, Write] = field(default_factory=dict)
    region_of: dict[int, list[int]] = field(default_factory=dict)
    nodes_in: dict[int, list[Node]] = field(default_factory=dict)

    def add(self, node: Node) -> None:
        """Note the memory of the node's results."""
        own = [self._region(storage) for storage in _storages(node)]
        for storage in _storages(node):
            self.nodes_in[storage].append(node)
        for argument in node.all_input_nodes:
            if _may_alias(node, argument):
                own += [self._region(storage) for storage in _storages(argument)]
                self._join(own)

    def write(self, node: Node) -> None:
        """Check a write, and note what it does."""
        target: Any = node.target
        if functional_name(target) is None:
            raise Unproven(node, "has no functional form that is known")
        tensor: Any = node.args[0]
        first = tensor_of(tensor, self.writes)
        if not _storages(tensor):
            raise Unproven(node, "writes memory that the trace doesn't know")
        if self._copies_to_itself(node):
            self.writes[node] = Write(first, ())
            return
        views, rebound = self._views(node, first)
        sharing = list(self._sharing(tensor))
        for other in sharing:
            made = tensor_of(other, self.writes)
            if _is_copied(other):
                continue
            if other.op != "call_function":
                raise Unproven(node, f"writes {other}, which the program is given")
            if made not in rebound and self._is_read(other, node):
                self._refuse_identities(node, sharing)
                raise Unproven(node, f"writes memory that is read through {other} later")
            if made is not first and node in other.users:
                raise Unproven(node, f"writes what it reads through {other}")
        self.writes[node] = Write(first, views)

    def _copies_to_itself(self, node: Node) -> bool:
        """`x[1:] += y` ends by copying the part of `x` to where it lies already."""
        target: Any = node.target
        if target._schema.name != "aten::copy_":
            return False
        to, of = (tensor_of(n, self.writes) if isinstance(n, Node) else n for n in node.args[:2])
        if to is of:
            return True
        if not (isinstance(of, Node) and isinstance(to, Node)) or to.target != of.target:
            return False
        return (
            _is_scatterable(to)
            and base_of(to, self.writes) is base_of(of, self.writes)
            and to.args[1:] == of.args[1:]
        )

    def _refuse_identities(self, node: Node, sharing: list[Node]) -> None:
        names = [
            n.target._schema.name for n in sharing if isinstance(n.target, torch._ops.OpOverload)
        ]
        if any(name in _IDENTITIES for name in names):
            raise LlmcError(
                "LLMC-E0430", f"{node.target} writes what an operator may have returned unchanged"
            )

    def _views(self, node: Node, first: Node) -> tuple[tuple[Node, ...], set[Node]]:
        """The views through which a write to `first` reaches the bases that are read later, and all
        tensors that so get a new value.
        """
        views: list[Node] = []
        needed, view = 0, first
        while _is_scatterable(view):
            views.append(view)
            view = base_of(view, self.writes)
            if any(self._is_read(n, node) for n in self._same(view)):
                needed = len(views)
        return tuple(views[:needed]), {first, *(base_of(v, self.writes) for v in views[:needed])}

    def _same(self, tensor: Node) -> list[Node]:
        return [tensor, *(n for n, write in self.writes.items() if write.tensor is tensor)]

    def _is_read(self, node: Node, by: Node) -> bool:
        """Whether anything from `by` on reads `node`."""
        return any(self.positions[user] >= self.positions[by] for user in node.users)

    def _region(self, storage: int) -> list[int]:
        self.nodes_in.setdefault(storage, [])
        return self.region_of.setdefault(storage, [storage])

    def _join(self, regions: list[list[int]]) -> None:
        joined = list(dict.fromkeys(storage for region in regions for storage in region))
        self.region_of.update(dict.fromkeys(joined, joined))

    def _sharing(self, tensor: Node) -> Iterator[Node]:
        for storage in _storages(tensor):
            for member in self._region(storage):
                yield from self.nodes_in[member]


def _is_scatterable(node: Node) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or node.kwargs:
        return False
    return target._schema.name in SCATTERS


def _is_copied(node: Node) -> bool:
    """Whether the node is the value of a `torch.tensor` call, of which the model got a copy."""
    copies = [user.target is torch.ops.aten.lift_fresh_copy.default for user in node.users]
    return node.op == "placeholder" and copies == [True]


def _storages(node: Node) -> list[int]:
    """Identities of the memory behind the node's results, as the trace allocated it."""
    value = node.meta.get("val")
    tensors = value if isinstance(value, list | tuple) else [value]
    return [t.untyped_storage()._cdata for t in tensors if isinstance(t, torch.Tensor)]


def _may_alias(node: Node, argument: Node) -> bool:
    """Whether a result may be a view of `argument` for all that its operator says."""
    target = node.target
    if target is operator.getitem:
        return False  # by memory alone: parts of a tuple may be separate
    if not isinstance(target, torch._ops.OpOverload):
        return isinstance(argument.meta.get("val"), torch.Tensor)
    schema = target._schema
    if any(a.alias_info is not None for a in schema.arguments):
        return _is_annotated(node, argument)
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(
        target.name(), "CompositeImplicitAutograd"
    )
    return composite and schema.name not in _FRESH


def _is_annotated(node: Node, argument: Node) -> bool:
    target: Any = node.target
    schema = target._schema
    given = dict(zip((a.name for a in schema.arguments), node.args, strict=False)) | node.kwargs
    return any(
        a.alias_info is not None and argument in _nodes(given.get(a.name)) for a in schema.arguments
    )


def _nodes(given: Any) -> list[Node]:
    given = given if isinstance(given, list | tuple) else [given]
    return [x for x in given if isinstance(x, Node)]
