"""What a model thinks before it answers is told apart from the answer."""

from typing import Any

from llmc.runtime.text.reasoning import Marks
from llmc.server.api.chat_text import ChatText, Thinking
from llmc.server.api.tool_choice import tools_of
from openai import OpenAI

HELLO: Any = [{"role": "user", "content": "hello"}]


def test_thoughts_are_not_content(start: Any, toy_model: Any) -> None:
    """Whole, and letter by letter."""
    model = toy_model()
    running = start({"toy": model})
    (served,) = running.catalog
    thinking = Thinking(Marks("<think>", "</think>"), opened=False)
    text = "<think>\nhm, so\n</think>\n\nYes. "
    tools = tools_of(served, None, None, None)
    assert ChatText(tools, thinking).message(text) == {
        "content": "Yes. ",
        "reasoning_content": "hm, so",
    }
    reader, told = ChatText(tools, thinking), {"content": "", "reasoning_content": ""}
    for letter in text:
        for delta in reader.push(letter):
            for name, piece in delta.items():
                told[name] += piece
    for delta in reader.flush():
        for name, piece in delta.items():
            told[name] += piece
    assert told == {"content": "Yes. ", "reasoning_content": "hm, so"}


def test_a_template_that_opens_a_thought(start: Any, toy_model: Any) -> None:
    model = toy_model()
    source = "{% for m in messages %}{{ m.content }}{% endfor %}<think>{# </think> #}"
    model._chat_source = source
    running = start({"toy": model})
    client = OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
    options: Any = {"model": "toy", "messages": HELLO, "max_tokens": 6, "temperature": 0}
    options |= {"extra_body": {"ignore_eos": True}}
    message: Any = client.chat.completions.create(**options).choices[0].message
    assert message.content == ""
    assert message.reasoning_content
    stream = list(client.chat.completions.create(**options, stream=True))
    deltas: Any = [chunk.choices[0].delta for chunk in stream]
    thoughts = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert thoughts == message.reasoning_content
    form: Any = {"guided_choice": ["yes"]}
    told = client.chat.completions.create(**{**options, "extra_body": form}).choices[0].message
    assert told.content == "yes"
