"""`/v1/models`: what is served."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..connection.json_response import Json
from ..served_models import Served
from ..server_state import state_of


async def list_models(http: Request) -> Response:
    """All models."""
    models = [_model_object(served) for served in state_of(http).catalog]
    return Json({"object": "list", "data": models})


async def show_model(http: Request) -> Response:
    """One model."""
    return Json(_model_object(state_of(http).catalog.get(http.path_params["name"])))


def _model_object(served: Served) -> dict[str, Any]:
    """A model as OpenAI's interface shows it."""
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "llmc",
        "max_model_len": served.context,
    }
