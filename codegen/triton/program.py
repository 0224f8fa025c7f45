"""A GPU program in the making: where every value lies, and the launches so far.

In: a graph in phase SERVING, node by node, through the emitters (`emit_*.py`). Out: launches whose
operands name buffers, a schedule for the memory planner, and the layout of the memory that the
host sees (`step`, `kept`). Which kernel a launch takes is decided later, for each machine
(`plan.py`); nothing here knows one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...artifact.launch_plan import Number, Pointer, Region, Size, Space
from ...artifact.manifest import CacheGroup, Limits
from ...base.errors import LlmcError
from ...ir.graph import Graph, Node, Value
from ...ir.plan import ALIGNMENT, Access, Buffer, Schedule, Step
from ...ir.roles import State, StepArray, Table
from ...ir.scalar import scalar_of
from ...ir.states import cache_groups
from ...ir.types import Dim, DType, Sym, TensorType, numel
from ...weights.table import WeightTable
from ..views import Storage, View, whole
from .forms import Form, forms_of
from .normed_rows import NormedRows
from .operands import POINTER, Choose, Operand, PlannedLaunch, extent
from .prologues import Prologues, plan_prologues
from .stored_types import stored_types
from .tile_table import TileRow

STEP_ALIGNMENT = 256
BLOCKS = Sym("B")


@dataclass(frozen=True, slots=True)
class External:
    """Memory outside the arena: bytes from `offset` on of a space."""

    space: Space
    offset: int
    group: int = 0


@dataclass(frozen=True, slots=True)
class PoolPlace:
    """Where a site's keys and values lie: `offset` bytes into every block of its group."""

    group: int
    offset: int
    nbytes: int
    block_bytes: int


