"""The step of one token, spread over all tokens of a step: [1, …] → [T, …].

In: a graph that was traced for one token (`compiler/frontend/token_step.py`): sizes are numbers,
and what the token finds of the token before it are inputs (`Carried`). Out: the same for T tokens,
each with what it finds of its own: every value of a token has T in front, for leading ones.
Nothing relates a row with another, because there was only one; attention and the ops of experts are
those of packed rows. `raise_recurrence` then hands each token's state to the next.

Before: TRACED, inputs [1, 1]. After: ids and positions i32[T], states f32[T, …].
"""

from __future__ import annotations

from math import prod

from ..base.errors import LlmcError
from ..ir.graph import Graph, Node, Value
from ..ir.ops import (
    Attention,
    Binary,
    Cast,
    CombineExperts,
    Embedding,
    Expand,
    Full,
    GroupedLinear,
    Linear,
    MatMul,
    Norm,
    Op,
    Permute,
    Reshape,
    RouteTokens,
    Unary,
    Where,
)
from ..ir.roles import Carried
from ..ir.types import Dim, DType, Sym, T, TensorType

_ELEMENTWISE = (Unary, Binary, Where, Cast)
_BROADCASTS = (Embedding, Linear, MatMul, Norm)
"""Ops that take a constant as it is beside operands with any number of leading dimensions."""


def spread_tokens(graph: Graph) -> bool:
    """Rebuild the graph; False if it isn't the step of one token."""
    if not any(isinstance(v.role, Carried) for v in graph.inputs):
        return False
    if any(v.type.is_symbolic for v in graph.inputs):
        return False
    _Spread(graph).run()
    return True


