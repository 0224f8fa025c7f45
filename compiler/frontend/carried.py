"""What a model carries from one token to the next: found by running it, not known by its name.

In: a model on the meta device. Out: the tensors that one call with a cache leaves behind and the
next call takes up, wherever the model puts them: in a cache that it returns (`cache_params`,
`state`, `past_key_values`) or in attributes of its modules; and a way to run it once more with
other tensors in their places. Keys and values are not among them: attention gets those of this
token only, which is what our attention function takes.

What stays as it is in a second call isn't state. Calls have one sequence of one token, as the
reference has: some models compute something else for several sequences.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import Cache

from ...base.errors import LlmcError
from .first_values import FirstValues

Path = tuple[Any, ...]


@dataclass(frozen=True)
class CarriedPart:
    """One tensor of a sequence's: its shape, and the number that it is before the first token."""

    shape: tuple[int, ...]
    initial: float


@dataclass
class Carried:
    """What `find_carried` found, and where."""

    parts: list[CarriedPart]
    factors: dict[str, float]
    """What the first call multiplies parameters with, by name."""
    _roots: _Roots
    _paths: list[Path]
    updates: int = 0
    """How often the last step gave a cache keys and values."""

    def step(
        self,
        model: Any,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        given: Sequence[torch.Tensor],
        counter: torch.Tensor,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Logits [1, 1, vocab] and the parts after ids and positions [1, 1], parts being `given`.

        `counter` stands for all other tensors that the model keeps.
        """
        known = dict(_tensors(self._roots))
        replaced = {id(known[path]): new for path, new in zip(self._paths, given, strict=True)}
        kept = {id(tensor): counter for path, tensor in known.items() if id(tensor) not in replaced}
        roots = _copied(self._roots, kept | replaced)
        with _pass_through() as calls, roots.installed():
            logits = _call(model, token_ids, positions, roots.arguments).logits
            after = dict(_tensors(roots.current()))
        self.updates = len(calls)
        return logits, [after[path] for path in self._paths]


def find_carried(model: Any) -> Carried:
    """Run `model`, which must be on the meta device, on one token and then on a second.

    Raises:
        LlmcError: LLMC-E0430, it carries nothing, or something else than float tensors of a fixed
            size.
    """
    ids = torch.zeros(1, 1, dtype=torch.long, device="meta")
    before = {(module, name): value for module, name, value in _attributes(model)}
    watched = FirstValues(dict(model.named_parameters()))
    with torch.no_grad(), _pass_through():
        with watched:
            roots = _first_call(model, ids, ids.clone())
        for module, name, value in _attributes(model):
            if value is not before.get((module, name)) and _inside(value):
                roots.attributes[module, name] = value
        first = {path: (tensor, tensor._version) for path, tensor in _tensors(roots)}
        _call(model, ids, ids.clone(), roots.arguments)
    roots = roots.current()
    changed = [
        (path, tensor, first[path][0] if path in first else None)
        for path, tensor in _tensors(roots)
        if tensor.is_floating_point() and not _is_as_before(tensor, first.get(path))
    ]
    for module, name in roots.attributes:
        _restore(module, name, before.get((module, name), _MISSING))
    parts = {path: _part(model, old, new, watched) for path, new, old in changed}
    if not parts:
        raise _unknown(model, "keeps no state that its call returns or its modules hold")
    return Carried(list(parts.values()), watched.factors, roots, list(parts))


def _is_as_before(tensor: torch.Tensor, first: tuple[torch.Tensor, int] | None) -> bool:
    return first is not None and tensor is first[0] and tensor._version == first[1]


def _part(
    model: Any, old: torch.Tensor | None, new: torch.Tensor, watched: FirstValues
) -> CarriedPart:
    if old is None or old.shape != new.shape:
        raise _unknown(model, "keeps a state that grows with each token")
    if new.dtype != torch.float32:
        raise _unknown(model, f"keeps a state of {new.dtype}")
    return CarriedPart(tuple(new.shape), watched.of(old))


def _unknown(model: Any, why: str) -> LlmcError:
    return LlmcError("LLMC-E0430", f"{type(model).__name__} {why}")


# ── where it is ────────────────────────────────────────────────────────────────────────


@dataclass
class _Roots:
    """The objects that hold all of it: arguments of a call, and attributes of modules."""

    arguments: dict[str, Any] = field(default_factory=dict)
    attributes: dict[tuple[Any, str], Any] = field(default_factory=dict)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Give the modules these attributes; afterwards what they had."""
        before = {(m, name): vars(m).get(name, _MISSING) for m, name in self.attributes}
        for (module, name), value in self.attributes.items():
            _restore(module, name, value)
        try:
            yield
        finally:
            for (module, name), value in before.items():
                _restore(module, name, value)

    def current(self) -> _Roots:
        """The same arguments, and the attributes as the modules have them now."""
        return _Roots(self.arguments, {(m, name): vars(m)[name] for m, name in self.attributes})


_MISSING = object()


def _restore(module: Any, name: str, value: Any) -> None:
    if value is _MISSING:
        vars(module).pop(name, None)
    else:
        vars(module)[name] = value


def _first_call(model: Any, token_ids: torch.Tensor, positions: torch.Tensor) -> _Roots:
    """Run the model from no state; the arguments that would give the next call its state."""
    takes = inspect.signature(model.forward).parameters
    output = _call(model, token_ids, positions, {})
    given = {name: output[name] for name in output.keys() & takes.keys() if name != "logits"}
    given = {name: value for name, value in given.items() if value is not None}
    if not given and "past_key_values" in takes:
        # Its cache isn't returned: it is made as `generate` makes it, and filled by the call.
        given = {"past_key_values": DynamicCache(config=model.config)}
        _call(model, token_ids, positions, given)
    return _Roots(given)


def _call(model: Any, token_ids: Any, positions: Any, arguments: dict[str, Any]) -> Any:
    return model(
        input_ids=token_ids, position_ids=positions, use_cache=True, return_dict=True, **arguments
    )


@contextlib.contextmanager
def _pass_through() -> Iterator[list[Any]]:
    """Caches keep no keys and values: attention gets those of the call's own tokens.

    Gives the list of layers that wanted to.
    """
    calls: list[Any] = []

    def update(
        self: Any, key: torch.Tensor, value: torch.Tensor, layer: Any = None, *_: Any, **__: Any
    ) -> Any:
        calls.append(layer)
        return key, value

    with mock.patch.object(Cache, "update", update):
        yield calls


def _attributes(model: Any) -> Iterator[tuple[Any, str, Any]]:
    """Attributes of modules that may hold tensors, but parameters, buffers and submodules."""
    for module in model.modules():
        for name, value in vars(module).items():
            if not name.startswith("_") and not isinstance(value, bool | int | float | str):
                yield module, name, value


# ── tensors in objects ─────────────────────────────────────────────────────────────────


def _tensors(roots: _Roots) -> Iterator[tuple[Path, torch.Tensor]]:
    seen: set[int] = set()
    for name, value in roots.arguments.items():
        yield from _walk(value, (name,), seen)
    for key, value in roots.attributes.items():
        yield from _walk(value, key, seen)


def _inside(value: Any) -> list[torch.Tensor]:
    return [tensor for _, tensor in _walk(value, (), set())]


def _walk(value: Any, path: Path, seen: set[int]) -> Iterator[tuple[Path, torch.Tensor]]:
    """The tensors in `value`, each once, with where they are."""
    if id(value) in seen or isinstance(value, torch.nn.Module | PreTrainedConfig | type):
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _walk(item, (*path, i), seen)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(item, (*path, key), seen)
    elif hasattr(value, "__dict__") and not callable(value):
        for name, item in vars(value).items():
            yield from _walk(item, (*path, name), seen)


def _copied(roots: _Roots, replaced: dict[int, torch.Tensor]) -> _Roots:
    """The same objects anew, other tensors in place of some."""
    memo: dict[int, Any] = dict(replaced)
    attributes = list(roots.attributes.values())
    for value in _shared([roots.arguments, attributes], set()):
        memo[id(value)] = value
    arguments, values = copy.deepcopy((roots.arguments, attributes), memo)
    return _Roots(arguments, dict(zip(roots.attributes, values, strict=True)))


def _shared(value: Any, seen: set[int]) -> Iterator[Any]:
    """Modules and configs in `value`, which a copy refers to as the original does."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, torch.nn.Module | PreTrainedConfig | type):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _shared(item, seen)
    elif isinstance(value, dict):
        yield from _shared(list(value.values()), seen)
    elif not isinstance(value, torch.Tensor) and hasattr(value, "__dict__") and not callable(value):
        yield from _shared(vars(value), seen)
