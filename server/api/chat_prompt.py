"""Prompts of chats: messages as dictionaries, rendered by the model's template."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...runtime.api.generation_options import RequestOptions
from ...runtime.text.reasoning import opened_by
from ..connection.error_objects import RequestError
from ..served_models import Served
from .chat_text import ChatText, Thinking, marks_for
from .protocol.chat import Message, Part
from .tool_choice import Tools

_SHORT = 4000


def require_text(content: str | Sequence[Part] | None, param: str) -> None:
    """Refuses parts of a message that are not text. Errors: E0215."""
    for part in () if content is None or isinstance(content, str) else content:
        if part.type not in ("text", "input_text", "output_text", "refusal"):
            message = f"content of type {part.type[:40]!r} can't be read: only text can"
            raise RequestError("LLMC-E0215", message, param=param)


def as_template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as the dictionaries that were sent, without what is null. Errors: E0213, E0215."""
    return [_message(one, f"messages.{i}.content") for i, one in enumerate(messages)]


def _message(one: Message, param: str) -> dict[str, Any]:
    require_text(one.content, param)
    thought = (one.reasoning_content, one.reasoning, one.thinking)
    if one.content is None and not one.tool_calls and thought == (None, None, None):
        raise RequestError("LLMC-E0213", f"{param}: there is no content", param=param)
    return one.model_dump(exclude_none=True)


class ChatPrompt(NamedTuple):
    """A prompt as ids and as text."""

    ids: list[int]
    text: str


async def chat_prompt(
    served: Served,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    variables: Mapping[str, Any] | None = None,
) -> ChatPrompt:
    """The prompt of a chat; a long one doesn't keep others waiting. Errors: E0209."""
    template = served.model.chat_template
    if template is None:
        raise RequestError("LLMC-E0209", f"{served.name} has no chat template", param="messages")

    def render() -> ChatPrompt:
        text = template.render(
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            **{k: v for k, v in (variables or {}).items() if k not in _TAKEN},
        )
        return ChatPrompt(served.model.tokenizer.encode(text, add_special_tokens=False), text)

    length = sum(len(str(message.get("content"))) for message in messages)
    return render() if length <= _SHORT else await asyncio.to_thread(render)


class ChatPrompts:
    """The one prompt of a chat, and how what follows it is to be read."""

    def __init__(
        self,
        served: Served,
        messages: Sequence[Message],
        tools: Tools,
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        self._served, self._tools = served, tools
        self._messages = as_template_messages(messages)
        self._add_generation_prompt, self._variables = add_generation_prompt, variables
        self._thinking: Thinking | None = None

    async def prepare(self, options: RequestOptions) -> list[list[int]]:
        """Its ids. Options that tools and thoughts need are set. Errors: E0209, E0211, E0213."""
        await self._tools.apply_to(options)
        marks = marks_for(self._served, options)
        prompt = await chat_prompt(
            self._served,
            self._messages,
            tools=self._tools.offered,
            add_generation_prompt=self._add_generation_prompt,
            variables=self._variables,
        )
        if marks is not None:
            self._thinking = Thinking(marks, opened_by(prompt.text, marks))
        return [prompt.ids]

    def reader(self) -> ChatText:
        """Reads one of the texts that follow, when the prompt is prepared."""
        return ChatText(self._tools, self._thinking)


_TAKEN = {"messages", "tools", "add_generation_prompt", "self"}
"""Template variables that a request can't set by other means than its own fields."""
