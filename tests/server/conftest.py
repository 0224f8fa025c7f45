"""Servers in this process and in others, over the toy program with a tokenizer of all of ASCII."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop
from llmc.artifact.manifest import Generation
from llmc.runtime.api.model import Model
from llmc.server.app import create_app
from llmc.server.config import ServerConfig
from llmc.server.connection.api_keys import ApiKeys
from llmc.server.connection.listener import Server, listen

COMMAND = [sys.executable, "-c", "from llmc.cli import main; main()", "serve"]
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="session")
def ascii_tokenizer() -> bytes:
    """97 ids: two special ones, the printable characters but `~`, and newline."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    spelled = "".join(chr(c) for c in range(33, 126)) + "ĠĊ"
    vocabulary = {"<s>": 0, "</s>": 1, **{c: i + 2 for i, c in enumerate(spelled)}}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer.to_str().encode()


@pytest.fixture(scope="session")
def toy_model(toy: Any, ascii_tokenizer: bytes) -> Callable[..., Model]:
    """Makes a model of a toy program; `delay`: seconds that its steps take."""

    class SlowToy(toy):
        delay = 0.0
        failure: Exception | None = None

        def step(self, inputs: Any) -> Any:
            if self.failure is not None:
                raise self.failure
            time.sleep(self.delay)
            self.steps.clear()
            return super().step(inputs)

    def make(delay: float = 0.0, **limits: int) -> Model:
        shape = {"max_context": 2048, "max_tokens": 256, **limits}
        program = SlowToy((240, 60), **shape)
        program.delay = delay
        generation = Generation(eos_token_ids=[1], special_tokens={"eos_token": "</s>"})
        return Model(
            program, tokenizer=ascii_tokenizer, chat_template=TEMPLATE, generation=generation
        )

    return make


class Running:
    """A server in a thread of this process."""

    def __init__(self, models: dict[str, Model], config: ServerConfig, keys: ApiKeys) -> None:
        self.models = models
        self.app = create_app(models, config, keys)
        self.catalog = self.app.state.llmc.catalog
        self.socket = listen(config)
        self.address = self.socket.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        self.server = Server(self.app, self.catalog, config)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        self.http = httpx.Client(base_url=self.url, timeout=30)
        while not self.server.started:
            time.sleep(0.005)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self.server.serve(sockets=[self.socket]))

    def post(self, path: str, content: Any, **headers: str) -> httpx.Response:
        return self.http.post(path, json=content, headers=headers)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=10)

    def send(self, path: str, content: Any) -> socket.socket:
        """A connection on which a request was sent, and nothing was read."""
        connection = self.connect()
        connection.sendall(raw_request(path, json.dumps(content).encode()))
        return connection

    def wait_idle(self, seconds: float = 10) -> None:
        """Until nothing runs; then nothing may be held either."""
        end = time.monotonic() + seconds
        while self.catalog.sequences or any(m.engine.has_work for m in self.models.values()):
            assert time.monotonic() < end, "something still runs"
            time.sleep(0.01)
        for model in self.models.values():
            assert model.engine.gauges().cache_used == 0

    def close(self) -> None:
        self.http.close()
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()
        for model in self.models.values():
            model.close()


def raw_request(path: str, body: bytes, *headers: bytes) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1".encode(),
        b"host: x",
        b"content-type: application/json",
        b"content-length: %d" % len(body),
        *headers,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    """Starts servers of models and settings; they are stopped in the end."""
    started: list[Running] = []

    def go(models: dict[str, Model], keys: tuple[str, ...] = (), **settings: Any) -> Running:
        running = Running(models, ServerConfig(port=0, **settings), ApiKeys(keys))
        started.append(running)
        return running

    yield go
    for running in started:
        running.close()


@pytest.fixture(scope="module")
def server(toy_model: Callable[..., Model]) -> Iterator[Running]:
    """A server without limits of note; its model is called `toy`."""
    running = Running({"toy": toy_model()}, ServerConfig(port=0), ApiKeys())
    yield running
    running.wait_idle()
    running.close()


class ServerProcess:
    """`llmc serve` in a process of its own; `ready` is its line of JSON."""

    def __init__(self, artifact: Path, *options: str, stderr: Any = subprocess.PIPE) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, f"toy={artifact}", "--port", "0", "--json", *options],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={k: v for k, v in os.environ.items() if k != "LLMC_API_KEY"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert self.process.stdout is not None
        self.ready = json.loads(self.process.stdout.readline())
        self.url = self.ready["url"]

    def end(self, number: int) -> int:
        """Sends a signal; returns how the process ended."""
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def serve() -> Iterator[Callable[..., ServerProcess]]:
    """Starts processes; they are killed in the end."""
    started: list[ServerProcess] = []

    def go(artifact: Path, *options: str, **more: Any) -> ServerProcess:
        started.append(ServerProcess(artifact, *options, **more))
        return started[-1]

    yield go
    for one in started:
        with contextlib.suppress(ProcessLookupError):
            one.process.kill()
        one.process.communicate()
