"""D1: SQL on the database of a namespace, to read (query), to write (exec) or both (batch)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, RootModel, WithJsonSchema
from pydantic_core import PydanticCustomError

from era_kernels import json_codec
from era_kernels.models import JsonObject
from era_kernels.storage.d1.replies import D1Result
from era_kernels.storage.d1.store import D1Statement
from era_kernels.web.base_handler import ClientDisconnected, HandlerContext
from era_kernels.web.base_request_models import RequestModel
from era_kernels.web.base_response_models import ResponseModel
from era_kernels.web.operations import Operation
from era_kernels.web.storage_handler import StorageHandler, wait_for_turn

if TYPE_CHECKING:
    from era_kernels.storage.d1.store import D1Store

_MAX_INTEGER = 2**63 - 1
_PARAM_SCHEMA: JsonObject = {
    "anyOf": [
        {"type": ["string", "number", "boolean", "null"]},
        {
            "type": "object",
            "properties": {"base64": {"type": "string"}},
            "required": ["base64"],
            "additionalProperties": False,
        },
    ]
}


# ---------------------------------------------------------------- requests


def _check_params(params: Any) -> Any:
    if params is None:
        return None
    if isinstance(params, list):
        for index, value in enumerate(params):
            _check_param(value, index)
    elif isinstance(params, dict):
        for name, value in params.items():
            _check_param(value, name)
    else:
        raise _params_error("must be a list or an object")
    return params


def _check_param(value: Any, name: int | str) -> None:
    if value is None or isinstance(value, str | float):
        return
    if isinstance(value, int):
        if not -_MAX_INTEGER - 1 <= value <= _MAX_INTEGER:
            raise _params_error(f"has an integer of more than 64 bits, at {name!s:.64}")
    elif not (
        isinstance(value, dict) and value.keys() == {"base64"} and isinstance(value["base64"], str)
    ):
        raise _params_error(
            f"has a value that is no string, number, boolean, null or blob, at {name!s:.64}"
        )


def _params_error(text: str) -> PydanticCustomError:
    return PydanticCustomError("params", "{text}", {"text": text})


class SqlStatement(RequestModel):
    """SQL and the values of its parameters."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"sql": "SELECT ? + 1 AS answer", "params": [41]}]}
    )

    synonyms = {"query": "sql", "statement": "sql", "parameters": "params", "args": "params"}

    sql: str
    params: Annotated[
        Any,
        AfterValidator(_check_params),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "array", "items": _PARAM_SCHEMA},
                    {"type": "object", "additionalProperties": _PARAM_SCHEMA},
                    {"type": "null"},
                ],
                "description": "A list for `?` and `?1`, an object for `:name`. Booleans are 0 and "
                '1, a blob is `{"base64": "…"}`, integers have 64 bits.',
            }
        ),
    ] = None

    def to_statement(self) -> D1Statement:
        return D1Statement(self.sql, self.params)


class SqlBatch(RootModel[list[SqlStatement]]):
    """Statements that are run in one transaction, in this order."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        json_schema_extra={
            "examples": [
                [
                    {"sql": "CREATE TABLE IF NOT EXISTS users (name TEXT)"},
                    {"sql": "INSERT INTO users VALUES (?)", "params": ["Ada"]},
                ]
            ]
        },
    )


# ---------------------------------------------------------------- answers


class SqlMeta(ResponseModel):
    """Figures of a statement, or the sums of several."""

    duration: Annotated[
        float, Field(description="Milliseconds in SQLite, without those of the commit.")
    ]
    changes: Annotated[int, Field(description="Rows inserted, updated and deleted.")]
    last_row_id: Annotated[
        int, Field(description="The row id of the last inserted row; 0 if none was.")
    ]
    rows_read: Annotated[int, Field(description="Rows returned.")]
    rows_written: Annotated[
        int, Field(description="Like `changes`, with those of triggers and indexes.")
    ]
    changed_db: bool
    size_after: Annotated[int, Field(description="Bytes of the database after the request.")]


class QueryAnswer(ResponseModel):
    """Rows, and what it took to read them."""

    success: Literal[True]
    results: list[dict[str, Any]]
    meta: SqlMeta


class SqlExecAnswer(ResponseModel):
    """What changed; rows where the SQL returns any."""

    success: Literal[True]
    results: NotRequired[
        Annotated[
            list[dict[str, Any]], Field([], description="Only where a statement has columns.")
        ]
    ]
    meta: SqlMeta


class BatchAnswer(ResponseModel):
    """The answers to all statements, in their order."""

    success: Literal[True]
    results: list[QueryAnswer]


def encode_answer(result: D1Result, *, with_results: bool) -> bytes:
    """Returns an answer as JSON; the rows are JSON already."""
    meta = json_codec.dumps(result.meta)
    if result.rows is None and not with_results:
        return b'{"success":true,"meta":%b}' % meta
    rows = b"[]" if result.rows is None else result.rows
    return b'{"success":true,"results":%b,"meta":%b}' % (rows, meta)


def encode_batch(results: Iterable[D1Result]) -> bytes:
    answers = b",".join(encode_answer(result, with_results=True) for result in results)
    return b'{"success":true,"results":[%b]}' % answers


# ---------------------------------------------------------------- handlers


class D1Handler(StorageHandler):
    """The base of the three ways to run SQL."""

    format = "/api/storage/d1/{namespace}/query, exec or batch"
    takes_key = False

    def initialize(self, context: HandlerContext, d1: D1Store) -> None:
        super().initialize(context)
        self.d1 = d1


class D1QueryHandler(D1Handler):
    """Reads from a database."""

    operations = {
        "POST": Operation(
            "Query a database",
            {200: QueryAnswer},
            request=SqlStatement,
            description="One statement that only reads. A database that does not exist is empty.",
        )
    }

    async def post(self, namespace: str) -> None:
        body = await self.read_body(SqlStatement)
        try:
            result = await self.d1.query(
                namespace,
                body.to_statement(),
                size=len(self.body),
                abandoned=self.disconnected,
            )
        except asyncio.CancelledError:
            if self.disconnected.done():
                raise ClientDisconnected from None
            raise
        await wait_for_turn(self)
        await self.finish_encoded(encode_answer(result, with_results=True))


class D1ExecHandler(D1Handler):
    """Changes a database."""

    operations = {
        "POST": Operation(
            "Change a database",
            {200: SqlExecAnswer},
            request=SqlStatement,
            description="One statement, or several without parameters, in one transaction. The "
            "first change makes the database.",
        )
    }

    async def post(self, namespace: str) -> None:
        body = await self.read_body(SqlStatement)
        result = await self.d1.execute(namespace, body.to_statement(), size=len(self.body))
        await wait_for_turn(self)
        await self.finish_encoded(encode_answer(result, with_results=False))


class D1BatchHandler(D1Handler):
    """Runs several statements, each with parameters of its own, in one transaction."""

    operations = {
        "POST": Operation(
            "Run a batch",
            {200: BatchAnswer},
            request=SqlBatch,
            description="All statements or none: when one fails, nothing has changed.",
        )
    }

    async def post(self, namespace: str) -> None:
        body = await self.read_body(SqlBatch)
        statements = [statement.to_statement() for statement in body.root]
        results = await self.d1.batch(namespace, statements, size=len(self.body))
        await wait_for_turn(self)
        await self.finish_encoded(encode_batch(results))
