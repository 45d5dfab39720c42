"""A proxy on a loopback socket, a world of hosts that a test names, and programs that ask."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from era_kernels.egress.addresses import AddressPolicy
from era_kernels.egress.connector import Connector
from era_kernels.egress.proxy import EgressProxy
from era_kernels.egress.resolver import Resolver
from era_kernels.egress.session_proxy import SessionProxy
from era_kernels.models import SessionListener
from era_kernels.models.internet import InternetAccess

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

# The world lies on this address of the loopback alone; 127.0.0.1 is this host.
WORLD = "127.77.0.1"


@dataclass
class World:
    """A proxy, and the names that lead somewhere; `access` may be changed at any moment."""

    access: InternetAccess = field(default_factory=lambda: InternetAccess(is_on=True))
    names: dict[str, list[str]] = field(default_factory=lambda: {"world.example": [WORLD]})
    outcomes: Counter[str] = field(default_factory=Counter)
    lookups: list[str] = field(default_factory=list)
    port: int = 0
    proxy_port: int = 0
    proxy: EgressProxy | None = None
    session: SessionProxy | None = None
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def lookup(self, host: str) -> list[str]:
        self.lookups.append(host)
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "no such host")
        return self.names[host]

    def set_access(self, access: InternetAccess) -> None:
        """Changes what the session may reach, as a PATCH does."""
        self.access = access
        assert self.session is not None
        self.session.recheck()

    async def connect(self) -> Streams:
        """Returns a program's connection to the proxy."""
        return await self.connect_to(self.proxy_port)

    async def connect_to(self, port: int) -> Streams:
        """Returns a program's connection to a proxy on that port."""
        streams = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
        self.writers.append(streams[1])
        return streams

    async def serve(self, handler: Handler, *streams: Any) -> None:
        """Plays the server of the world on one connection, until the test ends."""
        self.writers.append(streams[1])
        self.tasks.add(task := asyncio.ensure_future(_until_broken(handler, *streams)))
        await asyncio.wait([task])

    async def aclose(self) -> None:
        """Ends all connections."""
        for task in self.tasks:
            task.cancel()
        for writer in self.writers:
            # One that closed itself after its last write does not know that it is closed.
            with suppress(AttributeError):
                writer.transport.abort()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # transports close when the loop turns

    async def tunnel(self, target: str) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter]:
        """Asks for a tunnel; returns the status, and the connection behind the answer's head."""
        reader, writer = await self.connect()
        writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        return int(head.split()[1]), reader, writer

    async def ask(self, request: bytes) -> bytes:
        """Sends bytes to the proxy and returns all that it answers."""
        reader, writer = await self.connect()
        writer.write(request)
        try:
            return await reader.read()
        finally:
            writer.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends back what comes, until the client ends."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def _until_broken(handler: Handler, *streams: Any) -> None:
    with suppress(ConnectionError):
        await handler(*streams)


@asynccontextmanager
async def world(handler: Handler = echo, *, max_connections: int = 100) -> AsyncIterator[World]:
    """Opens a proxy, and a server of the world behind it that `handler` plays."""
    there = World()
    server = await asyncio.start_server(partial(there.serve, handler), WORLD, 0)
    there.port = server.sockets[0].getsockname()[1]
    policy = AddressPolicy([ipaddress.ip_network(WORLD)])
    connector = Connector(policy, Resolver(there.lookup))
    there.proxy = EgressProxy(
        connector, max_connections, lambda outcome: there.outcomes.update([outcome.value])
    )
    listening = socket.create_server(("127.0.0.1", 0))
    there.proxy_port = listening.getsockname()[1]
    there.session = there.proxy.attach(SessionListener(listening, ""), lambda: there.access)
    try:
        yield there
    finally:
        await there.proxy.aclose()
        server.close()
        await there.aclose()
