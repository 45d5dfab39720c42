"""The queue of a session: runs and copies, one at a time, first come first served."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from era_kernels.errors import QueueFull
from era_kernels.models import Submission
from era_kernels.services.executions import Running
from era_kernels.services.interruption import Interruption
from era_kernels.services.seat import RETRY_AFTER


@dataclass(slots=True, eq=False, kw_only=True)
class Turn:
    """A place in the queue, and what becomes of it: `reached` once, `left` in the end."""

    seated: bool = False  # it has had the session's machine
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, serve_run: Callable[[Ticket], Awaitable[None]]) -> None:
        """Its time has come: who waits for it goes on, and says when it is over."""
        self.reached.set()
        await self.left.wait()

    def move_up(self, position: int) -> None:
        """So many are before it now."""


@dataclass(slots=True, eq=False)
class Ticket(Turn):
    """A run's place in the queue. `opening` ends when its log is open, or could not be."""

    submission: Submission
    timeout: float
    interruption: Interruption
    queued_at: float = field(default_factory=time.monotonic)
    opening: asyncio.Task[Running] | None = None
    running: Running | None = None

    async def serve(self, serve_run: Callable[[Ticket], Awaitable[None]]) -> None:
        await serve_run(self)

    def move_up(self, position: int) -> None:
        if self.running is not None:
            self.running.execution = dataclasses.replace(
                self.running.execution, position=position or None
            )


class Runs:
    """The queue and its worker. `serve` takes the first, which stays in the queue meanwhile.

    `rest` is called when the queue is empty. Neither may raise.
    """

    def __init__(
        self,
        most_waiting: int,
        serve: Callable[[Ticket], Awaitable[None]],
        rest: Callable[[], Awaitable[None]],
    ) -> None:
        self._most_waiting = most_waiting
        self._serve = serve
        self._rest = rest
        self._turns: deque[Turn] = deque()
        self._served: Turn | None = None
        self._worker: asyncio.Task[None] | None = None
        self.idle_since = time.monotonic()

    def __len__(self) -> int:
        """How many run or wait."""
        return len(self._turns)

    @property
    def seated(self) -> list[Turn]:
        """The run that has the machine, if there is one."""
        return [turn for turn in self._turns if turn.seated]

    @property
    def working(self) -> bool:
        return self._worker is not None and not self._worker.done()

    def check_room(self) -> None:
        """Raises QueueFull."""
        if len(self) > self._most_waiting:
            raise QueueFull(
                f"{len(self) - 1} runs wait in this session already.", retry_after=RETRY_AFTER
            )

    def add(self, turn: Turn) -> None:
        self._turns.append(turn)
        self.wake()

    def withdraw(self, turn: Turn) -> bool:
        """Give a place back, if it still waits for its turn; those behind it move up."""
        if turn is self._served or turn.left.is_set():
            return False
        turn.left.set()
        self._turns.remove(turn)
        self._move_up()
        return True

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One's turn among the runs, for as long as the context is open. Raises QueueFull.

        Who is cancelled while waiting gives the place back.
        """
        self.check_room()
        turn = Turn()
        self.add(turn)
        try:
            await turn.reached.wait()
            yield
        finally:
            self.withdraw(turn)
            turn.left.set()

    def position(self, turn: Turn) -> int:
        """How many are before it."""
        return self._turns.index(turn)

    def wake(self) -> None:
        """Serve who is there, and then rest."""
        if not self.working:
            self._worker = asyncio.create_task(self._work())

    async def wait_idle(self) -> None:
        """Until no run is under way or waits."""
        if self._worker is not None:
            await asyncio.wait([self._worker])

    async def _work(self) -> None:
        rested = False
        while self._turns or not rested:
            rested = not self._turns
            if rested:
                await self._rest()
                continue
            turn = self._served = self._turns[0]
            try:
                await turn.serve(self._serve)
            finally:
                self._served = None
                self._turns.remove(turn)
                turn.left.set()
                self.idle_since = time.monotonic()
                self._move_up()

    def _move_up(self) -> None:
        for position, turn in enumerate(self._turns):
            turn.move_up(position)
