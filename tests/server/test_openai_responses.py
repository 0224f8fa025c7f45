"""The Responses interface by OpenAI's own client: texts, calls, forms, probabilities, streams."""

import json
from typing import Any

import pytest
from openai import OpenAI

CLOCK: Any = {
    "type": "function",
    "name": "clock",
    "description": "Does something.",
    "parameters": {
        "type": "object",
        "properties": {"unit": {"enum": ["c", "f"]}},
        "required": ["unit"],
        "additionalProperties": False,
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"color": {"enum": ["red", "blue"]}},
    "required": ["color"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(server: Any) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def greedy_text(server: Any, toy: Any, prompt: str, count: int) -> str:
    """What the toy must say, computed without any of the server."""
    tokenizer = server.models["toy"].tokenizer
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    return tokenizer.decode(toy.greedy(ids, count, eos=(1,)))


def test_responses(client: OpenAI, server: Any, toy: Any) -> None:
    answer = client.responses.create(
        model="toy", input="hello", temperature=0, max_output_tokens=12, metadata={"a": "b"}
    )
    expected = greedy_text(server, toy, "user: hello\nassistant: ", 12)
    assert answer.output_text == expected
    assert answer.status == "incomplete"
    assert answer.metadata == {"a": "b"}
    items: Any = [
        {"role": "user", "content": [{"type": "input_text", "text": "hello"}]},
    ]
    again = client.responses.create(model="toy", input=items, temperature=0, max_output_tokens=12)
    assert again.output_text == expected
    assert answer.usage is not None
    assert answer.usage.output_tokens == 12


def test_streamed_response(client: OpenAI) -> None:
    options: Any = {"model": "toy", "input": "hello", "temperature": 0, "max_output_tokens": 8}
    whole = client.responses.create(**options)
    events = list(client.responses.create(**options, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == whole.output_text
    form: Any = {"format": {"type": "json_object"}}
    with client.responses.stream(model="toy", input="hello", text=form) as stream:
        assert isinstance(json.loads(stream.get_final_response().output_text), dict)


def test_logprobs_of_a_response(client: OpenAI) -> None:
    options: Any = {"model": "toy", "input": "hello", "temperature": 0, "max_output_tokens": 6}
    plain: Any = client.responses.create(**options).output[0]
    assert plain.content[0].logprobs is None
    options |= {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    part: Any = client.responses.create(**options).output[0]
    (part,) = part.content
    assert "".join(entry.token for entry in part.logprobs) == part.text
    assert {len(entry.top_logprobs) for entry in part.logprobs} == {2}
    told: Any = list(client.responses.create(**options, stream=True))
    streamed = [e for event in told if event.type == "response.output_text.delta"
                for e in event.logprobs]  # fmt: skip
    assert [entry.token for entry in streamed] == [entry.token for entry in part.logprobs]
    (done,) = [event for event in told if event.type == "response.output_text.done"]
    assert [entry.logprob for entry in done.logprobs] == [e.logprob for e in part.logprobs]


def test_a_response_that_calls(client: OpenAI) -> None:
    options: Any = {"model": "toy", "input": "hello", "tools": [CLOCK], "max_output_tokens": 200}
    options |= {"tool_choice": "required", "temperature": 0, "parallel_tool_calls": False}
    (call,) = client.responses.create(**options).output
    assert call.type == "function_call"
    assert call.name == "clock"
    assert json.loads(call.arguments)["unit"] in ("c", "f")
    events = list(client.responses.create(**options, stream=True))
    done = [e for e in events if e.type == "response.function_call_arguments.done"]
    assert [e.arguments for e in done] == [call.arguments]
    told: Any = [
        {"role": "user", "content": "hello"},
        {"type": "function_call", "call_id": "1", "name": "clock", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "noon"},
    ]
    answer = client.responses.create(model="toy", input=told, max_output_tokens=3)
    assert answer.usage is not None
    assert answer.usage.output_tokens in range(1, 4)


def test_a_response_in_a_form(client: OpenAI) -> None:
    form: Any = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}
    answer = client.responses.create(model="toy", input="hello", text=form)
    assert json.loads(answer.output_text)["color"] in ("red", "blue")
    assert answer.status == "completed"
