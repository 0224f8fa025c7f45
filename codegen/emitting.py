"""The registry of a target's emitters: what does the work of an op, found by the op's class.

In: functions that a target's modules decorate with `@emits(Linear)`. Out: the function for an op,
and whether the target can do the op. The modules are found by their names and imported when the
first op is looked up, so that a new op is a new function and no line elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Generic, NamedTuple, TypeVar

from ..ir.ops import Op

Context = TypeVar("Context")
Subject = TypeVar("Subject")
Result = TypeVar("Result")
OpT = TypeVar("OpT", bound=Op)


class _Entry(NamedTuple):
    emitter: Callable[..., Any]
    only: Callable[[Any], bool] | None


class Emitters(Generic[Context, Subject, Result]):
    """The emitters of a target or a dialect, called as `emitter(context, subject, op)`.

    `context` is what they add to or read from, `subject` what the op is applied to: a node, or
    operands.
    """

    def __init__(
        self, module: str, pattern: str, fallback: Emitters[Context, Subject, Result] | None = None
    ) -> None:
        """
        Args:
            module: A module of the target, by its dotted name.
            pattern: The modules beside it that hold emitters (`emit_*`).
            fallback: Has the emitters of all ops that have none here.
        """
        self._package = module.rpartition(".")[0]
        self._pattern = pattern
        self._fallback = fallback
        self._entries: dict[type[Op], _Entry] = {}
        self._complete = False

    def emits(
        self, *classes: type[OpT], only: Callable[[OpT], bool] | None = None
    ) -> Callable[
        [Callable[[Context, Subject, OpT], Result]], Callable[[Context, Subject, OpT], Result]
    ]:
        """Decorator: the function is the emitter of these classes, subclasses not included.

        Args:
            classes: Classes of ops.
            only: Which ops of the classes the target can do; left out: all.

        Raises:
            ValueError: One of the classes has an emitter.
        """

        def register(
            emitter: Callable[[Context, Subject, OpT], Result],
        ) -> Callable[[Context, Subject, OpT], Result]:
            for kind in classes:
                if kind in self._entries:
                    first, second = self._entries[kind].emitter, emitter
                    raise ValueError(
                        f"{kind.__name__} has two emitters: {first.__module__}.{first.__name__} "
                        f"and {second.__module__}.{second.__name__}"
                    )
                self._entries[kind] = _Entry(emitter, only)
            return emitter

        return register

    def find(self, op: Op) -> Callable[[Context, Subject, Any], Result] | None:
        """The emitter of the op's class, whatever `only` says; None if there is none."""
        entry = self._find(op)
        return None if entry is None else entry.emitter

    def supports(self, op: Op) -> bool:
        """Whether the op's class has an emitter that can do `op`."""
        entry = self._find(op)
        return entry is not None and (entry.only is None or entry.only(op))

    def _find(self, op: Op) -> _Entry | None:
        self._load()
        entry = self._entries.get(type(op))
        if entry is None and self._fallback is not None:
            return self._fallback._find(op)
        return entry

    def _load(self) -> None:
        """Import the modules that hold emitters, in the order of their names."""
        if self._complete:
            return
        for module in iter_modules(import_module(self._package).__path__):
            if fnmatch(module.name, self._pattern):
                import_module(f"{self._package}.{module.name}")
        self._complete = True
