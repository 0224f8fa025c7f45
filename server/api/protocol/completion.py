"""The body of `/v1/completions`."""

from typing import Annotated

from pydantic import Field

from .body import Count, Int
from .generation_fields import GenerationBody, ResponseFormat, StreamOptions

Ids = Annotated[list[Int], Field(min_length=1)]
Texts = Annotated[list[str], Field(min_length=1)]


class CompletionRequest(GenerationBody):
    """What `/v1/completions` is asked. A prompt is a text, ids, or a list of either."""

    prompt: str | Ids | Texts | Annotated[list[Ids], Field(min_length=1)]
    max_tokens: Int | None = None
    n: Count | None = None
    best_of: Count | None = None
    stream_options: StreamOptions | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    add_special_tokens: bool | None = None
    response_format: ResponseFormat | None = None
