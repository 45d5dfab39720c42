"""Base models and shared fields of requests, and the sentences for invalid values."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence, Sized
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    PlainValidator,
    RootModel,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails, PydanticCustomError, PydanticKnownError

from era_kernels.errors import InvalidId, InvalidRequest
from era_kernels.json_codec import (
    loads_array_async,
    loads_numbers_as_text,
    loads_object_async,
)
from era_kernels.models.internet import HOST_PATTERN, MAX_HOST_PATTERNS, HostPatterns
from era_kernels.models.storage_namespaces import MAX_SCOPE_PATTERNS, SCOPE_PATTERN, StorageScope

ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
ID_RULE = (
    "must be 1 to 128 letters, digits, dots, underscores and hyphens, "
    "and begin with a letter or a digit"
)
MAX_ENTRIES = 100_000  # of a list or an object that is checked entry by entry
MAX_ENV_NAMES = 4096
MAX_ENV_BYTES = 1024 * 1024  # of names and values together
_MAX_COUNT = 2**62  # greater counts are lowered to this: stores have integers of 64 bits
_MAX_PROCESSORS = 65536  # more than any host has
_MAX_TIMEOUT = 1e12  # seconds; any greater timeout is refused for the same reason as this one

ITEMS_PER_SLICE = 256  # items of a list of models that are checked at once

# What warnings say of fields that only the creation of a session takes.
FIXED_AT_CREATION = "is fixed when a session is created; it changes nothing here"

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class RequestModel(BaseModel):
    """A JSON body: strict (`"1"` is not 1, an integer is a number), unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)
    # For the warnings of unknown fields: other words for a field, and what belongs elsewhere.
    synonyms: ClassVar[Mapping[str, str]] = {}
    remarks: ClassVar[Mapping[str, str]] = {}


class QueryModel(BaseModel):
    """A query string, whose values are text; unknown names are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    synonyms: ClassVar[Mapping[str, str]] = {}
    remarks: ClassVar[Mapping[str, str]] = {}


# ---------------------------------------------------------------- fields


def check_id(text: str) -> None:
    """Raises InvalidId for a text that is no id."""
    if not ID_PATTERN.fullmatch(text):
        raise InvalidId(f"An id {ID_RULE}.")


def _check_id(value: str) -> str:
    if not ID_PATTERN.fullmatch(value):
        raise PydanticCustomError("id", "{rule}", {"rule": ID_RULE})
    return value


def _bounded(max_names: int, kind: type[Sized]) -> BeforeValidator:
    """Refuses what has too many names or items before the rest of it is looked at."""

    def check(value: Any) -> Any:
        if isinstance(value, kind) and len(value) > max_names:
            raise PydanticCustomError(
                "too_many", "must have at most {most} entries", {"most": max_names}
            )
        return value

    return BeforeValidator(check)


def _only_mistake(value: Any) -> Any:
    """Leaves nothing but the first entry that is no text, where there is one."""
    if isinstance(value, dict):
        for name, text in value.items():
            if not isinstance(text, str):
                return {name: text}
    return value


class _FailFast(FailFast):
    """Ends at the first item that is wrong; in a union, too, whose members Python hashes."""

    __hash__ = object.__hash__


def _check_object(value: Any) -> dict[str, Any]:
    # As `dict[str, Any]`, but without a copy: an object of a body may have a million names.
    if not isinstance(value, dict):
        raise PydanticKnownError("dict_type")
    return value


def _check_env(env: dict[str, Any]) -> dict[str, Any]:
    for name, value in env.items():
        if not name or "=" in name or "\0" in name:
            raise _env_error("has a variable whose name is empty or holds = or NUL")
        if not isinstance(value, str | int | float):
            raise _env_error(
                f"has a value that is no string, number or boolean, for {_shorten(name)}"
            )
        if isinstance(value, str) and "\0" in value:
            raise _env_error(f"has a value with a NUL character, for {_shorten(name)}")
    texts = [*env, *(value for value in env.values() if isinstance(value, str))]
    if sum(map(len, texts)) > MAX_ENV_BYTES:
        raise _env_error(f"has more than {MAX_ENV_BYTES} characters in its names and values")
    return env


def _parse_scope(value: object) -> StorageScope:
    if not isinstance(value, str | list) or not all(isinstance(one, str) for one in value):
        value = ""  # which is no scope
    try:
        return StorageScope.parse(value)
    except ValueError as error:
        raise PydanticCustomError("scope", "{rule}", {"rule": str(error)}) from None


def _parse_hosts(value: object) -> HostPatterns:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise PydanticCustomError("hosts", "must be a list of hosts, such as *.example.org")
    try:
        return HostPatterns.parse(value)
    except ValueError as error:
        raise PydanticCustomError("hosts", "{rule}", {"rule": str(error)}) from None


def _env_error(text: str) -> PydanticCustomError:
    return PydanticCustomError("env", "{text}", {"text": text})


def _shorten(name: str) -> str:
    return name if len(name) <= 64 else name[:64] + "…"


SessionId = Annotated[
    str,
    AfterValidator(_check_id),
    Field(json_schema_extra={"pattern": f"^{ID_PATTERN.pattern}$"}),
]
JsonMap = Annotated[
    dict[str, Any],
    PlainValidator(_check_object),
    WithJsonSchema({"type": "object", "additionalProperties": True}),
]
# Of a million wrong items the first one tells enough, and each error would take its time.
TextList = Annotated[list[T], _FailFast(), _bounded(MAX_ENTRIES, list)]
TextMap = Annotated[dict[str, str], BeforeValidator(_only_mistake), _bounded(MAX_ENTRIES, dict)]
Env = Annotated[
    dict[str, Any],
    AfterValidator(_check_env),
    _bounded(MAX_ENV_NAMES, dict),
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": {"type": ["string", "number", "boolean"]},
            "description": "Variables of this run only; never stored, never logged.",
        }
    ),
]
StorageScopeField = Annotated[
    Any,  # a StorageScope; pydantic would put that class into the document, too
    PlainValidator(_parse_scope),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["all", "none"]},
                {
                    "type": "array",
                    "items": {"type": "string", "pattern": f"^({SCOPE_PATTERN.pattern})$"},
                    "maxItems": MAX_SCOPE_PATTERNS,
                },
            ]
        }
    ),
]
HostPatternsField = Annotated[
    Any,  # HostPatterns, as above
    PlainValidator(_parse_hosts),
    WithJsonSchema(
        {
            "type": "array",
            "items": {"type": "string", "pattern": f"^({HOST_PATTERN.pattern})$"},
            "maxItems": MAX_HOST_PATTERNS,
        }
    ),
]
Seconds = Annotated[float, Field(ge=0)]
QuerySeconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # a text, which may be "inf"
_DEFAULT_TIMEOUT_RULE = (
    "Absent, null or 0: the `default_timeout` of the session where there is one, else of the "
    "server (see /api/limits)."
)
PositiveInt = Annotated[int, Field(ge=1)]
ProcessorCount = Annotated[float, Field(gt=0, le=_MAX_PROCESSORS)]
PositiveSeconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0), AfterValidator(lambda number: min(number, _MAX_COUNT))]


class TimeoutFields(RequestModel):
    """Bodies that may bound a run's time, in either unit, and have variables of its environment."""

    synonyms = {"environment": "env", "envs": "env", "environment_variables": "env"}

    timeout_ms: Seconds | None = Field(
        None, description=f"Milliseconds; wins over `timeout`. {_DEFAULT_TIMEOUT_RULE}"
    )
    timeout: Seconds | None = Field(None, description=f"Seconds. {_DEFAULT_TIMEOUT_RULE}")

    def timeout_seconds(self) -> float | None:
        """Returns the requested timeout in seconds, None when the request names none."""
        requested = self.timeout if self.timeout_ms is None else self.timeout_ms / 1000
        return min(requested, _MAX_TIMEOUT) if requested else None


