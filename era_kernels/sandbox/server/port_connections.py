"""Connects the server to TCP ports on which the code of one sandbox listens.

With a network namespace its init makes the socket, since a socket belongs to the namespace of
whoever makes it, and hands it over; the server connects it, for code can bind a port and never
accept, and the init has no time for that. Without a namespace the port is the host's, so the server
connects a socket of its own, to processes of the sandbox only.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from contextlib import suppress

from era_kernels.concurrency.idle_timer import IdleTimer
from era_kernels.models import ExitInfo, Network
from era_kernels.sandbox.server import tcp_owners
from era_kernels.sandbox.server.control_channel import (
    ChannelClosed,
    ControlChannel,
    NoAnswer,
    SendRefused,
)

CONNECT_TIMEOUT = 5.0  # seconds until a connection must be there; Linux asks again after 1 and 3
SPARE_SECONDS = 3.0  # after which a socket that was made ahead is closed
LOOPBACK, LOOPBACK6 = "127.0.0.1", "::1"


class NamespaceSockets:
    """Has the init of a sandbox make sockets that belong to the sandbox's network namespace.

    One is made ahead while they are asked for, since whoever asks would wait for the init.
    """

    def __init__(self, control: ControlChannel, ended: asyncio.Future[ExitInfo]) -> None:
        """Takes the future of the sandbox's end, with which the socket made ahead goes."""
        self._control = control
        self._ended = ended
        self._spare: socket.socket | None = None
        self._making: asyncio.Task[None] | None = None
        self._idle_timer: IdleTimer | None = None
        ended.add_done_callback(lambda _: self._drop())

    async def take(self, address: str) -> socket.socket:
        """Returns a socket for connections to the address. Raises OSError."""
        if address != LOOPBACK:
            return await self._make(address)
        one, self._spare = self._spare, None
        try:
            return one or await self._make(address)
        finally:
            self._make_spare_soon()

    async def _make(self, address: str) -> socket.socket:
        message = {"op": "socket", "address": address}
        try:
            reply, descriptors = await self._control.request_descriptors(message)
        except (ChannelClosed, NoAnswer):  # one that does not answer is ended
            raise ended_error() from None
        except SendRefused as error:
            raise OSError(error.errno, str(error)) from error
        if "error" in reply:
            raise OSError(reply["errno"], reply["error"])
        if not descriptors:  # this process may open no more, so that the system dropped it
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return socket.socket(fileno=descriptors.pop())

    def _make_spare_soon(self) -> None:
        if self._idle_timer is None:
            self._idle_timer = IdleTimer(SPARE_SECONDS, self._drop)
        self._idle_timer.touch()
        if self._making is None:
            self._making = asyncio.create_task(self._make_spare())

    async def _make_spare(self) -> None:
        with suppress(OSError):  # whoever asks next is told
            if self._spare is None:
                self._spare = await self._make(LOOPBACK)
        self._making = None
        if self._ended.done():
            self._drop()

    def _drop(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._spare is not None:
            self._spare.close()
            self._spare = None


async def connect(
    network: Network,
    sockets: NamespaceSockets,
    init_pid: int,
    port: int,
    timeout: float,
    address: str = LOOPBACK,
) -> socket.socket:
    """Returns a connection to a port in the sandbox; see `Sandbox.connect`."""
    if not 0 < port < 1 << 16:
        raise ValueError(f"there is no port {port}")
    if network is Network.NONE:
        why = "programs have no internet sockets in sandboxes without a network namespace (tier 3)"
        raise OSError(errno.EAFNOSUPPORT, why)
    try:
        async with asyncio.timeout(timeout):
            if network is Network.OWN:
                return await _connected(await sockets.take(address), port, address)
            return await _connect_on_host(init_pid, port, address)
    except TimeoutError:
        why = f"no program took the connection within {timeout:g} seconds"
        raise TimeoutError(errno.ETIMEDOUT, why) from None


def ended_error() -> OSError:
    """Returns the error for a sandbox that has ended."""
    return ConnectionAbortedError(errno.ECONNABORTED, "its sandbox has ended")


async def _connect_on_host(init_pid: int, port: int, address: str) -> socket.socket:
    listeners = await asyncio.to_thread(tcp_owners.check_listeners, init_pid, port, address)
    family = socket.AF_INET if address == LOOPBACK else socket.AF_INET6
    one = socket.socket(family, socket.SOCK_STREAM)
    connection = await _connected(one, port, address)
    try:
        own_port = connection.getsockname()[1]
        check_peer = tcp_owners.check_peer
        await asyncio.to_thread(check_peer, init_pid, port, own_port, listeners, address)
    except BaseException:
        connection.close()
        raise
    return connection


async def _connected(one: socket.socket, port: int, address: str) -> socket.socket:
    """Connects a socket, and returns it; closes it when that fails. Raises OSError."""
    try:
        one.setblocking(False)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = one.connect_ex((address, port))
        if number not in (0, errno.EINPROGRESS):
            raise OSError(number, os.strerror(number))
        await _wait_established(one)
    except BaseException:
        one.close()
        raise
    return one


async def _wait_established(connection: socket.socket) -> None:
    """Waits until a connection that was begun is there. Raises OSError when it has failed."""
    if not _is_established(connection):
        loop = asyncio.get_running_loop()
        writable = asyncio.Event()
        loop.add_writer(connection, writable.set)
        try:
            await writable.wait()
        finally:
            loop.remove_writer(connection)
        number = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))
    try:
        peer = connection.getpeername()
    except OSError as error:  # reset since
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from error
    # Where nothing listens, Linux may choose the very port as the connection's own: TCP allows a
    # socket to connect to itself.
    if connection.getsockname() == peer:
        raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


def _is_established(connection: socket.socket) -> bool:
    try:
        connection.getpeername()
    except OSError:
        return False
    return True
