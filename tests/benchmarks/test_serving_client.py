"""The HTTP client of the serving benchmark, against a server of the test's own."""

import asyncio
import json
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from collections.abc import Awaitable, Callable

import pytest
from llmc.benchmarks.serving_bench.client import Answer, http_request, metric, post

pytestmark = pytest.mark.fast

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _event(text: str | None, **more: object) -> bytes:
    choices = [] if text is None else [{"index": 0, "text": text, "finish_reason": None}]
    data = b"data: " + json.dumps({"choices": choices, **more}).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


def _asking(
    serve: Callable[[Reader, Writer], Awaitable[None]],
    ask: Callable[[int], Awaitable[Answer]],
) -> Answer:
    async def both() -> Answer:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            return await ask(server.sockets[0].getsockname()[1])

    return asyncio.run(both())


async def _streaming(reader: Reader, writer: Writer) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/completions")
    writer.write(_HEAD + _event("one"))
    await writer.drain()
    await asyncio.sleep(0.05)
    two = _event(" two\n\ndata: x")
    writer.write(two[:20])
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.write(two[20:] + _event(None, usage={"completion_tokens": 2}))
    writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
    await writer.drain()
    writer.close()


def test_events_are_timed_when_their_last_byte_came() -> None:
    answer = _asking(_streaming, lambda port: post(port, "/v1/completions", {"a": 1}))
    assert answer.status == 200
    assert answer.complete
    assert not answer.cut
    assert answer.text == "one two\n\ndata: x"
    assert answer.usage == {"completion_tokens": 2}
    first, second = answer.token_times
    assert second - first >= 0.09
    assert answer.started < first < second <= answer.ended


def test_a_client_may_leave_at_a_token_or_in_time() -> None:
    left: list[bytes] = []

    async def endless(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_HEAD)
        try:
            while True:
                writer.write(_event("x"))
                await writer.drain()
                await asyncio.sleep(0.01)
        except ConnectionError:
            left.append(b"left")
        finally:
            writer.close()

    def enough(answer: Answer) -> bool:
        return len(answer.pieces) > 3

    answer = _asking(endless, lambda port: post(port, "/", {}, until=enough))
    assert answer.cut
    assert not answer.complete
    assert len(answer.pieces) == 4
    answer = _asking(endless, lambda port: post(port, "/", {}, leave_after=0.1))
    assert answer.cut
    assert 0.05 < answer.ended - answer.started < 1


def test_answers_that_are_no_stream_have_a_body() -> None:
    async def whole(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 429 Too Many\r\ncontent-length: 8\r\n\r\n{"a": 1}')
        await writer.drain()
        writer.close()

    answer = _asking(whole, lambda port: post(port, "/", {}))
    assert answer.status == 429
    assert answer.body == {"a": 1}


def test_no_answer_has_no_status() -> None:
    async def silent(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    answer = _asking(silent, lambda port: post(port, "/", {}))
    assert answer.status == 0
    assert answer.events == []


def test_requests_may_be_any_bytes() -> None:
    assert http_request("/x", b"\x00\xff").endswith(
        b"Content-Length: 2\r\nConnection: close\r\n\r\n\x00\xff"
    )


def test_metrics_are_summed_over_their_labels() -> None:
    text = '# HELP a_sum x\na_sum{model="x"} 1.5\na_sum{model="y"} 2\na_summer 9\nb 1e3\n'
    assert metric(text, "a_sum") == 3.5
    assert metric(text, "b") == 1000
    with pytest.raises(KeyError):
        metric(text, "c")
