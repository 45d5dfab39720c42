"""Lets one task at a time act on a name, or one on all names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class NameLocks:
    """One lock for each name that is held or waited for, and one for all of them."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._is_all_held = False
        self._waiters: list[asyncio.Future[None]] = []

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        """Holds a name while the context is open, once nobody else holds it or all."""
        await self._wait(lambda: not self._is_all_held and name not in self._held)
        self._held.add(name)
        try:
            yield
        finally:
            self._held.remove(name)
            self._wake()

    @asynccontextmanager
    async def hold_all(self) -> AsyncIterator[None]:
        """Holds all names while the context is open, once nobody else holds any."""
        await self._wait(lambda: not self._is_all_held)
        self._is_all_held = True
        try:
            await self._wait(lambda: not self._held)
            yield
        finally:
            self._is_all_held = False
            self._wake()

    async def _wait(self, is_free: Callable[[], bool]) -> None:
        while not is_free():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():  # else its task was cancelled
                waiter.set_result(None)
