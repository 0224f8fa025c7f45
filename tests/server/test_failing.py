"""Defects below the server: it says so, without a traceback, and says that it is not ready."""

from typing import Any

import pytest


@pytest.mark.parametrize("stream", [False, True])
def test_a_program_that_raises(start: Any, toy_model: Any, stream: bool) -> None:
    model = toy_model(delay=0.01)
    running = start({"toy": model, "other": toy_model()})
    body = {"prompt": "hello", "max_tokens": 500, "ignore_eos": True}
    assert running.http.get("/ready").status_code == 200
    model.program.failure = ValueError("a secret of the program")
    answer = running.post("/v1/completions", {**body, "stream": stream})
    assert answer.status_code == (200 if stream else 500)
    assert "LLMC-E0100" in answer.text
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    later = running.post("/v1/completions", body)
    assert (later.status_code, later.json()["error"]["code"]) == (503, "LLMC-E0104")
    assert running.http.get("/ready").status_code == 503
    assert running.http.get("/health").status_code == 200
    status = running.http.get("/status.json").json()
    assert status["state"] == "failed"
    assert [bool(one["failed"]) for one in status["models"]] == [True, False]
    assert running.post("/v1/completions", {**body, "model": "other", "max_tokens": 3}).is_success
    running.catalog.draining = True
    assert running.http.get("/ready").status_code == 503
    running.catalog.draining = False


def test_a_defect_of_the_server(
    start: Any, toy_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = toy_model()
    running = start({"toy": model})
    monkeypatch.setattr(model.tokenizer, "encode", lambda *_, **__: 1 / 0)
    answer = running.post("/tokenize", {"prompt": "hello"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "LLMC-E0100")
    assert "division" not in answer.text
    assert running.http.get("/health").status_code == 200
