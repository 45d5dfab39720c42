"""Starts and ends processes in a sandbox; a session's processes start in no other way.

server → zygote (one) → init (one per sandbox) → processes; `init/zygote.py` shows the sequence.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from era_kernels.concurrency.waiting import within_timeout
from era_kernels.models import (
    ExitInfo,
    JsonObject,
    SessionListener,
    SessionPaths,
)
from era_kernels.sandbox.init.fd_messages import MessageTooLarge
from era_kernels.sandbox.init.sandbox_spec import SandboxSpec
from era_kernels.sandbox.server import port_connections
from era_kernels.sandbox.server.control_channel import ChannelClosed, ChannelError, ControlChannel
from era_kernels.sandbox.server.host_resources import HostResources
from era_kernels.sandbox.server.init_pool import PreparedInit
from era_kernels.sandbox.server.limit_monitor import LimitMonitor, Monitoring
from era_kernels.sandbox.server.oom_listener import OomListener
from era_kernels.sandbox.server.pasta import Outbound, Outbounds
from era_kernels.sandbox.server.port_connections import CONNECT_TIMEOUT, LOOPBACK, NamespaceSockets
from era_kernels.sandbox.server.process import Process, open_process
from era_kernels.sandbox.server.process_spec import ProcessNotStarted, ProcessSpec, start_error
from era_kernels.sandbox.server.sandbox_kill import SandboxKill
from era_kernels.sandbox.server.server_listeners import listen_in_namespace
from era_kernels.sandbox.server.stop_all import StopAll

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
        outbounds: Outbounds,
    ) -> None:
        """Has the isolation applied; `wait_ready` waits for that. Raises OSError.

        `limit_monitor` ends the sandbox when its processes together exceed a limit.
        """
        loop = asyncio.get_running_loop()
        self.pid = prepared_init.pid  # of the init, on the host; never for signals
        self.isolation_error: str | None = None  # why the isolation failed
        self._prepared_init = prepared_init
        self._resources = resources
        self._on_closed = on_closed
        self._has_walls = False  # the init has raised them
        self._ready: asyncio.Future[bool] = loop.create_future()
        self._ended: asyncio.Future[ExitInfo] = loop.create_future()
        self._processes: dict[int, Process] = {}
        self._reason: str | None = None
        self._close_task: asyncio.Task[None] | None = None
        self._monitoring = Monitoring(limit_monitor)
        on_silent = partial(self._on_limit_exceeded, SILENT)
        control = prepared_init.control_socket
        self._control = ControlChannel(control, self._on_message, self._on_end, on_silent)
        self._sockets = NamespaceSockets(self._control, self._ended)
        self.outbound = Outbound(outbounds, prepared_init, self._control)
        self._end = SandboxKill(prepared_init.cgroup, spec)
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
        """Waits until the init is ready and its pid known, from which on it can be killed.

        Returns False when it died before, or was too slow.
        """
        if not await within_timeout(asyncio.shield(self._ready), READY_TIMEOUT):
            self._on_limit_exceeded(SILENT)
            return False
        return self._ready.result()

    async def spawn(
        self,
        spec: ProcessSpec,
        stdin: bytes | None = None,
        readable: asyncio.Event | None = None,
    ) -> Process:
        """Starts a process; when this returns it runs its program, or is about to import its entry.

        Descriptor 0 is a pipe with `stdin` in it, else /dev/null; 1 and 2 are pipes that are always
        read here; a caller that passes `readable` is their consumer, see `OutputPipe`.
        Raises ProcessNotStarted with the system's reason when the process could not be started, and
        KernelStartFailed when the sandbox cannot start any.
        """
        if not self.is_running:
            raise start_error(spec, "its sandbox has ended")
        self._discard_finished()
        process, ends = open_process(self._control, spec, stdin, readable)
        self._processes[process.number] = process
        message = {"op": "spawn", "process": process.number, "command": spec.to_json()}
        try:
            reply = await self._control.request(message, ends)
        except asyncio.CancelledError:
            self._kill_abandoned(process)
            raise
        except (ChannelError, MessageTooLarge) as error:
            self._discard(process)
            why = str(error) or "its sandbox has ended"
            raise start_error(spec, why) from error
        if "error" in reply:
            self._discard(process)
            raise ProcessNotStarted(spec.name, reply["error"], reply["errno"])
        process.pid = reply["pid"]
        return process

    async def listen(self, port: int) -> SessionListener:
        """Returns a socket on which the server listens to this code. Raises KernelStartFailed."""
        if self._prepared_init.profile.spec.has_namespaces:
            return await listen_in_namespace(self._control, port)
        return self._resources.listen_on_unix_socket(self.pid or 0)

    async def connect(
        self, port: int, timeout: float = CONNECT_TIMEOUT, address: str = LOOPBACK
    ) -> socket.socket:
        """Returns a TCP connection to what listens on a port of 127.0.0.1 or ::1 in the sandbox.

        It does not block, does not delay what is sent, and belongs to the caller; until a program
        takes it, which may last `timeout` seconds, it holds a descriptor.
        Raises ConnectionRefusedError when nothing listens, TimeoutError, PermissionError when a
        program outside the session listens (tier 4), ConnectionAbortedError when the sandbox has
        ended, and OSError: no such sockets (tier 3), no descriptor left.
        """
        if not self.is_running:
            raise port_connections.ended_error()
        where = self._prepared_init.profile.network, self._sockets, self.pid or 0
        return await port_connections.connect(*where, port, timeout, address)

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
            self._control.start_pulse()
            self._has_walls = True
            if (
                not self._prepared_init.profile.spec.has_namespaces
            ):  # else the init sees itself as 1
                self._on_init_pid(message["ready"])
            self._become_ready()
        elif "failed" in message:
            self.isolation_error = message["failed"]

    def _on_init_pid(self, pid: int) -> None:
        self.pid = pid
        self._end.set_init(pid)
        self._become_ready()

    def _become_ready(self) -> None:
        """Does so when the init has raised the walls and its pid is known; either may come first.

        From then on the limits hold.
        """
        if self.pid is None or not self._has_walls or self._ready.done():
            return
        self._ready.set_result(True)
        if self.is_running:
            stop_all = StopAll(self._control)
            make_monitored = partial(self._resources.make_monitored_sandbox, self.pid, stop_all)
            self._monitoring.start(make_monitored, self._on_limit_exceeded)

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
        self._monitoring.stop()
        closing = asyncio.create_task(self.outbound.aclose())
        self._oom_listener.close()
        self._end.set_init(self.pid)  # in case there was no descriptor to hold it
        self._end.begin()
        self._control.close_write()
        if not self._end.has_init:  # it was not ready, so that no code has run
            self._prepared_init.kill()
        await self._end.finish()
        await closing
        self._end.close()
        await self._prepared_init.wait_reaped()
        if not self._ended.done():  # its end of the socket is in a message, or it was never made
            self._control.close()
            self._on_end()
        for process in self._processes.values():
            process.close()
        await asyncio.to_thread(self._release)
        self._on_closed(self)

    def _release(self) -> None:
        """Gives back what the sandbox had of the host (blocking)."""
        if self._prepared_init.cgroup is not None:
            self._prepared_init.cgroup.remove()
        self._resources.release()
