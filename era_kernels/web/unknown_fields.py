"""Finds what a request holds that its models do not know, and words it as warnings.

Everything comes from the pydantic models that validate: what a model takes as it is (`data`, `env`)
is no model, so nothing inside it is looked at. A model may have `synonyms`, other words for its
names, and `remarks`, what to say of names that belong elsewhere; both are spelt in any way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin
from urllib.parse import quote

from pydantic import AliasChoices, BaseModel, RootModel
from pydantic.fields import FieldInfo

from era_kernels.web.similar_names import find_similar, fold

MAX_WARNINGS = 8  # warnings of one request
MAX_WARNING_LENGTH = 200  # characters of a warning
MAX_ITEMS = 1000  # items of a list, or names of a mapping, that are looked at
MAX_NAME_LENGTH = 64  # characters of a name that a warning repeats

_UNIONS = (Union, UnionType)


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a model knows: its names, the types of those that can hold models, and other words."""

    names: frozenset[str]
    nested: Mapping[str, Any]
    takes_all: bool
    synonyms: Mapping[str, str]  # folded name → the name here
    remarks: Mapping[str, str]  # folded name → what to say of it


def in_body(model: type[BaseModel] | None, value: object) -> list[str]:
    """Returns a warning for each field of a body that its model does not know, the first few.

    Without a model no field is known.

    >>> class Limits(BaseModel):
    ...     memory_mb: int | None = None
    >>> class Wish(BaseModel):
    ...     limits: Limits | None = None
    >>> in_body(Wish, {"limits": {"memory": 512}})
    ['limits.memory is not known; did you mean memory_mb?']
    """
    if model is not None:
        found = _in_value(model, value, "")
    else:
        found = _in_object(_NOTHING, value if isinstance(value, dict) else {}, "")
    return list(islice(found, MAX_WARNINGS))


def in_query(model: type[BaseModel] | None, names: Iterable[str]) -> Iterator[str]:
    """Yields a warning for each query parameter that the model does not know.

    A field that is a mapping knows the parameters `field.KEY`. Tornado reads names as Latin-1.
    """
    shape = _NOTHING if model is None else _shape(model)
    for raw_name in names:
        name = raw_name.encode("latin1", "replace").decode("utf-8", "replace")
        if not _knows_parameter(model, shape, name):
            yield _warning(name, "", shape)


def to_header(warnings: Iterable[str]) -> str:
    """Returns warnings as the header `X-Warnings`: percent-encoded, with `, ` in between.

    >>> to_header(["né is not known", "b is not known"])
    'n%C3%A9%20is%20not%20known, b%20is%20not%20known'
    """
    return ", ".join(quote(text, safe="") for text in warnings)


# ---------------------------------------------------------------- looking


def _in_value(annotation: Any, value: object, place: str) -> Iterator[str]:
    """Yields the warnings of a value; `place` is its path, which is empty for the whole body."""
    annotation = _plain(annotation)
    if _is_kind(annotation, BaseModel):
        if _is_kind(annotation, RootModel):
            yield from _in_value(annotation.model_fields["root"].annotation, value, place)
        elif isinstance(value, dict):
            yield from _in_object(_shape(annotation), value, place)
        return
    origin, arguments = get_origin(annotation), get_args(annotation)
    if not arguments:
        return
    if isinstance(value, list) and _is_kind(origin, Collection):
        for index, item in enumerate(islice(value, MAX_ITEMS)):
            yield from _in_value(arguments[0], item, f"{place}[{index}]")
    elif isinstance(value, dict) and _is_kind(origin, Mapping):
        for name, item in islice(value.items(), MAX_ITEMS):
            yield from _in_value(arguments[-1], item, _join(place, name))
    elif origin in _UNIONS:  # the member that knows the most is meant
        found = (_in_value(one, value, place) for one in arguments if _fits(one, value))
        yield from min((list(islice(one, MAX_WARNINGS)) for one in found), key=len, default=[])


