"""Exported program → traced graph.

In: a `Traced` program and the weight recipes by parameter name. Out: a `Graph` in phase
TRACED: functional ops, one `Attention` per call site, constants with recipes. Each
node keeps the module path and the line of model code that it came from; an operator
that `aten.py` doesn't know is refused with both.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.fx.node import map_arg
from torch.utils._pytree import tree_map_only

from ...base.errors import LlmcError
from ...ir import ops
from ...ir.graph import Graph, Value
from ...ir.phase import Phase
from ...ir.roles import Carried, StepArray
from ...ir.scalar import scalar
from ...ir.types import Dim, DType, Sym, T, TensorType
from ...weights.recipes import Computed, Recipe, mul
from . import aten_convolution, chosen_keys, stateful_import
from .aten import ATEN
from .aten_base import FROM_TORCH, cast
from .aten_complex import Complex, complex_handler, complex_of, is_complex
from .chosen_keys import Least, Mask
from .inplace import SCATTERS, Unproven, Writes, base_of, find_writes, functional_name, tensor_of
from .lengths import ChangesAt, Length, Number, length_of
from .shifted_rows import is_shifted, shifted_handler
from .trace import Traced
from .untraceable import narrow_range

INPUTS = (StepArray.TOKEN_IDS, StepArray.POSITIONS)


def import_graph(traced: Traced, weights: Mapping[str, Recipe]) -> Graph:
    """The graph of a traced model.

    Raises:
        LlmcError: LLMC-E0401, an operator (or a use of one) that has no IR equivalent;
            LLMC-E0414, a mask that something but attention reads.
    """
    return _Importer(traced, weights).run()


class _Importer:
    def __init__(self, traced: Traced, weights: Mapping[str, Recipe]) -> None:
        self.program, self.model = traced.program, traced.model
        self.specs = {s.arg.name: s for s in self.program.graph_signature.input_specs}
        self.weights = weights
        self.buffers = traced.buffers
        self.max_context = traced.max_context
        self.factors = {f"model.{name}": x for name, x in traced.factors.items() if x != 1}
        self.graph = Graph("main", Phase.TRACED)
        self.env: dict[torch.fx.Node, Any] = {}
        self.literals: dict[torch.fx.Node, Any] = {}
        """Tensors that the model's code spells out, and what it computes of these alone."""
        self.symbol: Any = None
        self.node: torch.fx.Node | None = None
        self.writes: Writes = {}

    def run(self) -> Graph:
        try:
            self.writes = find_writes(self.program.graph)
        except Unproven as error:
            raise self._refused(error.node, str(error)) from error
        for node in _read_nodes(self.program.graph, self.writes):
            self.node = node
            try:
                self._import(node)
            except ChangesAt as error:
                raise narrow_range(self.model, 2, error.tokens) from error
            except (TypeError, ValueError, AssertionError, AttributeError, LookupError) as error:
                raise self._refused(node, str(error) or "has unexpected arguments") from error
        self.graph.erase_dead()
        self._drop_counters()
        return self.graph

    def _drop_counters(self) -> None:
        """Forget what stands for tensors that count steps of a cache; nothing may read one."""
        for value in [v for v in self.graph.inputs if v.role is None]:
            if value.users or value in self.graph.outputs:
                why = "the model computes with a tensor of its cache that isn't a sequence's state"
                raise LlmcError("LLMC-E0430", why)
            self.graph.inputs.remove(value)

    def _import(self, node: torch.fx.Node) -> None:
        if node.op == "placeholder":
            self.env[node] = self._placeholder(node)
        elif node in self.writes:
            self._write(node)
        elif node.op == "call_function":
            self.env[node] = self._call(node)
        elif node.op == "output":
            values: Any = node.args[0]
            outputs = [self._argument(value) for value in values]
            if any(map(is_shifted, outputs)):
                raise TypeError("results have other rows than there are tokens")
            self.graph.outputs = outputs

    # ── what handlers in aten.py use ───────────────────────────────────────────────

    def emit_all(self, op: ops.Op, *inputs: Value) -> tuple[Value, ...]:
        assert self.node is not None
        scope, source = origin(self.node)
        return self.graph.append(op, inputs, scope, source).outputs

    def emit(self, op: ops.Op, *inputs: Value) -> Value:
        (value,) = self.emit_all(op, *inputs)
        return value

    def value(self, x: Any, like: Value | None = None) -> Value:
        """`x` as a value: a number takes the element type of `like` where that is wider."""
        if isinstance(x, Value):
            return x
        if isinstance(x, Sym | Length):
            raise TypeError("computes with the number of tokens in the step")
        if like is not None and like.type.dtype.is_float and not isinstance(x, bool):
            return scalar(float(x))
        if like is not None and isinstance(x, int) and not isinstance(x, bool):
            dtype = like.type.dtype
            return scalar(x, DType.I64 if dtype == DType.BOOL else dtype)
        return scalar(x)

    def dims(self, shape: Sequence[Any]) -> tuple[Dim, ...]:
        return tuple(self._dim(d) for d in shape)

    def positions(self) -> Value:
        """i64[T]."""
        positions = self.graph.input_as(StepArray.POSITIONS)
        assert positions is not None
        return self.emit(ops.Reshape((T,)), positions)

    # ── nodes ──────────────────────────────────────────────────────────────────────

    def _placeholder(self, node: torch.fx.Node) -> Value | Complex | None:
        spec = self.specs[node.name]
        if spec.target is None:
            role, tokens = INPUTS[len(self.graph.inputs)], node.meta["val"].shape[1]
            if isinstance(tokens, int):  # the step of one token
                return self.graph.add_input(role.value, TensorType(DType.I64, (1, tokens)), role)
            if self.symbol is None:
                self.symbol = tokens.node.expr
            return self.graph.add_input(role.value, TensorType(DType.I64, (1, T)), role)
        if not node.users:
            return None
        name = spec.target.removeprefix("model.")
        if name in self.buffers:
            buffer = self.buffers[name]
            if buffer.dtype == torch.bfloat16:  # which no array holds
                return cast(self, _real_constant(name, buffer.float()), DType.BF16)
            return _constant(name, buffer)
        if spec.kind == torch.export.graph_signature.InputKind.CONSTANT_TENSOR:
            self.literals[node] = self._lifted(spec.target, node)
            return _constant(name, self.literals[node])
        if name in self.weights:
            tensor = node.meta["val"]
            type = TensorType(FROM_TORCH[tensor.dtype], self.dims(tensor.shape))
            factor = self.factors.get(spec.target)
            recipe = self.weights[name] if factor is None else mul(self.weights[name], factor)
            return Graph.constant(name, recipe, type)
        raise LlmcError(
            "LLMC-E0431",
            f"buffer {name} is not in the checkpoint and not set by the model",
            hint="the model's class must compute it in _init_weights",
        )

    def _lifted(self, target: str, node: torch.fx.Node) -> torch.Tensor:
        """A tensor that the model's code made; one made with the model has no value on meta."""
        tensor: Any = self.program.constants[target]
        if tensor.device.type == "meta":
            why = "reads a tensor that the model keeps outside of its buffers"
            raise self._refused(next(iter(node.users)), why, "LLMC-E0431")
        return tensor

    def _call(self, node: torch.fx.Node) -> Any:
        target = node.target
        inputs = node.all_input_nodes
        if inputs and node not in self.writes and all(n in self.literals for n in inputs):
            return self._computed(node)
        args = [self._argument(a) for a in node.args]
        kwargs = {k: self._argument(v) for k, v in node.kwargs.items()}
        if target is not operator.getitem and not isinstance(target, torch._ops.OpOverload):
            return self._symbolic(node, args)
        handler = self._handler(node, args)
        try:
            return handler(*args, **kwargs)
        except (TypeError, ValueError, AssertionError, AttributeError, LookupError) as error:
            masks = [a for a in args if isinstance(a, Mask)]
            if masks:
                raise self.refused_mask(masks[0]) from error
            raise

    def _write(self, node: torch.fx.Node) -> None:
        """Give the written tensor, and the bases that it is a view of, new values."""
        write = self.writes[node]
        old = self.env[write.tensor]
        new = cast(self, self._call(node), old.type.dtype)
        if new.type != old.type:
            raise TypeError(f"writes {new.type} into {old.type}")
        self.env[write.tensor] = new
        written = {write.tensor}
        for view in write.views:
            target: Any = view.target
            base = base_of(view, self.writes)
            written.add(base)
            scatter = ATEN[SCATTERS[target._schema.name]]
            rest = [self._argument(a) for a in view.args[1:]]
            new = scatter(self, self.env[base], new, *rest)
            self.env[base] = new
        if node not in self.literals:
            for known in [n for n in self.literals if tensor_of(n, self.writes) in written]:
                del self.literals[known]

    def _computed(self, node: torch.fx.Node) -> Any:
        """A call on literals alone: its value is known now, whatever the operator is."""
        target: Any = node.target
        args, kwargs = map_arg((node.args, node.kwargs), self.literals.__getitem__)
        self.literals[node] = target(*args, **kwargs)
        return tree_map_only(torch.Tensor, partial(_constant, node.name), self.literals[node])

    def _handler(self, node: torch.fx.Node, args: Sequence[Any] = ()) -> Callable[..., Any]:
        """The function for a call's target, less the importer."""
        target: Any = node.target
        if target is operator.getitem:
            return target
        namespace, name = target._schema.name.split("::")
        if name == "sym_size":
            return lambda *_: self._number(node.meta["val"])
        if node in self.writes:
            name = functional_name(target) or name
        handler = OURS.get(name) if namespace == "llmc" else _aten_handler(name, args)
        if handler is None:
            raise self._refused(node, "has no equivalent in the IR")
        return partial(handler, self)

    def _symbolic(self, node: torch.fx.Node, args: list[Any]) -> Any:
        """Arithmetic on sizes: its value is known from the trace's own shape analysis."""
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt | int):
            try:
                return self._number(value)
            except ChangesAt as error:
                least = chosen_keys.least_of(value, self.symbol, error)
                if least is None:
                    raise
                return least
        if isinstance(value, torch.SymBool | bool) or value is None:
            return None
        raise self._refused(node, "is not an ATen operator")

    def _argument(self, a: Any) -> Any:
        if isinstance(a, torch.fx.Node):
            return self.env[tensor_of(a, self.writes)]
        if isinstance(a, list | tuple):
            return [self._argument(x) for x in a]
        return a

    def _dim(self, d: Any) -> Dim:
        """An int, or the multiple of T that a symbolic size is."""
        if isinstance(d, Value):
            raise TypeError("a size that is computed at run time")
        number = self._number(d)
        if isinstance(number, Length):
            raise TypeError(f"size {number} is not a multiple of the number of tokens")
        return number

    def _number(self, d: Any) -> Number:
        """An int, a dimension, or what else is linear in the number of tokens."""
        if isinstance(d, int | Sym | Length):
            return d
        if isinstance(d, Least):
            raise d.changes
        number = length_of(d.node.expr, self.symbol, self.max_context)
        if number is None:
            raise TypeError(f"size {d.node.expr} is not a multiple of the number of tokens")
        return number

    def refused_mask(self, mask: Mask) -> LlmcError:
        """Why the present node can't read `mask`."""
        assert self.node is not None
        why, _, hint = (mask.refused or "reads an attention mask").partition("\n")
        return self._refused(self.node, why, "LLMC-E0414", hint)

    def _refused(
        self, node: torch.fx.Node, why: str, id: str = "LLMC-E0401", hint: str = ""
    ) -> LlmcError:
        scope, source = origin(node)
        where = f" in {scope or 'the model'}" + (f" ({source})" if source else "")
        target = node.target
        name = target if isinstance(target, torch._ops.OpOverload | str) else target.__name__
        return LlmcError(id, f"{name}{where}: {why}", hint)


