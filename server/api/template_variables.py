"""Fields of a request that only a chat template can honour: handed to it if it reads them, else
refused, unless they ask for what the model does anyway."""

from typing import Any

from ...runtime.text.reasoning import marks_of
from ..connection.error_objects import unsupported
from ..served_models import Served
from .protocol.chat import ChatFields

_USUAL = "medium"
"""OpenAI's default of efforts and verbosities: the model does what it does by itself."""


def template_name(served: Served, name: str | None) -> str | None:
    """The name of the template that a request asks for. Errors: E0215 if the model has none of this
    name, as for the source of one."""
    templates = served.model.chat_template
    if name is not None and templates is not None and name not in templates.names:
        have = ", ".join(templates.names)
        raise unsupported("chat_template", f"can only name one of the model's own: {have}")
    return name


def template_variables(
    served: Served,
    fields: ChatFields,
    *,
    tools: bool = False,
    effort: str | None = None,
    effort_field: str = "reasoning_effort",
    verbosity: str | None = None,
) -> dict[str, Any]:
    """The variables that these fields are. `tools`: whether the template is shown any. Errors:
    E0215 for a field that the template can't read.

    An effort also switches `enable_thinking`, which more templates read: off for "none".
    """
    templates, name = served.model.chat_template, template_name(served, fields.chat_template)
    source = templates.chosen(name, tools=tools).source if templates is not None else ""
    made: dict[str, Any] = {}
    if effort is not None:
        wanted = {"reasoning_effort": effort, "enable_thinking": effort != "none"}
        made = {name: value for name, value in wanted.items() if name in source}
        idle = effort == "none" and marks_of(source) is None
        if not made and effort != _USUAL and not idle:
            why = f"can't be {effort[:40]!r}: the model's chat template has no such choice"
            raise unsupported(effort_field, why)
    if verbosity is not None:
        if "verbosity" in source:
            made["verbosity"] = verbosity
        elif verbosity != _USUAL:
            raise unsupported("verbosity", "is not read by the model's chat template")
    if fields.documents:
        if "documents" not in source:
            raise unsupported("documents", "are not read by the model's chat template")
        made["documents"] = fields.documents
    return made
