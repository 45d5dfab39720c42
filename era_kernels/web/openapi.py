"""Makes the OpenAPI document from the models that validate and the operations of handlers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from era_kernels import __version__, json_codec
from era_kernels.models import JsonObject
from era_kernels.models.storage_namespaces import NAMESPACE_PATTERN
from era_kernels.web.answer_handler import WARNINGS_HEADER
from era_kernels.web.base_handler import BaseHandler, HandlerContext
from era_kernels.web.base_request_models import ID_PATTERN
from era_kernels.web.base_response_models import WARNINGS_DESCRIPTION, ErrorAnswer
from era_kernels.web.operations import Media, Operation, RequestHeader, Route
from era_kernels.web.ports import MAX_PORT
from era_kernels.web.unknown_fields import MAX_WARNING_LENGTH, MAX_WARNINGS

_SCHEMAS = "#/components/schemas/"
_PARAMETER = re.compile(r"\{(\w+)\}")
_DESCRIPTION = (
    "Sessions on live interpreters behind HTTP. Every error is a JSON object with `error`, "
    "`message` and `code`; every answer carries `X-Request-Id`. Fields and query parameters that "
    f"are not known are ignored, and named in `warnings` and in the header `{WARNINGS_HEADER}`."
)
_WARNINGS = {
    "type": "array",
    "items": {"type": "string", "maxLength": MAX_WARNING_LENGTH},
    "maxItems": MAX_WARNINGS,
    "description": WARNINGS_DESCRIPTION,
}
_WARNINGS_HEADER = {
    "description": "The same as `warnings`, also where the answer has no JSON object: each one "
    "percent-encoded, with a comma and a space in between.",
    "schema": {"type": "string"},
}


class _UntitledSchema(GenerateJsonSchema):
    """Leaves out the titles that pydantic makes of fields' names (`Allowinternetaccess`)."""

    def field_title_should_be_set(self, schema: object) -> bool:
        return False


class Document:
    """Describes routes as an OpenAPI document, which is made on first use."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = routes

    @cached_property
    def data(self) -> bytes:
        return json_codec.dumps(self.value)

    @cached_property
    def value(self) -> JsonObject:
        return {
            "openapi": "3.1.0",
            "info": {"title": "ERA kernels", "version": __version__, "description": _DESCRIPTION},
            "paths": {path: item for path, item in self._paths() if item},
            "components": {
                "schemas": self._schemas(),
                "headers": {WARNINGS_HEADER: _WARNINGS_HEADER},
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                },
            },
            "security": [{}, {"bearer": []}, {"key": []}],
        }

    def _paths(self) -> Iterator[tuple[str, JsonObject]]:
        for route in self._routes:
            item: JsonObject = {
                method.lower(): _operation(route, method, operation)
                for method, operation in route.handler.operations.items()
                if operation.in_schema
            }
            parameters = [_path_parameter(name) for name in _PARAMETER.findall(route.path)]
            if item and parameters:
                item["parameters"] = parameters
            yield route.path, item

    def _schemas(self) -> JsonObject:
        models: dict[type[Any], None] = {
            model: None for route in self._routes for model in _models(route)
        }
        models[ErrorAnswer] = None  # which tells its warnings itself
        _, schema = TypeAdapter.json_schemas(
            [(model.__name__, "validation", TypeAdapter(model)) for model in models],
            ref_template=_SCHEMAS + "{model}",
            schema_generator=_UntitledSchema,
        )
        definitions: JsonObject = schema["$defs"]
        for model in _answers(self._routes):
            _add_warnings(definitions, model.__name__)
        return definitions


def _models(route: Route) -> Iterator[type[Any]]:
    for operation in route.handler.operations.values():
        request = operation.request
        if request is not None and not isinstance(request, Media) and operation.in_schema:
            yield request
    yield from _answers([route])


def _answers(routes: Iterable[Route]) -> Iterator[type[Any]]:
    for route in routes:
        for operation in route.handler.operations.values():
            for response in operation.responses.values():
                if response is None or isinstance(response, Media):
                    continue
                if operation.in_schema:
                    yield response


def _add_warnings(definitions: JsonObject, name: str) -> None:
    """Adds `warnings` to an answer, or to each form of one that has several."""
    schema = definitions[name]
    for form in schema.get("anyOf", ()):
        _add_warnings(definitions, form["$ref"].removeprefix(_SCHEMAS))
    if "anyOf" not in schema:
        schema.setdefault("properties", {})["warnings"] = _WARNINGS


def _operation(route: Route, method: str, operation: Operation) -> JsonObject:
    out: JsonObject = {
        "summary": operation.summary,
        "operationId": _operation_id(route.path, method),
        "tags": [route.tag],
        "responses": dict(_responses(operation)),
    }
    if operation.description:
        out["description"] = operation.description
    parameters = [_header_parameter(header) for header in operation.headers]
    if operation.query is not None:
        parameters.extend(_query_parameters(operation.query))
    if parameters:
        out["parameters"] = parameters
    if operation.request is not None:
        out["requestBody"] = {"content": _content(operation.request), "required": True}
    return out


def _operation_id(path: str, method: str) -> str:
    """Returns the operation's id: `get_api_sessions_id` for `GET /api/sessions/{id}`."""
    return "_".join([method.lower(), *re.findall(r"\w+", path)])


