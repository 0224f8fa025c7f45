"""Prompts of chats: messages as dictionaries, rendered by the model's template."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ...runtime.api.generation_options import RequestOptions
from ...runtime.text.reasoning import Marks, opened_by
from ..connection.error_objects import RequestError, unsupported
from ..served_models import Served
from .chat_text import ChatText, Thinking, marks_for
from .protocol.chat import ChatFields, Message, Part
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
    made = one.model_dump(exclude_none=True)
    if one.content is None and one.refusal is not None:
        made["content"] = one.refusal
    thought = (one.reasoning_content, one.reasoning, one.thinking)
    if "content" not in made and not one.tool_calls and thought == (None, None, None):
        raise RequestError("LLMC-E0213", f"{param}: there is no content", param=param)
    return made


def _last_text(message: Mapping[str, Any]) -> str:
    """The text with which a message ends."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else content[-1].get("text") or ""


class ChatPrompt(NamedTuple):
    """A prompt as ids and as text."""

    ids: list[int]
    text: str


@dataclass(frozen=True, slots=True)
class Rendering:
    """How the template is asked, and its text becomes ids. `chat_template`: its name, if it isn't
    to be chosen; `variables`: what else it may read."""

    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    chat_template: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)


def rendering_of(fields: ChatFields, more: Mapping[str, Any]) -> Rendering:
    """What the fields of a body say. `more`: variables that have fields of their own; they stand
    back behind `chat_template_kwargs`. Errors: E0215 for fields that exclude one another."""
    given = fields.chat_template_kwargs or {}
    for name in given:
        if name in _TAKEN:
            raise unsupported("chat_template_kwargs", f"can't set {name}")
    resumed = bool(fields.continue_final_message)
    if resumed and fields.add_generation_prompt:
        why = "and add_generation_prompt exclude one another"
        raise unsupported("continue_final_message", why)
    return Rendering(
        add_generation_prompt=not resumed and fields.add_generation_prompt is not False,
        continue_final_message=resumed,
        add_special_tokens=bool(fields.add_special_tokens),
        chat_template=fields.chat_template,
        variables={**more, **given},
    )


async def chat_prompt(
    served: Served,
    messages: Sequence[Mapping[str, Any]],
    rendering: Rendering,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> ChatPrompt:
    """The prompt of a chat; a long one doesn't keep others waiting. Errors: E0209."""
    template = served.model.chat_template
    if template is None:
        raise RequestError("LLMC-E0209", f"{served.name} has no chat template", param="messages")

    def render() -> ChatPrompt:
        text = template.render(
            messages,
            tools=tools,
            add_generation_prompt=rendering.add_generation_prompt,
            continue_final_message=rendering.continue_final_message,
            chat_template=rendering.chat_template,
            **rendering.variables,
        )
        special = rendering.add_special_tokens
        return ChatPrompt(served.model.tokenizer.encode(text, add_special_tokens=special), text)

    length = sum(len(str(message.get("content"))) for message in messages)
    return render() if length <= _SHORT else await asyncio.to_thread(render)


class ChatPrompts:
    """The one prompt of a chat, and how what follows it is to be read."""

    def __init__(
        self,
        served: Served,
        messages: Sequence[Message],
        tools: Tools,
        rendering: Rendering,
    ) -> None:
        self._served, self._tools, self._rendering = served, tools, rendering
        self._messages = as_template_messages(messages)
        self._thinking: Thinking | None = None

    async def prepare(self, options: RequestOptions) -> list[list[int]]:
        """Its ids. Options that tools and thoughts need are set. Errors: E0209, E0211, E0213."""
        await self._tools.apply_to(options)
        marks = marks_for(self._served, options)
        prompt = await chat_prompt(
            self._served, self._messages, self._rendering, self._tools.offered
        )
        if marks is not None:
            self._thinking = Thinking(marks, self._opens(prompt.text, marks))
        return [prompt.ids]

    def _opens(self, prompt: str, marks: Marks) -> bool:
        """Whether the text begins within a thought: one that the template or a message that is
        continued has begun."""
        if not self._rendering.continue_final_message:
            return opened_by(prompt, marks)
        said = _last_text(self._messages[-1]).strip()
        if marks.start in said or marks.end in said:
            return said.rfind(marks.start) > said.rfind(marks.end)
        return opened_by(prompt.rstrip().removesuffix(said), marks)

    def reader(self) -> ChatText:
        """Reads one of the texts that follow, when the prompt is prepared."""
        return ChatText(self._tools, self._thinking)


_TAKEN = {
    "messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template",
    "tokenize", "self",
}  # fmt: skip
"""What can't be a template's variable, as it is the request's or the server's to say."""
