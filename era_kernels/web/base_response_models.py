"""The base of all response models, and the model of the errors of every endpoint."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

WARNINGS_DESCRIPTION = (
    "Fields and query parameters that are not known and were ignored; only when there are any."
)


@with_config(ConfigDict(extra="forbid", strict=True))
class ResponseModel(TypedDict):
    """A JSON answer, which handlers build as its type says and the OpenAPI document shows.

    The answers of runs are built from optional parts: of those, tests see to it.
    """


class ErrorAnswer(ResponseModel):
    """Every error, whatever went wrong."""

    error: Annotated[str, Field(description="A short phrase.")]
    message: Annotated[str, Field(description="One full sentence that helps.")]
    code: Annotated[str, Field(description="A stable name of what is wrong.")]
    details: NotRequired[Annotated[Any, Field(None)]]
    hint: NotRequired[Annotated[str | None, Field(None)]]
    id: NotRequired[Annotated[str | None, Field(None)]]
    format: NotRequired[Annotated[str | None, Field(None, description="How the path should look.")]]
    warnings: NotRequired[Annotated[list[str], Field([], description=WARNINGS_DESCRIPTION)]]
