"""Chat messages to a prompt, by the model's own Jinja template.

Templates come from strangers, so they run in Jinja's immutable sandbox. They expect what
transformers gives them: `raise_exception`, `strftime_now`, a `tojson` that doesn't escape for HTML,
`break` and `continue`, blocks trimmed, and a `generation` tag (which marks the assistant's part
for training; here it is transparent).
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import LlmcError

Message = Mapping[str, Any]


class _GenerationTag(Extension):
    """`{% generation %} … {% endgeneration %}` is what stands between."""

    tags = {"generation"}  # noqa: RUF012 (declared so by the base class)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A compiled template. `special_tokens`: what it may name, such as `bos_token`."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._special_tokens = dict(special_tokens)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise LlmcError("LLMC-E0512", f"the chat template is invalid: {error}") from error

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt up to where the assistant begins to speak; E0209 if the template refuses."""
        try:
            return self._template.render(
                messages=list(messages),
                add_generation_prompt=True,
                tools=None,
                documents=None,
                **self._special_tokens,
            )
        except Exception as error:  # a template is a program: it may fail in any way
            raise LlmcError(
                "LLMC-E0209", f"the chat template refused the messages: {error}"
            ) from error


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().astimezone().strftime(format)
