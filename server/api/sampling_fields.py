"""From the fields that all generating endpoints have to the options of `generate`.

Most have the option's name and meaning; what differs is here. What a field says wins over what the
model's author says, and that over OpenAI's defaults. Values are checked where options are parsed
(`runtime/api/generation_options.py`).
"""

from typing import Any, cast

from ...runtime.api.generation_options import GenerateOptions, OptionError, RequestOptions
from ..config import ServerConfig
from ..connection.error_objects import RequestError
from ..served_models import Served
from .protocol.generation_fields import Sampling

_SAME = (
    "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty",
    "presence_penalty", "frequency_penalty", "min_tokens", "seed", "stop", "stop_token_ids",
    "ignore_eos", "priority",
)  # fmt: skip
"""Fields that are options by the same name."""
_AUTHORS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_OPENAI_DEFAULTS = {"temperature": 1.0}
"""Where they aren't those of `generate`."""
_LIKELIEST_ALONE = 1e-9
"""What a `top_p` of 0 means."""


def options_of(
    fields: Sampling,
    served: Served,
    config: ServerConfig,
    key: str,
    **more: int | None,
) -> RequestOptions:
    """What a request asks, but for its grammar. `more`: options that endpoints have their own
    fields for. Errors: E0205, E0208."""
    given = _sampling(fields, served, config)
    given.update({name: value for name, value in more.items() if value is not None})
    given["logit_bias"] = _bias(fields.logit_bias or {})
    given["bad_words"] = [word for word in fields.bad_words or () if word]
    given["include_stop"] = bool(fields.include_stop_str_in_output)
    given["keep_special"] = fields.skip_special_tokens is False
    given["client"] = f"{key}/{fields.user or ''}"
    given["namespace"] = key if config.isolate_keys else ""
    if fields.cache_salt is not None:
        given["namespace"] += f"\0{fields.cache_salt}"
    given["timeout"] = min(fields.timeout or config.request_timeout, config.request_timeout)
    try:
        return served.model.request_maker.options(cast(GenerateOptions, given))
    except OptionError as error:
        raise RequestError(error.id, error.message, param=error.option) from error


def _sampling(fields: Sampling, served: Served, config: ServerConfig) -> dict[str, Any]:
    given: dict[str, Any] = dict(_OPENAI_DEFAULTS)
    sources: list[tuple[object, tuple[str, ...]]] = [(fields, _SAME)]
    if config.sampling_defaults == "model":
        sources.insert(0, (served.model.generation, _AUTHORS))
    for source, names in sources:
        said = {name: getattr(source, name) for name in names}
        given.update({name: value for name, value in said.items() if value is not None})
    if "top_k" in given:
        given["top_k"] = max(0, given["top_k"])
    if "top_p" in given:
        given["top_p"] = given["top_p"] or _LIKELIEST_ALONE
    if "seed" in given:
        given["seed"] %= 2**64
    return given


def _bias(fields: dict[str, float]) -> dict[int, float]:
    for token in fields:
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise RequestError("LLMC-E0205", f"{token[:40]!r} is no token id", param="logit_bias")
    return {int(token): value for token, value in fields.items()}
