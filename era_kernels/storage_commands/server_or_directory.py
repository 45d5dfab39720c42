"""Finds where the stored data is: at a running server, or in a data directory that none uses."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlencode, urlsplit

from era_kernels import errors
from era_kernels.errors import EraError, StartError
from era_kernels.models import StorageQuotas
from era_kernels.settings import Settings
from era_kernels.storage.data_directory import DataDirectory, DirectoryInUse, server_url
from era_kernels.storage.database import Database
from era_kernels.storage.lost_database import open_database

CHUNK_BYTES = 512 * 1024  # bytes that are read at once
TIMEOUT = 120.0  # seconds without a sign of life after which a server is given up

T = TypeVar("T")
_ERRORS = {
    found.code: found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, EraError)
}


class Server:
    """Asks a running server, with a connection for each request."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._url = url
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    @contextmanager
    def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: BinaryIO | bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """Gives the answer to a request, whose path begins behind `/api/storage/`.

        Raises the error that the server answers with, StartError where none does.
        """
        connection, prefix = self._connect()
        target = f"{prefix}/api/storage/{path}?{urlencode(query or {})}"
        with closing(connection):
            try:
                # A server that refuses an upload may stop to read it, and has answered by then.
                with suppress(BrokenPipeError, ConnectionResetError):
                    connection.request(method, target, body, {**self._headers, **(headers or {})})
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                raise StartError(
                    f"The server at {self._url} does not answer ({error}): start it, or name its "
                    "address with --url."
                ) from error
            if response.status >= 300:
                raise _refusal(response)
            yield response

    def _connect(self) -> tuple[http.client.HTTPConnection, str]:
        """Returns a connection that opens with its request, and the path of the server."""
        try:
            url = urlsplit(self._url)
            make: Callable[..., http.client.HTTPConnection] = (
                http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
            )
            connection = make(url.hostname or "", url.port, timeout=TIMEOUT, blocksize=CHUNK_BYTES)
        except ValueError as error:
            raise StartError(f"{self._url} is no address ({error}).") from error
        return connection, url.path.rstrip("/")

    def ask_json(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: object = None
    ) -> tuple[Any, http.client.HTTPMessage]:
        """Returns the JSON of the answer to a request with JSON, and its headers. As `ask`."""
        data = None if body is None else json.dumps(body).encode()
        with self.ask(method, path, query, data, {"Content-Type": "application/json"}) as response:
            try:
                return json.load(response), response.headers
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise StartError(f"The server went away in the middle ({error}).") from error


def _refusal(response: http.client.HTTPResponse) -> EraError:
    """Returns the error that a server answered with."""
    try:
        answer = json.loads(response.read(64 * 1024))
        return _ERRORS.get(answer.get("code"), EraError)(str(answer["message"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return EraError(f"The server refused with status {response.status}.")


@dataclass(frozen=True, slots=True)
class OpenDirectory:
    """A data directory that is locked, with its database, and what runs its stores."""

    paths: DataDirectory
    database: Database
    settings: Settings
    runner: asyncio.Runner
    stack: AsyncExitStack

    @property
    def quotas(self) -> StorageQuotas:
        """The quotas of the settings."""
        return StorageQuotas(self.settings.storage_quota, self.settings.namespace_quota)

    def open(self, make: Callable[[AsyncExitStack, OpenDirectory], Awaitable[T]]) -> T:
        """Returns a store that is opened, and closed with the directory."""

        async def run() -> T:
            return await make(self.stack, self)

        return self.runner.run(run())


@contextmanager
def open_place(
    settings: Settings, url: str | None, token: str | None
) -> Iterator[Server | OpenDirectory]:
    """Gives the server at `url`; without one, the data directory.

    Where a server uses that directory, it is asked. Raises StartError.
    """
    token = token or next(iter(settings.api_tokens), None)
    if url is not None:
        yield Server(url, token)
        return
    if not DataDirectory.unlocked(settings.data_dir).database.exists():
        raise StartError(
            f"There is no data directory at {settings.data_dir}: name it with --data-dir, or the "
            "address of a server with --url."
        )
    with ExitStack() as stack:
        try:
            place: Server | OpenDirectory = stack.enter_context(_open_directory(settings))
        except DirectoryInUse:
            place = Server(_address_of_server(settings.data_dir), token)
        yield place


def _address_of_server(data_dir: Path) -> str:
    """Returns the address of the server that uses a data directory. Raises StartError."""
    url = server_url(data_dir)
    if url is None:
        raise StartError(
            f"The data directory {data_dir} is in use, and not by a server that answers: try again "
            "later."
        )
    return url


@contextmanager
def _open_directory(settings: Settings) -> Iterator[OpenDirectory]:
    """Opens the directory under its lock, as a server would. Raises StartError."""
    with closing(DataDirectory.open(settings.data_dir)) as paths, asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            database = runner.run(open_database(paths))
            stack.push_async_callback(database.aclose)
            yield OpenDirectory(paths, database, settings, runner, stack)
        finally:
            runner.run(stack.aclose())
