"""`/tokenize` and `/detokenize`."""

from starlette.requests import Request
from starlette.responses import Response

from ..connection.error_objects import RequestError
from ..connection.json_response import Json
from ..server_state import state_of
from .chat_prompt import as_template_messages, chat_prompt, rendering_of
from .other_fields import check_other_fields
from .prompt_encoding import encode
from .protocol.tokens import DetokenizeRequest, TokenizeRequest
from .template_variables import template_variables
from .tool_choice import tools_of


async def tokenize(http: Request) -> Response:
    """Token ids of a text or of a chat."""
    server = state_of(http)
    body = await server.body(http, TokenizeRequest)
    check_other_fields(body.model_extra, generates=False)
    served = server.catalog.get(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise RequestError("LLMC-E0213", "give either prompt or messages", param="prompt")
    if body.messages is not None:
        tools = tools_of(served, body.tools, None, None).offered
        messages = as_template_messages(body.messages)
        variables = template_variables(
            served,
            body,
            tools=tools is not None,
            effort=body.reasoning_effort,
            verbosity=body.verbosity,
        )
        rendering = rendering_of(body, variables)
        tokens = (await chat_prompt(served, messages, rendering, tools)).ids
    else:
        special = body.add_special_tokens is not False
        tokens = await encode(served, body.prompt or "", special=special)
    return Json({"tokens": tokens, "count": len(tokens), "max_model_len": served.context})


async def detokenize(http: Request) -> Response:
    """The text of token ids."""
    server = state_of(http)
    body = await server.body(http, DetokenizeRequest)
    tokenizer = server.catalog.get(body.model).model.tokenizer
    return Json({"prompt": tokenizer.decode(body.tokens, keep_special=True)})
