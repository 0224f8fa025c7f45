"""The engine for asyncio: streams, cancellation of all kinds, closing, and what is left over."""

import asyncio
import gc
import threading
import time
from contextlib import aclosing
from random import Random
from typing import Any

import llmc
import pytest
from llmc.base.errors import LlmcError
from llmc.runtime.api import async_engine
from llmc.runtime.api.async_engine import AsyncEngine
from llmc.runtime.api.model import Model
from llmc.runtime.engine.request import Request


@pytest.fixture
def make(toy, words):
    """Makes models whose engine is closed, and whose threads and blocks are gone, afterwards."""
    made: list[Model] = []

    def make(program=None, **limits) -> Model:
        parts = {"tokenizer": words.json, "chat_template": words.template}
        made.append(Model(program or toy(**limits), **parts, generation=words.generation))
        return made[-1]

    yield make
    for model in made:
        assert model.close(timeout=10)
        assert model.engine.gauges().cache_used == 0
    assert not [t for t in threading.enumerate() if t.name == "llmc-engine"]


@pytest.fixture
def slow(toy):
    """A toy whose steps take two milliseconds and let others run."""

    class Slow(toy):
        def step(self, inputs):
            time.sleep(0.002)
            return super().step(inputs)

    return Slow


def run(main) -> None:
    """Runs a coroutine function, and sees that it leaves no task behind."""

    async def watched() -> None:
        async with asyncio.timeout(60):
            await main()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(watched())


async def settled(model: Model, seconds: float = 5) -> None:
    """Waits until nothing runs in the engine."""
    deadline = time.monotonic() + seconds
    while model.engine.has_work:
        assert time.monotonic() < deadline, "a request goes on"
        await asyncio.sleep(0.005)


def test_streams_give_what_generate_gives(make, toy):
    model = make()

    async def read(engine: AsyncEngine, n: int) -> None:
        stream = engine.generate([n, n + 1], max_tokens=25, ignore_eos=True)
        chunks = [chunk async for chunk in stream]
        assert [t for c in chunks for t in c.token_ids] == toy.greedy([n, n + 1], 25)
        assert "".join(c.text for c in chunks) == stream.text
        assert chunks[-1].finish_reason == stream.finish_reason == "length"
        assert stream.prompt_token_ids == [n, n + 1]
        assert stream.stats.output_tokens == 25
        assert [c async for c in stream] == []

    async def main() -> None:
        engine = llmc.AsyncEngine(model)
        await asyncio.gather(*(read(engine, n) for n in range(20)))

    run(main)


def test_text_prompts_are_encoded_off_the_loop_once_they_are_long(make, monkeypatch):
    model = make()
    seen = []
    encode = model.encode
    monkeypatch.setattr(
        model, "encode", lambda *a, **k: seen.append(threading.get_ident()) or encode(*a, **k)
    )
    monkeypatch.setattr(async_engine, "LONG_PROMPT", 30)

    async def main() -> None:
        engine = AsyncEngine(model)
        for prompt in ("hello", "hello", [{"role": "user", "content": "abc"}], "hello " * 30):
            stream = engine.generate(prompt, max_tokens=5, raw=isinstance(prompt, str))
            assert [c async for c in stream][-1].finish_reason in ("length", "stop")

    run(main)
    here = threading.get_ident()
    assert [ident == here for ident in seen] == [False, True, False, False]


def test_what_is_wrong_is_said_at_the_call_or_with_the_first_chunk(make):
    model = make()

    async def main() -> None:
        engine: Any = AsyncEngine(model)
        for prompt, options, error in (
            ([], {}, "E0206"),
            ([97], {}, "E0208"),
            ([1], {"temperature": -1.0}, "E0205"),
            ("x", {"top_p": 0.0}, "E0205"),
            ([1], {"timeout": 0.0}, "E0205"),
            ([1], {"regex": "a", "choice": ["b"]}, "E0205"),
        ):
            with pytest.raises(LlmcError, match=error):
                engine.generate(prompt, **options)
        with pytest.raises(TypeError, match="max_token'"):
            engine.generate([1], max_token=3)
        stream = engine.generate("hello " * 2000)  # its length is known when it is encoded
        assert (stream.text, stream.prompt_token_ids) == ("", [])
        with pytest.raises(LlmcError, match="E0204"):
            await anext(stream)
        assert [c async for c in stream] == []

    run(main)


