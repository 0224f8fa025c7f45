"""Keys that a model picks for each query before it attends: masks and choices on their way.

An index scores all earlier tokens, hides the later ones with the attention mask, and takes the
best: `topk(min(k, tokens))`. The mask is a tag (`interfaces.py`), which may be sliced and negated
on its way; hidden scores become what spelled-out attention adds to them (`CausalMask`). The number
of keys is the lesser of two numbers, which no dimension can be: a choice has `k` places, and where
no text can be longer than that, there is none.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch

from ...base.errors import LlmcError
from ...ir import ops
from ...ir.graph import Value
from ...ir.types import Sym, T
from .aten_base import Builder, negative
from .lengths import ChangesAt, Number


class Mask:
    """A mask tag; what isn't listed here and isn't attention fails on it by type.

    `refused`: why attention doesn't take it either and what to do, or "".
    """

    def __init__(self, window: int, refused: str) -> None:
        self.window, self.refused = window, refused


@dataclass(frozen=True)
class Hidden:
    """A negated mask: true where a query doesn't see a key."""

    mask: Mask


class AllKeys:
    """A choice that leaves nothing out."""


@dataclass(frozen=True)
class Least:
    """The lesser of `most` and the number of tokens; only a choice may take so many."""

    most: int
    changes: ChangesAt


def least_of(value: Any, symbol: Any, changes: ChangesAt) -> Least | None:
    """What a size that `changes` is, if it is the lesser of a number and the trace's tokens."""
    expr = value.node.expr
    if type(expr).__name__ != "Min" or symbol not in expr.args or len(expr.args) != 2:
        return None
    (number,) = (arg for arg in expr.args if arg != symbol)
    return Least(int(number), changes) if number.is_number else None


@contextlib.contextmanager
def sizes_without_branches(model: Any) -> Iterator[None]:
    """Let the least of sizes be an expression in the model's code: Python's `min` would branch, and
    the trace hold for few or for many tokens only."""
    modules = {type(module).__module__ for module in model.modules()}
    with contextlib.ExitStack() as stack:
        for name in sorted(modules):
            if not name.startswith("torch.") and "min" not in vars(sys.modules[name]):
                patch = mock.patch.object(sys.modules[name], "min", _min, create=True)
                stack.enter_context(patch)
        yield


def _min(*values: Any, **how: Any) -> Any:
    """`min` that gives an expression of sizes."""
    if len(values) == 2 and not how and any(isinstance(v, torch.SymInt) for v in values):
        return torch.sym_min(*values)
    return min(*values, **how)


def _fill(b: Builder, x: Value, hidden: Hidden, value: float) -> Value:
    least = torch.finfo(torch.float32).min
    shape = x.type.shape
    if not isinstance(hidden, Hidden) or value > least or shape[-2:] != (T, T):
        raise TypeError("reads an attention mask")
    return b.emit(ops.Binary("add"), x, b.emit(ops.CausalMask(shape, hidden.mask.window)))


_SAME = ("select", "slice", "unsqueeze", "squeeze", "expand", "alias", "clone", "detach")
MASKS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(_SAME, lambda b, mask, *_, **__: mask),
    "bitwise_not": lambda b, mask: Hidden(mask),
    "logical_not": lambda b, mask: Hidden(mask),
    "masked_fill": _fill,
}
"""What models do to a mask before they hide scores with it, by the operator's name."""
CHOICES: dict[str, Callable[..., Any]] = dict.fromkeys(
    ("_to_copy", "to", "alias", "clone"), lambda b, choice, *_, **__: choice
)
"""What models do to a choice of all keys."""


def top_tokens(
    b: Builder,
    x: Value,
    k: Least | Number,
    dim: int = -1,
    largest: bool = True,
    sorted: bool = True,
) -> tuple[None, Value | AllKeys]:
    """`topk` of scores [..., T, T]: positions only."""
    if negative(dim, x.type.rank) != -1 or not largest:
        raise TypeError("topk of the smallest or along another dimension")
    if isinstance(k, Sym):  # no text is longer than the number that it is compared with
        return None, AllKeys()
    if isinstance(k, Least):
        return None, b.emit(ops.TopTokens(k.most), x)
    raise TypeError("a choice of as many tokens as there may be none of")


def special_handler(name: str, args: list[Any]) -> Callable[..., Any] | None:
    """The handler of `aten::<name>` for arguments that are no values; None if there are none.

    Raises:
        ChangesAt: the least of two sizes where only one of them can be.
    """
    if name == "topk" and len(args) > 1 and not isinstance(args[1], int):
        return top_tokens
    if any(isinstance(a, AllKeys) for a in args):
        return CHOICES.get(name)
    masks = [a.mask if isinstance(a, Hidden) else a for a in args if isinstance(a, Mask | Hidden)]
    if masks and not masks[0].refused:
        return MASKS.get(name)
    return None


def attention_op(b: Builder, op: ops.Attention, operands: list[Value], choice: Any) -> Value:
    """`op`, of all keys or of the chosen ones."""
    if choice is None or isinstance(choice, AllKeys):
        return b.emit(op, *operands)
    if not isinstance(choice, Value):
        raise LlmcError("LLMC-E0413", "attention to keys that nothing llmc knows has chosen")
    selected = ops.SelectedAttention(op.scale, op.window, op.softcap, op.sinks)
    return b.emit(selected, *operands, choice)
