"""Turning a model into an answer. Knows status codes and JSON; nothing of any route."""

from aiohttp import web
from pydantic import BaseModel

from api.http.schema import Accepted
from events.secrets import mask


def answer(model: BaseModel, status: int = 200) -> web.Response:
    """The model as JSON, secrets masked wherever they stand in it."""
    body = mask(model.model_dump_json(by_alias=True)).encode()
    return web.Response(
        status=status, body=body, content_type="application/json", headers={"Cache-Control": "no-store"}
    )


def versioned(model: BaseModel, version: int) -> web.Response:
    """As `answer`, with the stream's version as ETag, for If-Match."""
    response = answer(model)
    response.headers["ETag"] = f'"{version}"'
    return response


def accepted(view: Accepted, *, created: bool = False) -> web.Response:
    """201 for what is made; 202 when there is an operation to follow; 200 when it is done already."""
    if created:
        return answer(view, 201)
    return answer(view, 202 if view.operation else 200)
