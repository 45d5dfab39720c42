"""Interruptions: one run is ended for whoever asks, wherever it is on its way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from era_kernels.models import InterruptStep


class Cancellation:
    """The way to the end of one run, begun once; all who ask wait for it and learn its steps."""

    def __init__(self, remove_from_queue: Callable[[], Awaitable[None]]) -> None:
        """`remove_from_queue` takes the run out of the queue, if it waits there."""
        self.requested = asyncio.Event()  # the kernel must not get the run any more
        self.finished: asyncio.Event | None = None  # set by the run's log, once there is one
        # Set when the kernel has it: ends the run there, and nothing else.
        self.interrupt: Callable[[], Awaitable[Sequence[InterruptStep]]] | None = None
        self._remove_from_queue = remove_from_queue
        self._task: asyncio.Task[Sequence[InterruptStep]] | None = None

    async def __call__(self) -> Sequence[InterruptStep]:
        """What was done, when the execution has ended; the last step is `ended`.

        It is done also when all who asked have left.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._cancel())
        return await asyncio.shield(self._task)

    async def _cancel(self) -> Sequence[InterruptStep]:
        began_at = time.monotonic()
        self.requested.set()
        steps: list[InterruptStep] = []
        if self.interrupt is not None:
            steps.extend(await self.interrupt())
        else:
            steps.append(InterruptStep("cancel", 0.0))
            await self._remove_from_queue()
        assert self.finished is not None
        await self.finished.wait()
        return [*steps, InterruptStep("ended", time.monotonic() - began_at)]
