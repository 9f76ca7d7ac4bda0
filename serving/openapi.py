"""The OpenAPI document of the gateway: its routes, and the bodies that they read themselves (`bodies.py`).

Knows what can be asked. Does not know what is answered.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from evermoe import __version__
from serving.access import needs
from serving.bodies import BODIES, Body

router = APIRouter()
PLACE = "#/components/schemas/{model}"


@router.get("/openapi.json", dependencies=[needs("ask", "read")])
async def openapi(request: Request) -> dict[str, Any]:
    """This document."""
    return document(request.app)


def takes(kind: type[Body]) -> dict[str, Any]:
    """For a route's `openapi_extra`: that it takes a body of this kind."""
    content = {"application/json": {"schema": {"$ref": PLACE.format(model=kind.__name__)}}}
    return {"requestBody": {"required": True, "content": content}}


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of `app`."""
    shape = get_openapi(title="Evermoe", version=__version__, routes=app.routes)
    _, schemas = models_json_schema([(kind, "validation") for kind in BODIES], ref_template=PLACE)
    components = shape.setdefault("components", {})
    components.setdefault("schemas", {}).update(schemas["$defs"])
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return shape | {"security": [{"key": []}]}
