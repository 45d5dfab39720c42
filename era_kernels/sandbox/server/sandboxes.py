"""Opens the sandboxes of a server, with the strongest isolation that works on this host."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from era_kernels.errors import KernelStartFailed
from era_kernels.models import UNSANDBOXED_TIER, Isolation, Limits, SessionPaths
from era_kernels.models.internet import OutboundRules
from era_kernels.safe_fs.trash import Trash
from era_kernels.sandbox.init.sandbox_spec import SandboxSpec
from era_kernels.sandbox.server import runtime_dirs
from era_kernels.sandbox.server.all_sessions_memory import AllSessionsMemoryMonitor
from era_kernels.sandbox.server.cgroups import CgroupTree
from era_kernels.sandbox.server.disk_reserve import DiskReserve
from era_kernels.sandbox.server.host_resources import HostResources
from era_kernels.sandbox.server.init_pool import InitPool
from era_kernels.sandbox.server.limit_monitor import LimitMonitor
from era_kernels.sandbox.server.pasta import Outbounds
from era_kernels.sandbox.server.sandbox import Sandbox
from era_kernels.sandbox.server.sandbox_kill import end_all, end_one
from era_kernels.sandbox.server.tier_probe import TierProbe, find_outbound_failure
from era_kernels.sandbox.server.tiers import IsolationPolicy, IsolationProfile, with_outbound
from era_kernels.sandbox.server.uids import UidAllocator, available_uids
from era_kernels.sandbox.server.zygote_client import ZygoteClient


class Sandboxes:
    """All sandboxes of a server, and the zygote that forks their inits."""

    def __init__(
        self,
        runtime: Path,
        init_pool: InitPool,
        reserve: DiskReserve | None,
        find_rules: Callable[[], OutboundRules] | None,
    ) -> None:
        """Makes the object only; callers use `open`."""
        self.profile = IsolationProfile(tier=UNSANDBOXED_TIER, spec=SandboxSpec())
        self._runtime = runtime
        self._init_pool = init_pool
        groups = init_pool.cgroups
        memory_monitor = AllSessionsMemoryMonitor(groups.server_memory, groups.memory_group)
        self._limit_monitor = LimitMonitor(memory_monitor, reserve)
        self._uid_allocator = UidAllocator(available_uids())
        outbound_uid = self._uid_allocator.outbound_uid
        self.outbounds = Outbounds(init_pool, outbound_uid, find_rules)
        self._sandboxes: set[Sandbox] = set()
        self._trash = Trash()

    @classmethod
    async def open(
        cls,
        runtime: Path,
        preload: Sequence[str],
        entry_paths: Sequence[Path],
        policy: IsolationPolicy | None = None,
        spare_count: int = 0,
        server_memory: int | None = None,
        disk_reserve: DiskReserve | None = None,
        find_rules: Callable[[], OutboundRules] | None = None,
    ) -> Sandboxes:
        """Starts the zygote, which imports the modules of `preload`; entries lie in `entry_paths`.

        `runtime` is a short directory (made where missing) for the sandboxes' own directories; no
        policy is no isolation. `spare_count` inits of 3 MB wait: the next sandbox is ready 15 ms
        sooner. Sandboxes have `server_memory` bytes together, and leave a reserve of the disk.
        `find_rules` tells what they may reach by pasta; without it there is no such way out.
        Raises StartError when `runtime` is too long for sockets, the zygote does not start, or no
        isolation works that is strong enough.
        """
        runtime = await asyncio.to_thread(runtime_dirs.create_base, runtime)
        open_cgroups = CgroupTree if policy is None else partial(CgroupTree.open, server_memory)
        cgroups = await asyncio.to_thread(open_cgroups)
        zygote_home = runtime / runtime_dirs.ZYGOTE_DIRECTORY
        init_pool = await InitPool.open(preload, entry_paths, zygote_home, cgroups)
        sandboxes = cls(runtime, init_pool, disk_reserve, find_rules)
        if policy is not None:
            try:
                await sandboxes._find_profile(policy)
                await sandboxes._init_pool.keep_spares(sandboxes.profile, spare_count)
            except BaseException:
                await sandboxes.aclose()
                raise
        return sandboxes

    @property
    def zygote(self) -> ZygoteClient:
        """The process that forks the inits of all sandboxes."""
        return self._init_pool.zygote

    @property
    def isolation(self) -> Isolation:
        """The tier of isolation and its gaps."""
        return self.profile.isolation

    async def open_sandbox(
        self, paths: SessionPaths, limits: Limits, min_reserved: int = 0
    ) -> Sandbox:
        """Opens a sandbox with no process in it but its init.

        Without isolation nothing is confined to `paths` and no limit enforced: `isolation` says so.
        Each process may reserve `min_reserved` bytes. Raises KernelStartFailed, ShuttingDown.
        """
        for _ in range(2):  # a second time when the zygote dies between the check and the reply
            sandbox = await self._create(self.profile, paths, limits, min_reserved)
            if await self._wait_until_ready(sandbox):
                return sandbox
            if sandbox.isolation_error is not None:
                raise KernelStartFailed(f"No walls could be raised: {sandbox.isolation_error}.")
        raise KernelStartFailed("The process that forks kernels died, or cannot fork any more.")

    async def _find_profile(self, policy: IsolationPolicy) -> None:
        """Finds the strongest isolation, and whether pasta works with it."""
        directory = self._runtime / runtime_dirs.PROBE_DIRECTORY
        probe = TierProbe(directory, self._create)
        found = await probe.find_strongest(policy) or self.profile
        if found.spec.has_namespaces and self.outbounds.problem is None:
            resolvers = await asyncio.to_thread(self.outbounds.find_resolvers)
            served = with_outbound(found, self.outbounds.uid, resolvers)
            problem = await probe.find_failure(served, find_outbound_failure)
            if problem is None:
                found = served
            self.outbounds.problem = problem
        found = replace(found, outbound_problem=self.outbounds.problem)
        self.profile = found.with_cgroups(self._init_pool.cgroups)

    async def check(self) -> None:
        """Checks that kernels can be started. Raises Unavailable, which says why they cannot."""
        self._init_pool.zygote.check()

    async def aclose(self) -> None:
        """Ends all sandboxes at once, then the zygote; a second call is fine."""
        await self._init_pool.begin_shutdown()
        await self._limit_monitor.aclose()
        await end_all(sandbox.aclose for sandbox in tuple(self._sandboxes))
        await self._init_pool.aclose()
        zygote_home = self._runtime / runtime_dirs.ZYGOTE_DIRECTORY
        await asyncio.to_thread(self._trash.remove, zygote_home)
        await asyncio.to_thread(self._trash.close)

    async def _create(
        self, profile: IsolationProfile, paths: SessionPaths, limits: Limits, min_reserved: int = 0
    ) -> Sandbox:
        # The init starts while the host's resources are made.
        prepared_init = await self._init_pool.acquire(profile)
        resources = HostResources(
            self._runtime, profile, paths, limits, self._uid_allocator, self._trash, min_reserved
        )
        try:
            spec = await resources.prepare_uncancelled(prepared_init.cgroup)
            monitor = self._limit_monitor if profile.tier < UNSANDBOXED_TIER else None
            sandbox = Sandbox(
                resources, spec, prepared_init, self._sandboxes.discard, monitor, self.outbounds
            )
        except BaseException as error:
            await prepared_init.discard()
            await asyncio.to_thread(resources.release)
            if isinstance(error, OSError):
                why = f"A session's directory cannot be used: {error}."
                raise KernelStartFailed(why) from error
            raise
        self._sandboxes.add(sandbox)
        return sandbox

    async def _wait_until_ready(self, sandbox: Sandbox) -> bool:
        """Waits for a sandbox to be ready; closes it when it fails or the wait is cancelled."""
        try:
            if await sandbox.wait_ready():
                return True
        except asyncio.CancelledError:
            await end_one(sandbox.aclose)
            raise
        await sandbox.aclose()
        return False
