"""The OpenAPI document: what bodies the routes take and what they answer.

Bodies are read by `request_body.py` and not by the framework, so the document is told about them
here.
"""

import re
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

_NAMED = re.compile(r"\{(\w+)\}")
_REF = "#/components/schemas/{model}"
_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string", "pattern": "^LLMC-E[0-9]{4}$"},
            },
        }
    },
}


def parameters_and_body(path: str, body: type[BaseModel] | None) -> dict[str, Any]:
    """What a route's description says of the names in its path, and of its body."""
    said: dict[str, Any] = {}
    names = _NAMED.findall(path)
    if names:
        schema = {"type": "string", "minLength": 1}
        said["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": schema} for name in names
        ]
    if body is not None:
        content = {"application/json": {"schema": {"$ref": _REF.format(model=body.__name__)}}}
        said["requestBody"] = {"required": True, "content": content}
    return said


def answers(*types: str) -> dict[int | str, dict[str, Any]]:
    """What it says of its answers: of these content types, and errors."""
    error = {"schema": {"$ref": _REF.format(model="Error")}}
    return {
        200: {"description": "The answer", "content": {kind: {} for kind in types}},
        "default": {"description": "An error", "content": {"application/json": error}},
    }


def describe(app: FastAPI, bodies: Iterable[type[BaseModel]]) -> None:
    """Has the application make its document with the schemas of these bodies in it."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, routes=app.routes)
            _, found = models_json_schema(
                [(schema, "validation") for schema in bodies], ref_template=_REF
            )
            schemas = made.setdefault("components", {}).setdefault("schemas", {})
            schemas.update({**found["$defs"], "Error": _ERROR})
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
