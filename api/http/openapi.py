"""The OpenAPI 3.1 document, made from the route table and the models, so that it says what is served.

Knows the document's format; nothing of how a route is served.
"""

import re
from functools import cache
from typing import cast

from pydantic import BaseModel, JsonValue
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from api.http.lines import JSON_LINES
from api.http.problems import MEDIA_TYPE
from api.http.queries import Nothing
from api.http.route import Route
from api.http.routes import ROUTES
from api.http.schema import Problem

Json = dict[str, JsonValue]

_REF = "#/components/schemas/{model}"
_NAME = "^[a-z](?:[a-z0-9]|-(?:[a-z0-9]))*$"
_PATH_SCHEMAS: dict[str, Json] = {
    "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    "number": {"type": "integer", "minimum": 1, "maximum": 2147483647},
    "operation": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,100}$"},
    "build": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,120}$"},
    "stream": {"type": "string", "maxLength": 1024, "description": "kind/id, slashes and all"},
    "field": {"type": "string", "maxLength": 1024, "description": "a path as a diff shows it, like spec.config.KEY"},
}
_MEANINGS = {
    400: "Not readable: the JSON, a header, the body's end.",
    401: "No token, or none that is known.",
    404: "Not there, or not for this token.",
    409: "Conflict: busy, taken, or there already.",
    412: "The version moved; `events` has what came in between.",
    413: "Too large.",
    415: "Not a media type that is taken here.",
    422: "Readable and wrong; `errors` names the fields.",
    429: "Overloaded; Retry-After says when.",
    500: "A defect here; the request_id leads to it.",
    503: "A part is not available; Retry-After says when.",
    507: "The event log is full: nothing new is taken until its archive has made room; Retry-After says when to ask.",
}
_IDEMPOTENCY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The command's id within this team, method and path: sent twice, it has one effect and one answer.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$"},
}
_IF_MATCH: Json = {
    "name": "If-Match",
    "in": "header",
    "description": "The stream's version that this change expects; else 412.",
    "schema": {"type": "string", "pattern": '^"[0-9]{1,15}"$'},
}
_LAST_EVENT: Json = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "Resume a stream after this event.",
    "schema": {"type": "string", "maxLength": 2048},
}


@cache
def document(version: str) -> Json:
    """The document; `version` is the platform's."""
    models: set[tuple[type[BaseModel], JsonSchemaMode]] = {(Problem, "serialization")}
    for route in ROUTES:
        if route.answer is not None:
            models.add((route.answer, "serialization"))
        if route.body is not None:
            models.add((route.body, "validation"))
    ordered = sorted(models, key=lambda item: (item[0].__name__, item[1]))
    references, definitions = models_json_schema(ordered, ref_template=_REF)
    paths: dict[str, Json] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, cast("References", references))
    schemas = cast("Json", definitions.get("$defs", {}))
    return {
        "openapi": "3.1.0",
        "info": {"title": "Rayfold", "version": version, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "security": [{"bearer": []}],
        "paths": cast("JsonValue", paths),
        "components": {"schemas": schemas, "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
    }


References = dict[tuple[type[BaseModel], JsonSchemaMode], Json]


def _operation(route: Route, references: References) -> Json:
    operation: Json = {
        "operationId": route.id,
        "summary": route.summary,
        "parameters": cast("JsonValue", _parameters(route)),
        "responses": cast("JsonValue", _responses(route, references)),
    }
    if route.reach == "public":
        operation["security"] = []
    if route.body is not None:
        schema = references[(route.body, "validation")]
        needed = any(field.is_required() for field in route.body.model_fields.values())
        operation["requestBody"] = {"required": needed, "content": {"application/json": {"schema": schema}}}
    elif route.raw:
        binary: Json = {"schema": {"type": "string", "format": "binary"}}
        operation["requestBody"] = {"required": True, "content": {"application/octet-stream": binary}}
    return operation


def _parameters(route: Route) -> list[Json]:
    found: list[Json] = []
    for name in re.findall(r"{(\w+)}", route.path):
        schema = _PATH_SCHEMAS.get(name, {"type": "string", "pattern": _NAME, "maxLength": 40})
        found.append({"name": name, "in": "path", "required": True, "schema": schema})
    if route.query is not Nothing:
        model = route.query.model_json_schema()
        required = cast("list[str]", model.get("required", []))
        for name, schema in cast("dict[str, Json]", model.get("properties", {})).items():
            found.append({"name": name, "in": "query", "required": name in required, "schema": _not_null(schema)})
    if route.writes and route.keyed and not route.raw:
        found.append(_IDEMPOTENCY)
        if route.method != "POST" or "{component}" in route.path:
            found.append(_IF_MATCH)
    if route.streams:
        found.append(_LAST_EVENT)
    return found


def _not_null(schema: Json) -> Json:
    """A parameter is left out, never null."""
    choices = schema.get("anyOf")
    if not isinstance(choices, list):
        return schema
    real = [choice for choice in choices if isinstance(choice, dict) and choice.get("type") != "null"]
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default", "title")}
    return {**rest, **real[0]} if len(real) == 1 else schema


def _responses(route: Route, references: References) -> Json:
    responses: Json = {}
    for status in (route.status, *route.also):
        content: Json = {}
        if route.answer is not None:
            content["application/json"] = {"schema": references[(route.answer, "serialization")]}
        elif route.file:
            content["application/x-tar"] = {"schema": {"type": "string", "format": "binary"}}
        elif not route.raw and not route.lines and route.method != "HEAD":
            content["text/plain" if route.id == "metrics" else "application/json"] = {}
        if route.lines:
            content[JSON_LINES] = {"schema": {"type": "string"}}
        if route.streams:
            content["text/event-stream"] = {"schema": {"type": "string"}}
        meaning = "Done." if status != 202 else "Durable, and going on."
        responses[str(status)] = {"description": meaning, "content": content}
    problems = {*route.codes, 422, 500, 503}
    if route.reach != "public":
        problems |= {401, 404}
    if route.writes:
        problems |= {400, 413, 415, 507}
    problem: Json = {MEDIA_TYPE: {"schema": references[(Problem, "serialization")]}}
    for status in sorted(problems):
        responses[str(status)] = {"description": _MEANINGS[status], "content": problem}
    if route.id == "ready":
        responses["503"] = {"description": _MEANINGS[503], "content": {"application/json": {}}}
    return responses
