"""Cancellation ends one execution, wherever it is: in the queue, starting, or on the kernel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from era_kernels.models import InterruptStep


class Cancellation:
    """Cancels one execution, once: all callers wait for the same task and get the same steps."""

    def __init__(
        self, cancel_early: Callable[[], Awaitable[Sequence[InterruptStep] | None]]
    ) -> None:
        """Takes `cancel_early`, which ends an execution that has not reached its process.

        It returns the steps by which it ended a process that was just being started, if any.
        """
        self.requested = asyncio.Event()  # from now on the kernel must not get the run
        self.finished: asyncio.Event | None = None  # the execution's; None until its log is open
        # Set once the kernel or the process has the execution: ends it there, and nothing else.
        self.interrupt: Callable[[], Awaitable[Sequence[InterruptStep]]] | None = None
        self._cancel_early = cancel_early
        self._task: asyncio.Task[Sequence[InterruptStep]] | None = None

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
        if self.interrupt is not None:
            steps = await self.interrupt()
        else:
            steps = await self._cancel_early() or [InterruptStep("cancel", 0.0)]
        assert self.finished is not None
        await self.finished.wait()
        return [*steps, InterruptStep("ended", time.monotonic() - began_at)]
