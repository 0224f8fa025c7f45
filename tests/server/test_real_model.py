"""The catalog's model behind the server, asked by OpenAI's client."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llmc.runtime.api.model import Model, load
from openai import OpenAI

pytestmark = pytest.mark.model

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def model(smollm2_int4: Path) -> Iterator[Model]:
    with load(smollm2_int4, memory=500_000_000) as loaded:
        yield loaded


def test_chats(start: Any, model: Model) -> None:
    alone = model.generate(QUESTION, max_tokens=24)
    for _ in alone:
        pass
    running = start({"smol": model})
    client = OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
    options: Any = {"model": "smol", "messages": QUESTION, "temperature": 0, "max_tokens": 24}
    text = client.chat.completions.create(**options).choices[0].message.content
    assert text == alone.text
    stream = client.chat.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    options["messages"] = [
        *QUESTION,
        {"role": "assistant", "content": text},
        {"role": "user", "content": "And of Spain?"},
    ]
    usage = client.chat.completions.create(**options).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens_details.cached_tokens or 0) > 32
    assert client.responses.create(model="smol", input=QUESTION, temperature=0).output_text

    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
        "required": ["city", "people"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
    options |= {"messages": QUESTION, "max_tokens": 100}
    answer = client.chat.completions.create(**options, response_format=form).choices[0]
    if answer.finish_reason == "stop":  # a small model may write a long number
        assert set(json.loads(answer.message.content or "")) == {"city", "people"}
    function = {"name": "find_city", "parameters": {**schema, "required": ["city"]}}
    tools: Any = [{"type": "function", "function": function}]
    answer = client.chat.completions.create(
        **options, tools=tools, tool_choice="required", parallel_tool_calls=False
    ).choices[0]
    (call,) = answer.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "find_city"
