"""A real web server with storage in memory, in a thread, on a port and on a unix socket."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pytest

from era_kernels.models import ALL_STORAGE, SessionListener, StorageScope
from era_kernels.web import storage_session
from era_kernels.web.access import Access
from era_kernels.web.base_handler import HandlerContext
from era_kernels.web.storage_listener import StorageListener
from tests.storage_fakes import Memory, memory_routes

MAX_BODY = 8 * 1024 * 1024


@dataclass
class SdkServer:
    """The addresses of a server, what it stores, and the scope that it enforces."""

    tcp_url: str
    unix_url: str
    memory: Memory
    scope: StorageScope = ALL_STORAGE
    sessions: list[storage_session.StorageSession] = field(default_factory=list)
    loop: asyncio.AbstractEventLoop | None = None

    def clear(self) -> None:
        """Forgets all that was stored, asked and allowed."""
        for told in (self.memory.calls, self.memory.headers):
            told.clear()
        for stored in (self.memory.values, self.memory.objects):
            stored.clear()
        self.memory.seconds = 0.0
        self.scope = ALL_STORAGE

    def close_connections(self) -> None:
        """Closes all connections, as a server does with idle ones; new ones are accepted."""
        done = threading.Event()

        def close() -> None:
            for session in self.sessions:
                for stream in tuple(session._streams):
                    stream.close()
            done.set()

        assert self.loop is not None
        self.loop.call_soon_threadsafe(close)
        done.wait()

    @property
    def connection_count(self) -> int:
        return sum(len(session._streams) for session in self.sessions)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SdkServer]:
    """One server for the tests of a module."""
    directory = tmp_path_factory.mktemp("sdk")
    tcp, unix = socket.socket(), socket.socket(socket.AF_UNIX)
    tcp.bind(("127.0.0.1", 0))
    path = directory / "a socket%"
    unix.bind(str(path))
    tcp_url = f"http://127.0.0.1:{tcp.getsockname()[1]}"
    unix_url = f"http+unix://{quote(str(path), safe='')}"
    server = SdkServer(tcp_url, unix_url, Memory())
    started, ready = threading.Event(), dict[str, Any]()

    async def serve() -> None:
        stop = asyncio.Event()
        listener = StorageListener(
            memory_routes(server.memory), HandlerContext(Access(), MAX_BODY, 64 * MAX_BODY)
        )
        for one, url in ((tcp, tcp_url), (unix, unix_url)):
            one.listen(128)
            given = SessionListener(one, url)
            server.sessions.append(listener.attach(given, lambda: server.scope))
        server.loop = ready["loop"] = asyncio.get_running_loop()
        ready["stop"] = stop
        started.set()
        await stop.wait()
        await listener.aclose()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    started.wait()
    try:
        yield server
    finally:
        ready["loop"].call_soon_threadsafe(ready["stop"].set)
        thread.join()