def _read_nodes(graph: torch.fx.Graph, writes: Writes) -> list[torch.fx.Node]:
    """The nodes that inputs, outputs and writes are made of: models also compute what nobody reads,
    such as the pooled state of an encoder."""
    read: set[torch.fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op in ("placeholder", "output") or node in writes or node in read:
            read.update((node, *node.all_input_nodes))
    return [node for node in graph.nodes if node in read]


def _aten_handler(name: str, args: Sequence[Any]) -> Callable[..., Any] | None:
    """The handler of `aten::<name>`; arguments that are no values have handlers of their own."""
    special = chosen_keys.special_handler(name, [*args])
    if special is not None:
        return special
    if any(map(is_complex, args)):
        return complex_handler(name)
    if any(map(is_shifted, args)):
        return shifted_handler(name) or aten_convolution.HANDLERS.get(name)
    return ATEN.get(name)


def _constant(name: str, tensor: torch.Tensor) -> Value | Complex:
    """A tensor whose values are known now."""
    if tensor.is_complex():
        return complex_of(tensor, partial(_real_constant, name))
    return _real_constant(name, tensor)


def _real_constant(name: str, tensor: torch.Tensor) -> Value:
    type = TensorType(FROM_TORCH[tensor.dtype], tuple(tensor.shape))
    return Graph.constant(name, Computed.of(name, tensor.numpy()), type)


def origin(node: torch.fx.Node) -> tuple[str, str]:
    """(module path, "file.py:line `code`") of the model code that a traced node is from."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    scope = re.sub(r"^(_?model)\.?", "", paths[-1]) if paths else ""
    frames = re.findall(
        r'File "([^"]+)", line (\d+), in .*\n\s*(.*)', node.meta.get("stack_trace") or ""
    )
    frames = [f for f in frames if "/torch/" not in f[0]] or frames
    if not frames:
        return scope, ""
    file, line, code = frames[-1]
    return scope, f"{file.rsplit('/', 1)[-1]}:{line} `{code.strip()}`"


# ── our own operators (interfaces.py) ──────────────────────────────────────────────────


def _attention(
    b: _Importer, q: Value, k: Value, v: Value, mask: Any, sinks: Value | None,
    choice: Any, scale: float, softcap: float,
) -> Value:  # fmt: skip
    if not isinstance(mask, Mask):
        raise TypeError("the attention mask was computed from another mask")
    if mask.refused:
        raise b.refused_mask(mask)
    op = ops.Attention(scale, mask.window, softcap, sinks=sinks is not None)
    return chosen_keys.attention_op(b, op, [q, k, v, *([] if sinks is None else [sinks])], choice)


def _additive_mask(b: _Importer, anchor: Value, tokens: Dim, window: int, refused: str) -> Any:
    if refused:
        return Mask(window, refused)
    return b.emit(ops.CausalMask((1, 1, tokens, tokens), window))


def _grouped_linear(
    b: _Importer, x: Value, w: Value, bias: Any, row_index: Any, offsets: Value
) -> Value:
    op = ops.GroupedLinear(bias=bias is not None, gather=row_index is not None)
    return b.emit(op, *(v for v in (x, w, bias, row_index, offsets) if v is not None))


def _carried(
    b: _Importer, anchor: Value, number: int, shape: Sequence[int], initial: float
) -> Value:
    role = Carried(number, initial)
    return b.graph.add_input(f"carried.{number}", TensorType(DType.F32, tuple(shape)), role)


OURS = {
    "attention": _attention,
    "mask": lambda b, anchor, window, refused: Mask(window, refused),
    "additive_mask": _additive_mask,
    "linear": ATEN["linear"],
    "route": lambda b, index, experts: b.emit_all(ops.RouteTokens(experts), index),
    "grouped_linear": _grouped_linear,
    "carried": _carried,
    "counter": lambda b, anchor: b.graph.add_input("counter", TensorType(DType.I64, (1,))),
    "combine": lambda b, x, slot, weights: b.emit(ops.CombineExperts(), x, slot, weights),
    **stateful_import.HANDLERS,
}
