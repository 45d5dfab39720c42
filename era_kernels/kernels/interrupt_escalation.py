"""Ends a program step by step: by an interrupt, by another, at last by ending what it runs in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from era_kernels.concurrency.waiting import ends_within
from era_kernels.models import InterruptStep


class InterruptEscalation:
    """Escalates once; all callers who want the program to end share its steps.

    `interrupt` asks the program to stop, `nudge` wakes one that is blocked, `end` ends it in any
    case: `second_interrupt + kill` seconds after the first interrupt, whatever hangs.
    """

    def __init__(
        self,
        finished: asyncio.Future[Any],
        timeouts: tuple[float, float],
        interrupt: Callable[[], Awaitable[None]],
        end: Callable[[], Awaitable[None]],
        *,
        is_ending: Callable[[], bool] = lambda: False,
        nudge: Callable[[], None] = lambda: None,
    ) -> None:
        """`finished` is done when the program is over. While `is_ending()` nothing is sent to it.

        `timeouts` are seconds from the first interrupt to the second, and from that to the end.
        """
        self.steps: list[InterruptStep] = []
        self._finished = finished
        self._second_interrupt, self._kill = timeouts
        self._interrupt = interrupt
        self._end = end
        self._is_ending = is_ending
        self._nudge = nudge
        self._started_at = time.monotonic()

    async def run(self) -> None:
        """Escalates until the program is over and no interrupt is on its way any more.

        Raises what `interrupt` raised, after the end.
        """
        is_confirmed = False
        try:
            async with asyncio.timeout(self._second_interrupt + self._kill):
                await self._interrupt_twice()
                is_confirmed = True
        except TimeoutError:
            return
        finally:
            # An interrupt that is not confirmed could still arrive, and hit the next run.
            if not (self._finished.done() and is_confirmed):
                self._record_step("end")
                await self._end()

    async def _interrupt_twice(self) -> None:
        await self._send_interrupt("interrupt")
        if await ends_within(self._finished, self._second_interrupt):
            return
        await self._send_interrupt("interrupt again")
        self._nudge()
        await ends_within(self._finished, self._kill)

    async def _send_interrupt(self, action: str) -> None:
        """Interrupts the program, unless it has ended and only its output is on the way."""
        if not self._is_ending():
            self._record_step(action)
            await self._interrupt()

    def _record_step(self, action: str) -> None:
        self.steps.append(InterruptStep(action, time.monotonic() - self._started_at))
