"""Sandboxes without namespaces or processes: a test plays the processes' part itself."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from era_kernels.models import (
    UNSANDBOXED_TIER,
    ExitInfo,
    Isolation,
    Limits,
    SessionListener,
    SessionPaths,
)
from era_kernels.sandbox.init.sandbox_spec import SandboxSpec
from era_kernels.sandbox.server.process_spec import ProcessSpec
from era_kernels.sandbox.server.tiers import IsolationProfile


class FakeStream:
    """Holds what a test writes to it."""

    def __init__(self, readable: asyncio.Event | None) -> None:
        self.is_open = True
        self.total_bytes = 0
        self._unread = b""
        self._readable = readable
        self._on_late: Callable[[bytes], None] | None = None

    def write(self, data: bytes) -> None:
        self.total_bytes += len(data)
        if self._on_late is not None:
            self._on_late(data)
            return
        self._unread += data
        if self._readable is not None:
            self._readable.set()

    def read_available(self) -> bytes:
        data, self._unread = self._unread, b""
        return data

    def detach(self, on_late: Callable[[bytes], None]) -> None:
        self._on_late = on_late

    def drain(self) -> None:
        """Does nothing: all is there at once."""

    def tail(self) -> bytes:
        return self._unread


class FakeProcess:
    """A process that ends when the test or `on_signal` says so; records its signals."""

    def __init__(self, readable: asyncio.Event | None = None) -> None:
        self.stdout = FakeStream(readable)
        self.stderr = FakeStream(readable)
        self.signals: list[int] = []
        self.kills_group_on_exit = False
        self.on_signal: Callable[[int], None] = self._die_of_kill
        self._ended: asyncio.Future[ExitInfo] = asyncio.get_running_loop().create_future()

    @property
    def is_running(self) -> bool:
        return not self._ended.done()

    @property
    def ended(self) -> asyncio.Future[ExitInfo]:
        return asyncio.shield(self._ended)

    async def signal(self, number: int, *, kill_group_on_exit: bool = False) -> None:
        self.signals.append(number)
        self.kills_group_on_exit |= kill_group_on_exit
        self.on_signal(number)

    def end(self, exit_info: ExitInfo) -> None:
        self.stdout.is_open = self.stderr.is_open = False
        if self.is_running:
            self._ended.set_result(exit_info)

    def _die_of_kill(self, number: int) -> None:
        if number == signal.SIGKILL:
            self.end(ExitInfo(signal=number))


class FakeOutbound:
    """A way out that keeps whether it was wanted at each `switch`."""

    def __init__(self) -> None:
        self.problem: str | None = None
        self.switched: list[bool] = []

    async def switch(self, wanted: bool) -> None:
        self.switched.append(wanted)


class FakeSandbox:
    """A sandbox whose processes are FakeProcesses; `spawn_error` is raised by `spawn`."""

    pid = None

    def __init__(self, paths: SessionPaths, runtime: Path) -> None:
        self.inner_paths = paths
        self.runtime_directory = self.inner_runtime_directory = runtime
        self.commands: list[ProcessSpec] = []
        self.processes: list[FakeProcess] = []
        self.spawn_error: Exception | None = None
        self.outbound = FakeOutbound()
        self._ended: asyncio.Future[ExitInfo] = asyncio.get_running_loop().create_future()

    @property
    def is_running(self) -> bool:
        return not self._ended.done()

    @property
    def ended(self) -> asyncio.Future[ExitInfo]:
        return asyncio.shield(self._ended)

    async def spawn(
        self,
        spec: ProcessSpec,
        stdin: bytes | None = None,
        readable: asyncio.Event | None = None,
    ) -> FakeProcess:
        if self.spawn_error is not None:
            raise self.spawn_error
        self.commands.append(spec)
        self.processes.append(FakeProcess(readable))
        return self.processes[-1]

    async def listen(self, port: int) -> SessionListener:
        raise NotImplementedError

    async def connect(
        self, port: int, timeout: float = 1, *, address: str = "127.0.0.1"
    ) -> socket.socket:
        raise ConnectionRefusedError

    async def aclose(self, reason: str | None = None) -> None:
        self.die(ExitInfo(signal=signal.SIGKILL, reason=reason))

    def die(self, exit_info: ExitInfo) -> None:
        """Ends the sandbox and its processes, as a crash of its init does."""
        for process in self.processes:
            process.end(exit_info)
        if not self._ended.done():
            self._ended.set_result(exit_info)


@dataclass
class FakeSandboxes:
    """Opens fake sandboxes, and keeps them in `opened`; raises `open_error` if there is one."""

    runtime: Path
    profile: IsolationProfile = field(
        default_factory=lambda: IsolationProfile(tier=UNSANDBOXED_TIER, spec=SandboxSpec())
    )
    open_error: Exception | None = None
    opened: list[FakeSandbox] = field(default_factory=list)

    @property
    def isolation(self) -> Isolation:
        return self.profile.isolation

    async def open_sandbox(
        self, paths: SessionPaths, limits: Limits, min_reserved: int = 0
    ) -> FakeSandbox:
        if self.open_error is not None:
            raise self.open_error
        self.opened.append(FakeSandbox(paths, self.runtime))
        return self.opened[-1]

    async def check(self) -> None:
        """Does nothing: sandboxes can be opened."""
