"""Reads and changes values of KV, through a running server or in its data directory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from era_kernels.errors import InvalidRequest
from era_kernels.models import JsonObject
from era_kernels.settings import Settings
from era_kernels.storage.kv import KVStore
from era_kernels.storage_commands.server_or_directory import OpenDirectory, Server, open_place

PAGE = 1000  # keys that are listed at once
_EXPIRES_IN = "X-Era-Expires-In"


@dataclass(frozen=True, slots=True)
class Value:
    """A value with its metadata; `ttl` is in how many seconds it expires, None is never."""

    text: str
    metadata: JsonObject = field(default_factory=dict)
    ttl: float | None = None


class KVClient(Protocol):
    """The values of all namespaces. All methods raise EraError, StartError."""

    def list(self, namespace: str, prefix: str = "") -> Iterator[tuple[str, JsonObject]]:
        """Yields keys, sorted, and their metadata."""
        ...

    def get(self, namespace: str, key: str) -> Value:
        """Returns the value of a key. Raises KeyNotFound."""
        ...

    def put(self, namespace: str, key: str, value: Value) -> None:
        """Replaces value, metadata and expiry of a key."""
        ...

    def delete(self, namespace: str, key: str) -> None:
        """Deletes a key, if there is one."""
        ...


class RemoteKVClient:
    """Asks a running server."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def list(self, namespace: str, prefix: str = "") -> Iterator[tuple[str, JsonObject]]:
        query = {"prefix": prefix, "limit": str(PAGE)}
        while True:
            page, _ = self._server.ask_json("GET", f"kv/{namespace}", query)
            for one in page["keys"]:
                yield one["name"], one["metadata"]
            if page["list_complete"]:
                return
            query["cursor"] = page["cursor"]

    def get(self, namespace: str, key: str) -> Value:
        found, headers = self._server.ask_json("GET", f"kv/{namespace}", {"key": key})
        ttl = headers.get(_EXPIRES_IN)
        return Value(found["value"], found["metadata"], None if ttl is None else float(ttl))

    def put(self, namespace: str, key: str, value: Value) -> None:
        body: JsonObject = {"value": value.text, "metadata": value.metadata}
        if value.ttl is not None:
            body["expiration_ttl"] = value.ttl
        self._server.ask_json("PUT", f"kv/{namespace}", {"key": key}, body)

    def delete(self, namespace: str, key: str) -> None:
        self._server.ask_json("DELETE", f"kv/{namespace}", {"key": key})


class LocalKVClient:
    """Works on a data directory that no server uses."""

    def __init__(self, store: KVStore, runner: asyncio.Runner) -> None:
        self._store = store
        self._runner = runner

    def list(self, namespace: str, prefix: str = "") -> Iterator[tuple[str, JsonObject]]:
        cursor = ""
        while True:
            page = self._runner.run(self._store.list_keys(namespace, prefix, PAGE, cursor))
            for one in page.keys:
                yield one.name, one.metadata
            cursor = page.cursor
            if not cursor:
                return

    def get(self, namespace: str, key: str) -> Value:
        found = self._runner.run(self._store.get(namespace, key))
        ttl = None if found.expires_at is None else max(found.expires_at - time.time(), 0.001)
        return Value(found.value, found.metadata, ttl)

    def put(self, namespace: str, key: str, value: Value) -> None:
        if not key:
            raise InvalidRequest("A key must not be empty.")
        self._runner.run(self._store.put(namespace, key, value.text, value.metadata, value.ttl))

    def delete(self, namespace: str, key: str) -> None:
        self._runner.run(self._store.delete(namespace, key))


@contextmanager
def open_kv_client(settings: Settings, url: str | None, token: str | None) -> Iterator[KVClient]:
    """Opens the values of a server or of the data directory. Raises StartError."""
    with open_place(settings, url, token) as place:
        if isinstance(place, Server):
            yield RemoteKVClient(place)
        else:
            yield LocalKVClient(place.open(_open_store), place.runner)


async def _open_store(stack: AsyncExitStack, place: OpenDirectory) -> KVStore:
    store = KVStore(place.database, place.quotas, place.settings.max_kv_value)
    stack.push_async_callback(store.aclose)
    return store
