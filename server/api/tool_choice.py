"""Which tools a chat may call, and in which format its model writes calls."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from ...runtime.api.generation_options import RequestOptions
from ...runtime.engine.sampling.grammar import CompiledGrammar, Grammar
from ...runtime.text.tools.calls import ToolFormat, ToolStream
from ...runtime.text.tools.definitions import Choice, checked_choice, checked_tools
from ...runtime.text.tools.forced import forced_grammar, keeps_special
from ...runtime.text.tools.registry import format_of
from ..connection.error_objects import RequestError
from ..served_models import Served
from .protocol.tools import AllowedTools, Tool, ToolChoice


class Tools:
    """The tools of one request: none, some that may be called, or some of which one must be."""

    def __init__(self, served: Served, choice: Choice, many: bool) -> None:
        self._served, self._choice, self.many = served, choice, many

    @property
    def offered(self) -> Sequence[Mapping[str, Any]] | None:
        """What the template tells the model about."""
        return self._choice.tools or None

    async def apply_to(self, options: RequestOptions) -> None:
        """Has calls appear in the text, and sets the grammar where one is forced.

        Errors: E0211 for schemas that no grammar can be made of, E0213.
        """
        if not self._choice.tools:
            return
        tokenizer, format = self._served.model.tokenizer, self._format()
        options.keep_special |= keeps_special(format, tokenizer.special_id)
        if self._choice.forced:
            if options.grammar is not None:
                message = "a forced call and another form of the answer exclude one another"
                raise RequestError("LLMC-E0213", message, param="tool_choice")
            options.grammar = await asyncio.to_thread(self._forced, format)

    def _forced(self, format: ToolFormat) -> CompiledGrammar:
        model = self._served.model
        text = forced_grammar(
            format, self._choice.tools, special_id=model.tokenizer.special_id, many=self.many
        )
        return model.request_maker.compile(Grammar.lark(text))

    def stream(self) -> ToolStream | None:
        """A reader of calls, if there may be any."""
        if not self._choice.tools:
            return None
        return ToolStream(self._format(), self._choice.tools)

    def _format(self) -> ToolFormat:
        template = self._served.model.chat_template
        assert template is not None
        return format_of(template.source, knows_tools=template.knows_tools)


def tools_of(
    served: Served,
    tools: Sequence[Tool] | None,
    choice: str | ToolChoice | AllowedTools | None,
    parallel: bool | None,
) -> Tools:
    """The tools that a request brings. Errors: E0209 without a chat template, E0212."""
    checked = checked_tools([tool.model_dump(exclude_none=True) for tool in tools or ()])
    if checked and served.model.chat_template is None:
        raise RequestError("LLMC-E0209", f"{served.name} has no chat template", param="tools")
    said = choice if choice is None or isinstance(choice, str) else choice.model_dump()
    return Tools(served, checked_choice(said, checked), many=parallel is not False)
