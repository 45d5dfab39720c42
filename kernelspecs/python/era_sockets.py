"""A kernel's sockets, and the requests that come by them."""

from __future__ import annotations

import _thread
import asyncio
import fcntl
import socket as sockets
import termios
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import zmq

Socket = zmq.Socket[bytes]
Parts = list[bytes]

PATIENCE = 10.0  # seconds for which a client may read nothing of the last words
LOOK = 0.002  # seconds between two looks whether it did


class Sockets:
    """The sockets that a connection file names, bound. Only `shell` is the main thread's."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self._context: zmq.Context[Socket] = zmq.Context()
        self.iopub = self._bind(told, zmq.XPUB, "iopub")
        self.shell = self._bind(told, zmq.ROUTER, "shell")
        self.control = self._bind(told, zmq.ROUTER, "control")
        self.stdin = self._bind(told, zmq.ROUTER, "stdin")

    def close(self) -> None:
        """Close them; the client has read what was sent when this returns, or reads no more.

        Handing it to the system is not enough: a client's libzmq that had stopped reading, since
        its queue was full, looks no further into a connection whose other end is gone.
        """
        links = _links(self.iopub)
        closed = _thread.allocate_lock()
        closed.acquire()
        _thread.start_new_thread(self._close, (closed,))
        unread, since = -1, time.monotonic()
        while (unread or closed.locked()) and time.monotonic() - since < PATIENCE:
            time.sleep(LOOK)
            now = sum(map(_unread, links))
            if now != unread:
                unread, since = now, time.monotonic()
        for link in links:
            link.close()

    def _close(self, closed: _thread.LockType) -> None:
        self._context.destroy(linger=-1)
        closed.release()

    def _bind(self, told: Mapping[str, Any], kind: int, channel: str) -> Socket:
        socket = self._context.socket(kind)
        socket.set(zmq.LINGER, 1000)
        socket.set(zmq.SNDHWM, 0)  # nothing is ever dropped: the backlog is this process's memory
        if kind == zmq.ROUTER:
            socket.set(zmq.ROUTER_HANDOVER, 1)
        gap = "-" if told["transport"] == "ipc" else ":"
        socket.bind(f"{told['transport']}://{told['ip']}{gap}{told[f'{channel}_port']}")
        return socket


def _links(socket: Socket) -> list[sockets.socket]:
    """Its connections over unix sockets: copies, so that they outlive it until all is read."""
    path = socket.get(zmq.LAST_ENDPOINT).rstrip(b"\0").decode().removeprefix("ipc://")
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # what listed them is closed by now
            link = sockets.fromfd(int(entry.name), sockets.AF_UNIX, sockets.SOCK_STREAM)
            if _is_link(link, path):
                links.append(link)
            else:
                link.close()
    return links


def _is_link(link: sockets.socket, path: str) -> bool:
    try:
        return link.getsockname() == path and link.getpeername() is not None
    except OSError:  # no socket, or the one that listens
        return False


def _unread(link: sockets.socket) -> int:
    """About how many bytes its other end has not read; 0 when that is gone."""
    return int.from_bytes(fcntl.ioctl(link, termios.TIOCOUTQ, bytes(4)), "little")


class Inbox:
    """Requests from shell and control, control first.

    libzmq tells of a change, not of a state, and sending may swallow that: so all there is is taken
    each time, and looked for once more before waiting. What comes by control is put in by the
    thread that reads it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, shell: Socket, control: Any) -> None:
        self._loop = loop
        self._shell = shell
        self._control = control
        self._requests: deque[Parts] = deque()
        self._urgent: deque[Parts] = deque()
        self._news = asyncio.Event()
        loop.add_reader(int(shell.get(zmq.FD)), self._take)

    def put(self, parts: Parts) -> None:
        """A request that came by control; called by another thread."""
        self._urgent.append(parts)
        with suppress(RuntimeError):  # the program closed the loop
            self._loop.call_soon_threadsafe(self._news.set)

    async def next(self) -> tuple[Any, Parts]:
        """The next request, and what takes its answer, as soon as there is one."""
        while True:
            self._take()
            if self._urgent:
                return self._control, self._urgent.popleft()
            if self._requests:
                return self._shell, self._requests.popleft()
            self._news.clear()
            if not self._urgent:
                await self._news.wait()

    def _take(self) -> None:
        with suppress(zmq.Again):
            while True:
                self._requests.append(self._shell.recv_multipart(zmq.NOBLOCK))
                self._news.set()