class _Spread:
    """`new` is each old value's: constants are themselves, the others have T in front.

    `rows` are the values between the ops of experts, whose first dimension is k tokens' choices.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.new: dict[Value, Value] = {}
        self.rows: set[Value] = set()
        self.node: Node | None = None

    def run(self) -> None:
        graph = self.graph
        nodes, inputs, outputs = graph.nodes, graph.inputs, graph.outputs
        graph.nodes, graph.inputs = [], []
        for value in inputs:
            dtype = DType.I32 if value.type.dtype == DType.I64 else value.type.dtype
            type = TensorType(dtype, _packed(value.type.shape))
            self.new[value] = graph.add_input(value.name, type, value.role)
        for node in nodes:
            for value in node.inputs:
                value._uses.pop(node, None)
            self.node = node
            made = self._spread(node)
            self.new.update(zip(node.outputs, made, strict=True))
        self.node = None
        graph.outputs = [self._of_tokens(v) for v in outputs]

    def _emit(self, op: Op, *inputs: Value) -> Value:
        scope, source = (self.node.scope, self.node.source) if self.node else ("", "")
        return self.graph.append(op, inputs, scope, source).outputs[0]

    def _reshaped(self, value: Value, shape: tuple[Dim, ...]) -> Value:
        return value if value.type.shape == shape else self._emit(Reshape(shape), value)

    def _is_token(self, old: Value) -> bool:
        return old in self.new and self.new[old].type.is_symbolic

    def _of_tokens(self, old: Value) -> Value:
        """The packed form of any value: a constant is every token's."""
        if self._is_token(old):
            return self.new[old]
        shape = tuple(d for d in _packed(old.type.shape)[1:] if isinstance(d, int))
        value = self._reshaped(self.new.get(old, old), shape)
        return self._emit(Expand((T, *shape)), value)

    def _full(self, old: Value, dropped: int = 0) -> Value:
        """The packed form with T before all dimensions of old, or all but leading ones."""
        return self._reshaped(self._of_tokens(old), (T, *old.type.shape[dropped:]))

    # ── one op ─────────────────────────────────────────────────────────────────────

    def _spread(self, node: Node) -> list[Value]:
        op = node.op
        if not any(map(self._is_token, node.inputs)):
            inputs = [self.new.get(v, v) for v in node.inputs]
            return list(self.graph.append(op, inputs, node.scope, node.source).outputs)
        if isinstance(op, RouteTokens | GroupedLinear | CombineExperts | Attention):
            return self._packed_op(node)
        if any(v in self.rows for v in node.inputs):
            return self._among_rows(node)
        if isinstance(op, _ELEMENTWISE):
            return [self._elementwise(node)]
        if isinstance(op, Reshape):
            return [self._reshaped(self.new[node.inputs[0]], _packed(op.shape))]
        if isinstance(op, Expand):
            shape = _packed(op.shape)
            aligned = self._aligned(node.inputs[0], len(shape) - 1)
            return [aligned if aligned.type.shape == shape else self._emit(Expand(shape), aligned)]
        if isinstance(op, Full):
            return [
                self._emit(
                    Expand(_packed(op.shape)),
                    self._aligned(node.inputs[0], len(_packed(op.shape)) - 1),
                )
            ]
        if isinstance(op, Permute):
            rank = len(op.dims)
            moved = self._emit(Permute((-rank - 1, *op.dims)), self._full(node.inputs[0]))
            return [self._reshaped(moved, _packed(node.output.type.shape))]
        if isinstance(op, MatMul) and (product := self._product(node)) is not None:
            return [product]
        return self._by_dimensions(node)

    def _packed_op(self, node: Node) -> list[Value]:
        """An op of packed rows: what has a row for each token is [T, …] without the unit."""
        units = 2 if isinstance(node.op, Attention) else 1
        inputs = []
        for value in node.inputs:
            if value in self.rows or not self._is_token(value):
                inputs.append(self.new.get(value, value))
            else:
                inputs.append(self._full(value, units))
        made = self.graph.append(node.op, inputs, node.scope, node.source).outputs
        if isinstance(node.op, RouteTokens):
            self.rows.add(node.outputs[0])
            return [made[0], made[1], self._canonical(made[2], node.outputs[2])]
        if isinstance(node.op, GroupedLinear):
            self.rows.add(node.output)
            return [made[0]]
        return [self._canonical(made[0], node.output)]

    def _canonical(self, value: Value, old: Value) -> Value:
        return self._reshaped(value, _packed(old.type.shape))

    def _among_rows(self, node: Node) -> list[Value]:
        """An op on rows of experts: the same, if it leaves the first dimension alone."""
        inputs = [self.new.get(v, v) for v in node.inputs]
        try:
            made = self.graph.append(node.op, inputs, node.scope, node.source).outputs
        except (TypeError, ValueError, IndexError) as error:
            raise _refused(node) from error
        for old, value in zip(node.outputs, made, strict=True):
            rows = Sym(T.name, prod(d for d in old.type.shape[:1] if isinstance(d, int)))
            if value.type.shape != (rows, *old.type.shape[1:]):
                raise _refused(node)
            self.rows.add(old)
        return list(made)

    def _elementwise(self, node: Node) -> Value:
        """Operands have the same number of dimensions behind T, as broadcasting wants them."""
        rank = len(_packed(node.output.type.shape)) - 1
        inputs = [self._aligned(v, rank) for v in node.inputs]
        return self._emit(node.op, *inputs)

    def _aligned(self, old: Value, rank: int) -> Value:
        """`old` for `rank` dimensions behind T: ones between, constants without leading ones."""
        shape = _packed(old.type.shape)[1:]
        if not self._is_token(old):
            whole = tuple(d for d in shape if isinstance(d, int))
            return self._reshaped(self.new.get(old, old), whole)
        return self._reshaped(self.new[old], (T, *(1,) * (rank - len(shape)), *shape))

    def _product(self, node: Node) -> Value | None:
        """A row times constant matrices: one product of all rows, with T where the row was."""
        x, matrix = node.inputs
        shape = x.type.shape
        if self._is_token(matrix) or shape[-2] != 1 or len(shape) != matrix.type.rank:
            return None
        rank = len(shape)
        rows = self._reshaped(self._of_tokens(x), (T, *shape[:-2], shape[-1]))
        order = (*range(-rank + 1, -1), -rank, -1)
        y = self._emit(node.op, self._emit(Permute(order), rows), self.new.get(matrix, matrix))
        back = self._emit(Permute((-2, *range(-rank, -2), -1)), y)
        return self._reshaped(back, _packed(node.output.type.shape))

    def _by_dimensions(self, node: Node) -> list[Value]:
        """An op that names dimensions from the right: T goes before as few of them as it takes."""
        tokens = [v for v in node.inputs if self._is_token(v)]
        for dropped in range(min(_leading_units(v) for v in tokens), -1, -1):
            whole = isinstance(node.op, _BROADCASTS)
            inputs = [
                self.new.get(v, v) if whole and not self._is_token(v) else self._full(v, dropped)
                for v in node.inputs
            ]
            wanted = [(T, *v.type.shape[dropped:]) for v in node.outputs]
            units = all(d == 1 for v in node.outputs for d in v.type.shape[:dropped])
            try:
                made = self.graph.append(node.op, inputs, node.scope, node.source)
            except (TypeError, ValueError, IndexError):  # it names a dimension that is gone
                continue
            if units and [v.type.shape for v in made.outputs] == wanted:
                pairs = zip(made.outputs, node.outputs, strict=True)
                return [self._canonical(value, old) for value, old in pairs]
            self.graph.erase(made)
        raise _refused(node)


def _refused(node: Node) -> LlmcError:
    where = f"{node.scope or 'the model'}" + (f" ({node.source})" if node.source else "")
    return LlmcError("LLMC-E0412", f"{node.op.mnemonic} in {where} isn't for one token alone")


def _leading_units(value: Value) -> int:
    shape = value.type.shape
    return next((i for i, d in enumerate(shape) if d != 1), len(shape))


def _packed(shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """T in place of the leading ones; of [1, 1, 1] one is kept, as norms expect it."""
    rest = next((i for i, d in enumerate(shape) if d != 1), min(len(shape), 2))
    return (T, *shape[rest:])
