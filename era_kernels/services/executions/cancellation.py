"""Cancellation ends one execution, wherever it is: in the queue, starting, or on the kernel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from era_kernels.models import InterruptStep

# Ends an execution that has not reached its process. Returns the steps by which it ended a process
# that was just being started, if any.
EarlyCancel: TypeAlias = Callable[[], Awaitable[Sequence[InterruptStep] | None]]


class Cancellation:
    """Cancels one execution, once: all callers wait for the same task and get the same steps."""

    def __init__(self, cancel_early: EarlyCancel, finished: asyncio.Event) -> None:
        """Takes the event `finished`, which is set at the end of the execution."""
        self.requested = asyncio.Event()  # from now on the kernel must not get the run
        self._cancel_early = cancel_early
        self._finished = finished
        self._interrupt: Callable[[], Awaitable[Sequence[InterruptStep]]] | None = None
        self._task: asyncio.Task[Sequence[InterruptStep]] | None = None

    @property
    def has_process(self) -> bool:
        """True once the kernel or the process has had the execution."""
        return self._interrupt is not None

    def attach(self, interrupt: Callable[[], Awaitable[Sequence[InterruptStep]]]) -> None:
        """Takes `interrupt`, which ends the execution in its process, and nothing else there."""
        self._interrupt = interrupt

    async def __call__(self) -> Sequence[InterruptStep]:
        """Cancels the execution; returns the steps taken once it has ended, the last being `ended`.

        The cancellation goes on when its callers are cancelled.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._cancel())
        return await asyncio.shield(self._task)

    async def _cancel(self) -> Sequence[InterruptStep]:
        began_at = time.monotonic()
        self.requested.set()
        if self._interrupt is not None:
            steps = await self._interrupt()
        else:
            steps = await self._cancel_early() or [InterruptStep("cancel", 0.0)]
        await self._finished.wait()
        return [*steps, InterruptStep("ended", time.monotonic() - began_at)]
