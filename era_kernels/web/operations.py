"""What an endpoint takes and gives, as data: handlers declare it, routing and OpenAPI read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class Media:
    """What is no JSON object: its media type, what it holds, and the schema of that.

    The schema of an event stream is that of each event, as tools for OpenAPI 3.1 read it.
    """

    type: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})


@dataclass(frozen=True, slots=True)
class Header:
    """A request header that means something to an operation, and the pattern of its values."""

    name: str
    pattern: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    `request` validates the body (or says what it is) and `query` the query string; `answers` tells
    by status what comes back, `events` what those get with 200 who accept event streams. Errors
    look the same everywhere and are not repeated here.
    """

    summary: str
    responses: Mapping[int, type[BaseModel] | Media] = field(default_factory=dict)
    request: type[BaseModel] | Media | None = None
    query: type[BaseModel] | None = None
    headers: tuple[Header, ...] = ()
    description: str = ""
    event_stream: Media | None = None
    in_schema: bool = True  # in the OpenAPI document


@dataclass(frozen=True, slots=True)
class Route:
    """A path such as `/api/sessions/{id}`, who handles it, and with what."""

    path: str
    handler: type[Any]
    dependencies: Mapping[str, object] = field(default_factory=dict)
    tag: str = ""
