"""Opens sandboxes and starts processes in them; a session's processes start in no other way.

server → zygote (one) → init (one per sandbox) → processes; `init/zygote.py` shows the sequence.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from era_kernels.errors import KernelStartFailed
from era_kernels.models import (
    UNSANDBOXED_TIER,
    ExitInfo,
    Isolation,
    JsonObject,
    Limits,
    SessionListener,
    SessionPaths,
)
from era_kernels.sandbox.init.fd_messages import MessageTooLarge
from era_kernels.sandbox.init.spec import SandboxSpec
from era_kernels.sandbox.server import connections, runtime_dirs
from era_kernels.sandbox.server.cgroups import CgroupTree
from era_kernels.sandbox.server.connections import CONNECT_TIMEOUT
from era_kernels.sandbox.server.control_channel import ChannelClosed, ChannelError, ControlChannel
from era_kernels.sandbox.server.disk_reserve import DiskReserve
from era_kernels.sandbox.server.host_resources import HostResources
from era_kernels.sandbox.server.init_pool import InitPool, PreparedInit, within_timeout
from era_kernels.sandbox.server.limit_monitor import LimitMonitor, MonitoredSandbox
from era_kernels.sandbox.server.listeners import listen_in_namespace
from era_kernels.sandbox.server.oom_listener import OomListener
from era_kernels.sandbox.server.process import Process, open_process
from era_kernels.sandbox.server.process_command import Command, ProcessNotStarted, start_error
from era_kernels.sandbox.server.sandbox_end import SandboxEnd, end_all
from era_kernels.sandbox.server.server_memory import ServerMemoryMonitor
from era_kernels.sandbox.server.tier_probe import TierProbe
from era_kernels.sandbox.server.tiers import IsolationPolicy, IsolationProfile
from era_kernels.sandbox.server.uids import UidAllocator, available_uids
from era_kernels.sandbox.server.zygote_client import ZygoteClient

__all__ = ["Command", "IsolationPolicy", "Process", "Sandbox", "Sandboxes"]

log = logging.getLogger(__name__)

SIGKILL = signal.SIGKILL.value
READY_TIMEOUT = 15.0  # seconds for an init to raise the walls
SILENT = "the process that starts and ends this session's programs did not answer"
MAX_DETACHED = 32  # ended processes whose outputs others hold open; more are closed


class Sandbox:
    """One init and the processes under it; made by `Sandboxes.open_sandbox`."""

    def __init__(
        self,
        resources: HostResources,
        spec: SandboxSpec,
        prepared_init: PreparedInit,
        on_closed: Callable[[Sandbox], None],
        limit_monitor: LimitMonitor | None,
    ) -> None:
        """Has the isolation applied; `wait_ready` waits for that. Raises OSError.

        `limit_monitor` ends the sandbox when its processes together exceed a limit.
        """
        loop = asyncio.get_running_loop()
        self.pid = prepared_init.pid  # of the init, on the host; never for signals
        self.isolation_error: str | None = None  # why the isolation failed
        self._prepared_init = prepared_init
        self._resources = resources
        self._spec = spec
        self._on_closed = on_closed
        self._ready: asyncio.Future[bool] = loop.create_future()
        self._ended: asyncio.Future[ExitInfo] = loop.create_future()
        self._processes: dict[int, Process] = {}
        self._last_process = 0
        self._reason: str | None = None
        self._close_task: asyncio.Task[None] | None = None
        self._limit_monitor = limit_monitor
        self._monitored: MonitoredSandbox | None = None
        on_silent = partial(self._on_limit_exceeded, SILENT)
        control = prepared_init.control_socket
        self._control = ControlChannel(control, self._on_message, self._on_end, on_silent)
        self._end = SandboxEnd(prepared_init.cgroup, spec)
        self._oom_listener = OomListener(resources, self._on_limit_exceeded)
        prepared_init.on_pid = self._on_init_pid
        self._end.set_init(self.pid)
        self._control.send({"op": "apply", "spec": spec.to_json()}, (), prepared_init.on_refused)

    @property
    def runtime_directory(self) -> Path:
        """The directory for sockets, as a path on the host."""
        return self._resources.runtime_directory

    @property
    def inner_runtime_directory(self) -> Path:
        """The same directory as the code sees it."""
        return self._resources.inner_runtime_directory

    @property
    def inner_paths(self) -> SessionPaths:
        """The session's directories as the code sees them."""
        return self._resources.inner_paths

    @property
    def ended(self) -> asyncio.Future[ExitInfo]:
        """A future of how the init ended: a new one for each caller, who may cancel it."""
        return asyncio.shield(self._ended)

    @property
    def is_running(self) -> bool:
        """True while processes can be started."""
        return self._close_task is None and not self._ended.done()

    async def wait_ready(self) -> bool:
        """Waits until the init is ready; returns False when it died before, or was too slow."""
        if not await within_timeout(asyncio.shield(self._ready), READY_TIMEOUT):
            self._on_limit_exceeded(SILENT)
            return False
        return self._ready.result()

    async def spawn(
        self, command: Command, stdin: bytes | None = None, readable: asyncio.Event | None = None
    ) -> Process:
        """Starts a process; when this returns it runs its program, or is about to import its entry.

        Descriptor 0 is a pipe with `stdin` in it, else /dev/null; 1 and 2 are pipes that are always
        read here; a caller that passes `readable` is their consumer, see `OutputPipe`.
        Raises ProcessNotStarted with the system's reason when the process could not be started, and
        KernelStartFailed when the sandbox cannot start any.
        """
        if not self.is_running:
            raise start_error(command, "its sandbox has ended")
        self._discard_finished()
        process, ends = open_process(
            self._last_process + 1, self._control, command, stdin, readable
        )
        self._last_process = process.number
        self._processes[process.number] = process
        message = {"op": "spawn", "process": process.number, "command": command.to_json()}
        try:
            reply = await self._control.request(message, ends)
        except asyncio.CancelledError:
            self._kill_abandoned(process)
            raise
        except (ChannelError, MessageTooLarge) as error:
            self._discard(process)
            why = str(error) or "its sandbox has ended"
            raise start_error(command, why) from error
        if "error" in reply:
            self._discard(process)
            raise ProcessNotStarted(command.name, reply["error"], reply["errno"])
        process.pid = reply["pid"]
        return process

    async def listen(self, port: int) -> SessionListener:
        """Returns a socket on which the server listens to this code. Raises KernelStartFailed."""
        if self._spec.has_namespaces:
            return await listen_in_namespace(self._control, port)
        return self._resources.listen_on_unix_socket(self.pid or 0)

    async def connect(self, port: int, timeout: float = CONNECT_TIMEOUT) -> socket.socket:
        """Returns a TCP connection to what listens on 127.0.0.1:`port` in the sandbox.

        It does not block, does not delay what is sent, and belongs to the caller; until a program
        takes it, which may last `timeout` seconds, it holds a descriptor.
        Raises ConnectionRefusedError when nothing listens, TimeoutError, PermissionError when a
        program outside the session listens (tier 4), ConnectionAbortedError when the sandbox has
        ended, and OSError: no such sockets (tier 3), no descriptor left.
        """
        if not self.is_running:
            raise connections.ended_error()
        where = self._spec.network, self._control, self.pid or 0
        return await connections.connect(*where, port, timeout)

    async def aclose(self, reason: str | None = None) -> None:
        """Ends all processes; when this returns, they are dead and the directory is removed.

        `reason` is that of every ExitInfo. Goes on after it was cancelled or raised EndUnfinished.
        """
        if self._close_task is None:
            self._reason = reason
            self._close_task = asyncio.create_task(self._close())
        await self._end.wait(self._close_task)

    def _discard_finished(self) -> None:
        """Discards finished processes, and closes detached ones but the newest MAX_DETACHED."""
        for number in [n for n, process in self._processes.items() if process.is_finished]:
            del self._processes[number]
        detached = [process for process in self._processes.values() if process.is_detached]
        for process in detached[:-MAX_DETACHED]:
            process.close()

    def _kill_abandoned(self, process: Process) -> None:
        """Kills a process whose start was cancelled, in case it started."""
        with contextlib.suppress(ChannelClosed):
            self._control.send({"op": "signal", "process": process.number, "signal": SIGKILL})

    def _discard(self, process: Process) -> None:
        del self._processes[process.number]
        process.close()

    def _on_message(self, message: JsonObject) -> None:
        if "ended" in message:
            process = self._processes.get(message["ended"])
            if process is not None:
                why = None if message.get("code") == 0 else self._resources.find_oom_cause()
                process.on_ended(ExitInfo(message.get("code"), message.get("signal"), why))
        elif "ready" in message:
            if not self._spec.has_namespaces:  # else the init sees itself as 1
                self._on_init_pid(message["ready"])
            self._ready.set_result(True)
            self._control.start_pulse()
            self._start_monitoring()
        elif "failed" in message:
            self.isolation_error = message["failed"]

    def _on_init_pid(self, pid: int) -> None:
        self.pid = pid
        self._end.set_init(pid)
        self._start_monitoring()

    def _start_monitoring(self) -> None:
        """Starts it as soon as the init is ready and its pid is known; either may come first."""
        if self._limit_monitor is None or self.pid is None or not self._ready.done():
            return
        if self.is_running and self._monitored is None:
            self._monitored = self._resources.make_monitored_sandbox(self.pid)
            self._limit_monitor.add(self._monitored, self._on_limit_exceeded)

    def _on_limit_exceeded(self, why: str) -> None:
        if self.is_running:
            number, self._reason = self._prepared_init.number, why
            log.warning("a session was ended", extra={"number": number, "why": why})
            self._end.begin()  # at once: whatever takes too much goes on taking
            self._close_task = asyncio.create_task(self._close())

    def _on_end(self) -> None:
        """Reports the end of the init, with which all its processes end (unless it failed)."""
        reason = self._reason or self._resources.find_oom_cause()
        self.isolation_error = self.isolation_error or self._prepared_init.refusal
        exit_info = ExitInfo(signal=SIGKILL, reason=reason)
        if self._close_task is None:
            number, why = self._prepared_init.number, self.isolation_error
            log.error("an init died", extra={"number": number, "why": why})
        if not self._ready.done():
            self._ready.set_result(False)
        for process in self._processes.values():
            process.on_ended(exit_info)
        self._ended.set_result(exit_info)

    async def _close(self) -> None:
        if self._limit_monitor and self._monitored is not None:
            self._limit_monitor.discard(self._monitored)
        self._oom_listener.close()
        self._end.set_init(self.pid)  # in case there was no descriptor to hold it
        self._end.begin()
        self._control.close_write()
        if not self._end.has_init:  # it was not ready, so that no code has run
            self._prepared_init.kill()
        await self._end.finish()
        self._end.close()
        await self._prepared_init.wait_reaped()
        if not self._ended.done():  # its end of the socket is in a message, or it was never made
            self._control.close()
            self._on_end()
        for process in self._processes.values():
            process.close()
        await self._prepared_init.remove_cgroups()
        await asyncio.to_thread(self._resources.release)
        self._on_closed(self)


