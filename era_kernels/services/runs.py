"""The runs of a session: one at a time, first come first served."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from era_kernels.errors import QueueFull
from era_kernels.models import Submission
from era_kernels.services.executions import Running
from era_kernels.services.seat import RETRY_AFTER


@dataclass(slots=True, eq=False)
class Ticket:
    """A run's place in the queue. `opening` ends when its log is open, or could not be."""

    submission: Submission
    timeout: float
    queued_at: float = field(default_factory=time.monotonic)
    opening: asyncio.Task[Running] | None = None
    running: Running | None = None
    seated: bool = False  # it has had the session's machine
    left: asyncio.Event = field(default_factory=asyncio.Event)


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
        self._tickets: deque[Ticket] = deque()
        self._worker: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """How many run or wait."""
        return len(self._tickets)

    @property
    def seated(self) -> list[Ticket]:
        """The run that has the machine, if there is one."""
        return [ticket for ticket in self._tickets if ticket.seated]

    @property
    def working(self) -> bool:
        return self._worker is not None and not self._worker.done()

    def check_room(self) -> None:
        """Raises QueueFull."""
        if len(self) > self._most_waiting:
            raise QueueFull(
                f"{len(self) - 1} runs wait in this session already.", retry_after=RETRY_AFTER
            )

    def add(self, ticket: Ticket) -> None:
        self._tickets.append(ticket)
        self.wake()

    def position(self, ticket: Ticket) -> int:
        """How many are before it."""
        return self._tickets.index(ticket)

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
        while self._tickets or not rested:
            rested = not self._tickets
            if rested:
                await self._rest()
                continue
            try:
                await self._serve(self._tickets[0])
            finally:
                self._tickets.popleft().left.set()
                self._move_up()

    def _move_up(self) -> None:
        for position, ticket in enumerate(self._tickets):
            if ticket.running is not None:
                ticket.running.execution = dataclasses.replace(
                    ticket.running.execution, position=position or None
                )
