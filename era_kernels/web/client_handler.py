"""Sends to the client of a request, and waits for things as long as it stays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from tornado.web import RequestHandler

from era_kernels.concurrency.background import cancel_and_wait

T = TypeVar("T")


class ClientDisconnected(Exception):
    """The client closed its connection before the whole answer was sent."""


class ClientHandler(RequestHandler):
    """Knows whether the client is still there: `disconnected` is done when it has left."""

    def _begin_watching(self) -> None:
        self.disconnected: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if not self.disconnected.done():
            self.disconnected.set_result(None)

    async def send(self, data: bytes) -> None:
        """Sends a part of an answer; returns when the client took it. Raises ClientDisconnected."""
        self.write(data)
        sent = self.flush()
        # Tornado forgets this future when the connection closes, but not `disconnected`.
        await self.wait(sent)
        if sent.exception() is not None or self.disconnected.done():
            raise ClientDisconnected

    async def wait(self, future: asyncio.Future[T], timeout: float | None = None) -> bool:
        """Waits for `future`, at most `timeout` seconds; returns whether it is done.

        Raises ClientDisconnected when the client leaves before.
        """
        if not future.done():
            awaited: set[asyncio.Future[Any]] = {future, self.disconnected}
            await asyncio.wait(awaited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if self.disconnected.done() and not future.done():
            raise ClientDisconnected
        return future.done()

    async def while_connected(self, work: Awaitable[T]) -> T:
        """Returns the result of `work`.

        When the client leaves, cancels `work` and raises ClientDisconnected.
        """
        task = asyncio.ensure_future(work)
        try:
            await self.wait(task)
            return task.result()
        finally:
            await cancel_and_wait(task)

    def abort_connection(self) -> None:
        """Closes the connection without an answer."""
        self.request.connection.stream.close()  # type: ignore[union-attr]
