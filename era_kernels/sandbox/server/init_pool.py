"""Keeps pre-started inits, in their namespaces and cgroups, waiting for a sandbox spec.

The slow steps that are the same for all sandboxes (the system may take 10 ms until a process has
joined a group) are done in advance: spare inits are kept, and replaced when no sandbox starts.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from era_kernels.concurrency.waiting import within_timeout
from era_kernels.errors import KernelStartFailed, ShuttingDown
from era_kernels.sandbox.init.sandbox_spec import IsolationKind
from era_kernels.sandbox.server.cgroups import CgroupTree, SandboxCgroup
from era_kernels.sandbox.server.control_channel import ChannelError
from era_kernels.sandbox.server.tiers import IsolationProfile
from era_kernels.sandbox.server.zygote_client import ZygoteClient
from era_kernels.sandbox.server.zygote_keeper import ZygoteKeeper

log = logging.getLogger(__name__)

EXIT_TIMEOUT = 5.0  # seconds for an init to end everything, and then for the zygote to end it
REAP_TIMEOUT = 1.0  # seconds for the zygote to notice that an init is dead
REFILL_DELAY = 0.02  # seconds after the last start until spares are made


class PreparedInit:
    """One pre-started init; whoever acquires it calls `remove_cgroups` in the end."""

    def __init__(
        self, profile: IsolationProfile, zygote: ZygoteClient, cgroup: SandboxCgroup | None
    ) -> None:
        """Requests the init from the zygote. Raises ChannelClosed when the zygote is dead."""
        self.pid: int | None = None  # of the init, on the host; never for signals
        self.on_pid: Callable[[int], None] | None = None  # called with the pid when it is known
        self.profile = profile
        self.cgroup = cgroup
        self.cgroup_procs = () if cgroup is None else tuple(cgroup.cgroup_procs)
        self.refusal: str | None = None  # why there is no init
        self._zygote = zygote
        self.control_socket, init_socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        spec = replace(profile.spec, cgroup_procs=self.cgroup_procs, seccomp_program="")
        try:
            self._request = zygote.spawn_init(init_socket, spec, self._on_init_pid, self.on_refused)
        except ChannelError:
            self.control_socket.close()
            raise

    @property
    def number(self) -> int:
        """The number by which the zygote knows the init."""
        return self._request.number

    @property
    def is_usable(self) -> bool:
        """True while the init and its zygote live."""
        return self._zygote.is_alive and not self._request.exited.is_set()

    def kill(self) -> None:
        """Kills the init, when it does not end by itself."""
        self._zygote.kill_init(self.number)

    async def wait_reaped(self) -> None:
        """Waits until the zygote has reaped a dead init and killed its orphans; not for long.

        In namespaces there are none: nothing depends on the zygote there.
        """
        timeout = REAP_TIMEOUT if self.profile.spec.has_namespaces else EXIT_TIMEOUT
        if not await within_timeout(self._request.exited.wait(), timeout):
            log.warning("an init was not reaped", extra={"number": self.number})

    async def remove_cgroups(self) -> None:
        """Removes the groups, when the init is gone; a second call does nothing."""
        if self.cgroup is not None:
            await asyncio.to_thread(self.cgroup.remove)

    async def discard(self) -> None:
        """Ends the init, which has not been used."""
        self.control_socket.close()
        if not await within_timeout(self._request.exited.wait(), EXIT_TIMEOUT):
            self.kill()
            await self.wait_reaped()
        await self.remove_cgroups()

    def on_refused(self, error: OSError) -> None:
        """Notes why the system, or the zygote, does not let this init be made."""
        self.refusal = error.strerror or str(error)
        self.kill()

    def _on_init_pid(self, pid: int) -> None:
        self.pid = pid
        if self.on_pid is not None:
            self.on_pid(pid)


class InitPool:
    """Requests inits from the zygote and keeps spares."""

    def __init__(self, keeper: ZygoteKeeper, cgroups: CgroupTree) -> None:
        self.cgroups = cgroups
        self._keeper = keeper
        self._spare_profile: IsolationProfile | None = None  # of the spares
        self._spare_count = 0
        self._spares: list[PreparedInit] = []
        self._refill_task: asyncio.Task[None] | None = None
        self._refill_timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    @classmethod
    async def open(
        cls, preload: Sequence[str], entry_paths: Sequence[Path], home: Path, cgroups: CgroupTree
    ) -> InitPool:
        """Starts the zygote, see `ZygoteClient.start`. Raises StartError: the groups are closed."""
        try:
            zygote = await ZygoteClient.start(preload, entry_paths, home, cgroups.directories)
        except BaseException:
            await asyncio.to_thread(cgroups.close)
            raise
        return cls(ZygoteKeeper(zygote, entry_paths, home, cgroups.directories), cgroups)

    @property
    def zygote(self) -> ZygoteClient:
        """The process that forks the inits now."""
        return self._keeper.zygote

    async def keep_spares(self, profile: IsolationProfile, count: int) -> None:
        """Keeps `count` spares of this profile from now on."""
        self._spare_profile, self._spare_count = profile, count
        await self._refill()

    async def acquire(self, profile: IsolationProfile) -> PreparedInit:
        """Returns a spare or a new init. Raises KernelStartFailed, ShuttingDown."""
        await self._keeper.ensure()
        self._schedule_refill()
        while self._spares:
            spare = self._spares.pop()
            if spare.is_usable and spare.profile is profile:
                return spare
            await spare.discard()
        return await self._spawn(profile)

    async def begin_shutdown(self) -> None:
        """Stops starting inits; a second call is fine."""
        self._is_closed = True
        if self._refill_timer is not None:
            self._refill_timer.cancel()
        await self._keeper.stop_starting()
        if self._refill_task is not None:
            await asyncio.wait({self._refill_task})

    async def aclose(self) -> None:
        """Ends the spares and the zygote, after all acquired inits; a second call is fine."""
        await self.begin_shutdown()
        while self._spares:
            await self._spares.pop().discard()
        await self._keeper.aclose()
        await asyncio.to_thread(self.cgroups.close)

    async def _spawn(self, profile: IsolationProfile) -> PreparedInit:
        cgroup = None
        try:
            if profile.spec.kind is not IsolationKind.NONE:
                cgroup = await asyncio.to_thread(self.cgroups.create_cgroup)
            return PreparedInit(profile, await self._keeper.ensure(), cgroup)
        except BaseException as error:
            if cgroup is not None:
                await asyncio.to_thread(cgroup.remove)
            if isinstance(error, (ChannelError, OSError)):
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
        """Starts missing spares; a failure is ignored, as it only makes the next start slower."""
        with suppress(KernelStartFailed, ShuttingDown):
            while (
                self._spare_profile
                and len(self._spares) < self._spare_count
                and not self._is_closed
            ):
                self._spares.append(await self._spawn(self._spare_profile))
