"""Fields of a request that only a chat template can honour: handed to it if it reads them, else
refused, unless they ask for what the model does anyway."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...runtime.text.reasoning import marks_of
from ..connection.error_objects import unsupported
from ..served_models import Served

_USUAL = "medium"
"""OpenAI's default of efforts and verbosities: the model does what it does by itself."""


def template_variables(
    served: Served,
    *,
    documents: Sequence[Mapping[str, Any]] | None = None,
    effort: str | None = None,
    effort_field: str = "reasoning_effort",
    verbosity: str | None = None,
) -> dict[str, Any]:
    """The variables that these fields are. Errors: E0215 for a field that the template can't read.

    An effort also switches `enable_thinking`, which more templates read: off for "none".
    """
    template = served.model.chat_template
    source = template.source if template is not None else ""
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
    if documents:
        if "documents" not in source:
            raise unsupported("documents", "are not read by the model's chat template")
        made["documents"] = documents
    return made
