"""The engine's thread, with a program that works by itself: a step is under way between calls."""

from threading import Event
from typing import Any

import pytest
from late_toy import LateStep, LateToy
from llmc.base.errors import LlmcError
from llmc.runtime.engine.engine import Engine
from llmc.runtime.engine.loop.thread import EngineThread
from llmc.runtime.engine.request import Delta, Request
from toy_program import Toy

pytestmark = pytest.mark.fast


class Sink:
    """Keeps what it is given; `first` and `last` are set when something, and the end, has come."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.first, self.last = Event(), Event()

    def push(self, delta: Delta) -> None:
        self.ids += delta.token_ids
        self.first.set()
        if delta.finish_reason is not None:
            self.last.set()


def test_a_thread_pauses_and_closes_when_nothing_is_under_way() -> None:
    program = LateToy()
    thread = EngineThread(Engine(program))
    requests, sinks = [Request((n, 2), 200) for n in range(4)], [Sink() for _ in range(4)]
    for request, sink in zip(requests, sinks, strict=True):
        thread.submit(request, sink)
    assert all(sink.first.wait(10) for sink in sinks)
    for _ in range(3):
        with thread.paused():
            assert program.submitted == program.landed
    thread.cancel(requests[0])
    assert sinks[0].last.wait(10)
    assert thread.close(drain=True, timeout=30)
    assert sinks[0].ids == Toy.greedy([0, 2], len(sinks[0].ids))
    for request, sink in list(zip(requests, sinks, strict=True))[1:]:
        assert sink.ids == request.output == Toy.greedy([*request.prompt], 200)
    assert program.closed


def test_who_is_cancelled_after_a_pause_is_told_of_all_its_tokens() -> None:
    """A pause waits for a step, whose tokens are told with the next one: here there is none."""
    thread = EngineThread(Engine(LateToy()))
    for n in range(8):
        request, sink = Request((n, 2), 200), Sink()
        thread.submit(request, sink)
        assert sink.first.wait(10)
        with thread.paused():
            thread.cancel(request)
        assert sink.last.wait(10)
        assert sink.ids == request.output == Toy.greedy([n, 2], len(sink.ids))
    assert thread.close()


def test_who_is_under_way_when_the_device_fails_is_told_of_all_its_tokens() -> None:
    class Failing(LateToy):
        failing = False

        def submit(self, *asked: Any) -> LateStep:
            if self.failing:
                raise LlmcError("LLMC-E0102", "the device is gone")
            return super().submit(*asked)

    program = Failing()
    thread, request, sink = EngineThread(Engine(program)), Request((3, 2), 200), Sink()
    thread.submit(request, sink)
    assert sink.first.wait(10)
    with thread.paused():
        program.failing = True
    assert sink.last.wait(10)
    assert sink.ids == request.output == Toy.greedy([3, 2], len(sink.ids))
    assert request.finish_reason == "error"
    assert request.error is not None
    assert request.error.id == "LLMC-E0102"
    assert thread.close()


def test_a_device_that_fails_in_a_pause_is_told_to_who_waits() -> None:
    class Failing(LateToy):
        def run_until(self, number: int) -> None:
            if self.failing:
                raise LlmcError("LLMC-E0102", "the device is gone")
            super().run_until(number)

        failing = False

    program = Failing()
    engine = Engine(program)
    engine.add(Request((1, 2), 200))  # of no sink: it is under way before the thread is
    engine.step()
    thread, program.failing = EngineThread(engine), True
    with pytest.raises(LlmcError, match="E0104"), thread.paused():
        raise AssertionError("there is nothing to use")
    assert thread.failed is not None
    assert thread.close()
