"""From the fields of a request to the engine's words: sampling, limits, grammar, deadline."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from ...runtime.api.generation_options import seeded
from ...runtime.engine.request import Request
from ...runtime.engine.sampling.parameters import SamplingParams
from ..config import ServerConfig
from ..connection.error_objects import RequestError
from ..served_models import Served
from .protocol.common import ResponseFormat, Sampling

if TYPE_CHECKING:
    from ...runtime.engine.sampling.grammar import CompiledGrammar

_SHORT = 2000
"""Characters up to which a text is tokenized at once; longer ones in another thread."""


@dataclass(slots=True)
class Asked:
    """Everything that the continuations of one HTTP request have in common."""

    params: SamplingParams
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    grammar: "CompiledGrammar | None" = None
    priority: int = 0
    client: str = ""
    namespace: str = ""
    deadline: float | None = None
    keep_special: bool = False

    def request(
        self, served: Served, prompt: Sequence[int], max_tokens: int, place: int = 0
    ) -> Request:
        """The engine's request for continuation number `place`, each with a seed of its own."""
        return served.model.make_request(
            prompt,
            seeded(self.params, place),
            max_tokens=max_tokens,
            stop=self.stop,
            stop_token_ids=self.stop_token_ids,
            ignore_eos=self.ignore_eos,
            priority=self.priority,
            client=self.client,
            namespace=self.namespace,
            deadline=self.deadline,
            keep_special=self.keep_special,
            grammar=self.grammar,
        )


def asked_of(
    fields: Sampling,
    served: Served,
    config: ServerConfig,
    key: str,
    *,
    logprobs: int | None = None,
    prompt_logprobs: int | None = None,
) -> Asked:
    """What a request asks, but for its grammar. Errors: E0205, E0215."""
    if fields.include_stop_str_in_output:
        raise unsupported("include_stop_str_in_output", "is not supported")
    seconds = min(fields.timeout or config.request_timeout, config.request_timeout)
    stop = (fields.stop,) if isinstance(fields.stop, str) else tuple(fields.stop or ())
    if not all(stop):
        raise RequestError("LLMC-E0205", "a stop string cannot be empty", param="stop")
    return Asked(
        sampling_of(fields, served, config, logprobs, prompt_logprobs),
        stop=stop,
        stop_token_ids=tuple(fields.stop_token_ids or ()),
        ignore_eos=bool(fields.ignore_eos),
        priority=fields.priority or 0,
        client=f"{key}/{fields.user or ''}",
        namespace=key if config.isolate_keys else "",
        deadline=monotonic() + seconds,
    )


def sampling_of(
    fields: Sampling,
    served: Served,
    config: ServerConfig,
    logprobs: int | None,
    prompt_logprobs: int | None,
) -> SamplingParams:
    """The sampling parameters: what the request says, else what the model's author says, else
    OpenAI's defaults. Errors: E0205."""
    author = served.model.generation if config.sampling_defaults == "model" else None

    def value(name: str, neutral: float) -> Any:
        said = getattr(fields, name)
        if said is None and author is not None:
            said = getattr(author, name, None)
        return neutral if said is None else said

    seed = fields.seed
    return SamplingParams(
        temperature=value("temperature", 1.0),
        top_k=max(0, value("top_k", 0)),
        top_p=value("top_p", 1.0) or 1e-9,  # 0 means: the likeliest token alone
        min_p=value("min_p", 0.0),
        typical_p=value("typical_p", 1.0),
        repetition_penalty=value("repetition_penalty", 1.0),
        presence_penalty=fields.presence_penalty or 0.0,
        frequency_penalty=fields.frequency_penalty or 0.0,
        seed=None if seed is None else seed % 2**64,
        logit_bias=_bias(fields.logit_bias or {}, served),
        bad_words=_bad_words(fields.bad_words or [], served),
        min_tokens=fields.min_tokens or 0,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
    )


