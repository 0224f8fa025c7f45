"""Clients that leave, or don't read: their requests end, and nothing of them is left."""

import json
import re
import socket
import time
from typing import Any

import pytest

ENDLESS = {"prompt": "hello", "max_tokens": 2000, "ignore_eos": True, "temperature": 0}


def wait_for_tokens(running: Any, count: int = 3) -> None:
    counters = running.models["toy"].engine.counters
    end = time.monotonic() + 10
    while counters.generated_tokens < count:
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/v1/completions", {"stream": True}),
        ("/v1/completions", {}),
        ("/v1/completions", {"n": 3, "stream": True}),
        ("/v1/completions", {"n": 3}),
        ("/v1/chat/completions", {"stream": True}),
        ("/v1/chat/completions", {}),
        ("/v1/responses", {"stream": True}),
        ("/v1/responses", {}),
    ],
    ids=str,
)
def test_leaving_ends_the_request(start: Any, toy_model: Any, path: str, more: Any) -> None:
    running = start({"toy": toy_model(delay=0.01)})
    body: dict[str, Any] = {**ENDLESS}
    if path == "/v1/chat/completions":
        body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
    if path == "/v1/responses":
        body["input"], body["max_output_tokens"] = body.pop("prompt"), body.pop("max_tokens")
    connection = running.send(path, {**body, **more})
    wait_for_tokens(running)
    connection.close()
    running.wait_idle(5)
    finished = running.models["toy"].engine.counters.requests_finished
    assert finished["aborted"] == more.get("n", 1)


def test_leaving_while_it_waits(start: Any, toy_model: Any) -> None:
    running = start({"toy": toy_model(delay=0.01, max_sequences=1, max_logits_rows=1)})
    first = running.send("/v1/completions", ENDLESS)
    wait_for_tokens(running)
    second = running.send("/v1/completions", ENDLESS)
    while running.catalog.sequences < 2:
        time.sleep(0.005)
    second.close()
    while running.catalog.sequences > 1:
        time.sleep(0.005)
    first.close()
    running.wait_idle(5)


def test_resetting_instead_of_closing(start: Any, toy_model: Any) -> None:
    running = start({"toy": toy_model(delay=0.01)})
    connection = running.send("/v1/completions", {**ENDLESS, "stream": True})
    wait_for_tokens(running)
    linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.close()
    running.wait_idle(5)


def test_a_client_that_does_not_read_is_left(start: Any, toy_model: Any) -> None:
    """Its text is bounded while it waits, and after the timeout its request ends."""
    running = start({"toy": toy_model(max_context=2048)}, write_timeout=0.5)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    connection.connect(running.address)
    body = {"prompt": "hello", "max_tokens": 1900, "ignore_eos": True, "logprobs": 20, "n": 6}
    data = json.dumps({**body, "stream": True}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    connection.sendall(head + b"content-length: %d\r\n\r\n" % len(data) + data)
    wait_for_tokens(running, 100)
    running.wait_idle(20)
    connection.close()


def test_a_slow_reader_gets_all_of_it(start: Any, toy_model: Any) -> None:
    running = start({"toy": toy_model()}, write_timeout=5)
    body = {**ENDLESS, "max_tokens": 300}
    whole = running.post("/v1/completions", body).json()["choices"][0]["text"]
    connection = running.send("/v1/completions", {**body, "stream": True})
    received = b""
    while not received.endswith(b"0\r\n\r\n"):
        received += connection.recv(3000)
        time.sleep(0.005)
    connection.close()
    pieces = re.findall(rb"^data: (\{.*\})", received.replace(b"\r\n", b"\n"), re.MULTILINE)
    text = "".join(json.loads(piece)["choices"][0]["text"] for piece in pieces)
    assert text == whole
    running.wait_idle()


def test_many_come_and_go(start: Any, toy_model: Any) -> None:
    running = start({"toy": toy_model(delay=0.001)})
    for number in range(60):
        connection = running.send("/v1/completions", {**ENDLESS, "stream": number % 2 == 0})
        if number % 3:
            time.sleep(0.01)
        connection.close()
    running.wait_idle(10)
    assert running.post("/v1/completions", {"prompt": "hello"}).status_code == 200
    end = time.monotonic() + 5
    while len(running.server.server_state.tasks) > 0:
        assert time.monotonic() < end
        time.sleep(0.01)
