"""Connects to the sockets of a new kernel, to each as soon as the kernel has bound it.

Where the kernel is the one that connects, it is waited for.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping

from era_kernels.kernels.wire_protocol import ConnectionInfo
from era_kernels.sandbox.server import unix_sockets

# Seconds between two attempts. Kernels that start slowly are asked less often: after a time t of
# waiting every t / 20, so that one more attempt adds little to it.
RETRY_INTERVAL, MAX_RETRY_INTERVAL, RETRY_DIVISOR = 0.003, 0.02, 20

ConnectPort = Callable[[int], Awaitable[socket.socket]]
AcceptChannel = Callable[[str], Awaitable[socket.socket]]
OnConnected = Callable[[socket.socket], None]

# What an attempt fails with while nobody listens yet, or a backlog is full.
_NOT_READY = (FileNotFoundError, ConnectionRefusedError, BlockingIOError, TimeoutError)


class SocketConnector:
    """Connects to the sockets of one kernel, one after the other, in a task.

    Each connection is passed on as it is made. `on_error` is called at most once, when something
    is wrong that does not pass, and no more connections come then. A sandbox that has ended is no
    such error: others report it.
    """

    def __init__(
        self,
        connection_info: ConnectionInfo,
        connect_port: ConnectPort | None,
        on_connected: Mapping[str, OnConnected],
        on_error: Callable[[OSError], None],
        accept_channel: AcceptChannel | None = None,
    ) -> None:
        """`on_connected` is by the names of channels; `connect_port` connects to a TCP port.

        `accept_channel` returns the connection of a kernel that connects itself.
        """
        self._accept_channel = accept_channel
        self._connection_info = connection_info
        self._connect_port = connect_port
        self._on_error = on_error
        self._task = asyncio.create_task(self._connect_all(dict(on_connected)))

    def close(self) -> None:
        """Makes no more connections. Can be called again."""
        self._task.cancel()

    async def _connect_all(self, on_connected: Mapping[str, OnConnected]) -> None:
        try:
            for channel, pass_on in on_connected.items():
                pass_on(await self._connect(channel))
        except ConnectionAbortedError:
            return
        except OSError as error:
            self._on_error(error)

    async def _connect(self, channel: str) -> socket.socket:
        """Returns a connection when the kernel has bound the socket. Raises OSError."""
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        while True:
            try:
                return await self._try_connect(channel)
            except _NOT_READY:
                pause = (loop.time() - started_at) / RETRY_DIVISOR
                await asyncio.sleep(min(max(RETRY_INTERVAL, pause), MAX_RETRY_INTERVAL))

    async def _try_connect(self, channel: str) -> socket.socket:
        if self._accept_channel is not None:
            return await self._accept_channel(channel)
        if self._connection_info.transport == "ipc":
            return unix_sockets.connect(self._connection_info.socket_path(channel))
        if self._connect_port is None:
            raise RuntimeError("a kernel that speaks tcp needs something that connects to it")
        return await self._connect_port(self._connection_info.tcp_port(channel))
