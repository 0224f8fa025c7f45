"""One conversation has one prompt: by the server, by the Python API, and in transformers."""

from typing import Any

import pytest

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{% if m.reasoning_content %}<{{ m.reasoning_content }}>"
    "{% endif %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
    "({{ p.text }}{{ p.mood }}){% endfor %}{% endif %}{{ m.mood }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
PARTS = [{"type": "text", "text": "a", "mood": "!"}, {"type": "text", "text": "b"}]
ASK = {"role": "user", "content": "hi"}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "text": [{"role": "system", "content": "s"}, ASK],
    "parts": [{"role": "user", "content": PARTS}],
    "thoughts": [ASK, {"role": "assistant", "content": "x", "reasoning_content": "T"}, ASK],
    "thoughts by another name": [ASK, {"role": "assistant", "content": "x", "reasoning": "T"}, ASK],
    "thoughts alone": [ASK, {"role": "assistant", "content": None, "reasoning": "T"}, ASK],
    "null fields": [ASK, {"role": "assistant", "content": "x", "reasoning": None, "name": None}],
    "own fields": [{**ASK, "mood": "good"}],
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_conversation_has_one_prompt(start: Any, toy_model: Any, name: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = CONVERSATIONS[name]
    model = toy_model()
    model._chat_source = TEMPLATE
    given: Any = [{k: v for k, v in m.items() if v is not None} for m in messages]
    rendered: Any = render_jinja_template(
        [given], chat_template=TEMPLATE, add_generation_prompt=True
    )
    expected = model.tokenizer.encode(rendered[0][0], add_special_tokens=False)
    assert model.encode(messages) == expected
    running = start({"toy": model})
    assert running.post("/tokenize", {"messages": messages}).json()["tokens"] == expected
    asked = {"messages": messages, "max_tokens": 1}
    answer = running.post("/v1/chat/completions", asked).json()
    assert answer["usage"]["prompt_tokens"] == len(expected)


def test_parts_of_a_response_are_those_of_a_chat(start: Any, toy_model: Any) -> None:
    model = toy_model()
    model._chat_source = TEMPLATE
    running = start({"toy": model})
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    response = running.post(
        "/v1/responses", {"input": [{"role": "user", "content": parts}], "max_output_tokens": 1}
    ).json()
    expected = model.encode([{"role": "user", "content": parts}])
    assert response["usage"]["input_tokens"] == len(expected)
    assert model.encode([{"role": "user", "content": PARTS[1:]}]) != expected