def _bias(given: dict[str, float], served: Served) -> dict[int, float]:
    bias = {}
    for token, value in given.items():
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise RequestError("LLMC-E0205", f"{token[:40]!r} is no token id", param="logit_bias")
        if int(token) >= served.model.program.vocab_size:
            raise RequestError("LLMC-E0208", f"there is no token {token}", param="logit_bias")
        bias[int(token)] = value
    return bias


def _bad_words(words: list[str], served: Served) -> tuple[tuple[int, ...], ...]:
    """Each word as it is spelled at the start of a text and after a space."""
    spelled: dict[tuple[int, ...], None] = {}
    for word in words:
        for text in (word, " " + word):
            ids = served.model.tokenizer.encode(text, add_special_tokens=False)
            if word and ids:
                spelled[tuple(ids)] = None
    return tuple(spelled)


def unsupported(param: str, why: str) -> RequestError:
    """The error for something that OpenAI's interface has and this server hasn't."""
    return RequestError("LLMC-E0215", f"{param} {why}", param=param)


async def grammar_of(
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
    _, value, kind = wanted[0]
    if kind == "lark" and "::=" in value:  # as llama.cpp writes grammars
        kind = "gbnf"
    from ...runtime.engine.sampling.grammar import Grammar

    def build() -> "CompiledGrammar":
        grammar = getattr(Grammar, kind)(*(() if value is True else (value,)))
        return served.model.compile_grammar(grammar)

    return await asyncio.to_thread(build)


def _guided(fields: Sampling) -> Sequence[tuple[str, Any, str]]:
    options = fields.structured_outputs
    wanted = [
        ("guided_json", fields.guided_json, "json_schema"),
        ("guided_regex", fields.guided_regex, "regex"),
        ("guided_choice", fields.guided_choice, "choice"),
        ("guided_grammar", fields.guided_grammar, "lark"),
    ]
    if options is not None:
        wanted += [
            ("structured_outputs.json", options.json_, "json_schema"),
            ("structured_outputs.json_object", options.json_object or None, "json_object"),
            ("structured_outputs.regex", options.regex, "regex"),
            ("structured_outputs.choice", options.choice, "choice"),
            ("structured_outputs.grammar", options.grammar, "lark"),
        ]
    return wanted


def _formatted(form: ResponseFormat | None) -> Sequence[tuple[str, Any, str]]:
    if form is None or form.type == "text":
        return ()
    if form.type == "json_object":
        return (("response_format", True, "json_object"),)
    schema = form.json_schema.schema_ if form.json_schema is not None else None
    if schema is None:
        raise RequestError("LLMC-E0213", "json_schema has no schema", param="response_format")
    return (("response_format", schema, "json_schema"),)


async def encode(served: Served, text: str, *, special: bool) -> list[int]:
    """Token ids of a text; a long one doesn't keep others waiting."""
    tokenizer = served.model.tokenizer
    if len(text) <= _SHORT:
        return tokenizer.encode(text, add_special_tokens=special)
    return await asyncio.to_thread(tokenizer.encode, text, add_special_tokens=special)


def check_prompt(prompt: Sequence[int], served: Served, config: ServerConfig) -> None:
    """E0204 if a prompt is longer than the server or the context allows."""
    limit = min(config.max_prompt_tokens or served.context, served.context)
    if len(prompt) > limit:
        raise RequestError(
            "LLMC-E0204", f"the prompt has {len(prompt)} tokens, allowed are {limit}"
        )


def max_tokens_of(
    wanted: int | None, prompt: Sequence[int], served: Served, config: ServerConfig
) -> int:
    """Tokens that may be generated: as many as were asked for, else all that there is room for;
    never more than the server allows or the context holds."""
    room = max(1, served.context - len(prompt))
    limit = min(room, config.max_output_tokens or room)
    return limit if wanted is None else min(wanted, limit)


def as_json_text(value: Any) -> str:
    """Compact JSON, as tools' arguments are written."""
    return json.dumps(value, ensure_ascii=False)