def _responses(operation: Operation) -> Iterable[tuple[str, JsonObject]]:
    for status, response in operation.responses.items():
        description = (
            response.description if isinstance(response, Media) else HTTPStatus(status).phrase
        )
        if response is None:
            yield str(status), _response(description, {})
            continue
        content = _content(response)
        if status == 200 and operation.alternative is not None:
            content |= _content(operation.alternative)
        yield str(status), _response(description, content)
    yield "default", _response("What went wrong.", _json(ErrorAnswer))


def _response(description: str, content: JsonObject) -> JsonObject:
    warnings = {"$ref": f"#/components/headers/{WARNINGS_HEADER}"}
    return {
        "description": description,
        "headers": {WARNINGS_HEADER: warnings},
        "content": content,
    }


def _content(body: type[BaseModel] | Media) -> JsonObject:
    if isinstance(body, Media):
        return {body.type: {"schema": dict(body.schema)}}
    return _json(body)


def _json(model: type[Any]) -> JsonObject:
    return {"application/json": {"schema": {"$ref": _SCHEMAS + model.__name__}}}


def _path_parameter(name: str) -> JsonObject:
    pattern = NAMESPACE_PATTERN if name == "namespace" else ID_PATTERN
    schema: JsonObject = {"type": "string", "pattern": f"^{pattern.pattern}$"}
    if name == "port":
        schema = {"type": "integer", "minimum": 1, "maximum": MAX_PORT}
    if name in ("path", "key"):  # the rest of the URL, which may hold slashes
        schema = {"type": "string", "minLength": 1}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _header_parameter(header: RequestHeader) -> JsonObject:
    schema = {"type": "string", "pattern": header.pattern}
    details = {"schema": schema, "description": header.description}
    return {"name": header.name, "in": "header", **details}


def _query_parameters(model: type[Any]) -> Iterator[JsonObject]:
    schema = model.model_json_schema(schema_generator=_UntitledSchema)
    for name, field in schema["properties"].items():
        description = field.pop("description", "")
        yield {"name": name, "in": "query", "schema": field, "description": description}


class OpenApiHandler(BaseHandler):
    """Serves the document; needs no token, since the document holds nothing private."""

    operations = {"GET": Operation("This document", in_schema=False)}
    shows_warnings_in_body = False  # a document has a form of its own

    def initialize(self, context: HandlerContext, document: Document) -> None:
        super().initialize(context)
        self.document = document

    @property
    def requires_token(self) -> bool:
        return False

    def get(self) -> None:
        self.finish(self.document.data)
