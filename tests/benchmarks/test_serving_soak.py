"""What the soak asks, how it judges answers, and what it finds left over."""

import json
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from llmc.benchmarks.serving_bench.client import Answer
from llmc.benchmarks.serving_bench.soak import Watched, _left_over, judge, texts
from llmc.benchmarks.serving_bench.soak_plan import BURST, Item, plan

pytestmark = pytest.mark.fast


def _answer(status: int, body: object = None, head: bytes = b"", *, cut: bool = False) -> Answer:
    start = b"HTTP/1.1 %d X\r\n%s\r\n" % (status, head)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(0.0, [(1.0, start + data)], 2.0, cut)


def _item(**more: Any) -> Item:
    return Item(1, 0.0, "/v1/completions", {"prompt": "a", "stream": False}, **more)


def _choice(text: str, reason: str = "stop", index: int = 0) -> dict[str, Any]:
    return {"index": index, "text": text, "finish_reason": reason}


def test_plans_repeat_and_hold_everything() -> None:
    items = plan(1, 1000, 600)
    assert items == plan(1, 1000, 600)
    assert items != plan(2, 1000, 600)
    assert len(items) == 1000
    assert all(a.at <= b.at for a, b in pairwise(items))
    assert items[-1].at <= 600
    assert max(Counter(item.at for item in items).values()) >= BURST
    kinds = Counter(item.behaviour for item in items)
    assert set(kinds) == {"reads", "leaves in time", "leaves at a token", "sends half"}
    assert kinds["reads"] > 700
    bodies = [item.body for item in items if isinstance(item.body, dict)]
    for name in ("seed", "top_p", "stop", "n", "logprobs", "response_format", "logit_bias"):
        assert any(name in body for body in bodies), name
    assert any(item.refused for item in items)
    assert any(isinstance(item.body, bytes) for item in items)


def test_every_answer_can_be_made_again() -> None:
    for item in plan(1, 500, 60):
        if isinstance(item.body, dict) and not item.refused:
            assert item.body["temperature"] == 0 or "seed" in item.body


def test_answers_refusals_and_departures_are_told_apart() -> None:
    good = _answer(200, {"choices": [_choice("x")]})
    assert judge(_item(), good).kind == "answered"
    assert judge(_item(), good).wrong is None
    assert judge(_item(), _answer(0, cut=True)).kind == "left by the client"
    assert judge(_item(), _answer(0, cut=True)).wrong is None
    busy = _answer(429, {}, b"Retry-After: 1\r\n")
    assert judge(_item(), busy).wrong is None
    assert judge(_item(), _answer(429, {})).wrong
    assert judge(_item(), _answer(500, {})).wrong
    assert judge(_item(refused=(400,)), _answer(400, {})).wrong is None
    assert judge(_item(refused=(400,)), good).wrong
    aborted = _answer(200, {"choices": [_choice("x", "error")]})
    assert judge(_item(), aborted).wrong


def test_a_stream_that_breaks_off_is_wrong() -> None:
    item = Item(1, 0.0, "/v1/completions", {"stream": True})
    event = b"data: " + json.dumps({"choices": [_choice("a")]}).encode() + b"\n\n"
    assert judge(item, _answer(200, event)).wrong
    whole = judge(item, _answer(200, event + b"data: [DONE]\n\n"))
    assert whole.wrong is None


def test_structured_answers_must_be_of_the_schema() -> None:
    item = Item(1, 0.0, "/v1/chat/completions", {"response_format": {}})

    def answer(text: str, reason: str) -> Answer:
        message = {"index": 0, "message": {"content": text}, "finish_reason": reason}
        return _answer(200, {"choices": [message]})

    assert judge(item, answer('{"name": "a", "age": 3}', "stop")).wrong is None
    assert judge(item, answer('{"name": "a"', "length")).wrong is None
    assert judge(item, answer('{"name": "a"}', "stop")).wrong


def test_texts_of_several_choices_are_kept_apart() -> None:
    item = Item(1, 0.0, "/v1/completions", {"stream": True, "n": 2})
    parts = [("a", None, 0), ("x", None, 1), ("b", "stop", 0), ("", "length", 1)]
    events = b"".join(
        b"data: " + json.dumps({"choices": [_choice(t, r, i)]}).encode() + b"\n\n"  # type: ignore[arg-type]
        for t, r, i in parts
    )
    found = texts(item, _answer(200, events))
    assert found == {0: ("ab", "stop"), 1: ("x", "length")}


def _look(**more: Any) -> dict[str, Any]:
    engine = {"running": 0, "waiting": 0, "cache_used": 0, "cache_cached": 5, "cache_total": 9}
    return {
        "tasks": 2,
        "requests": 0,
        "kernel_threads": 3,
        "threads": ["MainThread"],
        "descriptors": ["/dev/null", "socket"],
        "engine": [engine],
    } | more


def test_what_is_left_over_is_named() -> None:
    assert _left_over(Watched(_look(), _look())) == []
    assert _left_over(Watched(_look(tasks=3), _look(tasks=2))) == []
    assert "tasks" in _left_over(Watched(_look(), _look(tasks=3)))[0]
    more = _look(descriptors=["/dev/null", "socket", "socket"])
    assert "socket" in _left_over(Watched(_look(), more))[0]
    held = _look(engine=[{"running": 0, "waiting": 0, "cache_used": 4}])
    assert "cache_used" in _left_over(Watched(_look(), held))[0]
