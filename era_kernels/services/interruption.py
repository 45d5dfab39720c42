"""Interruptions: one run is ended for whoever asks, wherever it is on its way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from era_kernels.models import Step


class Interruption:
    """The way to the end of one run, begun once; all who ask wait for it and learn its steps."""

    def __init__(self, withdraw: Callable[[], Awaitable[None]]) -> None:
        """`withdraw` takes the run out of the queue, if it waits there."""
        self.asked = asyncio.Event()  # the kernel must not get the run any more
        self.finished: asyncio.Event | None = None  # set by the run's log, once there is one
        # Set when the kernel has it: ends the run there, and nothing else.
        self.stop: Callable[[], Awaitable[Sequence[Step]]] | None = None
        self._withdraw = withdraw
        self._way: asyncio.Task[Sequence[Step]] | None = None

    async def __call__(self) -> Sequence[Step]:
        """What was done, when the execution has ended; the last step is `ended`.

        It is done also when all who asked have left.
        """
        if self._way is None:
            self._way = asyncio.create_task(self._end())
        return await asyncio.shield(self._way)

    async def _end(self) -> Sequence[Step]:
        began = time.monotonic()
        self.asked.set()
        steps: list[Step] = []
        if self.stop is not None:
            steps.extend(await self.stop())
        else:
            steps.append(Step("cancel", 0.0))
            await self._withdraw()
        assert self.finished is not None
        await self.finished.wait()
        return [*steps, Step("ended", time.monotonic() - began)]
