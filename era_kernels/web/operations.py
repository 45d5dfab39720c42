"""Describes endpoints as data, which handlers declare and the OpenAPI document shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class Media:
    """Describes a body that is no JSON object: its media type, its content and its schema.

    The schema of an event stream describes a single event, as tools for OpenAPI 3.1 expect.
    """

    type: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})


@dataclass(frozen=True, slots=True)
class RequestHeader:
    """Describes a request header that an operation reads, with the pattern of its values."""

    name: str
    pattern: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """Describes one method of one path.

    `request` validates the body (or describes it) and `query` validates the query string.
    `responses` maps each status to the type of the answer, or to None where there is no body;
    `alternative` is the body with status 200 for clients that accept its media type. Errors look
    the same everywhere and are not repeated here.
    """

    summary: str
    responses: Mapping[int, type[Any] | Media | None] = field(default_factory=dict)
    request: type[BaseModel] | Media | None = None
    query: type[BaseModel] | None = None
    headers: tuple[RequestHeader, ...] = ()
    description: str = ""
    alternative: Media | None = None
    in_schema: bool = True  # the OpenAPI document shows this operation


@dataclass(frozen=True, slots=True)
class Route:
    """Maps a path such as `/api/sessions/{id}` to a handler and the handler's dependencies."""

    path: str
    handler: type[Any]
    dependencies: Mapping[str, object] = field(default_factory=dict)
    tag: str = ""