class Paging(QueryModel):
    """Selects a part of a list."""

    limit: Count | None = Field(None, description="How many at most; without it, all.")
    offset: Count = Field(0, description="How many to skip.")


def id_warnings(name: str, wins: str | None, other: str | None) -> list[str]:
    """Returns a warning where an id was given twice: the one in the field `name` wins."""
    differ = wins is not None and other is not None and wins != other
    return [f"id is not used beside {name}, which is another"] if differ else []


# ---------------------------------------------------------------- reading


async def env_strings(env: Mapping[str, Any] | None, body: bytes) -> dict[str, str]:
    """Returns the variables as strings: numbers as `body` writes them, booleans true and false."""
    if not env:
        return {}
    if all(isinstance(value, str) for value in env.values()):
        return dict(env)
    written = (await loads_numbers_as_text(body))["env"]
    return {
        name: written[name] if not isinstance(value, bool) else str(value).lower()
        for name, value in env.items()
    }


def loads_for(model: type[BaseModel]) -> Callable[[bytes], Awaitable[Any]]:
    """Returns what parses the bodies of a model: arrays for a list of models, else objects."""
    return loads_array_async if issubclass(model, RootModel) else loads_object_async


def validate(model: type[M], value: Mapping[str, Any] | list[Any]) -> M:
    """Returns `value` as `model`.

    Raises InvalidId or InvalidRequest, which name the field and never repeat its value.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _to_invalid_request(error) from None


async def validate_large(model: type[M], value: Mapping[str, Any] | list[Any]) -> M:
    """Returns the same as `validate`, of a large body, and lets other tasks run meanwhile.

    A list of models is checked in slices. Errors are those of the first slice that has some.
    """
    if not isinstance(value, list):
        return await asyncio.to_thread(validate, model, value)  # the checks in Python take turns
    checked: list[Any] = []
    for start in range(0, len(value), ITEMS_PER_SLICE):
        try:
            part: Any = model.model_validate(value[start : start + ITEMS_PER_SLICE])
        except ValidationError as error:
            raise _to_invalid_request(error, start) from None
        checked += part.root
        await asyncio.sleep(0)
    return model.model_construct(root=checked)


def parse_query(model: type[M], arguments: Mapping[str, Sequence[bytes]]) -> M:
    """Returns the query string as a model; the last of several values counts.

    Empty ones do not, except of `field.KEY`, where the empty text is a value like any other.
    """
    last = {name: values[-1].decode("utf-8", "replace") for name, values in arguments.items()}
    return validate(model, {name: text for name, text in last.items() if text or "." in name})


def _to_invalid_request(error: ValidationError, start: int = 0) -> InvalidRequest:
    """Returns the error that names the fields; of a list, its items from `start` on."""
    errors = error.errors(include_url=False, include_input=False)
    for one in errors:
        if start and one["loc"] and isinstance(one["loc"][0], int):
            one["loc"] = (one["loc"][0] + start, *one["loc"][1:])
    first = errors[0]
    error_class = InvalidId if first["type"] == "id" else InvalidRequest
    details = [{"field": _field_path(one), "problem": _describe(one)} for one in errors[:20]]
    return error_class(f"`{_field_path(first)}` {_describe(first)}.", details=details)


def _field_path(error: ErrorDetails) -> str:
    return ".".join(str(part) for part in error["loc"])


_DESCRIPTIONS = {
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


def _describe(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    template = _DESCRIPTIONS.get(error["type"])
    return template.format(**context) if template else error["msg"]
