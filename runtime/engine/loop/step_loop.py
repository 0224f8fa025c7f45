"""What runs on an engine's thread: messages between steps, steps, and deltas to their sinks.

`thread.py` is what others use of it. In: messages, each a function and its arguments, from any
thread. Out: every request that came in gets a last delta, however the loop ends; then the program
is closed, here, where no step can be under way.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any
from weakref import WeakSet

from ....base.errors import LlmcError
from ..request import Delta, FinishReason, Request
from .interfaces import Mailbox, Observer, Sink, StepEngine

_CLOSED = "the engine has been closed"


class Pause:
    """A caller's wish to have the engine to itself."""

    def __init__(self) -> None:
        self.granted, self.released = Event(), Event()
        self.refused: LlmcError | None = None


class StepLoop:
    """What runs on the thread. It holds no reference to its `EngineThread`, so that an engine
    nobody keeps any more is stopped."""

    def __init__(self, engine: StepEngine) -> None:
        self.engine = engine
        self.inbox: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
        """What to do between steps: a function and its arguments. To put something into it takes
        no lock that anyone can hold, so that it may be done from a destructor."""
        self.gate = Lock()
        """Held to put in what must be answered, and to declare that nothing is answered more."""
        self.refusal: LlmcError | None = None
        """Why new requests are refused."""
        self.failed: LlmcError | None = None
        self.thread: Thread | None = None
        self.observer: Observer | None = None
        self._sinks: dict[Request, Sink] = {}
        self._stopped = self._draining = self._ended = False
        LOOPS.add(self)

    # ---- from any thread

    def post(self, action: Callable[..., None], *arguments: Any) -> None:
        """Has the thread do something that it must answer. E0104 if it has stopped."""
        with self.gate:
            if self.refusal is not None:
                raise again(self.refusal)
            if self.thread is None:
                self.thread = self._start()
            self.inbox.put((action, *arguments))

    def _start(self) -> Thread:
        thread = Thread(target=self.run, name="llmc-engine", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no more, or the interpreter is ending
            raise LlmcError("LLMC-E0600", f"the engine's thread can't start: {error}") from error
        return thread

    def close(self, drain: bool) -> Thread | None:
        """Has the thread end, and returns it; without a thread it has ended at return."""
        with self.gate:
            self.refusal = self.refusal or LlmcError("LLMC-E0104", _CLOSED)
            if self.thread is not None:
                self.inbox.put((self.stop, drain))
                return self.thread
            if self._ended:
                return None
            self._ended = True
        self._close_engine()
        return None

    def forget(self) -> None:
        """In a forked child: there is no thread, and nobody holds a lock."""
        self.gate, self.inbox = Lock(), SimpleQueue()
        self.failed = self.refusal = LlmcError(
            "LLMC-E0104",
            "this process was forked after the model was loaded",
            hint="load the model in the process that uses it",
        )
        self.thread, self._ended = None, True

    # ---- on the engine's thread

    def run(self) -> None:
        """Steps while there is work, until it is stopped."""
        while not self._stopped:
            self._take_messages()
            if self.failed is None and self.engine.has_work:
                try:
                    deltas = self.engine.step()
                except BaseException as error:
                    self._fail(error)
                else:
                    self._deliver(deltas)
            elif self._draining and self.inbox.empty():
                break
        self._end()

    def _take_messages(self) -> None:
        """Does what was asked between steps; waits for it if there is nothing to compute."""
        inbox = self.inbox
        idle = self.failed is not None or not self.engine.has_work
        if idle and not self._draining:
            self._do(*inbox.get())
        while not inbox.empty():
            self._do(*inbox.get())

    def _do(self, action: Callable[..., None], *arguments: Any) -> None:
        try:
            action(*arguments)
        except BaseException as error:  # the engine could not even end a request
            self._fail(error)

    def admit(self, request: Request, sink: Sink) -> None:
        if self.failed is not None or self._ended:
            self._refuse(request, sink)
            return
        try:
            self.engine.add(request)
        except Exception as error:  # refused in the end: it ends, the others go on
            request.error = _as_llmc_error(error)
            self._answer(request, sink, "error")
        else:
            self._sinks[request] = sink

    def _refuse(self, request: Request, sink: Sink) -> None:
        """It came while the engine ended."""
        if self.failed is not None:
            request.error = again(self.failed)
        self._answer(request, sink, "error" if self.failed is not None else "aborted")

    def finish(self, request: Request, reason: FinishReason) -> None:
        """Ends a request from outside, if it hasn't ended."""
        if request not in self._sinks:
            return
        try:
            self.engine.finish(request, reason)
            self._deliver(self.engine.take_news())  # its last tokens may be among them
        finally:
            sink = self._sinks.pop(request, None)
            if sink is not None:
                self._answer(request, sink, reason)

    def pause(self, pause: Pause) -> None:
        if self.failed is None and not self._ended:
            try:
                self.engine.settle()  # a step may be under way between two calls
            except BaseException as error:
                self._fail(error)
        if self.failed is not None or self._ended:
            pause.refused = self.refusal
            pause.granted.set()
        else:
            pause.granted.set()
            pause.released.wait()

    def stop(self, drain: bool) -> None:
        with self.gate:
            self.refusal = self.refusal or LlmcError("LLMC-E0104", _CLOSED)
        self._draining = True
        self._stopped = self._stopped or not drain

    def _answer(self, request: Request, sink: Sink, reason: FinishReason) -> None:
        """The last delta of a request that didn't end by itself."""
        request.finish_reason = request.finish_reason or reason
        request.timings.finished = request.timings.finished or monotonic()
        self._hand_over(((sink, Delta(request, (), "", request.finish_reason)),))

    def _deliver(self, deltas: Sequence[Delta]) -> None:
        sinks, found = self._sinks, []
        for delta in deltas:
            sink = sinks.get(delta.request)
            if sink is not None:
                if delta.finish_reason is not None:
                    del sinks[delta.request]
                found.append((sink, delta))
        self._hand_over(found)

    def _hand_over(self, found: Sequence[tuple[Sink, Delta]]) -> None:
        """Gives sinks their deltas, and then flushes each of their mailboxes once."""
        mailboxes: dict[Mailbox, None] = {}
        for sink, delta in found:
            try:
                sink.push(delta)
            except Exception as error:
                _report("a sink failed; its request ends", error)
                if self._sinks.pop(delta.request, None) is not None:
                    self.engine.finish(delta.request, "aborted")
            else:
                mailbox: Mailbox | None = getattr(sink, "mailbox", None)
                if mailbox is not None:
                    mailboxes[mailbox] = None
        for mailbox in mailboxes:
            try:
                mailbox.flush()
            except Exception as error:
                _report("a mailbox failed", error)
        if self.observer is not None:
            self._tell_observer(self.observer, found)

    def _tell_observer(self, observer: Observer, found: Sequence[tuple[Sink, Delta]]) -> None:
        for _, delta in found:
            if delta.finish_reason is not None:
                try:
                    observer.finished(delta.request)
                except Exception as error:
                    _report("an observer failed", error)

    def _fail(self, error: BaseException) -> None:
        """The step failed, and nobody knows in what state: all that runs ends, nothing begins."""
        stopped = LlmcError("LLMC-E0104", f"the engine has stopped: {error or type(error)}")
        stopped.__cause__ = error
        with self.gate:
            self.failed = self.refusal = stopped
        for request in self._sinks:
            if request.finish_reason is None:
                request.error = _as_llmc_error(error)
            with suppress(Exception):
                self.engine.finish(request, "error")
        with suppress(Exception):
            self._deliver(self.engine.take_news())
        for request, sink in self._sinks.items():
            self._answer(request, sink, "error")
        self._sinks.clear()

    def _end(self) -> None:
        """Ends what still runs, answers what still came, and lets go of the program: here, where
        no step can be under way."""
        with self.gate:
            self._ended = True
        for request in list(self._sinks):
            self._do(self.finish, request, "aborted")
        while not self.inbox.empty():
            self._do(*self.inbox.get())
        self._close_engine()

    def _close_engine(self) -> None:
        with suppress(Exception):  # one that has failed; its program is closed all the same
            self.engine.abort_all()
        self.engine.close()


def again(error: LlmcError) -> LlmcError:
    """The same error to be raised once more, by another thread."""
    copy = LlmcError(error.id, error.message, error.hint)
    copy.__cause__ = error.__cause__
    return copy


def _as_llmc_error(error: BaseException) -> LlmcError:
    if isinstance(error, LlmcError):
        return error
    wrapped = LlmcError("LLMC-E0100", f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


def _report(what: str, error: BaseException) -> None:
    from logging import getLogger  # imported here: it takes longer than all of this module

    getLogger("llmc.engine").error("%s: %s", what, error, exc_info=error)


LOOPS: WeakSet[StepLoop] = WeakSet()
"""All loops there are, for the end of the process and for forks."""
