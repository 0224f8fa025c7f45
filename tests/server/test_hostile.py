"""Requests that are wrong, huge, slow or meant to harm: the right status, and others go on."""

import gzip
import socket
import threading
import time
from typing import Any

import pytest
from llmc.server.connection import bounded_protocol as connection
from llmc.server.connection.request_body import MAX_DEPTH

PATH = "/v1/chat/completions"


def raw_request(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    return head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body


def test_the_server_lives(server: Any) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
    assert server.post(PATH, body).status_code == 200


def deep(count: int) -> bytes:
    return b'{"messages": ' + b"[" * count + b"]" * count + b"}"


BODIES = {
    "empty": b"",
    "no json": b"{",
    "binary": bytes(range(256)) * 40,
    "latin": '{"messages": "é"}'.encode("latin-1"),
    "utf-16": '{"messages": []}'.encode("utf-16"),
    "half a character": b'{"model": "\\ud800", "messages": []}',
    "NaN": b'{"temperature": NaN}',
    "infinity": b'{"temperature": -Infinity}',
    "out of range": b'{"temperature": 1e999}',
    "many digits": b'{"seed": 1' + b"0" * 10000 + b"}",
    "large number": b'{"seed": 100000000000000000000000000, "messages": []}',
    "twice": b'{"model": "a", "model": "b"}',
    "twice inside": b'{"messages": [{"role": "user", "role": "user", "content": ""}]}',
    "deep": deep(MAX_DEPTH),
    "very deep": deep(100_000),
    "deep and open": b"[" * 200_000,
    "brackets in an open string": b'{"a": "' + b'\\"[' * 100_000,
    "no object": b"[]",
    "null": b"null",
    "two values": b"{} {}",
    "wrong type": b'{"messages": 5}',
    "wrong role": b'{"messages": [{"role": "boss", "content": "x"}]}',
    "null bytes": b"\0\0\0\0",
    "bom": b'\xef\xbb\xbf{"messages": []}',
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies(server: Any, name: str) -> None:
    headers = {"content-type": "application/json"}
    began = time.monotonic()
    answer = server.http.post(PATH, content=BODIES[name], headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "LLMC-E0213"
    assert "Traceback" not in answer.text
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
    ids=str,
)
def test_types(server: Any, headers: dict[str, str]) -> None:
    answer = server.http.post(PATH, content=gzip.compress(b" " * 10**6), headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "LLMC-E0224")


def test_paths_and_methods(server: Any) -> None:
    for method, path, status in (
        ("GET", PATH, 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/nothing", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/docs", 404),
        ("POST", "/%00%ff", 404),
    ):
        answer = server.http.request(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, "LLMC-E0221")


def exchange(server: Any, data: bytes, *, half_close: bool = False) -> bytes:
    """What comes back for these bytes, until the server closes or has answered."""
    with server.connect() as made:
        made.settimeout(5)
        made.sendall(data)
        if half_close:
            made.shutdown(socket.SHUT_WR)
        received = b""
        try:
            while part := made.recv(65536):
                received += part
        except (TimeoutError, ConnectionResetError):
            pass
        return received


def test_bytes_that_are_no_http(server: Any) -> None:
    assert exchange(server, b"\x16\x03\x01" + bytes(200)).startswith(b"HTTP/1.1 400")
    assert exchange(server, b"GET / HTTP/9.9\r\n\r\n").startswith(b"HTTP/1.1 400")
    found = exchange(server, b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 400")


def test_endless_headers(server: Any) -> None:
    head = b"GET /health HTTP/1.1\r\nhost: x\r\n"
    large = head + b"".join(b"x-%d: %s\r\n" % (i, b"y" * 1000) for i in range(200))
    assert b"431" in exchange(server, large)
    assert b"431" in exchange(server, head + b"x: " + b"y" * 200_000)


def test_headers_that_never_end(
    start: Any, toy_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEADER_SECONDS", 0.3)
    running = start({"toy": toy_model()})
    began = time.monotonic()
    assert exchange(running, b"") == b""
    assert exchange(running, b"GET / HT") == b""
    assert exchange(running, b"GET / HTTP/1.1\r\nhost: x\r\n") == b""
    assert time.monotonic() - began < 4
    assert running.http.get("/health").status_code == 200


def test_a_body_that_never_ends(start: Any, toy_model: Any) -> None:
    running = start({"toy": toy_model()}, body_timeout=0.3)
    head = raw_request(PATH, b"x" * 50)[:-20]
    found = exchange(running, head)
    assert found.startswith(b"HTTP/1.1 408")
    assert b"LLMC-E0222" in found
    assert b"connection: close" in found


def test_a_body_larger_than_it_says_it_is_or_without_a_length(start: Any, toy_model: Any) -> None:
    running = start({"toy": toy_model()}, max_body="2KB")
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n".encode()
    chunk = b"400\r\n" + b" " * 1024 + b"\r\n"
    found = exchange(running, head + b"transfer-encoding: chunked\r\n\r\n" + chunk * 5)
    assert found.startswith(b"HTTP/1.1 413")
    found = exchange(running, head + b"content-length: 99999999999999999999999\r\n\r\n")
    assert found.startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))


def test_a_half_closed_connection_ends_its_request(start: Any, toy_model: Any) -> None:
    running = start({"toy": toy_model(delay=0.01)})
    body = b'{"prompt": "hello", "max_tokens": 2000, "ignore_eos": true, "stream": true}'
    exchange(running, raw_request("/v1/completions", body), half_close=True)
    running.wait_idle(5)


def test_pipelined_requests_are_answered_in_turn(server: Any) -> None:
    one = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
    last = b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    found = exchange(server, one * 20 + last)
    assert found.count(b"HTTP/1.1 200") == 21
    assert found.index(b'"object":"list"') > found.rindex(b'{"status":"ok"}')


@pytest.mark.parametrize(
    "extra",
    [
        {"guided_regex": "(a{1000}){1000}(b{1000}){1000}"},
        {"guided_regex": "(" * 5000},
        {"guided_regex": "((a*)*)*" * 300 + "!"},
        {"guided_grammar": "start: start start | start"},
        {"guided_grammar": "x" * 300_000},
        {"guided_json": {"$ref": "#"}},
        {"guided_json": {"enum": ["x" * 50] * 20_000}},
        {"guided_choice": [str(i) * 20 for i in range(20_000)]},
        {"stop": ["x" * 100_000] * 16},
        {"bad_words": ["x" * 1000] * 64},
    ],
    ids=lambda extra: next(iter(extra)) + " " + str(next(iter(extra.values())))[:24],
)
def test_grammars_that_explode(server: Any, extra: dict[str, Any]) -> None:
    """Others are answered meanwhile, and it ends one way or the other."""
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
    slowest, done = 0.0, threading.Event()

    def others() -> None:
        nonlocal slowest
        while not done.is_set():
            began = time.monotonic()
            assert server.post(PATH, {**body, "max_tokens": 2}).status_code == 200
            slowest = max(slowest, time.monotonic() - began)

    thread = threading.Thread(target=others)
    thread.start()
    answer = server.post(PATH, {**body, **extra})
    done.set()
    thread.join()
    assert answer.status_code in (200, 400)
    assert slowest < 5
