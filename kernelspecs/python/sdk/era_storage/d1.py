"""SQL databases."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from . import requests

if TYPE_CHECKING:
    Params = Sequence[Any] | Mapping[str, Any]

_BLOB = "base64"  # the name in an object that stands for bytes
_MISSING_TYPES = ("NAType", "NaTType")  # of pandas


class D1Storage:
    """Runs SQL in databases, one for each namespace; a database is made by the first `exec`.

    Parameters are a list for `?`, or a dict for `:name`. Bytes are blobs, both ways; dates and
    times go as ISO 8601 text, Decimals as text, NaN and what pandas has for missing values as NULL,
    numpy's numbers as numbers. Every method raises StorageError when it fails.
    """

    @staticmethod
    def query(namespace: str, sql: str, params: Params | None = None) -> list[dict[str, Any]]:
        """Returns the rows of a statement that only reads."""
        body = _statement(sql, params)
        path = f"{requests.path('d1', namespace, {})}/query"
        answer = requests.send_json("D1 query", "POST", path, body, "results")
        return _rows(answer["results"])

    @staticmethod
    def exec(namespace: str, sql: str, params: Params | None = None) -> dict[str, Any]:
        """Runs a statement, or several without parameters; returns the whole answer.

        Its `meta` has `changes` and `last_row_id`, among others; `results` are the rows, if any.
        """
        path = f"{requests.path('d1', namespace, {})}/exec"
        body = _statement(sql, params)
        return _answer(requests.send_json("D1 exec", "POST", path, body, is_repeatable=False))

    @staticmethod
    def batch(
        namespace: str, statements: Iterable[str | tuple[str, Params] | Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Runs statements in one transaction, all or none; returns the answer to each.

        A statement is its text, a pair of text and parameters, or a dict with `sql` and `params`.
        """
        body = [_batched(one) for one in statements]
        path = f"{requests.path('d1', namespace, {})}/batch"
        answer = requests.send_json("D1 batch", "POST", path, body, "results", is_repeatable=False)
        return [_answer(one) for one in answer["results"]]


def _statement(sql: str, params: Params | None) -> dict[str, Any]:
    body: dict[str, Any] = {"sql": sql}
    if isinstance(params, Mapping):
        body["params"] = {name: _to_json(value, name) for name, value in params.items()}
    elif isinstance(params, (str, bytes, bytearray, memoryview)):
        raise TypeError("params must be a list or a dict of values, not one value")
    elif params is not None:
        body["params"] = [_to_json(value, number) for number, value in enumerate(params, 1)]
    return body


def _batched(statement: str | tuple[str, Params] | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(statement, str):
        return _statement(statement, None)
    if isinstance(statement, Mapping):
        return _statement(statement["sql"], statement.get("params"))
    sql, *params = statement
    return _statement(sql, params[0] if params else None)


def _answer(answer: dict[str, Any]) -> dict[str, Any]:
    if "results" not in answer:
        return answer
    return {**answer, "results": _rows(answer["results"])}


def _rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: _from_json(value) for name, value in row.items()} for row in rows]


def _to_json(value: Any, name: object) -> object:
    """Returns a parameter as JSON has it. Raises TypeError, with its name or number, for others."""
    if type(value).__name__ in _MISSING_TYPES:
        return None
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {_BLOB: base64.b64encode(value).decode("ascii")}
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if type(value).__module__ == "numpy" and hasattr(value, "item") and not value.shape:
        return _to_json(value.item(), name)
    raise TypeError(
        f"parameter {name} is of type {type(value).__name__}: pass a number, a text, bytes or None"
    )


def _from_json(value: object) -> object:
    if isinstance(value, dict) and set(value) == {_BLOB}:
        return base64.b64decode(value[_BLOB])
    return value
