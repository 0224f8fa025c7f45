"""Chat messages to a prompt, by the model's own Jinja template.

Messages come in OpenAI's form; what templates want differs. So a template is asked what it does
with a small conversation: whether it shows tools, whether it takes content as text or as parts, and
whether it takes the arguments of tool calls as an object or as JSON text.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from ...base.errors import LlmcError
from .messages import Form, in_form
from .template_sandbox import BoundExceeded, TemplateSandbox
from .tools.fallback import told_in_text

Message = Mapping[str, Any]

_MARK = "Zq7llmc7qZ"
"""A text that nobody writes: it shows where a message's content ends, or whether it is shown."""

_QUESTION = {"role": "user", "content": _MARK}
_GREETING = {"role": "user", "content": "Hi"}
_TOOL = {
    "type": "function",
    "function": {
        "name": _MARK,
        "description": "none",
        "parameters": {"type": "object", "properties": {"x": {"type": "string"}}},
    },
}


class ChatTemplate:
    """A compiled template. `special_tokens`: what it may name, such as `bos_token`."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self.source = source
        self._special_tokens = dict(special_tokens)
        self._sandbox = TemplateSandbox()
        self._template = self._sandbox.compiled(source)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str:
        """The prompt of a conversation, up to where the assistant begins to speak.

        `tools`: definitions in OpenAI's form. A template that doesn't know tools gets them
        described in a system message (see `tools.fallback`). `continue_final_message`: the prompt
        ends within the last message, which the model continues, as transformers means it; then
        there is no `add_generation_prompt`. `variables`: what else the template reads, such as
        `enable_thinking`. Errors: E0209 if the messages are malformed or the template refuses them.
        """
        form = self._form_for(messages)
        if self.knows_tools:
            plain = in_form(messages, form)
        else:
            texts = in_form(messages, form._replace(parts=False))
            plain = in_form(told_in_text(texts, tools or (), self._knows_system), form)
        if continue_final_message:
            if not messages or messages[-1].get("content") is None:
                raise LlmcError("LLMC-E0209", "there is no final message with content to continue")
            return self._continued(plain, tools, variables)
        return self._render(
            plain, tools=tools, add_generation_prompt=add_generation_prompt, **variables
        )

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the template itself tells the model about tools."""
        return self._shows([_GREETING], tools=[_TOOL])

    @cached_property
    def _knows_system(self) -> bool:
        return self._shows([{"role": "system", "content": _MARK}, _GREETING])

    def _continued(
        self,
        messages: list[dict[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        variables: dict[str, Any],
    ) -> str:
        last = in_form(messages[-1:], Form(null_content=False))
        said = last[0]["content"]
        last[0]["content"] = f"{said}{_MARK} "
        marked = [*messages[:-1], *in_form(last, Form(parts=self._wants_parts, developer=True))]
        text = self._render(marked, tools=tools, add_generation_prompt=False, **variables)
        if _MARK not in text or said.strip() not in text:
            raise LlmcError("LLMC-E0209", "the chat template doesn't show the final message")
        end = text.rindex(_MARK)
        if text.startswith(f"{_MARK} ", end):
            return text[:end]
        return text[:end].rstrip()  # a template that trims content trims the end of this, too

    def _render(self, messages: Sequence[Message], **variables: Any) -> str:
        own = {"documents": None, "tools": None, **self._special_tokens}
        try:
            return self._sandbox.rendered(
                self._template, {**own, **variables, "messages": list(messages)}
            )
        except Exception as error:  # a template is a program: it may fail in any way
            raise LlmcError(
                "LLMC-E0209", f"the chat template refused the messages: {error}"
            ) from error

    # ---- what the template wants -----------------------------------------------------------

    def _form_for(self, messages: Sequence[Message]) -> Form:
        """The form of messages, asked for only when it matters."""
        calls = any(isinstance(m, Mapping) and m.get("tool_calls") for m in messages)
        form = self._call_form if calls and self.knows_tools else Form()
        return form._replace(parts=self._wants_parts, developer="developer" in self.source)

    @cached_property
    def _wants_parts(self) -> bool:
        """Whether content must be a list of parts: where text isn't shown, but parts are."""
        if self._shows([_QUESTION]):
            return False
        return self._shows(in_form([_QUESTION], Form(parts=True)))

    @cached_property
    def _call_form(self) -> Form:
        """How tool calls must look for the template to show them as they are meant."""
        function = {"name": "f", "arguments": {_MARK: 1}}
        conversation = [
            _GREETING,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "abcdefghi", "type": "function", "function": function}],
            },
            {"role": "tool", "tool_call_id": "abcdefghi", "name": "f", "content": "1"},
        ]
        # Shown as Python writes an object or None, or as JSON within JSON, it is not as meant.
        for text, wrong in ((False, f"'{_MARK}'"), (True, f'\\"{_MARK}')):
            for null in (True, False):
                form = Form(null_content=null, argument_text=text)
                messages = in_form(conversation, form._replace(parts=self._wants_parts))
                if self._shows(messages, hidden=(wrong, "None")):
                    return form
        return Form(null_content=False)

    def _shows(
        self, messages: Sequence[Message], *, hidden: Sequence[str] = (), **variables: Any
    ) -> bool:
        """Whether the template takes the messages and shows the mark, and nothing of `hidden`."""
        try:
            text = self._render(messages, add_generation_prompt=False, **variables)
        except LlmcError as error:
            if isinstance(error.__cause__, BoundExceeded):
                raise
            return False
        return _MARK in text and not any(one in text for one in hidden)
