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
from era_kernels.sandbox.init.spec import IsolationKind
from era_kernels.sandbox.server.cgroups import CgroupTree, SandboxCgroup
from era_kernels.sandbox.server.control_channel import ChannelClosed
from era_kernels.sandbox.server.tiers import IsolationProfile
from era_kernels.sandbox.server.zygote_client import ZygoteClient

log = logging.getLogger(__name__)

EXIT_TIMEOUT = 5.0  # seconds for an init to end everything, and then for the zygote to end it
REFILL_DELAY = 0.02  # seconds after the last start until spares are made


class PreparedInit:
    """One init to be; whoever takes it has to `clear` it in the end."""

    def __init__(
        self, profile: IsolationProfile, zygote: ZygoteClient, cgroup: SandboxCgroup | None
    ) -> None:
        """Order it. Raises ChannelClosed when the zygote is dead."""
        self.pid: int | None = None  # of the init, on the host; never for signals
        self.on_pid: Callable[[int], None] | None = None  # told the pid when it is known later
        self.profile = profile
        self.cgroup = cgroup
        self.cgroup_procs = () if cgroup is None else tuple(cgroup.cgroup_procs)
        self._zygote = zygote
        self.control_socket, init_socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        spec = replace(profile.spec, cgroup_procs=self.cgroup_procs, seccomp_program="")
        try:
            self.number, self._exited = zygote.spawn_init(init_socket, spec, self._on_init_pid)
        except ChannelClosed:
            self.control_socket.close()
            raise

    @property
    def is_usable(self) -> bool:
        """Whether it lives, and its zygote too."""
        return self._zygote.is_alive and not self._exited.is_set()

    def kill(self) -> None:
        """End an init that does not end by itself."""
        self._zygote.kill_init(self.number)

    async def wait_exit(self) -> bool:
        """Wait for the death of the init and of all that it left behind; False: too long."""
        return await within_timeout(self._exited.wait())

    async def remove_cgroups(self) -> None:
        """Remove the groups, when it is gone; a second call is fine."""
        if self.cgroup is not None:
            await asyncio.to_thread(self.cgroup.remove)

    async def discard(self) -> None:
        """End it; nobody has used it."""
        self.control_socket.close()
        if not await self.wait_exit():
            self.kill()
            await self.wait_exit()
        await self.remove_cgroups()

    def _on_init_pid(self, pid: int) -> None:
        self.pid = pid
        if self.on_pid is not None:
            self.on_pid(pid)


class InitPool:
    """Orders cells of the zygote, which is started again when it dies, and keeps spares."""

    def __init__(
        self,
        zygote: ZygoteClient,
        entry_paths: Sequence[Path],
        zygote_home: Path,
        cgroups: CgroupTree,
    ) -> None:
        self.zygote = zygote
        self.cgroups = cgroups
        self._entry_paths = tuple(entry_paths)
        self._zygote_home = zygote_home
        self._restart_task: asyncio.Task[None] | None = None
        self._spare_profile: IsolationProfile | None = None  # of the spares
        self._spare_count = 0
        self._spares: list[PreparedInit] = []
        self._refill_task: asyncio.Task[None] | None = None
        self._refill_timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def keep_spares(self, profile: IsolationProfile, count: int) -> None:
        """From now on have so many spares with such walls."""
        self._spare_profile, self._spare_count = profile, count
        await self._refill()

    async def acquire(self, profile: IsolationProfile) -> PreparedInit:
        """A spare, or a new one. Raises KernelStartFailed, ShuttingDown."""
        await self.ensure_zygote()
        self._schedule_refill()
        while self._spares:
            spare = self._spares.pop()
            if spare.is_usable and spare.profile is profile:
                return spare
            await spare.discard()
        return await self._spawn(profile)

    async def ensure_zygote(self) -> ZygoteClient:
        """The zygote, started again if need be. Raises KernelStartFailed, ShuttingDown."""
        while self._is_closed or not self.zygote.is_alive:
            if self._is_closed:
                raise ShuttingDown("The server is stopping.")
            if self._restart_task is None or self._restart_task.done():
                self._restart_task = asyncio.create_task(self._restart_zygote())
            try:
                await asyncio.shield(self._restart_task)
            except StartError as error:
                raise KernelStartFailed(str(error), retry_after=1) from error
        return self.zygote

    async def begin_shutdown(self) -> None:
        """Order no more; a second call is fine."""
        self._is_closed = True
        if self._refill_timer is not None:
            self._refill_timer.cancel()
        tasks = [task for task in (self._restart_task, self._refill_task) if task is not None]
        if tasks:
            await asyncio.wait(tasks)

    async def aclose(self) -> None:
        """End the spares and the zygote, after all other cells; a second call is fine."""
        await self.begin_shutdown()
        while self._spares:
            await self._spares.pop().discard()
        await self.zygote.aclose()
        await asyncio.to_thread(self.cgroups.close)

    async def _spawn(self, profile: IsolationProfile) -> PreparedInit:
        cgroup = None
        try:
            if profile.spec.kind is not IsolationKind.NONE:
                cgroup = await asyncio.to_thread(self.cgroups.create_cgroup)
            return PreparedInit(profile, await self.ensure_zygote(), cgroup)
        except BaseException as error:
            if cgroup is not None:
                await asyncio.to_thread(cgroup.remove)
            if isinstance(error, (ChannelClosed, OSError)):
                why = str(error) or "the process that forks kernels cannot be reached"
                raise KernelStartFailed(f"A sandbox could not be made: {why}.") from error
            raise

    def _schedule_refill(self) -> None:
        if self._refill_timer is not None:
            self._refill_timer.cancel()
        if self._spare_count:
            self._refill_timer = asyncio.get_running_loop().call_later(
                REFILL_DELAY, self._start_refill
            )

    def _start_refill(self) -> None:
        if self._refill_task is None or self._refill_task.done():
            self._refill_task = asyncio.create_task(self._refill())

    async def _refill(self) -> None:
        """Without a spare a start takes longer, so it is no error that none can be had."""
        with suppress(KernelStartFailed, ShuttingDown):
            while (
                self._spare_profile
                and len(self._spares) < self._spare_count
                and not self._is_closed
            ):
                self._spares.append(await self._spawn(self._spare_profile))

    async def _restart_zygote(self) -> None:
        old = self.zygote
        await old.aclose()
        self.zygote = await ZygoteClient.start(
            old.preload, self._entry_paths, self._zygote_home, self.cgroups.directories
        )
        log.warning("the zygote was started again", extra={"pid": self.zygote.pid})


async def within_timeout(awaitable: Awaitable[object]) -> bool:
    """Wait for it, for as long as is reasonable."""
    try:
        async with asyncio.timeout(EXIT_TIMEOUT):
            await awaitable
    except TimeoutError:
        return False
    return True
