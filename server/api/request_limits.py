"""How much one request may ask for: continuations, prompt tokens, output tokens."""

from collections.abc import Sequence

from ..config import ServerConfig
from ..connection.error_objects import RequestError, unsupported
from ..served_models import Served


def check_count(count: int, config: ServerConfig, param: str = "n") -> None:
    """E0215 for more continuations than the server allows in one request."""
    if count > config.max_n:
        raise unsupported(param, f"can be at most {config.max_n} here")


def output_limit(**fields: int | None) -> int | None:
    """How much may be generated, of the fields by which clients say it; -1 is as much as there is
    room for. E0215 if two of them say different things."""
    said = {name: value for name, value in fields.items() if value is not None}
    if len(set(said.values())) > 1:
        first, *others = said
        raise unsupported(first, f"and {' and '.join(others)} exclude one another")
    if said.get("n_predict") == 0:
        raise unsupported("n_predict", "cannot be 0")
    value = next(iter(said.values()), None)
    return None if value == -1 else value


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
