"""Who may ask, and how much: keys, sizes, lengths, how many at once."""

import threading
import time
from typing import Any

import pytest

CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
ENDLESS = {"prompt": "hello", "max_tokens": 2000, "ignore_eos": True}


def code_of(answer: Any) -> str:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error["code"]


def test_keys(start: Any, toy_model: Any) -> None:
    running = start({"toy": toy_model()}, keys=("secret", "alice:other"))
    for path in ("/health", "/ready", "/"):
        assert running.http.get(path).status_code == 200
    for path in ("/metrics", "/status.json", "/v1/models", "/openapi.json", "/nothing"):
        answer = running.http.get(path)
        assert (answer.status_code, code_of(answer)) == (401, "LLMC-E0217")
        assert answer.headers["www-authenticate"] == "Bearer"
    for sent in ("", "Bearer", "Bearer secre", "Bearer alice:other", "Basic secret"):
        assert running.post("/v1/chat/completions", CHAT, authorization=sent).status_code == 401
    for sent in ("Bearer secret", "bearer other"):
        assert running.post("/v1/chat/completions", CHAT, authorization=sent).status_code == 200


def test_keys_name_clients_and_may_isolate_them(start: Any, toy_model: Any) -> None:
    model = toy_model()
    seen: list[Any] = []
    add = model.engine.add
    model.engine.add = lambda request: (seen.append(request), add(request))[1]
    running = start({"toy": model}, keys=("alice:a", "bob:b"), isolate_keys=True)
    for key in ("a", "b", "a"):
        body = {**CHAT, "user": "u", "messages": [{"role": "user", "content": "x" * 90}]}
        answer = running.post("/v1/chat/completions", body, authorization=f"Bearer {key}")
        assert answer.status_code == 200
    assert [r.client for r in seen] == ["alice/u", "bob/u", "alice/u"]
    assert [r.cached_tokens > 0 for r in seen] == [False, False, True]


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"prompt": "x" * 41}, 400, "LLMC-E0204"),
        ({"n": 5}, 400, "LLMC-E0215"),
        ({"prompt": ["a", "b", "c"], "n": 2}, 400, "LLMC-E0215"),
        ({"prompt": "x" * 2000}, 413, "LLMC-E0216"),
        ({"model": "other"}, 404, "LLMC-E0214"),
        ({"suffix": "x"}, 400, "LLMC-E0215"),
        ({"max_tokens": 0}, 400, "LLMC-E0205"),
        ({"max_tokens": -1}, 400, "LLMC-E0213"),
        ({"max_tokens": "5"}, 400, "LLMC-E0213"),
        ({"prompt": []}, 400, "LLMC-E0213"),
        ({"prompt": [97]}, 400, "LLMC-E0208"),
        ({"prompt": ""}, 400, "LLMC-E0206"),
        ({"temperature": -1}, 400, "LLMC-E0213"),
        ({"best_of": 1, "n": 2}, 400, "LLMC-E0215"),
    ],
    ids=str,
)
def test_sizes(start: Any, toy_model: Any, change: Any, status: int, code: str) -> None:
    running = start({"toy": toy_model()}, max_body="1KB", max_prompt_tokens=40, max_n=4)
    answer = running.post("/v1/completions", {"prompt": "hello", "max_tokens": 3, **change})
    assert (answer.status_code, code_of(answer)) == (status, code)


def test_output_is_capped_and_never_beyond_the_context(start: Any, toy_model: Any) -> None:
    running = start({"toy": toy_model(max_context=64)}, max_output_tokens=9)
    usage = running.post("/v1/completions", ENDLESS).json()["usage"]
    assert usage["completion_tokens"] == 9
    running = start({"toy": toy_model(max_context=64)})
    answer = running.post("/v1/completions", ENDLESS).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert 5 + answer["usage"]["completion_tokens"] in (64, 65)


def test_several_models(start: Any, toy_model: Any) -> None:
    running = start({"one": toy_model(), "two": toy_model()})
    names = [m["id"] for m in running.http.get("/v1/models").json()["data"]]
    assert names == ["one", "two"]
    for name, expected in (("two", "two"), ("one", "one"), (None, "one")):
        body = {"prompt": "hello", "model": name}
        assert running.post("/v1/completions", body).json()["model"] == expected


def test_a_full_server_says_when_to_come_back(start: Any, toy_model: Any) -> None:
    model = toy_model(delay=0.01, max_sequences=2, max_logits_rows=2)
    running = start({"toy": model}, max_waiting=2)
    sent = [running.send("/v1/completions", ENDLESS) for _ in range(4)]
    while running.catalog.sequences < 4:
        time.sleep(0.01)
    answer = running.post("/v1/completions", {"prompt": "hello"})
    assert (answer.status_code, code_of(answer)) == (429, "LLMC-E0218")
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert running.post("/v1/completions", {"prompt": "hello", "n": 2}).status_code == 429
    assert running.http.get("/health").status_code == 200
    assert 'llmc_refused_requests_total{model="toy"} 2.0' in running.http.get("/metrics").text
    sent[0].close()
    while running.catalog.sequences > 3:
        time.sleep(0.01)
    for connection in sent[1:]:
        connection.close()
    assert running.post("/v1/completions", {"prompt": "hello"}).status_code == 200
    running.wait_idle()


def test_time_is_limited(start: Any, toy_model: Any) -> None:
    running = start({"toy": toy_model(delay=0.01)}, request_timeout=0.3)
    answer = running.post("/v1/completions", ENDLESS)
    assert (answer.status_code, code_of(answer)) == (504, "LLMC-E0223")
    answer = running.post("/v1/completions", {**ENDLESS, "timeout": 0.05, "stream": True})
    assert "LLMC-E0223" in answer.text
    assert answer.text.endswith("data: [DONE]\n\n")
    running.wait_idle()


def test_clients_take_turns(start: Any, toy_model: Any) -> None:
    """Whoever asks little is not kept waiting by whoever asks for much."""
    model = toy_model(delay=0.003, max_sequences=1, max_logits_rows=1)
    running = start({"toy": model}, keys=("greedy:a", "modest:b"))
    ends: list[str] = []

    def ask(key: str) -> None:
        body = {"prompt": "hello", "max_tokens": 20}
        assert running.post("/v1/completions", body, authorization=f"Bearer {key}").is_success
        ends.append(key)

    threads = [threading.Thread(target=ask, args=("a",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    while running.catalog.sequences < 8:
        time.sleep(0.001)
    ask("b")
    assert ends.count("a") < 8
    for thread in threads:
        thread.join()


def test_cross_origin_only_where_allowed(start: Any, toy_model: Any) -> None:
    closed = start({"toy": toy_model()})
    headers = {"origin": "https://a.example", "access-control-request-method": "POST"}
    answer = closed.http.options("/v1/completions", headers=headers)
    assert answer.status_code == 405
    assert "access-control-allow-origin" not in answer.headers
    opened = start({"toy": toy_model()}, keys=("k",), cors_origin=["https://a.example"])
    answer = opened.http.options("/v1/completions", headers=headers)
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    headers["origin"] = "https://b.example"
    answer = opened.http.options("/v1/completions", headers=headers)
    assert "access-control-allow-origin" not in answer.headers
