"""Binds or connects a kernel's sockets, and closes them."""

from __future__ import annotations

import _thread
import fcntl
import socket as sockets
import termios
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import zmq

from era_kernel.heartbeat import Heartbeat, address
from era_kernel.raw_sockets import Socket
from era_kernel.signal_masks import signals_blocked, start_kernel_thread

UNREAD_TIMEOUT = 10.0  # seconds for which a client may read nothing of the last messages
POLL_INTERVAL = 0.002  # seconds between two checks whether it did


class KernelSockets:
    """Opens the sockets that a connection file names. The main thread uses only `shell`.

    They are bound, or with `connect` in the file connected to who listens there.
    """

    def __init__(self, connection: Mapping[str, Any]) -> None:
        self._context: zmq.Context[Socket] = zmq.Context()
        with signals_blocked():  # libzmq starts its threads with the first socket
            self.iopub = self._open(connection, zmq.XPUB, "iopub")
            self.shell = self._open(connection, zmq.ROUTER, "shell")
            self.control = self._open(connection, zmq.ROUTER, "control")
            self.stdin = self._open(connection, zmq.ROUTER, "stdin")
            self._heartbeat = Heartbeat(connection)

    def close(self) -> None:
        """Closes the sockets, when the client has read what was sent or has stopped reading.

        Handing the data to the system is not enough: a client's libzmq that had stopped reading,
        since its queue was full, does not read on in a connection whose other end is closed.
        """
        self._heartbeat.close()
        connections = _connections(self.iopub)
        closed = _thread.allocate_lock()
        closed.acquire()
        start_kernel_thread(self._destroy_context, closed)
        unread, since = -1, time.monotonic()
        while (unread or closed.locked()) and time.monotonic() - since < UNREAD_TIMEOUT:
            time.sleep(POLL_INTERVAL)
            now = sum(map(_unread_bytes, connections))
            if now != unread:
                unread, since = now, time.monotonic()
        for connection in connections:
            connection.close()

    def _destroy_context(self, closed: _thread.LockType) -> None:
        self._context.destroy(linger=-1)
        closed.release()

    def _open(self, connection: Mapping[str, Any], socket_type: int, channel: str) -> Socket:
        socket = self._context.socket(socket_type)
        socket.set(zmq.LINGER, 1000)
        socket.set(zmq.SNDHWM, 0)  # nothing is ever dropped: this process's memory holds it
        if socket_type == zmq.ROUTER:
            socket.set(zmq.ROUTER_HANDOVER, 1)
        if f"{channel}_port" in connection:
            place = address(connection, connection[f"{channel}_port"])
            if connection.get("connect"):
                socket.connect(place)
            else:
                socket.bind(place)
        return socket  # of a channel that the file does not name, nobody is connected


def _connections(socket: Socket) -> list[sockets.socket]:
    """Returns copies of a socket's connections over unix sockets, open until all is read."""
    path = socket.get(zmq.LAST_ENDPOINT).rstrip(b"\0").decode().removeprefix("ipc://")
    connections = []
    try:
        entries = list(Path("/proc/self/fd").iterdir())
    except OSError:  # no descriptor is left for that
        return []
    for entry in entries:
        with suppress(OSError):  # the one that listed the folder is closed by now
            connection = sockets.fromfd(int(entry.name), sockets.AF_UNIX, sockets.SOCK_STREAM)
            if _is_connection(connection, path):
                connections.append(connection)
            else:
                connection.close()
    return connections


def _is_connection(connection: sockets.socket, path: str) -> bool:
    try:
        return path in (connection.getpeername(), connection.getsockname())
    except OSError:  # no socket, or the one that listens
        return False


def _unread_bytes(connection: sockets.socket) -> int:
    """Returns about how many bytes the other end has not read; 0 when that is closed."""
    return int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), "little")
