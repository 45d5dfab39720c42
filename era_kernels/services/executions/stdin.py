"""What a run asks of those who follow it, and what they answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from era_kernels.errors import NoInputPending
from era_kernels.models import InputRequest

ABANDONED_TIMEOUT = 10.0  # seconds for which a question outlives its last reader
MAX_PENDING = 16  # questions that may wait at once: threads of one program may each ask


class StdinSource(Protocol):
    """The kernel's side."""

    async def send_input(self, key: str, value: str) -> bool:
        """Answer a question. False: it does not wait any more."""

    def send_eof(self, key: str) -> None:
        """Nobody answers: for the program it is the end of its input."""


class StdinBroker:
    """The readers of one execution, and the questions that they have been asked.

    Where nobody listens, the program is told so at once. A value is handed on and never kept.
    """

    def __init__(self, abandoned_timeout: float = ABANDONED_TIMEOUT) -> None:
        self._abandoned_timeout = abandoned_timeout
        self._reader_count = 0
        self._source: StdinSource | None = None
        self._pending_keys: list[str] = []  # keys, the oldest first
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def attach(self, source: StdinSource) -> Iterator[None]:
        """While the program runs: what it asks comes from there."""
        self._source = source
        try:
            yield
        finally:
            self._source = None
            self._pending_keys.clear()
            self._stop_timer()

    @contextmanager
    def reader(self) -> Iterator[None]:
        """While a reader follows the execution."""
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
        """Are the readers to be asked? If not, the program is told that there is nobody.

        Where too many wait, the oldest waits no more: it may be one that the program has given up.
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
        """Answer the oldest question that still waits. Raises NoInputPending."""
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
