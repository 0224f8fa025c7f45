"""The engine's thread: submitting, cancelling, pausing, closing and failing, from many threads."""

import gc
import os
import subprocess
import sys
import threading
import time
from queue import SimpleQueue
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.base.errors import LlmcError
from llmc.runtime.engine.engine import Engine
from llmc.runtime.engine.loop.thread import EngineThread
from llmc.runtime.engine.request import Delta, Request

pytestmark = pytest.mark.fast


class Reader:
    """A sink that keeps all it is given, and waits for the end."""

    def __init__(self) -> None:
        self.deltas: SimpleQueue[Delta] = SimpleQueue()
        self.ids: list[int] = []

    def push(self, delta: Delta) -> None:
        self.deltas.put(delta)

    def wait(self, timeout: float = 30) -> str:
        """Reads to the end and returns the reason; Empty if it doesn't come."""
        while True:
            delta = self.deltas.get(timeout=timeout)
            self.ids += delta.token_ids
            if delta.finish_reason is not None:
                assert self.deltas.empty(), "nothing comes after the last delta"
                return delta.finish_reason


class Mailbox:
    def __init__(self) -> None:
        self.held: list[Delta] = []
        self.flushed: list[list[Delta]] = []

    def flush(self) -> None:
        self.flushed.append(self.held)
        self.held = []


class MailboxSink(Reader):
    def __init__(self, mailbox: Mailbox) -> None:
        super().__init__()
        self.mailbox = mailbox

    def push(self, delta: Delta) -> None:
        self.mailbox.held.append(delta)
        super().push(delta)


def used_blocks(engine: Engine) -> int:
    return sum(pool.used for pool in engine.cache.pools)


def thread_count() -> int:
    return sum(thread.name == "llmc-engine" for thread in threading.enumerate())


def wait_for(condition, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


class Gated:
    """A toy whose steps wait until they are let through, so that a test knows what runs when."""

    def __init__(self, toy) -> None:
        self.toy = toy()
        self.turn, self.began = threading.Semaphore(0), threading.Semaphore(0)
        self.error: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.toy, name)

    def step(self, inputs):
        self.began.release()
        assert self.turn.acquire(timeout=30)
        if self.error is not None:
            raise self.error
        return self.toy.step(inputs)

    def let(self, steps: int = 10_000) -> None:
        self.turn.release(steps)


@pytest.fixture
def make(toy):
    """Makes engine threads, and closes them."""
    made: list[EngineThread] = []

    def make(program=None, **limits) -> tuple[EngineThread, Engine]:
        engine = Engine(cast(Any, program or toy(**limits)))
        made.append(EngineThread(engine))
        return made[-1], engine

    yield make
    for thread in made:
        thread.close(timeout=10)


def test_requests_of_many_threads_get_their_own_tokens(make, toy):
    thread, engine = make()
    prompts = [[n, 3 * n % 97] for n in range(24)]
    readers = [Reader() for _ in prompts]

    def use(n: int) -> None:
        thread.submit(Request(tuple(prompts[n]), 20), readers[n])
        assert readers[n].wait() == "length"

    users = [threading.Thread(target=use, args=(n,)) for n in range(len(prompts))]
    for user in users:
        user.start()
    for user in users:
        user.join(30)
    assert [reader.ids for reader in readers] == [toy.greedy(p, 20) for p in prompts]
    assert thread_count() == 1
    assert thread.close()
    assert thread_count() == 0
    assert used_blocks(engine) == 0


def test_no_thread_before_the_first_request_nor_for_a_refused_one(make):
    thread, _ = make()
    with pytest.raises(LlmcError, match="E0206"):
        thread.submit(Request((), 1), Reader())
    assert thread_count() == 0
    thread.close()
    with pytest.raises(LlmcError, match="E0104"):
        thread.submit(Request((1,), 1), Reader())
    assert thread_count() == 0


def test_without_a_thread_the_caller_is_told(make, monkeypatch):
    def refuse(self) -> None:
        raise RuntimeError("can't start new thread")

    thread, _ = make()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(LlmcError, match=r"E0600.*can't start new thread"):
            thread.submit(Request((1,), 1), Reader())
    reader = Reader()
    thread.submit(Request((1,), 1), reader)
    assert reader.wait() == "length"


