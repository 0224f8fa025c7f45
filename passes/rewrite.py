"""Pattern → check → rewrite: the small engine under the raising and fusion passes.

A pattern is a tree of `Pat`; leaves are `Var` (any value), `Const` (a constant tensor)
and `Num` (a literal number). A rule is named by its algebra, "a => b". A rule whose
pattern matches but whose rewrite declines gives a reason, which LLMC_DEBUG=1 prints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..base.debug import debug
from ..ir.graph import Graph, Node, Value
from ..ir.ops import Op
from ..ir.scalar import scalar_of

_COMMUTATIVE = {"add", "mul", "maximum", "minimum"}
Bindings = dict[str, Value]


@dataclass(frozen=True)
class Var:
    """Any value; the same name must bind the same value everywhere."""

    name: str


@dataclass(frozen=True)
class Const(Var):
    """A constant that is not a literal number."""


@dataclass(frozen=True)
class Num:
    """A literal number: any (bound to `name`) or exactly `equals` (to 1e-6 relative)."""

    name: str = ""
    equals: float | None = None


@dataclass(frozen=True)
class Pat:
    """A node by mnemonic; `name` binds its result, `check` looks at the op's attributes."""

    mnemonic: str
    operands: tuple[Pattern, ...] = ()
    name: str = ""
    check: Callable[[Op], bool] | None = None


Pattern = Pat | Var | Num


def op(mnemonic: str, *operands: Pattern, name: str = "", check: Callable | None = None) -> Pat:
    """Shorthand for `Pat`."""
    return Pat(mnemonic, operands, name, check)


def match(pattern: Pattern, value: Value, bound: Bindings | None = None) -> Bindings | None:
    """Bindings under which `value` is an instance of `pattern`, or None."""
    bound = {} if bound is None else bound
    if isinstance(pattern, Num):
        return _match_number(pattern, value, bound)
    if isinstance(pattern, Var):
        if isinstance(pattern, Const) and (not value.is_constant or scalar_of(value) is not None):
            return None
        return _bind(pattern.name, value, bound)
    node = value.producer
    if node is None or node.op.mnemonic != pattern.mnemonic:
        return None
    if pattern.check is not None and not pattern.check(node.op):
        return None
    if len(node.inputs) != len(pattern.operands) or len(node.outputs) != 1:
        return None
    orders = [pattern.operands]
    if pattern.mnemonic in _COMMUTATIVE:
        orders.append(pattern.operands[::-1])
    for order in orders:
        result: Bindings | None = dict(bound)
        for operand, sub in zip(node.inputs, order, strict=True):
            result = None if result is None else match(sub, operand, result)
        if result is not None:
            return _bind(pattern.name, value, result)
    return None


def _bind(name: str, value: Value, bound: Bindings) -> Bindings | None:
    if not name:
        return bound
    if bound.setdefault(name, value) is not value:
        return None
    return bound


def _match_number(pattern: Num, value: Value, bound: Bindings) -> Bindings | None:
    number = scalar_of(value)
    if number is None:
        return None
    if pattern.equals is not None and abs(number - pattern.equals) > 1e-6 * abs(pattern.equals):
        return None
    return _bind(pattern.name, value, bound)


def number(value: Value) -> float:
    """The literal that a `Num` bound."""
    result = scalar_of(value)
    assert result is not None
    return float(result)


Rewrite = Callable[[Graph, Node, Bindings], "Value | str"]


@dataclass(frozen=True)
class Rule:
    """`rewrite` gives the value that replaces the matched one, or the reason why not."""

    name: str
    patterns: tuple[Pattern, ...]
    rewrite: Rewrite


def apply_rules(graph: Graph, rules: Iterable[Rule]) -> bool:
    """Try every rule on every node until nothing changes; True if anything did."""
    rules = tuple(rules)
    changed = False
    while sum(_sweep(graph, rule) for rule in rules):
        changed = True
    return graph.erase_dead() or changed


def _sweep(graph: Graph, rule: Rule) -> bool:
    changed = False
    heads = {p.mnemonic for p in rule.patterns if isinstance(p, Pat)}
    for node in list(graph.nodes):
        if node.op.mnemonic not in heads or not _is_live(graph, node):
            continue
        for pattern in rule.patterns:
            bound = match(pattern, node.outputs[0])
            if bound is None:
                continue
            result = rule.rewrite(graph, node, bound)
            if isinstance(result, str):
                debug(f"{rule.name}: not at {node.scope or node.op}: {result}")
                continue
            graph.replace_uses(node.outputs[0], result)
            changed = True
            break
    return changed


def _is_live(graph: Graph, node: Node) -> bool:
    return any(v.users or v in graph.outputs for v in node.outputs)