@dataclass(slots=True)
class Program:
    """What has been emitted so far.

    `origins`: the nodes that each launch is of (none: of the step itself). `compute`: what
    matrices are multiplied in. `columns`: of block tables. `normed`: what norms read that linear
    layers compute for few rows. `tiles`: a table that goes before the package's own; rows may be
    added until launches choose their kernels.
    """

    graph: Graph
    limits: Limits
    weights: WeightTable
    compute: DType
    batch_invariant: bool = True
    tiles: list[TileRow] = field(default_factory=list)
    launches: list[PlannedLaunch] = field(default_factory=list)
    sampling: list[PlannedLaunch] = field(default_factory=list)
    origins: list[tuple[Node, ...]] = field(default_factory=list)
    schedule: Schedule = field(default_factory=lambda: Schedule("step"))
    views: dict[Value, View] = field(default_factory=dict)
    externals: dict[str, External] = field(default_factory=dict)
    step: dict[str, Region] = field(default_factory=dict)
    kept: dict[str, Region] = field(default_factory=dict)
    groups: list[CacheGroup] = field(default_factory=list)
    stored: dict[Value, DType] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()
    prologues: Prologues = field(default_factory=Prologues)
    normed: dict[Node, NormedRows] = field(default_factory=dict)
    _placed: dict[Value, Storage] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.groups = cache_groups(self.graph, self.limits.block_size)
        self.stored = stored_types(self.graph, self.compute)
        self.prologues = plan_prologues(self.graph, self.stored, gathers=self.batch_invariant)
        limits = self.limits
        sizes = {
            "token_ids": limits.max_tokens,
            "positions": limits.max_tokens,
            "query_start": limits.max_sequences + 1,
            "context_len": limits.max_sequences,
            "logits_rows": limits.max_logits_rows,
        }
        tables = {
            f"table.{g}": limits.max_sequences * self.columns for g in range(len(self.groups))
        }
        for name, count in (sizes | tables).items():
            self._reserve("step", self.step, name, 4 * count)
        for value in self.graph.inputs:
            self._bind_input(value)

    @property
    def node(self) -> Node | None:
        """The node that is being emitted; of several that become one launch, the last."""
        return self.nodes[-1] if self.nodes else None

    # ---- memory ---------------------------------------------------------------------------

    @property
    def columns(self) -> int:
        """Columns of every block table."""
        return -(-self.limits.max_context // self.limits.block_size)

    @property
    def forms(self) -> tuple[Form, ...]:
        """For how many rows launches choose their kernels."""
        return forms_of(self.limits, self.batch_invariant)

    def capacity(self, dim: Dim) -> int:
        """The largest value of a dimension."""
        if isinstance(dim, int):
            return dim
        limits = self.limits
        most = {
            "T": limits.max_tokens,
            "S": limits.max_sequences,
            "S1": limits.max_sequences + 1,
            "R": limits.max_logits_rows,
        }
        return most[dim.name] * dim.scale

    def fresh(self, type: TensorType) -> View:
        """A new buffer of the arena for a value of `type`."""
        name = f"b{len(self.schedule.buffers)}"
        nbytes = self.capacity(numel(type.shape)) * type.dtype.itemsize
        self.schedule.buffers[name] = Buffer(name, max(nbytes, 1))
        return whole(Storage(name, type.dtype, numel(type.shape)), type)

    def keep(self, name: str, type: TensorType) -> View:
        """Memory that is zeroed once and outlives steps, under a name of its own."""
        if name not in self.kept:
            nbytes = self.capacity(numel(type.shape)) * type.dtype.itemsize
            self._reserve("kept", self.kept, name, nbytes)
        return whole(Storage(name, type.dtype, numel(type.shape), external=True), type)

    def _reserve(self, space: Space, regions: dict[str, Region], name: str, nbytes: int) -> None:
        last = max((r.offset + r.nbytes for r in regions.values()), default=0)
        offset = -(-last // STEP_ALIGNMENT) * STEP_ALIGNMENT
        regions[name] = Region(offset, nbytes)
        self.externals[name] = External(space, offset)

    def _bind_input(self, value: Value) -> None:
        """Step arrays and tables by their roles; pools are found by their sites."""
        role = value.role
        if isinstance(role, Table):
            assert role.group is not None
            self._bind(value, f"table.{role.group}")
        elif isinstance(role, StepArray) and role is not StepArray.START:
            self._bind(value, role.value)
        elif not isinstance(role, State):
            raise self.refuse(f"graph input {value.name}")

    def _bind(self, value: Value, name: str) -> None:
        shape = tuple(self.columns if d == BLOCKS else d for d in value.type.shape)
        storage = Storage(name, value.type.dtype, numel(shape), external=True)
        self.views[value] = whole(storage, value.type.with_shape(shape))

    # ---- values ---------------------------------------------------------------------------

    def view(self, value: Value) -> View:
        """Where `value` can be read element by element."""
        known = self.views.get(value)
        if known is None:
            known = self.views[value] = self._constant_view(value)
        return known

    def _constant_view(self, value: Value) -> View:
        if not value.is_constant:
            raise self.refuse(f"{value} is not a tensor that this op can read")
        number = scalar_of(value)
        if number is not None:
            return View(None, value.type.dtype, (), (), literal=repr(number))
        if value.type.dtype not in POINTER:
            raise self.refuse(f"a constant in format {value.type.dtype} read element by element")
        name = f"weight.{len(self.externals)}"
        self.externals[name] = External("weights", self.weights.plain(value).offset)
        return whole(Storage(name, value.type.dtype, numel(value.type.shape), True), value.type)

    def stored_type(self, value: Value) -> DType:
        """The element type in which a result lies in memory."""
        return self.stored.get(value, value.type.dtype)

    def result(self, value: Value) -> View:
        """Where the current node's result is to be written."""
        placed = self._placed.pop(value, None)
        type = value.type.with_dtype(self.stored_type(value))
        self.views[value] = view = whole(placed, type) if placed else self.fresh(type)
        return view

    def place(self, value: Value, view: View) -> None:
        """Have a later result written to memory that is there already."""
        assert view.storage is not None
        self._placed[value] = view.storage

    # ---- operands -------------------------------------------------------------------------

    def read(self, view: View | Value, *, early: bool = False) -> Operand:
        """A pointer to the first element of what a kernel reads."""
        return self._pointer(view, "r", early)

    def write(self, view: View | Value) -> Operand:
        """A pointer to the first element of what a kernel writes."""
        return self._pointer(view, "w")

    def update(self, view: View | Value) -> Operand:
        """A pointer to what a kernel reads and writes."""
        return self._pointer(view, "rw")

    def _pointer(self, view: View | Value, access: str, early: bool = False) -> Operand:
        if isinstance(view, Value):
            view = self.view(view)
        storage = view.storage
        if storage is None:
            raise self.refuse("a number where a kernel takes a tensor")
        size = storage.dtype.itemsize
        start, nbytes = view.offset * size, self._bytes_of(storage) - view.offset * size
        outside = self.externals.get(storage.name)
        space: Space = outside.space if outside else "arena"
        offset = outside.offset + start if outside else start
        early = early or space == "weights"
        argument = Pointer(space, offset, nbytes, access, early=early)  # type: ignore[arg-type]
        return Operand(POINTER[storage.dtype], argument, "" if outside else storage.name)

    def _bytes_of(self, storage: Storage) -> int:
        for regions in (self.step, self.kept):
            if storage.name in regions:
                return regions[storage.name].nbytes
        if storage.name in self.schedule.buffers:
            return self.schedule.buffers[storage.name].nbytes
        return self.capacity(storage.numel) * storage.dtype.itemsize

    def section(self, weight: Value, index: int, type: str) -> Operand:
        """A pointer, of Triton's `type`, to section `index` of a weight in the target's layout."""
        offset, nbytes = self.weights.packed(weight).sections[index]
        return Operand(type, Pointer("weights", offset, nbytes, "r", early=True))

    def pool(self, value: Value) -> PoolPlace:
        """The part of each block that holds the keys and values of a state value's site."""
        state = value.state
        assert state is not None, f"{value} is no state"
        assert isinstance(state.role, State)
        site = state.role.site
        index = next(i for i, group in enumerate(self.graph.groups) if site in group.sites)
        group = self.groups[index]
        nbytes = group.bytes_per_block // group.layers
        place = self.graph.groups[index].sites.index(site)  # type: ignore[arg-type]
        return PoolPlace(index, place * nbytes, nbytes, group.bytes_per_block)

    def pool_pointer(self, value: Value, access: str, type: str) -> Operand:
        """A pointer to a site's part of the group's first block."""
        place = self.pool(value)
        pointer = Pointer("cache", place.offset, place.nbytes, access, place.group)  # type: ignore[arg-type]
        return Operand(type, pointer)

    def size(self, dim: Dim) -> Operand:
        """A size of the step, i32."""
        return Operand("i32", Size(extent(dim)))

    def number(self, value: float, type: str = "f32") -> Operand:
        """A number, `f32` or `i32`."""
        name = {"f32": "fp32", "i32": "i32", "i64": "i64"}[type]
        return Operand(name, Number(value, type))  # type: ignore[arg-type]

    # ---- launches -------------------------------------------------------------------------

    def launch(
        self,
        function: str,
        operands: Mapping[str, Operand],
        choose: Choose,
        *,
        source: str = "",
        in_place: Sequence[tuple[View, View]] = (),
    ) -> None:
        """Add a launch of `module.function` in `kernels/` (of `function` in `source`, if given).

        `operands` by the kernel's parameters, in their order. `in_place`: pairs (written, read)
        that may be the same memory.
        """
        launch = PlannedLaunch(self._label(), function, dict(operands), choose, source)
        self.launches.append(launch)
        self.origins.append(self.nodes)
        pairs = [(a.storage.name, b.storage.name) for a, b in in_place if a.storage and b.storage]
        self.schedule.steps.append(
            Step(launch.label, _accesses(operands, "r"), _accesses(operands, "w"), tuple(pairs))
        )

    def _label(self) -> str:
        if self.node is None:
            return "step"
        mnemonic = self.node.op.mnemonic
        return f"{mnemonic} {self.node.scope}" if self.node.scope else mnemonic

    def refuse(self, what: str) -> LlmcError:
        """LLMC-E0401 for something that this target can't do, with the op and where it is from."""
        node = self.node
        if node is None:
            return LlmcError("LLMC-E0401", f"the triton target can't do this: {what}")
        place = f"{node.scope or 'the model'}{f', {node.source}' if node.source else ''}"
        return LlmcError(
            "LLMC-E0401", f"the triton target can't do {node.op.mnemonic} in {place}: {what}"
        )


def _accesses(operands: Mapping[str, Operand], kind: str) -> tuple[Access, ...]:
    """Buffers of the arena that are read (`r`) or written (`w`), each once."""
    names = [
        operand.buffer
        for operand in operands.values()
        if operand.buffer
        and isinstance(operand.argument, Pointer)
        and kind in operand.argument.access
    ]
    return tuple(Access(name) for name in dict.fromkeys(names))


def total_bytes(regions: Mapping[str, Region]) -> int:
    """Bytes of a space that holds these regions."""
    last = max((r.offset + r.nbytes for r in regions.values()), default=0)
    return -(-last // ALIGNMENT) * ALIGNMENT
