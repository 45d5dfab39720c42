"""A real server over the fake services, in a thread of its own, on a free port."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from era_kernels.models import StorageQuotas
from era_kernels.services.links import LinkService
from era_kernels.services.session_logs import SessionLogs
from era_kernels.storage.d1.store import D1Store
from era_kernels.storage.database import Database
from era_kernels.storage.kv import KVStore
from era_kernels.storage.migrations import MIGRATIONS
from era_kernels.storage.r2 import R2Store
from era_kernels.storage.resource_stores import ResourceStores
from era_kernels.storage.session_log import SessionLogStore
from era_kernels.storage.stored_items import StoredItemIndex
from era_kernels.web.access import Access
from era_kernels.web.base_handler import HandlerContext
from era_kernels.web.routes import Services, make_application
from era_kernels.web.server import WebServer
from tests.new_database import put_new_database
from tests.web.fakes import (
    FakeExecutionService,
    FakeFileService,
    FakeIdempotentRuns,
    FakeInspectionService,
    FakeLinkStore,
    FakeProxies,
    FakeServerInfo,
    FakeSessionService,
    FakeStoredCodeService,
)

MAX_BODY = 4 * 1024 * 1024
MAX_KV_VALUE = 1024 * 1024


@dataclass
class RawResponse:
    """A parsed answer to raw bytes."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class ServerUnderTest:
    """A server under test: its address, its fakes, and ways to talk to it."""

    url: str
    port: int
    sessions: FakeSessionService
    executions: FakeExecutionService
    server_info: FakeServerInfo
    files: FakeFileService
    codes: FakeStoredCodeService
    inspection: FakeInspectionService
    proxies: FakeProxies
    links: FakeLinkStore
    logs: SessionLogs
    context: HandlerContext
    objects: R2Store
    loop: asyncio.AbstractEventLoop
    http: httpx.Client

    def send_raw(self, data: bytes, *, timeout: float = 20) -> bytes:
        """Everything the server says to these bytes until it closes or is silent for a second."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as sock:
            sock.sendall(data)
            return read_all(sock)

    def send_and_parse(self, data: bytes) -> RawResponse:
        """The one answer to these bytes."""
        return parse_response(self.send_raw(data))


FIRST_BYTE_TIMEOUT = 10.0  # seconds


def read_all(sock: socket.socket, silence: float = 1.0) -> bytes:
    """What comes until the end, or until nothing more came for a while; the begin may be late."""
    sock.settimeout(max(silence, FIRST_BYTE_TIMEOUT))
    got = bytearray()
    with contextlib.suppress(TimeoutError, ConnectionResetError):
        while chunk := sock.recv(65536):
            got += chunk
            sock.settimeout(silence)
    return bytes(got)


def parse_response(raw: bytes) -> RawResponse:
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode("latin1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    return RawResponse(int(lines[0].split()[1]), headers, body)


@contextmanager
def run_server(
    access: Access | None = None,
    max_body: int = MAX_BODY,
    keepalive_interval: float = 5.0,
    max_upload: int = 2 * MAX_BODY,
    **options: Any,
) -> Iterator[ServerUnderTest]:
    """A server that is up, with `options` of WebServer.open."""
    ready: list[Any] = []
    started = threading.Event()

    directory = tempfile.mkdtemp(prefix="era-test-")

    async def run() -> None:
        sessions, status, stop = FakeSessionService(), FakeServerInfo(), asyncio.Event()
        executions, files = FakeExecutionService(sessions), FakeFileService(sessions)
        codes = FakeStoredCodeService(sessions)
        insights = FakeInspectionService(sessions)
        proxies, links = FakeProxies(sessions), FakeLinkStore()
        logs = SessionLogs(SessionLogStore(Path(directory)))
        await put_new_database(Path(directory) / "era.db")
        database = await Database.open(Path(directory) / "era.db", MIGRATIONS)
        kv = KVStore(database, StorageQuotas(), MAX_KV_VALUE)
        d1 = D1Store(database, Path(directory) / "d1")
        objects = R2Store(
            database,
            Path(directory) / "r2",
            Path(directory) / "unlink.lock",
            StorageQuotas(),
            max_upload,
        )
        await objects.sweep()
        context = HandlerContext(
            access or Access(),
            max_body,
            max_upload,
            keepalive_interval,
            touch_session=sessions.touch,
        )
        services = Services(
            sessions=sessions,  # type: ignore[arg-type]
            executions=executions,  # type: ignore[arg-type]
            server_info=status,  # type: ignore[arg-type]
            codes=codes,  # type: ignore[arg-type]
            files=files,  # type: ignore[arg-type]
            idempotent_runs=FakeIdempotentRuns(sessions),  # type: ignore[arg-type]
            inspection=insights,  # type: ignore[arg-type]
            links=LinkService(sessions, links),  # type: ignore[arg-type]
            logs=logs,
            proxies=proxies,  # type: ignore[arg-type]
            stored_code_requests=proxies,  # type: ignore[arg-type]
            resources=ResourceStores(kv, d1, objects, StoredItemIndex(database)),
        )
        application = make_application(services, context)
        server = WebServer.open(application, context, "127.0.0.1", 0, **options)
        loop = asyncio.get_running_loop()
        fakes = [sessions, executions, status, files, codes, insights, proxies, links]
        fakes += [logs, context, objects, loop]
        ready.extend([server.url, fakes, loop, stop])
        started.set()
        await stop.wait()
        await logs.aclose()
        await server.aclose()
        await kv.aclose()
        await d1.aclose()
        await objects.aclose()
        await database.aclose()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    started.wait()
    url, fakes, loop, stop = ready
    try:
        with httpx.Client(base_url=url, timeout=30) as http:
            port = int(url.rpartition(":")[2])
            yield ServerUnderTest(url, port, *fakes, http)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        shutil.rmtree(directory)
