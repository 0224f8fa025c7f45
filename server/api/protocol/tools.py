"""Functions that a model may call, as requests describe them."""

from typing import Annotated, Any, Literal

from pydantic import Field

from .body import Body


class Function(Body):
    """A function that the model may call."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    """A tool; only functions are tools here."""

    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    """The name of a function."""

    name: str


class ToolChoice(Body):
    """A tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class ToolsOfChoice(Body):
    """Some of the tools, of which one may or must be called."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[ToolChoice], Field(min_length=1)]


class AllowedTools(Body):
    """Says that only some of the tools may be called."""

    type: Literal["allowed_tools"]
    allowed_tools: ToolsOfChoice
