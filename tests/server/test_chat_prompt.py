"""The fields of a request that say how a chat becomes a prompt: each changes the ids or is refused.

What is right comes from transformers, with the same template and tokenizer.
"""

from collections.abc import Mapping
from typing import Any

import pytest
from llmc.runtime.api.model import Model

MESSAGES: Any = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "One, "},
]
TEMPLATE = (
    "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>\n{% endfor %}"
    "{% if documents %}{% for d in documents %}{{ d.title }}{% endfor %}{% endif %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}{{ mood }}"
)


@pytest.fixture(scope="module")
def native(ascii_tokenizer: bytes) -> Any:
    """The toy's tokenizer as transformers has it, which puts `<s>` before a text."""
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer.from_str(ascii_tokenizer.decode())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE
    )


@pytest.fixture
def running(start: Any, toy_model: Any, native: Any) -> Any:
    made = toy_model()
    model = Model(
        made.program,
        tokenizer=native.backend_tokenizer.to_str().encode(),
        chat_template=TEMPLATE,
        generation=made.generation,
    )
    return start({"toy": model})


RENDERINGS: list[Mapping[str, Any]] = [
    {},
    {"add_generation_prompt": False},
    {"continue_final_message": True},
    {"continue_final_message": True, "add_generation_prompt": False},
    {"continue_final_message": False, "add_generation_prompt": True},
    {"add_special_tokens": True},
    {"chat_template_kwargs": {"mood": "calm"}},
]


@pytest.mark.parametrize("fields", RENDERINGS, ids=str)
def test_a_chat_becomes_the_prompt_that_transformers_makes(
    running: Any, native: Any, fields: Mapping[str, Any]
) -> None:
    resumed = bool(fields.get("continue_final_message"))
    text = native.apply_chat_template(
        MESSAGES,
        tokenize=False,
        add_generation_prompt=not resumed and fields.get("add_generation_prompt", True),
        continue_final_message=resumed,
        **fields.get("chat_template_kwargs", {}),
    )
    expected = native(text, add_special_tokens=bool(fields.get("add_special_tokens"))).input_ids
    asked = {"messages": MESSAGES, **fields}
    assert running.post("/tokenize", asked).json()["tokens"] == expected
    (model,) = running.models.values()
    options: Any = {"temperature": 0, "max_tokens": 9}
    said = "".join(chunk.text for chunk in model.generate(expected, **options))
    answer = running.post("/v1/chat/completions", {**asked, **options}).json()
    assert answer["choices"][0]["message"]["content"] == said
    assert answer["usage"]["prompt_tokens"] == len(expected)
    response = running.post(
        "/v1/responses",
        {"input": MESSAGES, **fields, "temperature": 0, "max_output_tokens": 9},
    ).json()
    assert response["output"][0]["content"][0]["text"] == said


def test_special_tokens_before_a_prompt(running: Any, native: Any) -> None:
    for special in (True, False, None):
        asked = {"prompt": "hello", "add_special_tokens": special, "max_tokens": 0, "echo": True}
        expected = native("hello", add_special_tokens=special is not False).input_ids
        answer = running.post("/v1/completions", asked).json()
        assert answer["usage"]["prompt_tokens"] == len(expected)
        told = running.post("/tokenize", asked).json()
        assert told["tokens"] == expected  # of the body of another endpoint as it is


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
        ),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"add_generation_prompt": False}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs"),
    ],
)
def test_what_contradicts_itself_is_refused(
    running: Any, fields: Mapping[str, Any], param: str
) -> None:
    for path in ("/v1/chat/completions", "/tokenize"):
        answer = running.post(path, {"messages": MESSAGES, **fields})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param


def test_a_thought_that_is_continued_is_one(start: Any, toy_model: Any) -> None:
    """The text goes on within the section that the message has begun, and only then."""
    model = toy_model()
    model._chat_source = (
        "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}{# </think> #}"
    )
    running = start({"toy": model})
    for said, thinks in (
        ("<think>\nhm", True),
        ("<think>a</think>\nSo", False),
        ("So", False),
    ):
        messages = [
            {"role": "user", "content": "Write <think>"},
            {"role": "assistant", "content": said},
        ]
        asked = {"messages": messages, "max_tokens": 5, "temperature": 0, "ignore_eos": True}
        asked["continue_final_message"] = True
        message = running.post("/v1/chat/completions", asked).json()["choices"][0]["message"]
        assert bool(message.get("reasoning_content")) == thinks
        assert bool(message["content"]) != thinks