@settings(deadline=None, max_examples=20)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 96), min_size=1, max_size=120),
            st.integers(1, 30),
            st.one_of(st.none(), st.integers(0, 40)),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_cancelling_at_any_step(toy, cases):
    """A request is cancelled before a step while it waits, is being prefilled, decodes or has
    ended; the others get the text they would get alone, and no block is lost."""
    program = Gated(toy)
    engine = Engine(cast(Any, program))
    thread = EngineThread(engine)
    try:
        made = [(Request(tuple(prompt), count), Reader()) for prompt, count, _ in cases]
        with thread.paused():
            for request, reader in made:
                thread.submit(request, reader)
        for step in range(41):
            for (request, _), (_, _, cancelled_at) in zip(made, cases, strict=True):
                if cancelled_at == step:
                    thread.cancel(request)
                    thread.cancel(request)
            if engine.has_work:
                program.let(1)
        program.let()
        for (request, reader), (prompt, count, cancelled_at) in zip(made, cases, strict=True):
            whole = toy.greedy(prompt, count)
            reason = reader.wait()
            assert reason == request.finish_reason
            if reason == "length":
                assert request.output == whole
            else:
                assert cancelled_at is not None
                assert reason == "aborted"
                assert request.output == whole[: len(request.output)]
        with thread.paused():
            assert used_blocks(engine) == 0
            assert not engine.scheduler.running
            assert not len(engine.scheduler.waiting)
    finally:
        program.let()
        assert thread.close(timeout=10)


def test_cancelling_what_was_never_submitted_does_nothing(make):
    thread, _ = make()
    thread.cancel(Request((1,), 5))
    reader = Reader()
    thread.submit(Request((1,), 5), reader)
    assert reader.wait() == "length"


def test_one_flush_a_step_for_all_sinks_of_a_mailbox(make, toy):
    thread, _ = make()
    mailbox = Mailbox()
    sinks = [MailboxSink(mailbox) for _ in range(4)]
    with thread.paused():
        for n, sink in enumerate(sinks):
            thread.submit(Request((n,), 8), sink)
    for sink in sinks:
        sink.wait()
    assert [len(batch) for batch in mailbox.flushed] == [4] * 8
    assert thread.close()


def test_a_pause_comes_between_steps_and_is_not_starved(make):
    thread, engine = make()
    readers = [Reader() for _ in range(6)]
    for n, reader in enumerate(readers):
        thread.submit(Request((n,), 300), reader)
    seen = []
    for _ in range(5):
        with thread.paused() as inner:
            assert inner is engine
            before = len(engine.program.steps)
            time.sleep(0.005)
            assert len(engine.program.steps) == before
            seen.append(before)
    assert seen[-1] < 300, "the pauses were granted while requests ran"
    assert [reader.wait() for reader in readers] == ["length"] * 6


def test_the_engines_own_thread_cannot_pause_it(make):
    thread, _ = make()
    caught: list[LlmcError] = []

    class Pausing(Reader):
        def push(self, delta: Delta) -> None:
            try:
                with thread.paused():
                    pass
            except LlmcError as error:
                caught.append(error)
            super().push(delta)

    reader = Pausing()
    thread.submit(Request((1,), 2), reader)
    assert reader.wait() == "length"
    assert [error.id for error in caught] == ["LLMC-E0100"] * 2


def test_a_failing_program_ends_everything_with_its_cause(make, toy):
    program = Gated(toy)
    thread, engine = make(program)
    requests = [Request((n, n), 50) for n in range(9)]  # three of them wait
    readers = [Reader() for _ in requests]
    for request, reader in zip(requests, readers, strict=True):
        thread.submit(request, reader)
    program.let(3)
    program.error = LlmcError("LLMC-E0102", "the compiled program failed (code -7)")
    program.let()
    assert [reader.wait() for reader in readers] == ["error"] * 9
    assert {request.error and request.error.id for request in requests} == {"LLMC-E0102"}
    assert used_blocks(engine) == 0
    assert thread.failed is not None
    assert thread.failed.__cause__ is program.error
    for _ in range(2):
        with pytest.raises(LlmcError, match=r"E0104.*code -7"):
            thread.submit(Request((1,), 1), Reader())
        with pytest.raises(LlmcError, match="E0104"), thread.paused():
            pass
    thread.cancel(requests[0])
    assert thread.close(drain=True)
    assert program.closed


def test_any_exception_is_a_failure_that_says_what_it_was(make, toy):
    program = Gated(toy)
    program.error = ZeroDivisionError("by zero")
    thread, _ = make(program)
    request, reader = Request((1,), 5), Reader()
    thread.submit(request, reader)
    program.let()
    assert reader.wait() == "error"
    assert "ZeroDivisionError: by zero" in str(request.error)


def test_a_failing_sink_ends_its_own_request_only(make, toy, caplog):
    class Broken:
        count = 0

        def push(self, delta: Delta) -> None:
            self.count += 1
            raise OSError("disk full")

    thread, engine = make()
    broken, reader = Broken(), Reader()
    request = Request((5,), 30)
    with thread.paused():
        thread.submit(request, broken)
        thread.submit(Request((6,), 30), reader)
    assert reader.wait() == "length"
    assert reader.ids == toy.greedy([6], 30)
    with thread.paused():
        assert used_blocks(engine) == 0
    assert request.finish_reason == "aborted"
    assert broken.count == 1
    assert [record.exc_info[1].args for record in caplog.records] == [("disk full",)]