def _in_object(shape: _Shape, value: Mapping[str, object], place: str) -> Iterator[str]:
    if not shape.takes_all and not value.keys() <= shape.names:
        for name in value:
            if name not in shape.names:
                yield _warning(name, place, shape)
    for name, annotation in shape.nested.items():
        if name in value:
            yield from _in_value(annotation, value[name], _join(place, name))


def _knows_parameter(model: type[BaseModel] | None, shape: _Shape, name: str) -> bool:
    if name in shape.names or shape.takes_all:
        return True
    field_name, dot, _ = name.partition(".")
    field = model.model_fields.get(field_name) if model is not None and dot else None
    return field is not None and any(
        _is_kind(get_origin(one) or one, Mapping) for one in _members(field.annotation)
    )


# ---------------------------------------------------------------- models

_NOTHING = _Shape(frozenset(), {}, takes_all=False, synonyms={}, remarks={})


@cache
def _shape(model: type[BaseModel]) -> _Shape:
    by_name = {
        name: field.annotation
        for field_name, field in model.model_fields.items()
        for name in _names_of(model, field_name, field)
    }
    nested = {name: kind for name, kind in by_name.items() if _holds_models(kind)}
    return _Shape(
        frozenset(by_name),
        nested,
        model.model_config.get("extra") == "allow",
        {fold(name): meant for name, meant in getattr(model, "synonyms", {}).items()},
        {fold(name): text for name, text in getattr(model, "remarks", {}).items()},
    )


def _names_of(model: type[BaseModel], field_name: str, field: FieldInfo) -> list[str]:
    """Returns the names under which callers send a field."""
    alias, config = field.validation_alias, model.model_config
    if alias is None:
        return [field_name]
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    names = [one if isinstance(one, str) else str(one.path[0]) for one in choices]
    by_name = config.get("populate_by_name") or config.get("validate_by_name")
    return [*names, field_name] if by_name else names


def _holds_models(annotation: Any) -> bool:
    annotation = _plain(annotation)
    if _is_kind(annotation, BaseModel):
        return True
    return any(_holds_models(one) for one in get_args(annotation))


def _plain(annotation: Any) -> Any:
    """Returns a type without its annotations."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def _members(annotation: Any) -> list[Any]:
    """Returns the members of a union, or the type itself."""
    annotation = _plain(annotation)
    if get_origin(annotation) not in _UNIONS:
        return [annotation]
    return [member for one in get_args(annotation) for member in _members(one)]


def _fits(annotation: Any, value: object) -> bool:
    """Returns whether a value can be meant for a member of a union."""
    annotation = _plain(annotation)
    kind = get_origin(annotation) or annotation
    if kind is Any or kind in _UNIONS or _is_kind(kind, RootModel):
        return True
    if _is_kind(kind, BaseModel):
        return isinstance(value, dict)
    return isinstance(kind, type) and isinstance(value, kind)


def _is_kind(origin: Any, kind: type[Any]) -> bool:
    return isinstance(origin, type) and issubclass(origin, kind)


# ---------------------------------------------------------------- words


def _join(place: str, name: str) -> str:
    return f"{place}.{_shown(name)}" if place else _shown(name)


def _warning(name: str, place: str, shape: _Shape) -> str:
    short = name[:MAX_NAME_LENGTH]
    remark = shape.remarks.get(fold(short))
    meant = shape.synonyms.get(fold(short)) or find_similar(short, shape.names)
    if remark is not None:
        text = f"{_join(place, name)} {remark}"
    elif meant is not None:
        text = f"{_join(place, name)} is not known; did you mean {meant}?"
    else:
        text = f"{_join(place, name)} is not known"
    return text if len(text) <= MAX_WARNING_LENGTH else text[: MAX_WARNING_LENGTH - 1] + "…"


def _shown(name: str) -> str:
    """Returns a name that is short and cannot disturb a log, a terminal or a page."""
    cut = name if len(name) <= MAX_NAME_LENGTH else name[:MAX_NAME_LENGTH] + "…"
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in cut
    )
