"""What warnings say of fields that nobody knows: a guess only where it is clear."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from era_kernels.web.base_request_models import FIXED_AT_CREATION, QueryModel, RequestModel
from era_kernels.web.d1 import SqlBatch, SqlStatement
from era_kernels.web.duplicate import DuplicateSession
from era_kernels.web.exec import ExecRequest
from era_kernels.web.execute import ExecuteRequest
from era_kernels.web.kv import PutValue
from era_kernels.web.links import CreateLink
from era_kernels.web.runs import RawRunQuery, RunRequest
from era_kernels.web.sessions import CREATION_FIELDS, ChangeSession, CreateSession
from era_kernels.web.similar_names import find_similar
from era_kernels.web.unknown_fields import MAX_WARNING_LENGTH, in_body, in_query

Model = type[RequestModel] | type[QueryModel]


def models(of: Model) -> Iterator[Model]:
    """Yields the models below one that are no base of others."""
    for model in of.__subclasses__():
        if model.__subclasses__():
            yield from models(model)
        else:
            yield model


MODELS = [*models(RequestModel), *models(QueryModel)]


@pytest.mark.parametrize(
    ("model", "name", "meant"),
    [
        (ExecRequest, "cmd", "command"),
        (ExecRequest, "CMD", "command"),
        (ExecRequest, "args", "argv"),
        (ExecRequest, "working_directory", "cwd"),
        (ExecRequest, "environment", "env"),
        (ExecRequest, "timeout_seconds", "timeout"),
        (ExecRequest, "timeout_s", None),  # milliseconds or seconds?
        (ExecRequest, "cxd", None),
        (PutValue, "ttl", "expiration_ttl"),
        (PutValue, "expirationTtl", "expiration_ttl"),
        (PutValue, "expires_in", "expiration_ttl"),
        (PutValue, "tags", None),
        (CreateLink, "expires_in", "ttl"),
        (CreateLink, "expiresIn", "ttl"),
        (CreateLink, "expiration", None),
        (DuplicateSession, "session_id", "new_id"),
        (DuplicateSession, "newId", "new_id"),
        (DuplicateSession, "variable", "variables"),
        (CreateSession, "lang", "language"),
        (CreateSession, "langauge", "language"),
        (CreateSession, "internet", "allowInternetAccess"),
        (CreateSession, "access", None),  # there are two
        (CreateSession, "mode", None),
        (ChangeSession, "timeout", "default_timeout"),
        (RunRequest, "mode", None),  # not code
        (RunRequest, "cdoe", "code"),
        (RunRequest, "data", "update_data"),
        (SqlStatement, "query", "sql"),
        (SqlStatement, "parameters", "params"),
    ],
)
def test_guess(model: type[RequestModel], name: str, meant: str | None) -> None:
    """A name near another is taken for it, and a word for the same thing; others are no guess."""
    guess = "" if meant is None else f"; did you mean {meant}?"
    assert in_body(model, {name: 1}) == [f"{name} is not known{guess}"]


@pytest.mark.parametrize(
    ("model", "name", "words"),
    [
        (RunRequest, "command", "belongs to exec"),
        (RunRequest, "language", FIXED_AT_CREATION),
        (ExecRequest, "code", "belongs to run"),
        (ExecuteRequest, "session_id", "belongs to runs in a session"),
        (CreateSession, "memory_mb", "belongs in `limits`"),
        (CreateSession, "env", "is given to each run"),
        (ChangeSession, "status", "is told by the server"),
        (ChangeSession, "memory_mb", FIXED_AT_CREATION),
        (DuplicateSession, "limits", "is the same as the source's"),
        (DuplicateSession, "metadata", "PATCH changes it afterwards"),
        (PutValue, "expires_at", "`expiration_ttl` takes the seconds"),
    ],
)
def test_remark(model: type[RequestModel], name: str, words: str) -> None:
    """A field that belongs elsewhere is told as that."""
    (warning,) = in_body(model, {name: 1})
    assert warning.startswith(f"{name} ") and words in warning and "did you mean" not in warning


def test_items_and_queries_have_them_too() -> None:
    """Fields of items, and parameters of a query, are told in the same words."""
    assert in_body(SqlBatch, [{"query": 1}]) == ["[0].query is not known; did you mean sql?"]
    assert in_body(SqlBatch, [{"sql": ""}] * 1000 + [{"query": 1}]) == []  # nor are more looked at
    assert list(in_query(RawRunQuery, ["env"])) == ["env cannot be given with `raw`"]


def test_what_creation_alone_takes() -> None:
    """Each field of a creation is one of a change, or is told there as fixed at creation."""
    fixed = CreateSession.model_fields.keys() - ChangeSession.model_fields.keys()
    assert fixed == set(CREATION_FIELDS)
    for name in fixed:
        assert in_body(ChangeSession, {name: 1}) == [f"{name} {FIXED_AT_CREATION}"]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_words_of_a_model(model: Model) -> None:
    """Other words stand for fields that there are; what a warning says is never cut."""
    assert set(model.synonyms.values()) <= model.model_fields.keys()
    assert not model.synonyms.keys() & model.model_fields.keys()
    assert not model.synonyms.keys() & model.remarks.keys()
    for name in model.remarks:
        for warning in in_body(model, {name: 1}):
            assert len(warning) < MAX_WARNING_LENGTH


@pytest.mark.parametrize("name", ["", "x", "_", "ü" * 60, "limits" * 10, "\ud800"])
def test_any_name(name: str) -> None:
    """A name of any characters is compared."""
    assert find_similar(name, ["limit", "offset"]) is None
    assert find_similar(name, []) is None
