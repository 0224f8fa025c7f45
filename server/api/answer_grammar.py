"""The grammar that a body asks for: OpenAI's `response_format`, and what vLLM and llama.cpp have
for it."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...runtime.api.generation_options import GenerateOptions, grammar_of
from ..connection.error_objects import RequestError, unsupported
from ..served_models import Served
from .protocol.generation_fields import ResponseFormat, Sampling

if TYPE_CHECKING:
    from ...runtime.engine.sampling.grammar import CompiledGrammar

_ANY_OBJECT = {"type": "object"}

Wanted = tuple[str, Any, str]
"""A field, its value, and the option of `generate` that it is."""


async def answer_grammar(
    served: Served, fields: Sampling, form: ResponseFormat | None
) -> "CompiledGrammar | None":
    """The grammar that a request asks for, if it does. Errors: E0211, E0213.

    Built in another thread: a hostile one may take as long as the limits on grammars allow.
    """
    wanted = [one for one in (*_guided(fields), *_formatted(form)) if one[1] is not None]
    if not wanted:
        return None
    if len(wanted) > 1:
        names = " and ".join(name for name, _, _ in wanted)
        raise RequestError("LLMC-E0213", f"{names} exclude one another", param=wanted[1][0])
    _, value, option = wanted[0]
    given: GenerateOptions = {option: value}  # type: ignore[misc]

    def build() -> "CompiledGrammar":
        grammar = grammar_of(given)
        assert grammar is not None
        return served.model.request_maker.compile(grammar)

    return await asyncio.to_thread(build)


def _guided(fields: Sampling) -> Sequence[Wanted]:
    options = fields.structured_outputs
    wanted: list[Wanted] = [
        ("guided_json", fields.guided_json, "json_schema"),
        ("guided_regex", fields.guided_regex, "regex"),
        ("guided_choice", fields.guided_choice, "choice"),
        ("guided_grammar", fields.guided_grammar, "grammar"),
        ("json_schema", fields.json_schema, "json_schema"),
        ("grammar", fields.grammar, "grammar"),
    ]
    if options is not None:
        any_object = _ANY_OBJECT if options.json_object else None
        wanted += [
            ("structured_outputs.json", options.json_, "json_schema"),
            ("structured_outputs.json_object", any_object, "json_schema"),
            ("structured_outputs.regex", options.regex, "regex"),
            ("structured_outputs.choice", options.choice, "choice"),
            ("structured_outputs.grammar", options.grammar, "grammar"),
        ]
    return wanted


def _formatted(form: ResponseFormat | None) -> Sequence[Wanted]:
    """A schema holds wherever it stands; `json_object` without one is any object."""
    if form is None:
        return ()
    named = form.json_schema.schema_ if form.json_schema is not None else None
    if form.schema_ is not None and named is not None:
        raise RequestError("LLMC-E0213", "there are two schemas", param="response_format")
    schema = form.schema_ if named is None else named
    if form.type == "text":
        if schema is not None:
            raise unsupported("response_format", "of type text can't have a schema")
        return ()
    if form.type == "json_object" and schema is None:
        schema = _ANY_OBJECT
    if schema is None:
        raise RequestError("LLMC-E0213", "json_schema has no schema", param="response_format")
    return (("response_format", schema, "json_schema"),)