def test_a_failing_mailbox_is_reported_and_the_engine_goes_on(make, caplog):
    class Broken(Mailbox):
        def flush(self) -> None:
            raise RuntimeError("no loop")

    thread, _ = make()
    sink = MailboxSink(Broken())
    thread.submit(Request((5,), 2), sink)
    assert sink.wait() == "length"
    thread.close()
    assert "no loop" in caplog.text


@pytest.mark.parametrize("drain", [False, True])
def test_closing_while_requests_run(make, toy, drain):
    program = Gated(toy)
    thread, engine = make(program)
    readers = [Reader() for _ in range(8)]
    for n, reader in enumerate(readers):
        thread.submit(Request((n,), 20), reader)
    program.let(3)
    closing = threading.Thread(target=thread.close, args=(drain,))
    closing.start()
    wait_for(lambda: thread._loop.refusal is not None)
    with pytest.raises(LlmcError, match="E0104"):
        thread.submit(Request((1,), 1), Reader())
    program.let()
    closing.join(30)
    assert not closing.is_alive()
    reasons = {reader.wait() for reader in readers}
    assert reasons == ({"length"} if drain else {"aborted"})
    assert program.closed
    assert used_blocks(engine) == 0
    assert thread.close()
    assert thread_count() == 0


def test_a_drain_that_takes_too_long_becomes_a_cancellation(make, toy):
    class Slow(toy):
        def step(self, inputs):
            time.sleep(0.02)
            return super().step(inputs)

    thread, _ = make(Slow())
    reader = Reader()
    thread.submit(Request((1,), 300), reader)
    assert thread.close(drain=True, timeout=0.1)
    assert reader.wait() == "aborted"
    assert 0 < len(reader.ids) < 300


def test_a_close_that_cannot_wait_leaves_the_program_to_its_step(make, toy):
    program = Gated(toy)
    thread, _ = make(program)
    reader = Reader()
    thread.submit(Request((1,), 5), reader)
    assert program.began.acquire(timeout=10)
    assert not thread.close(timeout=0.05)
    assert not program.closed
    program.let()
    assert reader.wait() == "aborted"
    assert thread.close(timeout=10)
    assert program.closed


def test_an_engine_nobody_keeps_is_stopped(toy):
    program = toy()
    thread = EngineThread(Engine(program))
    reader = Reader()
    thread.submit(Request((1,), 3), reader)
    reader.wait()
    del thread
    gc.collect()
    wait_for(lambda: thread_count() == 0 and program.closed)


def test_the_wall_clock_means_nothing(make, monkeypatch):
    clock = [1e9]

    def jumping() -> float:
        clock[0] = -clock[0] * 1.5
        return clock[0]

    monkeypatch.setattr(time, "time", jumping)
    thread, _ = make()
    request, reader = Request((1,), 40, deadline=time.monotonic() + 60), Reader()
    thread.submit(request, reader)
    assert reader.wait() == "length"
    timings = request.timings
    moments = [
        timings.arrived,
        timings.scheduled,
        timings.first_token,
        timings.last_token,
        timings.finished,
    ]
    assert moments == sorted(moments)
    assert 0 < moments[-1] - moments[0] < 30


def test_a_deadline_ends_a_request(make, toy):
    program = Gated(toy)
    thread, _ = make(program)
    reader = Reader()
    thread.submit(Request((1,), 300, deadline=time.monotonic() + 0.05), reader)
    program.let(2)
    time.sleep(0.1)
    program.let()
    assert reader.wait() == "timeout"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_is_told_to_load_its_own_model(make):
    thread, _ = make()
    reader = Reader()
    thread.submit(Request((1,), 2), reader)
    reader.wait()
    child = os.fork()
    if child == 0:
        try:
            thread.submit(Request((1,), 2), Reader())
        except LlmcError as error:
            thread.close()
            os._exit(0 if error.id == "LLMC-E0104" and "forked" in error.message else 3)
        os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    again = Reader()
    thread.submit(Request((1,), 2), again)
    assert again.wait() == "length"


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise KeyboardInterrupt"])
def test_the_interpreter_ends_in_the_middle_of_a_generation(toy_artifact, end):
    """No hang, no crash: neither in the exit handlers nor when objects are freed."""
    script = (
        "import sys, llmc\n"
        f"model = llmc.load({str(toy_artifact)!r}, threads=2)\n"
        "streams = [model.generate([n], max_tokens=300, ignore_eos=True) for n in range(6)]\n"
        f"next(streams[0])\n{end}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    # -2: by the signal itself, unless whoever runs the tests has it ignored
    assert done.returncode in {"": [0], "sys.exit(3)": [3]}.get(end, [-2, 1, 130])
    assert ("KeyboardInterrupt" in done.stderr) == ("Keyboard" in end)
    assert "Fatal" not in done.stderr
