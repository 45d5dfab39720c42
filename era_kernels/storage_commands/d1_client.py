"""Runs SQL on databases of D1, through a running server or in its data directory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from era_kernels.models import JsonObject
from era_kernels.settings import Settings
from era_kernels.storage.d1.replies import D1Limits, D1Result
from era_kernels.storage.d1.store import D1Statement, D1Store
from era_kernels.storage.d1.worker_pool import FEWEST_WORKERS
from era_kernels.storage_commands.server_or_directory import OpenDirectory, Server, open_place

Params = list[Any] | dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class SqlAnswer:
    """The rows of a statement (None: it has no columns), and figures such as `changes`."""

    rows: list[JsonObject] | None
    meta: JsonObject


class D1Client(Protocol):
    """The databases of all namespaces. All methods raise EraError, StartError."""

    def query(self, namespace: str, sql: str, params: Params = None) -> SqlAnswer:
        """Runs a statement that only reads."""
        ...

    def execute(self, namespace: str, sql: str, params: Params = None) -> SqlAnswer:
        """Runs statements that may change something, in one transaction."""
        ...

    def batch(self, namespace: str, entries: Sequence[tuple[str, Params]]) -> None:
        """Runs statements, each with parameters, in one transaction."""
        ...


class RemoteD1Client:
    """Asks a running server."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def query(self, namespace: str, sql: str, params: Params = None) -> SqlAnswer:
        return self._ask(namespace, "query", sql, params)

    def execute(self, namespace: str, sql: str, params: Params = None) -> SqlAnswer:
        return self._ask(namespace, "exec", sql, params)

    def batch(self, namespace: str, entries: Sequence[tuple[str, Params]]) -> None:
        body = [{"sql": sql, "params": params} for sql, params in entries]
        self._server.ask_json("POST", f"d1/{namespace}/batch", body=body)

    def _ask(self, namespace: str, way: str, sql: str, params: Params) -> SqlAnswer:
        body = {"sql": sql, "params": params}
        found, _ = self._server.ask_json("POST", f"d1/{namespace}/{way}", body=body)
        return SqlAnswer(found.get("results"), found["meta"])


class LocalD1Client:
    """Works on a data directory that no server uses."""

    def __init__(self, store: D1Store, runner: asyncio.Runner) -> None:
        self._store = store
        self._runner = runner

    def query(self, namespace: str, sql: str, params: Params = None) -> SqlAnswer:
        return _answer(self._runner.run(self._store.query(namespace, D1Statement(sql, params))))

    def execute(self, namespace: str, sql: str, params: Params = None) -> SqlAnswer:
        return _answer(self._runner.run(self._store.execute(namespace, D1Statement(sql, params))))

    def batch(self, namespace: str, entries: Sequence[tuple[str, Params]]) -> None:
        statements = [D1Statement(sql, params) for sql, params in entries]
        self._runner.run(self._store.batch(namespace, statements))


def _answer(result: D1Result) -> SqlAnswer:
    return SqlAnswer(None if result.rows is None else json.loads(result.rows), result.meta)


@contextmanager
def open_d1_client(settings: Settings, url: str | None, token: str | None) -> Iterator[D1Client]:
    """Opens the databases of a server or of the data directory. Raises StartError."""
    with open_place(settings, url, token) as place:
        if isinstance(place, Server):
            yield RemoteD1Client(place)
        else:
            yield LocalD1Client(place.open(_open_store), place.runner)


async def _open_store(stack: AsyncExitStack, place: OpenDirectory) -> D1Store:
    settings = place.settings
    limits = D1Limits(
        timeout=settings.sql_timeout,
        max_rows=settings.sql_max_rows,
        max_result=settings.sql_max_result,
        max_database=settings.sql_max_database,
    )
    store = D1Store(place.database, place.paths.d1, limits, place.quotas, FEWEST_WORKERS)
    stack.push_async_callback(store.aclose)
    await store.open()
    return store