class Sandboxes:
    """All sandboxes of a server, and the zygote that forks their inits."""

    def __init__(self, runtime: Path, init_pool: InitPool, reserve: DiskReserve | None) -> None:
        """Makes the object only; callers use `open`."""
        self.profile = IsolationProfile(tier=UNSANDBOXED_TIER, spec=SandboxSpec())
        self._runtime = runtime
        self._init_pool = init_pool
        groups = init_pool.cgroups
        memory_monitor = ServerMemoryMonitor(groups.server_memory, groups.memory_group)
        self._limit_monitor = LimitMonitor(memory_monitor, reserve)
        self._uid_allocator = UidAllocator(available_uids())
        self._sandboxes: set[Sandbox] = set()

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
    ) -> Sandboxes:
        """Starts the zygote, which imports the modules of `preload`; entries lie in `entry_paths`.

        `runtime` is a short directory (made where missing) for the sandboxes' own directories; no
        policy is no isolation. `spare_count` inits of 3 MB wait: the next sandbox is ready 15 ms
        sooner. Sandboxes have `server_memory` bytes together, and leave a reserve of the disk.
        Raises StartError when `runtime` is too long for sockets, the zygote does not start, or no
        isolation works that is strong enough.
        """
        runtime = await asyncio.to_thread(runtime_dirs.create_base, runtime)
        open_cgroups = CgroupTree if policy is None else partial(CgroupTree.open, server_memory)
        cgroups = await asyncio.to_thread(open_cgroups)
        zygote_home = runtime / runtime_dirs.ZYGOTE_DIRECTORY
        init_pool = await InitPool.open(preload, entry_paths, zygote_home, cgroups)
        sandboxes = cls(runtime, init_pool, disk_reserve)
        if policy is not None:
            try:
                probe = TierProbe(runtime / runtime_dirs.PROBE_DIRECTORY, sandboxes._create)
                found = await probe.find_strongest(policy) or sandboxes.profile
                sandboxes.profile = found.with_cgroups(cgroups)
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

    async def check(self) -> None:
        """Checks that kernels can be started. Raises Unavailable, which says why they cannot."""
        self._init_pool.zygote.check()

    async def aclose(self) -> None:
        """Ends all sandboxes at once, then the zygote; a second call is fine."""
        await self._init_pool.begin_shutdown()
        await self._limit_monitor.aclose()
        await end_all(sandbox.aclose for sandbox in tuple(self._sandboxes))
        await self._init_pool.aclose()
        await asyncio.to_thread(
            runtime_dirs.remove_runtime_dir, self._runtime / runtime_dirs.ZYGOTE_DIRECTORY
        )

    async def _create(
        self, profile: IsolationProfile, paths: SessionPaths, limits: Limits, min_reserved: int = 0
    ) -> Sandbox:
        # The init starts while the host's resources are made.
        prepared_init = await self._init_pool.acquire(profile)
        resources = HostResources(
            self._runtime, profile, paths, limits, self._uid_allocator, min_reserved
        )
        try:
            spec = await resources.prepare_uncancelled(prepared_init.cgroup)
            monitor = self._limit_monitor if profile.tier < UNSANDBOXED_TIER else None
            sandbox = Sandbox(resources, spec, prepared_init, self._sandboxes.discard, monitor)
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
            await end_all([sandbox.aclose])
            raise
        await sandbox.aclose()
        return False
