"""Keeps a zygote running: a new one is started as soon as one is dead or silent."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path

from era_kernels.errors import KernelStartFailed, ShuttingDown, StartError
from era_kernels.sandbox.server.zygote_client import ZygoteClient

log = logging.getLogger(__name__)

STABLE_SECONDS = 30.0  # a zygote that lived for so long is started again at once, and it is logged
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0  # seconds before a next start when it dies again and again
WAIT_TIMEOUT = 10.0  # seconds for which a start waits for a new zygote


class ZygoteKeeper:
    """The zygote of a server, and its successors."""

    def __init__(
        self,
        zygote: ZygoteClient,
        entry_paths: Sequence[Path],
        home: Path,
        cgroup_directories: Sequence[str],
    ) -> None:
        self.zygote = zygote
        self._entry_paths = tuple(entry_paths)
        self._home = home
        self._cgroup_directories = cgroup_directories
        self._started_at = time.monotonic()
        self._pause = 0.0  # seconds before the next start
        self._error: StartError | None = None  # of the last try
        self._restart_task: asyncio.Task[None] | None = None
        self._is_closed = False
        zygote.on_death = self._on_death

    async def ensure(self) -> ZygoteClient:
        """Returns a zygote that lives, waiting for one. Raises KernelStartFailed, ShuttingDown."""
        try:
            async with asyncio.timeout(WAIT_TIMEOUT):
                while not self._is_closed and not self.zygote.is_alive:
                    await self._wait_restart()
        except TimeoutError:
            why = "The process that forks kernels could not be started again in time."
            raise KernelStartFailed(why, retry_after=self._retry_after) from None
        if self._is_closed:
            raise ShuttingDown("The server is stopping.")
        return self.zygote

    async def stop_starting(self) -> None:
        """Ends a start that is under way; a second call is fine."""
        self._is_closed = True
        if self._restart_task is not None:
            self._restart_task.cancel()
            await asyncio.wait({self._restart_task})

    async def aclose(self) -> None:
        """Ends the zygote; a second call is fine."""
        await self.stop_starting()
        await self.zygote.aclose()

    @property
    def _retry_after(self) -> int:
        return max(1, math.ceil(self._pause))

    async def _wait_restart(self) -> None:
        if self._restart_task is None or self._restart_task.done():
            await self.zygote.wait_dead()  # silent, and just killed
            return
        if self._error is not None:  # this is paced: nobody waits for that
            raise KernelStartFailed(str(self._error), retry_after=self._retry_after)
        await asyncio.wait({self._restart_task})

    def _on_death(self) -> None:
        extra = {"pid": self.zygote.pid, "was_silent": self.zygote.was_silent}
        if time.monotonic() - self._started_at > STABLE_SECONDS:
            self._pause = 0.0
        if self._pause == 0.0:
            log.error("the zygote died", extra=extra)
        if not self._is_closed:
            self._restart_task = asyncio.create_task(self._restart(self._restart_task))

    async def _restart(self, last: asyncio.Task[None] | None) -> None:
        """Starts zygotes until one is there, after a pause that grows while they die young."""
        if last is not None and not last.done():
            await asyncio.wait({last})
        await self.zygote.aclose()
        while True:
            pause = self._pause
            self._pause = min(max(2 * pause, FIRST_PAUSE), LONGEST_PAUSE)
            await asyncio.sleep(pause)
            try:
                zygote = await ZygoteClient.start(
                    self.zygote.preload, self._entry_paths, self._home, self._cgroup_directories
                )
            except Exception as error:  # also what nobody foresaw, as a thread that cannot be made
                why = f"The process that forks kernels cannot be made: {error}."
                why = str(error) if isinstance(error, StartError) else why
                if self._error is None:
                    log.error("the zygote cannot be started again", extra={"why": why})
                self._error = StartError(why)
                continue
            self._error = None
            self._started_at = time.monotonic()
            self.zygote = zygote
            zygote.on_death = self._on_death
            if pause == 0.0:
                log.warning("the zygote was started again", extra={"pid": zygote.pid})
            if not zygote.is_alive:
                self._on_death()
            return