def test_deltas_of_submitted_requests(make, toy):
    model = make()

    async def main() -> None:
        engine = AsyncEngine(model)
        request = model.make_request([3, 4], max_tokens=12, ignore_eos=True)
        stream = engine.submit(request)
        deltas = [delta async for delta in stream]
        assert stream.ended
        assert [t for d in deltas for t in d.token_ids] == toy.greedy([3, 4], 12)
        assert {d.request for d in deltas} == {request}
        assert deltas[-1].finish_reason == "length"
        assert await stream.get() is None
        with pytest.raises(LlmcError, match="E0206"):
            engine.submit(Request((), 3))

    run(main)


@pytest.mark.parametrize(
    "how", ["task", "aclose", "break", "drop", "unread", "preparing", "gather"]
)
def test_a_reader_that_goes_away_ends_its_request(make, slow, how):
    model = make(slow())

    async def main() -> None:
        engine = AsyncEngine(model)
        prompt = "hello" if how == "preparing" else [5]
        stream = engine.generate(prompt, max_tokens=250, ignore_eos=True)
        other = engine.generate([6], max_tokens=40, ignore_eos=True)

        async def read(source) -> int:
            return len([c async for c in source])

        if how in ("task", "gather"):
            task = asyncio.create_task(read(stream))
            await anext(other)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await (task if how == "task" else asyncio.gather(task))
        elif how == "aclose":
            async with aclosing(stream):
                await anext(stream)
        elif how == "break":
            async for _ in stream:
                break
        if how not in ("task", "gather"):
            del stream
            gc.collect()
        read_before = len(model.engine.unfinished)
        assert read_before <= 2
        await read(other)
        assert other.finish_reason == "length"
        assert len(model.engine.program.steps) < 150, "it was not computed to its end"
        await settled(model)

    run(main)


def test_waiting_with_a_timeout_leaves_the_request_alone(make, toy, slow):
    model = make(slow())

    async def main() -> None:
        engine = AsyncEngine(model)
        stream = engine.submit(model.make_request([3], max_tokens=30, ignore_eos=True))
        ids, signs_of_life = [], 0
        while not stream.ended:
            delta = await stream.get(timeout=0.0005)
            if delta is None:
                signs_of_life += 1
            else:
                ids += delta.token_ids
        assert ids == toy.greedy([3], 30)
        assert signs_of_life > 0

    run(main)


def test_cancelling_from_elsewhere_wakes_the_reader(make, slow):
    model = make(slow())

    async def main() -> None:
        stream = AsyncEngine(model).submit(model.make_request([3], max_tokens=300))
        first = await anext(stream)
        assert first.finish_reason is None
        asyncio.get_running_loop().call_later(0.01, stream.cancel)
        reasons = [d.finish_reason async for d in stream]
        assert reasons[-1] in ("aborted", None)
        assert len(reasons) < 200
        stream.cancel()
        await settled(model)

    run(main)


@pytest.mark.parametrize("drain", [False, True])
def test_closing(make, slow, drain):
    model = make(slow())

    async def main() -> None:
        async with AsyncEngine(model) as engine:
            streams = [engine.generate([n], max_tokens=30, ignore_eos=True) for n in range(8)]
            await anext(streams[0])
            ends = asyncio.gather(*(_end_of(stream) for stream in streams))
            assert await engine.close(drain=drain)
            assert set(await ends) == ({"length"} if drain else {"aborted"})
            with pytest.raises(LlmcError, match="E0104"):
                engine.generate([1])
        assert model.program.closed

    run(main)


async def _end_of(stream) -> str:
    return [chunk async for chunk in stream][-1].finish_reason


def test_a_failing_program_raises_where_chunks_are_read(make, toy):
    class Failing(toy):
        def step(self, inputs):
            if len(self.steps) == 5:
                raise LlmcError("LLMC-E0102", "the compiled program failed (code -2)")
            return super().step(inputs)

    model = make(Failing())

    async def main() -> None:
        engine = AsyncEngine(model)
        texts = engine.generate([1], max_tokens=50, ignore_eos=True)
        deltas = engine.submit(model.make_request([2], max_tokens=50, ignore_eos=True))
        with pytest.raises(LlmcError, match=r"E0102.*code -2"):
            async for _ in texts:
                pass
        last = [d async for d in deltas][-1]
        assert last.finish_reason == "error"
        assert last.request.error is not None
        assert last.request.error.id == "LLMC-E0102"
        with pytest.raises(LlmcError, match="E0104"):
            engine.generate([1])

    run(main)


