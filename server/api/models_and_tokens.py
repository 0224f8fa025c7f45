"""The small endpoints: models, tokenize, detokenize, health, readiness."""

from starlette.requests import Request
from starlette.responses import Response

from ..connection.error_objects import RequestError
from ..connection.responses import Json, problem
from ..context import context_of
from ..served_models import model_object
from .chat_prompt import as_template_messages, chat_prompt
from .protocol.text import DetokenizeRequest, TokenizeRequest
from .request_options import encode


async def list_models(http: Request) -> Response:
    """All models."""
    return Json({"object": "list", "data": context_of(http).catalog.as_list()})


async def show_model(http: Request) -> Response:
    """One model."""
    return Json(model_object(context_of(http).catalog.get(http.path_params["name"])))


async def tokenize(http: Request) -> Response:
    """Token ids of a text or of a chat."""
    context = context_of(http)
    body = await context.body(http, TokenizeRequest)
    served = context.catalog.get(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise RequestError("LLMC-E0213", "give either prompt or messages", param="prompt")
    if body.messages is not None:
        prompt = await chat_prompt(
            served,
            as_template_messages(body.messages),
            add_generation_prompt=body.add_generation_prompt,
            variables=body.chat_template_kwargs,
        )
        tokens = prompt.ids
    else:
        tokens = await encode(served, body.prompt or "", special=body.add_special_tokens)
    return Json({"tokens": tokens, "count": len(tokens), "max_model_len": served.context})


async def detokenize(http: Request) -> Response:
    """The text of token ids."""
    context = context_of(http)
    body = await context.body(http, DetokenizeRequest)
    tokenizer = context.catalog.get(body.model).model.tokenizer
    return Json({"prompt": tokenizer.decode(body.tokens, keep_special=True)})


async def health(http: Request) -> Response:
    """Whether the process answers."""
    return Json({"status": "ok"})


async def ready(http: Request) -> Response:
    """Whether it takes requests: not while it stops, nor after an engine has failed."""
    catalog = context_of(http).catalog
    if catalog.draining:
        return problem(RequestError("LLMC-E0220", "the server is stopping"))
    failed = catalog.failed
    if failed is not None:
        return problem(failed)
    return Json({"status": "ready"})
