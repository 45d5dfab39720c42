"""Passes a run's input requests to its readers, and their answers back to the kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from era_kernels.errors import NoInputPending
from era_kernels.models import InputRequest

ABANDONED_TIMEOUT = 10.0  # seconds that a request waits after the last reader has left
MAX_PENDING = 16  # requests that may wait at once: each thread of a program may send one


class StdinSource(Protocol):
    """The kernel's side of input requests, which takes the answers."""

    async def send_input(self, key: str, value: str) -> bool:
        """Answers a request. Returns False when the request does not wait any more."""

    def send_eof(self, key: str) -> None:
        """Ends a request without an answer: the program sees the end of its input."""


class StdinBroker:
    """Counts the readers of one execution and keeps the input requests that wait for an answer.

    Without a reader the program gets the end of input at once. A value is passed on, never kept.
    """

    def __init__(self, abandoned_timeout: float = ABANDONED_TIMEOUT) -> None:
        self._abandoned_timeout = abandoned_timeout
        self._reader_count = 0
        self._source: StdinSource | None = None
        self._pending_keys: list[str] = []  # oldest first
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def attach(self, source: StdinSource) -> Iterator[None]:
        """Attaches the kernel that sends the requests, for as long as the program runs."""
        self._source = source
        try:
            yield
        finally:
            self._source = None
            self._pending_keys.clear()
            self._stop_timer()

    @contextmanager
    def reader(self) -> Iterator[None]:
        """Counts a reader for as long as it follows the execution."""
        self._reader_count += 1
        self._stop_timer()
        try:
            yield
        finally:
            self._reader_count -= 1
            if not self._reader_count and self._pending_keys:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(self._abandoned_timeout, self._send_eof_to_all)

    def offer(self, request: InputRequest) -> bool:
        """Returns True when the readers are to see the request; without readers, sends the EOF.

        Past MAX_PENDING the oldest request gets the end of input: the program may have given it up.
        """
        if self._source is None:
            return False
        if not self._reader_count:
            self._source.send_eof(request.key)
            return False
        self._pending_keys.append(request.key)
        if len(self._pending_keys) > MAX_PENDING:
            self._source.send_eof(self._pending_keys.pop(0))
        return True

    async def reply(self, value: str) -> None:
        """Answers the oldest request that still waits. Raises NoInputPending."""
        while self._pending_keys and self._source is not None:
            if await self._source.send_input(self._pending_keys.pop(0), value):
                return
        raise NoInputPending("The program does not wait for input.")

    def _send_eof_to_all(self) -> None:
        keys, self._pending_keys = self._pending_keys, []
        for key in keys:
            if self._source is not None:
                self._source.send_eof(key)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
