"""What a model's own allocations hold, found on the meta device, where tensors hold nothing.

In: a call of a model on meta tensors, while the mode below is on. Out: the number that fills a
tensor before anything else is written to it (`torch.zeros(…) - 1e38` is what a state begins with),
and what parameters are multiplied with in place before their first use.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ...base.errors import LlmcError

_MADE: dict[str, Callable[..., Any]] = {
    "zeros": lambda *_: 0.0,
    "new_zeros": lambda *_: 0.0,
    "zeros_like": lambda *_: 0.0,
    "ones": lambda *_: 1.0,
    "new_ones": lambda *_: 1.0,
    "ones_like": lambda *_: 1.0,
    "full": lambda size, value, *_: value,
    "new_full": lambda x, size, value, *_: value,
    "full_like": lambda x, value, *_: value,
    "scalar_tensor": lambda value, *_: value,
}
"""Operators that make a tensor of one number: which, of their arguments."""
_KEPT = {"clone", "_to_copy", "expand", "view", "unsqueeze", "squeeze", "detach", "alias",
         "lift_fresh", "permute", "transpose", "select", "slice"}  # fmt: skip
"""Operators whose result is filled with what their operand is filled with."""
_COMPUTED: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
}


class FirstValues(TorchDispatchMode):
    """Watches a call; `of` is then asked about the tensors that it leaves behind."""

    def __init__(self, parameters: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.factors: dict[str, float] = {}
        """What each parameter that was changed was multiplied with."""
        self._names = {_storage(tensor): name for name, tensor in parameters.items()}
        self._fills: dict[int, float] = {}
        self._written: set[int] = set()
        self._alive: list[torch.Tensor] = []  # or a storage's place would be given to another

    def of(self, tensor: torch.Tensor) -> float:
        """The number that all of `tensor` was, when it was made; 0 if none is known."""
        return self._fills.get(_storage(tensor), 0.0)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        if func._schema.is_mutable:
            self._write(name, args)
        elif isinstance(result, torch.Tensor):
            fill = self._filled(name, args)
            if fill is not None and _storage(result) not in self._fills:
                self._fills[_storage(result)] = fill
                self._alive.append(result)
        return result

    def _filled(self, name: str, args: Any) -> float | None:
        """The number that fills a new result, if one does."""
        if name in _MADE:
            return float(_MADE[name](*args))
        if name in _KEPT:
            return self._number(args[0])
        if name in _COMPUTED and len(args) == 2:
            a, b = map(self._number, args)
            return None if a is None or b is None else float(_COMPUTED[name](a, b))
        return None

    def _number(self, x: Any) -> float | None:
        """What a number or an operand that still holds one number everywhere is."""
        if isinstance(x, bool | int | float):
            return float(x)
        known = isinstance(x, torch.Tensor) and _storage(x) not in self._written
        return self._fills.get(_storage(x)) if known else None

    def _write(self, name: str, args: Any) -> None:
        if not args or not isinstance(args[0], torch.Tensor):
            return
        storage, plain = _storage(args[0]), name.removesuffix("_")
        if storage in self._names:
            self._scale(self._names[storage], plain, args)
            return
        value = self._number(args[0])
        whole = args[0].numel() * args[0].element_size() == args[0].untyped_storage().nbytes()
        if plain in _COMPUTED and whole and value is not None:
            other = self._number(args[1])
            if other is not None:
                self._fills[storage] = float(_COMPUTED[plain](value, other))
                return
        if plain in ("fill", "zero") and whole and storage not in self._written:
            self._fills[storage] = float(args[1]) if plain == "fill" else 0.0
            self._alive.append(args[0])
            return
        self._written.add(storage)

    def _scale(self, name: str, plain: str, args: Any) -> None:
        number = args[1] if len(args) == 2 else None
        if plain not in ("mul", "div") or not isinstance(number, int | float):
            raise LlmcError("LLMC-E0430", f"the model's forward pass changes {name}")
        factor = number if plain == "mul" else 1 / number
        self.factors[name] = self.factors.get(name, 1.0) * factor


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
