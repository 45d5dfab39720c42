"""Reads and changes objects of R2, through a running server or in its data directory."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol

from era_kernels.errors import StartError
from era_kernels.settings import Settings
from era_kernels.storage import content_types, custom_metadata_headers
from era_kernels.storage.open_file import OpenFile
from era_kernels.storage.r2 import R2Store
from era_kernels.storage.r2_table import StoredObject
from era_kernels.storage_commands.server_or_directory import (
    CHUNK_BYTES,
    OpenDirectory,
    Server,
    open_place,
)

PAGE = 1000  # objects that are listed at once


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What is known of an object beside its bytes; `content_type` may be empty."""

    size: int
    etag: str
    content_type: str = ""
    custom_metadata: Mapping[str, str] = field(default_factory=dict)


class Reader(Protocol):
    """Bytes that are read once, from the beginning to the end."""

    def read(self, size: int = ..., /) -> bytes:
        """Returns at most so many bytes, none at the end."""
        ...


class R2Client(Protocol):
    """The objects of all namespaces. All methods raise EraError, StartError."""

    def list(self, namespace: str, prefix: str = "") -> Iterator[tuple[str, ObjectInfo]]:
        """Yields keys, sorted, and what lists tell: size and etag."""
        ...

    def open(self, namespace: str, key: str) -> Any:
        """Returns a context that gives an object and its bytes."""
        ...

    def put(self, namespace: str, key: str, source: BinaryIO, info: ObjectInfo) -> None:
        """Puts `info.size` bytes, in the place of an older object."""
        ...

    def delete(self, namespace: str, key: str) -> None:
        """Deletes an object, if there is one."""
        ...


class RemoteR2Client:
    """Asks a running server."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def list(self, namespace: str, prefix: str = "") -> Iterator[tuple[str, ObjectInfo]]:
        query = {"prefix": prefix, "limit": str(PAGE)}
        while True:
            with self._server.ask("GET", f"r2/{namespace}", query) as response:
                page = json.load(response)
            for one in page["objects"]:
                yield one["key"], ObjectInfo(one["size"], one["etag"])
            if not page["truncated"]:
                return
            query["cursor"] = page["cursor"]

    @contextmanager
    def open(self, namespace: str, key: str) -> Iterator[tuple[ObjectInfo, Reader]]:
        accept = {"Accept": content_types.DEFAULT}
        path = f"r2/{namespace}"
        with self._server.ask("GET", path, {"key": key}, headers=accept) as response:
            info = ObjectInfo(
                size=int(response.headers["Content-Length"]),
                etag=response.headers["ETag"].strip('"'),
                content_type=response.headers["Content-Type"],
                custom_metadata=custom_metadata_headers.from_headers(response.getheaders()),
            )
            yield info, _RemoteReader(response, info.size)

    def put(self, namespace: str, key: str, source: BinaryIO, info: ObjectInfo) -> None:
        headers = {
            "Content-Type": info.content_type or content_types.DEFAULT,
            "Content-Length": str(info.size),
            **dict(custom_metadata_headers.to_headers(info.custom_metadata)),
        }
        path = f"r2/{namespace}"
        with self._server.ask("PUT", path, {"key": key}, source, headers) as response:
            response.read()

    def delete(self, namespace: str, key: str) -> None:
        with self._server.ask("DELETE", f"r2/{namespace}", {"key": key}) as response:
            response.read()


class _RemoteReader:
    """Reads the body of a response; an end before all of it is an error. Raises StartError."""

    def __init__(self, response: http.client.HTTPResponse, size: int) -> None:
        self._response = response
        self._left = size

    def read(self, size: int = CHUNK_BYTES, /) -> bytes:
        try:
            chunk = self._response.read(size)
        except (OSError, http.client.HTTPException) as error:
            raise StartError(f"The server went away in the middle ({error}).") from error
        self._left -= len(chunk)
        if not chunk and size and self._left > 0:
            raise StartError("The server went away in the middle of an object.")
        return chunk


class LocalR2Client:
    """Works on a data directory that no server uses."""

    def __init__(self, store: R2Store, runner: asyncio.Runner) -> None:
        self._store = store
        self._runner = runner

    def list(self, namespace: str, prefix: str = "") -> Iterator[tuple[str, ObjectInfo]]:
        after, has_more = None, True
        while has_more:
            found, has_more = self._runner.run(self._store.list(namespace, prefix, PAGE, after))
            for one in found:
                yield one.key, _info(one)
                after = one.key

    @contextmanager
    def open(self, namespace: str, key: str) -> Iterator[tuple[ObjectInfo, Reader]]:
        stored, file = self._runner.run(self._store.open(namespace, key))
        try:
            yield _info(stored), _LocalReader(file, self._runner)
        finally:
            self._runner.run(file.aclose())

    def put(self, namespace: str, key: str, source: BinaryIO, info: ObjectInfo) -> None:
        custom_metadata_headers.check_size(info.custom_metadata)
        self._runner.run(self._put(namespace, key, source, info))

    async def _put(self, namespace: str, key: str, source: BinaryIO, info: ObjectInfo) -> None:
        upload = await self._store.start_upload(namespace, key, info.size)
        try:
            while chunk := await asyncio.to_thread(source.read, CHUNK_BYTES):
                await upload.write(chunk)
            await self._store.put(namespace, key, upload, info.content_type, info.custom_metadata)
        finally:
            upload.discard()

    def delete(self, namespace: str, key: str) -> None:
        self._runner.run(self._store.delete(namespace, key))


class _LocalReader:
    def __init__(self, file: OpenFile, runner: asyncio.Runner) -> None:
        self._file = file
        self._runner = runner
        self._position = 0

    def read(self, size: int = CHUNK_BYTES, /) -> bytes:
        chunk = self._runner.run(self._read(size))
        self._position += len(chunk)
        return chunk

    async def _read(self, size: int) -> bytes:
        stop = min(self._file.status.size, self._position + size)
        async with aclosing(self._file.read(self._position, stop)) as chunks:
            async for chunk in chunks:
                return chunk
        return b""


async def _open_store(stack: AsyncExitStack, place: OpenDirectory) -> R2Store:
    paths, settings = place.paths, place.settings
    store = R2Store(
        place.database, paths.objects, paths.unlink_lock, place.quotas, settings.max_object
    )
    stack.push_async_callback(store.aclose)
    await store.sweep()
    return store


@contextmanager
def open_r2_client(settings: Settings, url: str | None, token: str | None) -> Iterator[R2Client]:
    """Opens the objects of a server or of the data directory. Raises StartError."""
    with open_place(settings, url, token) as place:
        if isinstance(place, Server):
            yield RemoteR2Client(place)
        else:
            yield LocalR2Client(place.open(_open_store), place.runner)


def _info(stored: StoredObject) -> ObjectInfo:
    return ObjectInfo(stored.size, stored.etag, stored.content_type, stored.custom_metadata)
