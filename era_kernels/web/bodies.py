"""What requests may hold: fields that several endpoints share, and mistakes in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from era_kernels.errors import InvalidId, InvalidRequest
from era_kernels.json_codec import loads_numbers_as_text

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
ID_WORDS = (
    "must be 1 to 128 letters, digits, dots, underscores and hyphens, "
    "and begin with a letter or a digit"
)
_MANY = 2**62  # a count above this is this: stores have integers of 64 bits
_MANY_PROCESSORS = 65536  # what no host has
_LONG_AGO = 1e12  # seconds; any greater timeout is refused for the same reason as this one

M = TypeVar("M", bound=BaseModel)


class Body(BaseModel):
    """A JSON body: strict (`"1"` is not 1, an integer is a number), unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class Query(BaseModel):
    """A query string, whose values are text; unknown names are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


# ---------------------------------------------------------------- fields


def _checked_id(value: str) -> str:
    if not ID.fullmatch(value):
        raise PydanticCustomError("id", "{words}", {"words": ID_WORDS})
    return value


def _checked_env(env: dict[str, Any]) -> dict[str, Any]:
    for name, value in env.items():
        if not name or "=" in name or "\0" in name:
            raise _env_mistake("has a variable whose name is empty or holds = or NUL")
        if not isinstance(value, str | int | float):
            raise _env_mistake(
                f"has a value that is no string, number or boolean, for {_shown(name)}"
            )
        if isinstance(value, str) and "\0" in value:
            raise _env_mistake(f"has a value with a NUL character, for {_shown(name)}")
    return env


def _env_mistake(text: str) -> PydanticCustomError:
    return PydanticCustomError("env", "{text}", {"text": text})


def _shown(name: str) -> str:
    return name if len(name) <= 64 else name[:64] + "…"


SessionId = Annotated[
    str,
    AfterValidator(_checked_id),
    Field(json_schema_extra={"pattern": f"^{ID.pattern}$"}),
]
Env = Annotated[
    dict[str, Any],
    AfterValidator(_checked_env),
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": {"type": ["string", "number", "boolean"]},
            "description": "Variables of this run only; never stored, never logged.",
        }
    ),
]
Seconds = Annotated[float, Field(ge=0)]
_NO_TIMEOUT = (
    "Absent, null or 0: the `default_timeout` of the session where there is one, else of the "
    "server (see /api/limits)."
)
AtLeastOne = Annotated[int, Field(ge=1)]
Processors = Annotated[float, Field(gt=0, le=_MANY_PROCESSORS)]
SomeSeconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0), AfterValidator(lambda number: min(number, _MANY))]


class Timed(Body):
    """Bodies that may bound a run's time, in either unit."""

    timeout_ms: Seconds | None = Field(
        None, description=f"Milliseconds; wins over `timeout`. {_NO_TIMEOUT}"
    )
    timeout: Seconds | None = Field(None, description=f"Seconds. {_NO_TIMEOUT}")

    def timeout_seconds(self) -> float | None:
        """None when none was asked for."""
        asked = self.timeout if self.timeout_ms is None else self.timeout_ms / 1000
        return min(asked, _LONG_AGO) if asked else None


class Paging(Query):
    """Which part of a list."""

    limit: Count | None = Field(None, description="How many at most; without it, all.")
    offset: Count = Field(0, description="How many to skip.")


# ---------------------------------------------------------------- reading


def env_of(env: Mapping[str, Any] | None, body: bytes) -> dict[str, str]:
    """The variables as strings: numbers as they are written in `body`, booleans true and false."""
    if not env:
        return {}
    if all(isinstance(value, str) for value in env.values()):
        return dict(env)
    written = loads_numbers_as_text(body)["env"]
    return {
        name: written[name] if not isinstance(value, bool) else str(value).lower()
        for name, value in env.items()
    }


def validated(model: type[M], value: Mapping[str, Any]) -> M:
    """Raises InvalidId or InvalidRequest, which name the field and never repeat its value."""
    try:
        return model.model_validate(value)
    except ValidationError as mistakes:
        raise _refusal(mistakes) from None


def query_of(model: type[M], arguments: Mapping[str, Sequence[bytes]]) -> M:
    """The query string as a model; the last of several values counts, an empty one is none."""
    last = {name: values[-1].decode("utf-8", "replace") for name, values in arguments.items()}
    return validated(model, {name: text for name, text in last.items() if text})


def _refusal(mistakes: ValidationError) -> InvalidRequest:
    found = mistakes.errors(include_url=False, include_input=False)
    first = found[0]
    kind = InvalidId if first["type"] == "id" else InvalidRequest
    details = [{"field": _field(one), "problem": _words(one)} for one in found[:20]]
    return kind(f"`{_field(first)}` {_words(first)}.", details=details)


def _field(mistake: ErrorDetails) -> str:
    return ".".join(str(part) for part in mistake["loc"])


_WORDS = {
    "missing": "is required",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "int_type": "must be an integer",
    "int_parsing": "must be an integer",
    "int_parsing_size": "is too large",
    "int_from_float": "must be an integer",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "too_short": "must not be empty",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
}


def _words(mistake: ErrorDetails) -> str:
    context = mistake.get("ctx", {})
    template = _WORDS.get(mistake["type"])
    return template.format(**context) if template else mistake["msg"]