def test_several_loops_and_threads_share_one_engine(make, toy):
    model = make()
    engine = AsyncEngine(model)
    seen: dict[int, list[int]] = {}

    async def read(n: int) -> None:
        stream = engine.generate([n], max_tokens=30, ignore_eos=True)
        seen[n] = [t async for c in stream for t in c.token_ids]

    async def main(first: int) -> None:
        await asyncio.gather(*(read(first + n) for n in range(4)))

    threads = [threading.Thread(target=asyncio.run, args=(main(10 * n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    sync = [t for c in model.generate([90], max_tokens=30, ignore_eos=True) for t in c.token_ids]
    for thread in threads:
        thread.join(30)
    assert sync == toy.greedy([90], 30)
    assert seen == {n: toy.greedy([n], 30) for m in range(4) for n in range(10 * m, 10 * m + 4)}
    gc.collect()
    assert len(engine._mailboxes) == 0


def test_a_loop_that_is_gone_ends_its_requests(make, slow):
    model = make(slow())
    kept = []

    async def main() -> None:
        stream = AsyncEngine(model).generate([1], max_tokens=300, ignore_eos=True)
        kept.append(stream)
        await anext(stream)

    asyncio.run(main())
    deadline = time.monotonic() + 5
    while model.engine.has_work:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert len(model.program.steps) < 100


def test_deltas_of_one_step_cross_in_one_call(make):
    model = make()

    async def main() -> None:
        engine = AsyncEngine(model)
        loop: Any = asyncio.get_running_loop()
        calls = []
        plain = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *a, **k: calls.append(a) or plain(*a, **k)
        with model.thread.paused():
            streams = [engine.generate([n], max_tokens=10, ignore_eos=True) for n in range(6)]
        await asyncio.gather(*(_end_of(stream) for stream in streams))
        assert len(calls) <= 10

    run(main)


def test_several_continuations(make, toy):
    model = make()

    async def main() -> None:
        stream = AsyncEngine(model).generate(
            [5, 6], n=3, temperature=1.0, seed=7, max_tokens=15, ignore_eos=True
        )
        chunks = [chunk async for chunk in stream]
        for index, choice in enumerate(stream.choices):
            assert [t for c in chunks if c.index == index for t in c.token_ids] == choice.token_ids
            assert choice.finish_reason == "length"
            assert len(choice.token_ids) == 15
        assert len({tuple(choice.token_ids) for choice in stream.choices}) == 3

    run(main)


def test_many_tasks_that_leave_in_all_ways_leave_nothing_behind(toy_artifact, toy):
    """With native code, whose steps run while Python does: every reader that stays gets its text,
    and afterwards no block, task or thread is in use."""
    random = Random(5)
    model = llmc.load(toy_artifact, threads=1)

    async def use(engine: AsyncEngine, n: int) -> str:
        prompt = [random.randrange(97) for _ in range(random.randrange(1, 120))]
        how = random.choice(["stay", "stay", "break", "cancel", "timeout", "close"])
        await asyncio.sleep(random.random() * 0.05)
        if how == "timeout":
            stream = engine.generate(prompt, max_tokens=200, ignore_eos=True, timeout=0.01)
            return [c async for c in stream][-1].finish_reason or ""
        stream = engine.generate(prompt, max_tokens=random.randrange(1, 60), ignore_eos=True)
        if how == "cancel":
            task = asyncio.create_task(_end_of(stream))
            await asyncio.sleep(random.random() * 0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        elif how == "stay":
            ids = [t async for c in stream for t in c.token_ids]
            assert ids == toy.greedy(prompt, len(ids))
            assert stream.finish_reason == "length"
        else:
            await anext(stream)
            if how == "close":
                await stream.aclose()
        return how

    async def main() -> None:
        engine = AsyncEngine(model)
        done = await asyncio.gather(*(use(engine, n) for n in range(120)))
        assert {"stay", "break", "cancel", "close"} <= set(done)
        await settled(model)
        with model.thread.paused() as inner:
            assert inner.gauges()[:3] == (0, 0, 0)
        assert sum(inner.counters.requests_finished.values()) == inner.counters.requests_added
        assert await engine.close(drain=True)

    run(main)
    assert not [t for t in threading.enumerate() if t.name == "llmc-engine"]
