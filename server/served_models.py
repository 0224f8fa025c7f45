"""The models that are served, and which requests they take on.

A model takes as many sequences as its program computes at once and `max_waiting` more. Beyond that
a request is refused with the time after which there is probably room again: as long as it took
lately until as many sequences ended.
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from time import monotonic, time
from typing import TYPE_CHECKING

from ..base.errors import LlmcError
from .config import ServerConfig
from .connection.error_objects import RequestError

if TYPE_CHECKING:
    from ..runtime.api.async_engine import AsyncEngine
    from ..runtime.api.model import Model

_WARM_TOKENS = 64
_LONGEST_WAIT = 60
"""Seconds that a client is told to wait at most."""


class Served:
    """One model under its name."""

    def __init__(self, name: str, model: "Model", engine: "AsyncEngine", config: ServerConfig):
        self.name, self.model, self.engine = name, model, engine
        self.created = int(time())
        self.sequences = 0
        """Sequences that were taken on and haven't ended."""
        self.refused = 0
        self.capacity = model.capacity
        self.context = self.capacity.context
        """Tokens of the longest sequence: the context, or what the cache can hold."""
        self.at_once = model.program.limits.max_sequences
        self._limit = self.at_once + config.max_waiting
        self._ends: deque[float] = deque(maxlen=128)

    def warm_up(self) -> None:
        """Does what the first request would wait for: reads tokenizer and template, and touches
        weights, workspace and what chooses tokens with a first request, which isn't counted."""
        from ..runtime.engine.metrics.counters import EngineCounters

        model = self.model
        if model.has_tokenizer:
            model.tokenizer.encode("warm", add_special_tokens=False)
        template = model.chat_template
        if template is not None:
            with suppress(LlmcError):  # a model may have none for chats that name none
                _ = template.knows_tools
        with model.thread.paused() as engine:
            prompt = (0,) * min(self.context, _WARM_TOKENS)
            engine.add(model.make_request(prompt, temperature=1, max_tokens=1))
            while engine.has_work:
                engine.step()
            engine.counters = EngineCounters()

    @property
    def failed(self) -> LlmcError | None:
        """Why its engine has stopped, if it has failed."""
        return self.model.thread.failed

    def take(self, count: int) -> None:
        """Counts sequences that begin; E0218 if there is no room."""
        if self.sequences + count > self._limit:
            self.refused += 1
            wait = self._wait(self.sequences + count - self._limit)
            raise RequestError(
                "LLMC-E0218",
                f"{self.sequences} sequences are running or waiting",
                headers={"retry-after": str(wait)},
            )
        self.sequences += count

    def give_back(self, count: int) -> None:
        """Counts sequences that have ended."""
        self.sequences -= count
        now = monotonic()
        for _ in range(count):
            self._ends.append(now)

    def _wait(self, count: int) -> int:
        """Seconds until `count` more sequences have probably ended."""
        if len(self._ends) < 2:
            return 5
        seconds = monotonic() - self._ends[0]
        return max(1, min(_LONGEST_WAIT, math.ceil(count * seconds / len(self._ends))))


class Catalog:
    """All models by name. A request that names none means the first."""

    def __init__(self, served: Mapping[str, Served]) -> None:
        self._served = dict(served)
        self.draining = False

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served.values())

    def get(self, name: str | None) -> Served:
        """The model of this name. Errors: E0214, E0220 while the server stops."""
        if self.draining:
            raise RequestError("LLMC-E0220", "the server is stopping")
        if name is None:
            return next(iter(self._served.values()))
        if name not in self._served:
            raise RequestError("LLMC-E0214", f"there is no model {name[:200]!r}", param="model")
        return self._served[name]

    @property
    def failed(self) -> LlmcError | None:
        """Why one of the engines has stopped, if one has."""
        return next((s.failed for s in self if s.failed is not None), None)

    @property
    def sequences(self) -> int:
        """Sequences of all models that haven't ended."""
        return sum(served.sequences for served in self)
