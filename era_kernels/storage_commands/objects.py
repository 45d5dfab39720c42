"""Reads and changes objects of R2, through a running server or in its data directory."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, aclosing, closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol, TypeVar
from urllib.parse import urlencode, urlsplit

from era_kernels.errors import EraError, StartError
from era_kernels.models import StorageQuotas
from era_kernels.settings import Settings
from era_kernels.storage import content_types, object_metadata
from era_kernels.storage.data_directory import DataDirectory, DirectoryInUse
from era_kernels.storage.database import Database
from era_kernels.storage.migrations import MIGRATIONS
from era_kernels.storage.open_file import OpenFile
from era_kernels.storage.r2 import R2Store
from era_kernels.storage.r2_table import StoredObject

DEFAULT_URL = "http://127.0.0.1:8787"
PAGE = 1000  # objects that are listed at once
CHUNK_BYTES = 512 * 1024  # bytes that are read at once
TIMEOUT = 120.0  # seconds without a sign of life after which a server is given up

T = TypeVar("T")


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


class Objects(Protocol):
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


class RemoteObjects:
    """Asks a running server, with a connection for each request."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._url = url
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def list(self, namespace: str, prefix: str = "") -> Iterator[tuple[str, ObjectInfo]]:
        query = {"prefix": prefix, "limit": str(PAGE)}
        while True:
            with self._request("GET", namespace, query) as response:
                page = json.load(response)
            for one in page["objects"]:
                yield one["key"], ObjectInfo(one["size"], one["etag"])
            if not page["truncated"]:
                return
            query["cursor"] = page["cursor"]

    @contextmanager
    def open(self, namespace: str, key: str) -> Iterator[tuple[ObjectInfo, Reader]]:
        accept = {"Accept": content_types.DEFAULT}
        with self._request("GET", namespace, {"key": key}, headers=accept) as response:
            info = ObjectInfo(
                size=int(response.headers["Content-Length"]),
                etag=response.headers["ETag"].strip('"'),
                content_type=response.headers["Content-Type"],
                custom_metadata=object_metadata.from_headers(response.getheaders()),
            )
            yield info, _RemoteReader(response, info.size)

    def put(self, namespace: str, key: str, source: BinaryIO, info: ObjectInfo) -> None:
        headers = {
            "Content-Type": info.content_type or content_types.DEFAULT,
            "Content-Length": str(info.size),
            **dict(object_metadata.to_headers(info.custom_metadata)),
        }
        with self._request("PUT", namespace, {"key": key}, source, headers) as response:
            response.read()

    def delete(self, namespace: str, key: str) -> None:
        with self._request("DELETE", namespace, {"key": key}) as response:
            response.read()

    @contextmanager
    def _request(
        self,
        method: str,
        namespace: str,
        query: Mapping[str, str],
        body: BinaryIO | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        url = urlsplit(self._url)
        make = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        path = f"{url.path.rstrip('/')}/api/storage/r2/{namespace}?{urlencode(query)}"
        connection = make(url.hostname or "", url.port, timeout=TIMEOUT, blocksize=CHUNK_BYTES)
        with closing(connection):
            try:
                # A server that refuses an upload may stop to read it, and has answered by then.
                with suppress(BrokenPipeError, ConnectionResetError):
                    connection.request(method, path, body, {**self._headers, **(headers or {})})
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                raise StartError(
                    f"The server at {self._url} does not answer ({error}): start it, or name its "
                    "address with --url."
                ) from error
            if response.status >= 300:
                raise _refusal(response)
            yield response


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


class LocalObjects:
    """Works on a data directory that no server uses."""

    def __init__(self, store: R2Store, runner: asyncio.Runner) -> None:
        self._store = store
        self._runner = runner

    @classmethod
    @contextmanager
    def opened(cls, settings: Settings) -> Iterator[LocalObjects]:
        """Opens the directory under its lock, as a server would. Raises StartError."""
        with (
            closing(DataDirectory.open(settings.data_dir)) as directory,
            asyncio.Runner() as runner,
        ):
            stack = AsyncExitStack()
            try:
                yield cls(runner.run(_open_store(stack, directory, settings)), runner)
            finally:
                runner.run(stack.aclose())

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
        object_metadata.check_size(info.custom_metadata)
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
        async with aclosing(self._file.read(self._position, stop)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                return chunk
        return b""


@contextmanager
def open_objects(settings: Settings, url: str | None, token: str | None) -> Iterator[Objects]:
    """Opens the objects of the server at `url`; without one, of the data directory.

    Where a server uses that directory, it is asked at its default address. Raises StartError.
    """
    token = token or next(iter(settings.api_tokens), None)
    if url is not None:
        yield RemoteObjects(url, token)
        return
    if not DataDirectory.unlocked(settings.data_dir).database.exists():
        raise StartError(
            f"There is no data directory at {settings.data_dir}: name it with --data-dir, or the "
            "address of a server with --url."
        )
    with ExitStack() as stack:
        try:
            objects: Objects = stack.enter_context(LocalObjects.opened(settings))
        except DirectoryInUse:
            objects = RemoteObjects(DEFAULT_URL, token)
        yield objects


async def _open_store(
    stack: AsyncExitStack, directory: DataDirectory, settings: Settings
) -> R2Store:
    database = await Database.open(directory.database, MIGRATIONS)
    stack.push_async_callback(database.aclose)
    quotas = StorageQuotas(settings.storage_quota, settings.namespace_quota)
    store = R2Store(database, directory.objects, directory.unlink_lock, quotas, settings.max_object)
    stack.push_async_callback(store.aclose)
    await store.sweep()
    return store


def _info(stored: StoredObject) -> ObjectInfo:
    return ObjectInfo(stored.size, stored.etag, stored.content_type, stored.custom_metadata)


def _refusal(response: http.client.HTTPResponse) -> EraError:
    """Returns the error that a server answered with."""
    try:
        return EraError(str(json.loads(response.read(64 * 1024))["message"]))
    except (ValueError, KeyError, TypeError):
        return EraError(f"The server refused with status {response.status}.")
