"""The thread that steps an engine, so that any number of other threads can use it.

In: requests from any thread, each with a sink. Out: after every step a `Delta` for each request
that has news, given to its sink on the engine's thread; the last delta of a request has a finish
reason, and there always is one, whatever happens. The program's step runs without the interpreter
lock, so that readers work while it computes.

The thread starts with the first request and is a daemon. It never outlives the interpreter with a
step under way: at exit every engine is stopped, and the step that runs is waited for. A forked
child has neither this thread nor the program's own ones: there the engine is stopped, and a model
must be loaded after the fork.
"""

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import current_thread
from time import monotonic
from typing import Any

from ....base.errors import LlmcError
from ..request import FinishReason, Request
from .interfaces import Observer, Sink, StepEngine
from .step_loop import LOOPS, Pause, StepLoop, again

__all__ = ["EngineThread", "Observer", "Sink", "again"]

_EXIT_SECONDS = 10.0
"""How long the end of the interpreter waits for the steps that run."""


class EngineThread:
    """One engine that many threads use. See the module's description for what is promised."""

    def __init__(self, engine: StepEngine) -> None:
        self._loop = StepLoop(engine)

    @property
    def failed(self) -> LlmcError | None:
        """Why the engine has stopped, if a step failed (E0104, the failure is its cause)."""
        return self._loop.failed

    def submit(self, request: Request, sink: Sink) -> None:
        """Queues a request. What `Engine.check` refuses raises here, and E0104 if the engine was
        closed or has failed; all that happens later reaches the sink."""
        loop = self._loop
        if loop.refusal is not None:
            raise again(loop.refusal)
        loop.engine.check(request)
        request.timings.arrived = request.timings.arrived or monotonic()
        observer = loop.observer
        if observer is None:
            loop.post(loop.admit, request, sink)
            return
        observer.submitted(request)
        try:
            loop.post(loop.admit, request, sink)
        except BaseException:
            observer.refused(request)
            raise

    def observe(self, observer: Observer | None) -> None:
        """Tells an observer of all requests from now on, instead of the one before."""
        self._loop.observer = observer

    def cancel(self, request: Request, reason: FinishReason = "aborted") -> None:
        """Ends a request before the next step, and its sink gets a last delta. Idempotent; does
        nothing for one that has ended. Takes no locks: a destructor may call it."""
        self._loop.inbox.put((self._loop.finish, request, reason))

    def later(self, action: Callable[[], None]) -> None:
        """Calls a function on the engine's thread between steps. Takes no locks."""
        self._loop.inbox.put((action,))

    @contextmanager
    def paused(self) -> Iterator[Any]:
        """The engine itself, while no step runs: what waits is served before the next step.

        Inside, no stream may be read: nothing is computed. E0104 if the engine has ended.
        """
        if current_thread() is self._loop.thread:
            raise LlmcError("LLMC-E0100", "the engine's own thread cannot wait for a pause")
        pause = Pause()
        try:
            self._loop.post(self._loop.pause, pause)
            pause.granted.wait()
            if pause.refused is not None:
                raise again(pause.refused)
            yield self._loop.engine
        finally:
            pause.released.set()

    def close(self, drain: bool = False, timeout: float | None = None) -> bool:
        """Ends the engine and closes it: new requests are refused, those that run are cancelled.

        With `drain` they are finished first, for at most `timeout` seconds. The step that runs is
        always waited for; without `drain`, `timeout` limits that. Returns whether all has ended:
        if not, the thread closes the engine when its step ends. May be called again.
        """
        thread = self._loop.close(drain)
        if thread is None or thread is current_thread():
            return True
        thread.join(timeout)
        if drain and thread.is_alive():
            self._loop.close(drain=False)
            thread.join(_EXIT_SECONDS)
        return not thread.is_alive()

    def __del__(self) -> None:
        loop = getattr(self, "_loop", None)
        if loop is not None and loop.thread is not None:
            loop.inbox.put((loop.stop, False))


def _stop_all() -> None:
    """At exit, while threads still run: a program must not be freed under its own step."""
    deadline = monotonic() + _EXIT_SECONDS
    threads = [loop.close(drain=False) for loop in list(LOOPS) if loop.thread is not None]
    for thread in threads:
        if thread is not None:
            thread.join(max(0.0, deadline - monotonic()))


def _forget_all() -> None:
    for loop in list(LOOPS):
        loop.forget()


atexit.register(_stop_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
