"""Ends one run step by step: by an interrupt, by another, at last by the end of its machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from era_kernels.kernels.active_run import ActiveRun, KernelTimeouts
from era_kernels.models import InterruptStep


class InterruptEscalation:
    """Escalates once for one run; all callers who want the run to end share its steps.

    `interrupt` asks the program to stop, `nudge` sends a message that wakes a blocked kernel,
    `close_machine` ends the machine: `second_interrupt + kill` seconds after the first interrupt,
    whatever hangs.
    """

    def __init__(
        self,
        run: ActiveRun,
        timeouts: KernelTimeouts,
        interrupt: Callable[[], Awaitable[None]],
        nudge: Callable[[], None],
        close_machine: Callable[[], Awaitable[None]],
    ) -> None:
        self.steps: list[InterruptStep] = []
        self._run = run
        self._timeouts = timeouts
        self._interrupt = interrupt
        self._nudge = nudge
        self._close_machine = close_machine
        self._started_at = time.monotonic()

    async def run(self) -> None:
        """Escalates until the run is over and no interrupt is on its way any more.

        Raises what `interrupt` raised, after the end of the machine.
        """
        is_confirmed = False
        try:
            async with asyncio.timeout(self._timeouts.second_interrupt + self._timeouts.kill):
                await self._interrupt_twice()
                is_confirmed = True
        except TimeoutError:
            return
        finally:
            # An interrupt that is not confirmed could still arrive, and hit the next run.
            if not (self._run.finished.done() and is_confirmed):
                self._record_step("end")
                await self._close_machine()

    async def _interrupt_twice(self) -> None:
        await self._send_interrupt("interrupt")
        if await _finishes_within(self._run, self._timeouts.second_interrupt):
            return
        await self._send_interrupt("interrupt again")
        self._nudge()
        await _finishes_within(self._run, self._timeouts.kill)

    async def _send_interrupt(self, action: str) -> None:
        """Interrupts the program, unless it has ended and only its output is on the way."""
        if not self._run.has_program_ended:
            self._record_step(action)
            await self._interrupt()

    def _record_step(self, action: str) -> None:
        self.steps.append(InterruptStep(action, time.monotonic() - self._started_at))


async def _finishes_within(run: ActiveRun, timeout: float) -> bool:
    await asyncio.wait([run.finished], timeout=timeout)
    return run.finished.done()
