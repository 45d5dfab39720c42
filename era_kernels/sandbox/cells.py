"""Cells: inits in namespaces and control groups of their own, who wait for the plan of their walls.

What takes long and is the same for all (the system may wait 10 ms until a process has joined a
group) can be done before anybody asks: a spare cell is kept, and renewed in a quiet moment.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from era_kernels.errors import KernelStartFailed, ShuttingDown, StartError
from era_kernels.sandbox.channel import ChannelClosed
from era_kernels.sandbox.groups import Group, Groups
from era_kernels.sandbox.plan import Kind
from era_kernels.sandbox.tiers import Walls
from era_kernels.sandbox.zygote_process import ZygoteProcess

log = logging.getLogger(__name__)

PATIENCE = 5.0  # seconds for an init to end everything, and then for the zygote to end it
QUIET = 0.02  # seconds after the last start until spares are made


class Cell:
    """One init to be; whoever takes it has to `clear` it in the end."""

    def __init__(self, walls: Walls, zygote: ZygoteProcess, group: Group | None) -> None:
        """Order it. Raises ChannelClosed when the zygote is dead."""
        self.pid: int | None = None  # of the init, on the host; never for signals
        self.entered: Callable[[int], None] | None = None  # told the pid when it is known later
        self.walls = walls
        self.group = group
        self.doors = () if group is None else tuple(group.doors)
        self._zygote = zygote
        self.end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        plan = replace(walls.plan, doors=self.doors, filter="")
        try:
            self.number, self._gone = zygote.order(theirs, plan, self._entered)
        except ChannelClosed:
            self.end.close()
            raise

    @property
    def usable(self) -> bool:
        """Whether it lives, and its zygote too."""
        return self._zygote.alive and not self._gone.is_set()

    def kill(self) -> None:
        """End an init that does not end by itself."""
        self._zygote.kill(self.number)

    async def gone(self) -> bool:
        """Wait for the death of the init and of all that it left behind; False: too long."""
        return await happens(self._gone.wait())

    async def clear(self) -> None:
        """Remove the groups, when it is gone; a second call is fine."""
        if self.group is not None:
            await asyncio.to_thread(self.group.remove)

    async def discard(self) -> None:
        """End it; nobody has used it."""
        self.end.close()
        if not await self.gone():
            self.kill()
            await self.gone()
        await self.clear()

    def _entered(self, pid: int) -> None:
        self.pid = pid
        if self.entered is not None:
            self.entered(pid)


class Cells:
    """Orders cells of the zygote, which is started again when it dies, and keeps spares."""

    def __init__(
        self, zygote: ZygoteProcess, paths: Sequence[Path], home: Path, groups: Groups
    ) -> None:
        self.zygote = zygote
        self.groups = groups
        self._paths = tuple(paths)
        self._home = home
        self._restarting: asyncio.Task[None] | None = None
        self._kept: Walls | None = None  # of the spares
        self._wanted = 0
        self._spares: list[Cell] = []
        self._renewing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def keep(self, walls: Walls, count: int) -> None:
        """From now on have so many spares with such walls."""
        self._kept, self._wanted = walls, count
        await self._renew()

    async def take(self, walls: Walls) -> Cell:
        """A spare, or a new one. Raises KernelStartFailed, ShuttingDown."""
        await self.living_zygote()
        self._renew_soon()
        while self._spares:
            spare = self._spares.pop()
            if spare.usable and spare.walls is walls:
                return spare
            await spare.discard()
        return await self._order(walls)

    async def living_zygote(self) -> ZygoteProcess:
        """The zygote, started again if need be. Raises KernelStartFailed, ShuttingDown."""
        while self._closed or not self.zygote.alive:
            if self._closed:
                raise ShuttingDown("The server is stopping.")
            if self._restarting is None or self._restarting.done():
                self._restarting = asyncio.create_task(self._restart())
            try:
                await asyncio.shield(self._restarting)
            except StartError as error:
                raise KernelStartFailed(str(error), retry_after=1) from error
        return self.zygote

    async def stop(self) -> None:
        """Order no more; a second call is fine."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        tasks = [task for task in (self._restarting, self._renewing) if task is not None]
        if tasks:
            await asyncio.wait(tasks)

    async def aclose(self) -> None:
        """End the spares and the zygote, after all other cells; a second call is fine."""
        await self.stop()
        while self._spares:
            await self._spares.pop().discard()
        await self.zygote.aclose()
        await asyncio.to_thread(self.groups.close)

    async def _order(self, walls: Walls) -> Cell:
        group = None
        try:
            if walls.plan.kind is not Kind.NONE:
                group = await asyncio.to_thread(self.groups.make)
            return Cell(walls, await self.living_zygote(), group)
        except BaseException as error:
            if group is not None:
                await asyncio.to_thread(group.remove)
            if isinstance(error, (ChannelClosed, OSError)):
                why = str(error) or "the process that forks kernels cannot be reached"
                raise KernelStartFailed(f"A sandbox could not be made: {why}.") from error
            raise

    def _renew_soon(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._wanted:
            self._timer = asyncio.get_running_loop().call_later(QUIET, self._renew_now)

    def _renew_now(self) -> None:
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        """Without a spare a start takes longer, so it is no error that none can be had."""
        with suppress(KernelStartFailed, ShuttingDown):
            while self._kept and len(self._spares) < self._wanted and not self._closed:
                self._spares.append(await self._order(self._kept))

    async def _restart(self) -> None:
        old = self.zygote
        await old.aclose()
        self.zygote = await ZygoteProcess.start(
            old.preload, self._paths, self._home, self.groups.homes
        )
        log.warning("the zygote was started again", extra={"pid": self.zygote.pid})


async def happens(what: Awaitable[object]) -> bool:
    """Wait for it, for as long as is reasonable."""
    try:
        async with asyncio.timeout(PATIENCE):
            await what
    except TimeoutError:
        return False
    return True
