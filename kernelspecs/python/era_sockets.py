"""A kernel's sockets, and the requests that come by them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import zmq

Socket = zmq.Socket[bytes]
Parts = list[bytes]


class Sockets:
    """The sockets that a connection file names, bound. All but `iopub` are the main thread's."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self._context: zmq.Context[Socket] = zmq.Context()
        self.iopub = self._bind(told, zmq.XPUB, "iopub")
        self.shell = self._bind(told, zmq.ROUTER, "shell")
        self.control = self._bind(told, zmq.ROUTER, "control")
        self.stdin = self._bind(told, zmq.ROUTER, "stdin")

    def close(self) -> None:
        """Close them; what was sent is in the hands of the system when this returns."""
        self._context.destroy(linger=1000)

    def _bind(self, told: Mapping[str, Any], kind: int, channel: str) -> Socket:
        socket = self._context.socket(kind)
        socket.set(zmq.LINGER, 1000)
        socket.set(zmq.SNDHWM, 0)  # nothing is ever dropped: the backlog is this process's memory
        if kind == zmq.ROUTER:
            socket.set(zmq.ROUTER_HANDOVER, 1)
        gap = "-" if told["transport"] == "ipc" else ":"
        socket.bind(f"{told['transport']}://{told['ip']}{gap}{told[f'{channel}_port']}")
        return socket


class Inbox:
    """Requests from shell and control, control first.

    libzmq tells of a change, not of a state, and sending may swallow that: so all there is is taken
    each time, and looked for once more before waiting.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, sockets: Sockets) -> None:
        self._waiting: dict[Socket, deque[Parts]] = {
            sockets.control: deque(),
            sockets.shell: deque(),
        }
        self._news = asyncio.Event()
        for socket in self._waiting:
            loop.add_reader(int(socket.get(zmq.FD)), self._take)

    async def next(self) -> tuple[Socket, Parts]:
        """The next request, as soon as there is one."""
        while True:
            self._take()
            for socket, waiting in self._waiting.items():
                if waiting:
                    return socket, waiting.popleft()
            self._news.clear()
            await self._news.wait()

    def _take(self) -> None:
        for socket, waiting in self._waiting.items():
            with suppress(zmq.Again):
                while True:
                    waiting.append(socket.recv_multipart(zmq.NOBLOCK))
                    self._news.set()
