"""One C++ function in the making: its buffers, the view of every value, its steps.

Emitters (`emit_*.py`) add steps: a few lines of C++ with the memory they read and write.
A `Function` knows how values reach it: constants as weights, graph inputs as pointers. The
main graph and bodies differ only there, so bodies are made by the same emitters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ...base.errors import LlmcError
from ...ir.graph import Node, Value
from ...ir.ops import Call
from ...ir.plan import Access, Buffer, Schedule, Step
from ...ir.scalar import scalar_of
from ...ir.types import Dim, DType, Sym, TensorType, numel
from ...weights.table import WeightTable
from ..views import Storage, View, whole
from .traffic import Kernel, Traffic, kernel_name, traffic_of

C_TYPE: dict[DType, str] = {
    DType.F32: "float", DType.BF16: "bf16", DType.F16: "f16", DType.I64: "int64_t",
    DType.I32: "int32_t", DType.I8: "int8_t", DType.U8: "uint8_t", DType.BOOL: "bool",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pool:
    """A part of what one site keeps: its C++ expression and what hazards call it.

    Of paged parts the expression is a pointer into block 0, of others their offset in a slot.
    """

    expression: str
    buffer: str
    dtype: DType


@dataclass(frozen=True, slots=True)
class Inlined:
    """An elementwise result that is never stored: its one reader computes it from `views`, which
    all have its shape, as the C++ expression that `text` makes of their elements."""

    views: tuple[View, ...]
    text: Callable[..., str]


@dataclass(slots=True)
class Function:
    """What has been emitted so far. `limits` are the largest values of the symbols.

    `makers`: for each buffer that its step delivers, what that step reads. Another thread may be
    at it still when the buffer is read, so that is in use until then. `kernels`: for each step how
    a profile shows it; None for a call, whose steps are shown themselves.
    """

    name: str
    limits: dict[str, int]
    weights: WeightTable
    schedule: Schedule
    code: list[list[str]] = field(default_factory=list)
    kernels: list[Kernel | None] = field(default_factory=list)
    declarations: dict[str, str] = field(default_factory=dict)
    stored: dict[str, DType] = field(default_factory=dict)
    views: dict[Value, View] = field(default_factory=dict)
    pools: dict[Value, Pool] = field(default_factory=dict)
    tables: dict[Value, str] = field(default_factory=dict)
    slots: dict[tuple[Value, str], int] = field(default_factory=dict)
    inlined: dict[Value, Inlined] = field(default_factory=dict)
    outputs: frozenset[Value] = frozenset()  # of its graph
    result_storage: dict[Value, Storage] = field(default_factory=dict)
    weight_inputs: frozenset[Value] = frozenset()
    makers: dict[str, list[View]] = field(default_factory=dict)
    last_linear: int | None = None  # its step
    node: Node | None = None
    _packed: dict[Value, Traffic] = field(default_factory=dict)  # weights of the next step

    # ---- memory ---------------------------------------------------------------------------

    def nbytes(self, type: TensorType) -> int:
        """Bytes of a stored value at the limits."""
        return self.capacity(numel(type.shape)) * type.dtype.itemsize

    def fresh(self, type: TensorType) -> View:
        """A new buffer for a value of `type`."""
        name = f"b{len(self.stored)}"
        self.stored[name] = type.dtype
        self.schedule.buffers[name] = Buffer(name, self.nbytes(type))
        return whole(Storage(name, type.dtype, numel(type.shape)), type)

    def external(self, name: str, type: TensorType, pointer: str, const: bool = True) -> View:
        """A view of memory that the caller brings, found by the C++ expression `pointer`."""
        c_type = C_TYPE[type.dtype]
        qualified = f"const {c_type}" if const else c_type
        if name not in self.schedule.buffers:
            self.schedule.buffers[name] = Buffer(name, self.nbytes(type), external=True)
            self.declarations[name] = f"{qualified}* const {name} = ({qualified}*)({pointer});"
        return whole(Storage(name, type.dtype, numel(type.shape), external=True), type)

    def result(self, value: Value) -> View:
        """Where the current node's result `value` is to be written."""
        storage = self.result_storage.pop(value, None)
        view = whole(storage, value.type) if storage else self.fresh(value.type)
        self.views[value] = view
        return view

    # ---- values ---------------------------------------------------------------------------

    def view(self, value: Value) -> View:
        """Where `value` can be read element by element."""
        known = self.views.get(value)
        if known is None:
            known = self.views[value] = self._constant_view(value)
        return known

    def _constant_view(self, value: Value) -> View:
        if value not in self.weight_inputs and not value.is_constant:
            raise self.refuse(f"{value} is not a tensor that this op can read")
        number = scalar_of(value)
        if number is not None:
            return View(None, value.type.dtype, (), (), literal=literal(number, value.type.dtype))
        if value.type.dtype not in C_TYPE:
            raise self.refuse(f"a constant in format {value.type.dtype} read element by element")
        pointer = self.weight(value, packed=False)
        return self.external(f"w{len(self.schedule.buffers)}", value.type, pointer)

    def weight(self, value: Value, packed: bool) -> str:
        """C++ address of a weight: packed for the matrix kernels, or row-major."""
        if packed:
            self._packed[value] = Traffic(self.packed_bytes(value))
        return self._address(value, "packed" if packed else "plain")

    def columns(self, value: Value) -> View | None:
        """A constant [A, B] stored column by column, as a view [B, A]; None if it is computed."""
        if value not in self.weight_inputs and not value.is_constant:
            return None
        type = value.type.with_shape(reversed(value.type.shape))
        pointer = self._address(value, "transposed")
        return self.external(f"w{len(self.schedule.buffers)}", type, pointer)

    def _address(self, value: Value, stored: str) -> str:
        """`stored`: the method of the weight table that gives the tensor."""
        if value.is_constant:
            return f"s.weights + {getattr(self.weights, stored)(value).offset}"
        if value not in self.weight_inputs:
            raise self.refuse(f"a weight that is computed at run time ({value.type})")
        slot = self.slots.setdefault((value, stored), len(self.slots))
        return f"s.weights + c.weights[{slot}]"

    def packed_bytes(self, value: Value) -> int:
        """What a matrix, or all of several, takes in the layout."""
        shape = [dim for dim in value.type.shape if isinstance(dim, int)]
        return sum(self.weights.layout.sections(value.type.dtype, shape))

    # ---- steps ----------------------------------------------------------------------------

    def step(
        self,
        lines: Sequence[str],
        reads: Iterable[View],
        writes: Iterable[View],
        *,
        in_place: Iterable[tuple[View, View]] = (),
        rowwise: bool = False,
        delivers: Sequence[View] = (),
        extra: tuple[Sequence[str], Sequence[str]] = ((), ()),
        traffic: Sequence[Traffic] | None = None,
    ) -> None:
        """Add a step that runs `lines`.

        `rowwise`: the thread that owns a row of T (`team_range`) touches it and no other row.
        `delivers` are those written views that all threads may read without a barrier.
        `extra` are buffers read and written that no view stands for (cache pools). `traffic`: what
        of pools and packed weights is moved, if it isn't each weight once.
        """
        read, written = [*reads], [*writes]
        moved = [*(self._packed.values() if traffic is None else traffic)]
        self._packed.clear()
        self.kernels.append(self._kernel(lines, [*moved, *traffic_of([*read, *written])]))
        read += [v for view in read if view.storage for v in self.makers.get(view.storage.name, ())]
        delivered = [view.storage.name for view in delivers if view.storage]
        self.makers.update((name, read) for name in delivered)
        pairs = tuple(
            (a.storage.name, b.storage.name) for a, b in in_place if a.storage and b.storage
        )
        self.schedule.steps.append(
            Step(
                self._step_name(),
                (*self._accesses(read, rowwise), *map(Access, extra[0])),
                (*self._accesses(written, rowwise), *map(Access, extra[1])),
                pairs,
                frozenset(delivered),
            )
        )
        self.code.append(list(lines))

    def _kernel(self, lines: Sequence[str], traffic: Sequence[Traffic]) -> Kernel | None:
        if self.node is not None and isinstance(self.node.op, Call):
            return None
        scope = "" if self.node is None else self.node.scope
        return Kernel(kernel_name(lines), scope, tuple(traffic))

    def _accesses(self, views: Iterable[View], rowwise: bool) -> tuple[Access, ...]:
        accesses: dict[str, Access] = {}
        for view in views:
            if view.storage is not None:
                lane = _lane(view.storage) if rowwise else ""
                accesses[view.storage.name] = Access(view.storage.name, lane)
        return tuple(accesses.values())

    def _step_name(self) -> str:
        if self.node is None:
            return "copy"
        mnemonic = self.node.op.mnemonic
        return f"{mnemonic} {self.node.scope}" if self.node.scope else mnemonic

    def refuse(self, what: str) -> LlmcError:
        """The error for something that this backend can't do, with the op and where it is from."""
        return refusal(self.node, what)

    def capacity(self, dim: Dim) -> int:
        """The largest value of a dimension."""
        if isinstance(dim, int):
            return dim
        return self.limits[dim.name] * dim.scale


