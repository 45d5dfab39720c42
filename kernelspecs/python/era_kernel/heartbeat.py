"""Echoes heartbeats for clients that want to know that the process lives.

The thread that echoes is in C code of libzmq and never holds the interpreter's lock: a program that
keeps the lock for long delays no heartbeat. Where the connection file names no `hb_port`, nothing
is opened and no thread started.
"""

from __future__ import annotations

from _thread import allocate_lock
from collections.abc import Mapping
from errno import EINTR
from os import getpid
from typing import Any

from zmq import ROUTER, Context, Socket, ZMQError, proxy

from era_kernel.signal_masks import start_kernel_thread


def address(connection: Mapping[str, Any], port: object) -> str:
    """Returns where a socket of the connection file is bound; over ipc, `ip` is a path."""
    transport = connection.get("transport", "tcp")
    separator = "-" if transport == "ipc" else ":"
    return f"{transport}://{connection.get('ip', '127.0.0.1')}{separator}{port}"


class Heartbeat:
    """Owns a socket of its own context, and the thread that echoes on it."""

    def __init__(self, connection: Mapping[str, Any]) -> None:
        self._context: Context[Socket[bytes]] | None = None
        self._process_id = getpid()
        self._ended_lock = allocate_lock()
        port = connection.get("hb_port")
        if not port:
            return
        self._context = Context()
        socket = self._context.socket(ROUTER)
        socket.bind(address(connection, port))
        self._ended_lock.acquire()
        start_kernel_thread(self._echo, socket)

    def close(self) -> None:
        """Ends the thread and frees the socket's address; does nothing in a forked child."""
        context, self._context = self._context, None
        if context is not None and getpid() == self._process_id:
            context.term()  # waits until the thread has closed the socket
            self._ended_lock.acquire()

    def _echo(self, socket: Socket[bytes]) -> None:
        is_open = True
        while is_open:
            try:
                proxy(socket, socket)
            except ZMQError as error:
                is_open = error.errno == EINTR
        socket.close(0)
        self._ended_lock.release()
