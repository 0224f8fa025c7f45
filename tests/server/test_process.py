"""`llmc serve` as a process: how it begins, drains, is killed, and what it does when its world
breaks."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

ENDLESS = {"prompt": "hello", "max_tokens": 250, "ignore_eos": True}


def refused(command: list[str], *options: str) -> tuple[int, dict[str, str]]:
    done = subprocess.run([*command, *options, "--json"], capture_output=True, text=True)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)["error"]


@pytest.fixture(scope="module")
def command() -> list[str]:
    import sys

    return [sys.executable, "-c", "from llmc.cli import main; main()", "serve"]


def test_it_says_what_it_serves(serve: Any, toy_artifact: Path, command: list[str]) -> None:
    process = serve(toy_artifact, "--access-log")
    (model,) = process.ready["models"]
    assert model["name"] == "toy"
    assert model["context"] == 320
    assert model["sequences"] > 0
    assert httpx.get(f"{process.url}/ready").json() == {"status": "ready"}
    (figures,) = httpx.get(f"{process.url}/status.json").json()["models"]
    assert figures["steps"] == figures["requests_added"] == 0  # warming up isn't counted
    client = OpenAI(base_url=f"{process.url}/v1", api_key="none", max_retries=0)
    assert client.completions.create(model="toy", prompt="hello", max_tokens=3).choices
    port = process.url.rpartition(":")[2]
    code, error = refused(command, str(toy_artifact), "--port", port)
    assert (code, error["id"]) == (7, "LLMC-E0708")
    assert port in error["message"]
    assert process.end(signal.SIGTERM) == 0
    lines = process.process.stderr.read().splitlines()
    assert [line for line in lines if "POST '/v1/completions' 200" in line]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{process.url}/ready")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no model"),
        (["x.llmc", "--port", "99999"], "port"),
        (["x.llmc", "--max-body", "lots"], "lots"),
        (["a=x.llmc", "a=y.llmc"], "two models are called 'a'"),
        (["x.llmc", "--config", "nowhere.toml"], "nowhere.toml"),
        (["x.llmc", "--api-key-file", "nowhere"], "nowhere"),
        (["x.llmc", "--api-key", ""], "empty"),
        (["x.llmc", "--sampling-defaults", "none"], "sampling_defaults"),
        (["x.llmc", "--drain-seconds", "-1"], "drain_seconds"),
    ],
    ids=str,
)
def test_wrong_settings(command: list[str], options: list[str], message: str) -> None:
    code, error = refused(command, *options)
    assert code == 2
    assert error["id"] in ("LLMC-E0219", "LLMC-E0205")
    assert message in error["message"]


def test_an_artifact_that_is_not_there(command: list[str]) -> None:
    code, error = refused(command, "nowhere.llmc", "--port", "0")
    assert (code, error["id"]) == (5, "LLMC-E0501")


def stream_in_background(url: str, body: dict[str, Any]) -> tuple[threading.Thread, list[str]]:
    lines: list[str] = []

    def read() -> None:
        with contextlib.suppress(httpx.HTTPError):
            path = f"{url}/v1/completions"
            with httpx.stream("POST", path, json={**body, "stream": True}, timeout=30) as answer:
                lines.extend(answer.iter_lines())

    thread = threading.Thread(target=read)
    thread.start()
    return thread, lines


def in_flight(url: str) -> int:
    return httpx.get(f"{url}/status.json").json()["models"][0]["in_flight"]


def slow_load(process: Any, count: int) -> list[tuple[threading.Thread, list[str]]]:
    """Requests that take a while: many at once, each as long as the context allows."""
    return [stream_in_background(process.url, {**ENDLESS, "n": 16}) for _ in range(count)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_drain(serve: Any, toy_artifact: Path, number: int) -> None:
    process = serve(toy_artifact, "--drain-seconds", "30")
    load = slow_load(process, 8)
    while in_flight(process.url) < 16:
        time.sleep(0.002)
    assert process.end(number) == 0
    for thread, lines in load:
        thread.join()
        if lines and "LLMC-E0220" not in lines[0]:  # it was accepted: then it is complete
            reasons = [
                choice["finish_reason"]
                for line in lines
                if line.startswith("data: {")
                for choice in json.loads(line[6:])["choices"]
            ]
            assert reasons.count("length") == 16
            assert lines[-2:] == ["data: [DONE]", ""]
    assert any("[DONE]" in line for _, lines in load for line in lines)


def test_a_drain_that_takes_too_long_ends_what_runs(serve: Any, toy_artifact: Path) -> None:
    process = serve(toy_artifact, "--drain-seconds", "0")
    load = slow_load(process, 12)
    while in_flight(process.url) < 16:
        time.sleep(0.002)
    assert process.end(signal.SIGTERM) == 143
    assert json.loads(process.process.stdout.read())["error"]["id"] == "LLMC-E0799"
    for thread, _ in load:
        thread.join()
    assert any("LLMC-E0220" in line for _, lines in load for line in lines)


def test_a_second_signal_does_not_wait(serve: Any, toy_artifact: Path) -> None:
    process = serve(toy_artifact, "--drain-seconds", "600")
    connection = socket.create_connection(("127.0.0.1", int(process.url.rpartition(":")[2])))
    body = json.dumps({**ENDLESS, "n": 60, "stream": True, "logprobs": 20}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    connection.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)  # and never reads
    while in_flight(process.url) < 60:
        time.sleep(0.002)
    process.process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.process.wait(1)
    began = time.monotonic()
    assert process.end(signal.SIGINT) == 130
    assert time.monotonic() - began < 10
    connection.close()


def test_killed_and_started_again(serve: Any, toy_artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    options = ("--unix-socket", str(path))
    process = serve(toy_artifact, *options)
    assert process.url == f"unix:{path}"

    def ask() -> int:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            return client.post("http://x/v1/completions", json=ENDLESS).status_code

    assert ask() == 200
    process.end(signal.SIGKILL)
    assert path.exists()
    again = serve(toy_artifact, *options)
    assert ask() == 200
    assert again.end(signal.SIGTERM) == 0
    assert not path.exists()


def test_an_artifact_deleted_under_the_mapping(
    serve: Any, toy_artifact: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.llmc"
    shutil.copyfile(toy_artifact, copy)
    process = serve(copy)
    copy.unlink()
    answer = httpx.post(f"{process.url}/v1/completions", json=ENDLESS)
    assert answer.status_code == 200
    assert httpx.get(f"{process.url}/ready").status_code == 200


@pytest.mark.parametrize("where", ["full", "closed"])
def test_logs_that_cannot_be_written(serve: Any, toy_artifact: Path, where: str) -> None:
    if where == "full":
        with Path("/dev/full").open("w") as full:
            process = serve(toy_artifact, "--access-log", stderr=full)
    else:
        reading, writing = os.pipe()
        os.close(reading)
        process = serve(toy_artifact, "--access-log", stderr=writing)
        os.close(writing)
    for _ in range(3):
        assert httpx.post(f"{process.url}/v1/completions", json=ENDLESS).status_code == 200
        assert httpx.get(f"{process.url}/nothing").status_code == 404
    assert process.end(signal.SIGTERM) == 0


def test_keys_from_the_environment(toy_artifact: Path, command: list[str], tmp_path: Path) -> None:
    settings = tmp_path / "server.toml"
    settings.write_text(f'models = ["toy={toy_artifact}"]\nport = 0\nmax_n = 2\n')
    environment = {**os.environ, "LLMC_API_KEY": "first, bob:second"}
    with subprocess.Popen(
        [*command, "--config", str(settings), "--max-n", "3", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            path = f"{url}/v1/completions"
            assert httpx.post(path, json=ENDLESS).status_code == 401
            for key in ("first", "second"):
                headers = {"authorization": f"Bearer {key}"}
                for n, status in ((3, 200), (4, 400)):
                    body = {"prompt": "hello", "n": n}
                    assert httpx.post(path, json=body, headers=headers).status_code == status
        finally:
            process.terminate()
        assert process.wait(20) == 0