def refusal(node: Node | None, what: str) -> LlmcError:
    """LLMC-E0401 naming op, module and line of model code."""
    if node is None:
        return LlmcError("LLMC-E0401", f"the cpu target can't do this: {what}")
    place = node.scope or "the model"
    source = f", {node.source}" if node.source else ""
    return LlmcError(
        "LLMC-E0401", f"the cpu target can't do {node.op.mnemonic} in {place}{source}: {what}"
    )


def _lane(storage: Storage) -> str:
    """Which bytes the owner of a row touches; all of a static buffer is touched by thread 0."""
    size = storage.dtype.itemsize
    if isinstance(storage.numel, Sym):
        return f"{storage.numel.name}:{storage.numel.scale * size}"
    return ""


def size_expression(dim: Dim) -> str:
    """C++ expression of a dimension."""
    if isinstance(dim, int):
        return str(dim)
    return f"s.{dim.name}" if dim.scale == 1 else f"{dim.scale} * s.{dim.name}"


def float_literal(value: float) -> str:
    """C++ float with exactly the value of `value` rounded to f32."""
    if value != value:
        return '__builtin_nanf("")'
    if value in (float("inf"), float("-inf")):
        return "__builtin_inff()" if value > 0 else "-__builtin_inff()"
    text = f"{value!r}" if "e" in f"{value!r}" or "." in f"{value!r}" else f"{value!r}.0"
    return f"{text}f"


def literal(value: float | int | bool, dtype: DType) -> str:
    """C++ literal of a scalar of `dtype`."""
    if dtype == DType.BOOL:
        return "true" if value else "false"
    if dtype.is_float:
        return float_literal(float(value))
    if value == -(2**63):
        return "INT64_MIN"
    return f"({C_TYPE[dtype]}){int(value)}" + ("ll" if dtype == DType.I64 else "")


def call(name: str, *arguments: str | Dim | float, team: str = "team") -> str:
    """One C++ call statement with the team as the first argument."""
    return f"{name}({', '.join([team, *map(_argument, arguments)])});"


def _argument(value: str | Dim | float) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Sym):
        return size_expression(value)
    return float_literal(value) if isinstance(value, float) else str(value)
