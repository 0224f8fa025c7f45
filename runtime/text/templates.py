"""A model's chat templates by name, and the choice among them that transformers makes.

Most models have one, `default`. Others have more: `tool_use` is taken when tools are given, and a
caller may name any.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ...base.errors import LlmcError
from .chat import ChatTemplate

DEFAULT = "default"
TOOL_USE = "tool_use"


class ChatTemplates:
    """All templates of a model, at least one. Errors: E0512 if one is invalid."""

    def __init__(self, sources: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        self._templates = {
            name: ChatTemplate(source, special_tokens, for_tools=name == TOOL_USE)
            for name, source in sources.items()
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, sorted."""
        return tuple(sorted(self._templates))

    def chosen(self, name: str | None = None, *, tools: bool = False) -> ChatTemplate:
        """The template of a name; else that for tools, if they are given; else the default one.

        Errors: E0209 if there is none.
        """
        wanted = (name,) if name is not None else (TOOL_USE, DEFAULT) if tools else (DEFAULT,)
        found = next((n for n in wanted if n in self._templates), None)
        if found is None:
            have = ", ".join(self.names)
            raise LlmcError("LLMC-E0209", f"no chat template is called {wanted[-1]!r}, only {have}")
        return self._templates[found]

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        chat_template: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> str:
        """The prompt of a conversation by the template that is chosen (`chat_template`: its name);
        the other options are those of `ChatTemplate.render`. Errors: E0209."""
        template = self.chosen(chat_template, tools=tools is not None)
        return template.render(messages, tools=tools, **options)

    @property
    def knows_tools(self) -> bool:
        """Whether tools are told by a template, not in a text of llmc's. Errors: E0209."""
        return self.chosen(tools=True).knows_tools

    @property
    def source(self) -> str:
        """The template that tools are shown with, from which the form of calls and thoughts is
        read. Errors: E0209."""
        return self.chosen(tools=True).source
