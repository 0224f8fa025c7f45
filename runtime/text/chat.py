"""Chat messages to a prompt, by one of the model's own Jinja templates.

Messages come in OpenAI's form; what templates want differs. So a template is asked what it does
with a small conversation: whether it shows tools, whether it takes content as text or as parts, and
whether it takes the arguments of tool calls as an object or as JSON text. What it takes as it comes
is handed to it as it comes: then the prompt is the one that transformers makes.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import product
from typing import Any, get_args

from ...base.errors import LlmcError
from .messages import Form, NoContent, in_form
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
        "parameters": {
            "type": "object",
            "properties": {"x": {"type": "string", "description": "none"}},
            "required": ["x"],
        },
    },
}
_CALL_ID = "abcdefghi"


class ChatTemplate:
    """A compiled template. `special_tokens`: what it may name, such as `bos_token`. `for_tools`: it
    is the one that its model has for tools, whatever it shows of them."""

    def __init__(
        self, source: str, special_tokens: Mapping[str, str], *, for_tools: bool = False
    ) -> None:
        self.source = source
        self._for_tools = for_tools
        self._special_tokens = dict(special_tokens)
        self._sandbox = TemplateSandbox()
        self._template = self._sandbox.compiled(source)
        self._roles_with_lists: dict[str, bool] = {}

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
        plain = self._in_form(messages, tools or ())
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
        return self._for_tools or _MARK in self._tried([_GREETING], tools=[_TOOL])

    @cached_property
    def _knows_system(self) -> bool:
        return _MARK in self._tried([{"role": "system", "content": _MARK}, _GREETING])

    def _continued(
        self,
        messages: list[dict[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        variables: dict[str, Any],
    ) -> str:
        content = messages[-1]["content"]
        said = content if isinstance(content, str) else content[-1]["text"] if content else ""
        marked: Any = f"{said}{_MARK} "
        if not isinstance(content, str):
            marked = [*content[:-1], {"type": "text", **dict(*content[-1:]), "text": marked}]
        shown = [*messages[:-1], {**messages[-1], "content": marked}]
        text = self._render(shown, tools=tools, add_generation_prompt=False, **variables)
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

    def _in_form(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """The messages in the template's form, which is asked for only as far as it matters."""
        known = [message for message in messages if isinstance(message, Mapping)]
        calls = any(message.get("tool_calls") for message in known)
        form = Form(parts=self._wants_parts, developer="developer" in self.source)
        if calls or tools or any(message.get("role") == "tool" for message in known):
            if not self.knows_tools:
                texts = in_form(messages, form._replace(parts=False))
                return in_form(told_in_text(texts, tools, self._knows_system), form)
            if calls:
                form = self._call_form._replace(parts=form.parts, developer=form.developer)
        listed = {m.get("role") for m in known if isinstance(m.get("content"), list | tuple)}
        roles = frozenset(role for role in listed if isinstance(role, str))
        return in_form(messages, form._replace(lists=frozenset(filter(self._takes_lists, roles))))

    @cached_property
    def _wants_parts(self) -> bool:
        """Whether content must be a list of parts: where text isn't shown, but parts are."""
        if _MARK in self._tried([_QUESTION]):
            return False
        return _MARK in self._tried(in_form([_QUESTION], Form(parts=True)))

    def _takes_lists(self, role: str) -> bool:
        """Whether the template goes through the parts of this role's content."""
        if role not in self._roles_with_lists:
            self._roles_with_lists[role] = self._asked_for_lists(role)
        return self._roles_with_lists[role]

    def _asked_for_lists(self, role: str) -> bool:
        marks = [_MARK + end for end in "ab"]
        asked: dict[str, Any] = {
            "role": role,
            "content": [{"type": "text", "text": mark} for mark in marks],
        }
        if role == "tool":
            asked |= {"tool_call_id": _CALL_ID, "name": "f"}
            form = self._call_form._replace(parts=self._wants_parts)
            conversation = [*in_form([_GREETING, _call("x")], form), asked]
        elif role in ("system", "developer"):
            conversation = [asked, _GREETING]
        else:
            conversation = [asked] if role == "user" else [_GREETING, asked]
        text = self._tried(conversation)
        as_written = [f"{quote}{mark}{quote}" for quote in "'\"" for mark in marks]
        return all(mark in text for mark in marks) and not any(one in text for one in as_written)

    @cached_property
    def _call_form(self) -> Form:
        """How tool calls must look for the template to show them as they are meant; if it shows
        their arguments in no form, the first in which it takes them."""
        result = {"role": "tool", "tool_call_id": _CALL_ID, "name": "f", "content": "1"}
        # Shown as Python writes an object or None, or as JSON within JSON, it is not as meant.
        wrong = {False: f"'{_MARK}'", True: f'\\"{_MARK}'}
        taken = None
        for as_text, no_content in product((False, True), get_args(NoContent)):
            form = Form(self._wants_parts, no_content=no_content, argument_text=as_text)
            text = self._tried(in_form([_GREETING, _call(_MARK), result], form))
            told = no_content == "null" and "None" in text
            if _MARK in text and wrong[as_text] not in text and not told:
                return form
            taken = taken or (form if text else None)
        return taken or Form(no_content="empty")

    def _tried(self, messages: Sequence[Message], **variables: Any) -> str:
        """What the template makes of the messages; empty if it refuses them."""
        try:
            return self._render(messages, add_generation_prompt=False, **variables)
        except LlmcError as error:
            if isinstance(error.__cause__, BoundExceeded):
                raise
            return ""


def _call(argument: str) -> dict[str, Any]:
    """An assistant's message that calls a tool with one argument of that name."""
    function = {"name": "f", "arguments": {argument: 1}}
    call = {"id": _CALL_ID, "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}
