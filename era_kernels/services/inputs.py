"""What a run asks of those who follow it, and what they answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from era_kernels.errors import NoInputPending
from era_kernels.models import InputRequest

PATIENCE = 10.0  # seconds for which a question outlives its last reader
MOST = 16  # questions that may wait at once: threads of one program may each ask


class Asker(Protocol):
    """The kernel's side."""

    async def give_input(self, key: str, value: str) -> bool:
        """Answer a question. False: it does not wait any more."""

    def refuse_input(self, key: str) -> None:
        """Nobody answers: for the program it is the end of its input."""


class Inputs:
    """The readers of one execution, and the questions that they have been asked.

    Where nobody listens, the program is told so at once. A value is handed on and never kept.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._listeners = 0
        self._asker: Asker | None = None
        self._waiting: list[str] = []  # keys, the oldest first
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def of(self, asker: Asker) -> Iterator[None]:
        """While the program runs: what it asks comes from there."""
        self._asker = asker
        try:
            yield
        finally:
            self._asker = None
            self._waiting.clear()
            self._stop_timer()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While a reader follows the execution."""
        self._listeners += 1
        self._stop_timer()
        try:
            yield
        finally:
            self._listeners -= 1
            if not self._listeners and self._waiting:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(self._patience, self._refuse_all)

    def take(self, request: InputRequest) -> bool:
        """Are the readers to be asked? If not, the program is told that there is nobody.

        Where too many wait, the oldest waits no more: it may be one that the program has given up.
        """
        if self._asker is None:
            return False
        if not self._listeners:
            self._asker.refuse_input(request.key)
            return False
        self._waiting.append(request.key)
        if len(self._waiting) > MOST:
            self._asker.refuse_input(self._waiting.pop(0))
        return True

    async def give(self, value: str) -> None:
        """Answer the oldest question that still waits. Raises NoInputPending."""
        while self._waiting and self._asker is not None:
            if await self._asker.give_input(self._waiting.pop(0), value):
                return
        raise NoInputPending("The program does not wait for input.")

    def _refuse_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for key in waiting:
            if self._asker is not None:
                self._asker.refuse_input(key)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
