"""Names what kernels need of sandboxes and their processes; the real ones are in `sandbox/`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from era_kernels.models import ExitInfo, Isolation, Limits, SessionListener, SessionPaths
from era_kernels.sandbox.server.process_spec import ProcessSpec
from era_kernels.sandbox.server.tiers import IsolationProfile


class OutputStream(Protocol):
    """What a process and its children write to one descriptor."""

    @property
    def is_open(self) -> bool:
        """True while some process may write to it."""

    @property
    def total_bytes(self) -> int:
        """The number of bytes that were read so far."""

    def read_available(self) -> bytes:
        """Returns all bytes that the consumer has not read yet."""

    def detach(self, on_late: Callable[[bytes], None]) -> None:
        """Ends the consumer's reading: `on_late` gets later output."""

    def drain(self) -> None:
        """Reads the bytes that are there now."""

    def tail(self) -> bytes:
        """Returns the end of what was written, where there is no consumer."""


class SandboxProcess(Protocol):
    """One process of a sandbox, the leader of a process group."""

    @property
    def stdout(self) -> OutputStream:
        """Its descriptor 1."""

    @property
    def stderr(self) -> OutputStream:
        """Its descriptor 2."""

    @property
    def is_running(self) -> bool:
        """True until its end is known."""

    @property
    def ended(self) -> asyncio.Future[ExitInfo]:
        """A future of how it ended: a new one for each caller, who may cancel it."""

    async def signal(self, number: int, *, kill_group_on_exit: bool = False) -> None:
        """Signals its group; `kill_group_on_exit` kills what is left of the group at its end."""


class Outbound(Protocol):
    """The way out of a sandbox's network for packets."""

    @property
    def problem(self) -> str | None:
        """Why there is none although it is wanted."""

    async def switch(self, wanted: bool) -> None:
        """Opens or closes it; returns when packets flow, or none does any more."""


class SandboxNetwork(Protocol):
    """The network of a sandbox, as the server uses it."""

    @property
    def outbound(self) -> Outbound:
        """The way out for packets."""

    async def listen(self, port: int) -> SessionListener:
        """Returns a socket on which the server listens to this code. Raises KernelStartFailed."""

    async def connect(
        self, port: int, timeout: float = ..., *, address: str = ...
    ) -> socket.socket:
        """Returns a connection to what listens on that TCP port in the sandbox. Raises OSError."""


class Sandbox(SandboxNetwork, Protocol):
    """What holds all processes of a session: they end with it."""

    @property
    def pid(self) -> int | None:
        """The pid of its first process; None where that is not known."""

    @property
    def runtime_directory(self) -> Path:
        """The directory for sockets, as a path on the host."""

    @property
    def inner_runtime_directory(self) -> Path:
        """The same directory as the code sees it."""

    @property
    def inner_paths(self) -> SessionPaths:
        """The session's directories as the code sees them."""

    @property
    def is_running(self) -> bool:
        """True while processes can be started."""

    @property
    def ended(self) -> asyncio.Future[ExitInfo]:
        """A future of how it ended: a new one for each caller, who may cancel it."""

    async def spawn(
        self,
        spec: ProcessSpec,
        stdin: bytes | None = None,
        readable: asyncio.Event | None = None,
    ) -> SandboxProcess:
        """Starts a process; who passes `readable` consumes its output, when the event is set.

        Raises ProcessNotStarted, and KernelStartFailed when the sandbox cannot start any.
        """

    async def aclose(self, reason: str | None = None) -> None:
        """Ends all processes, and returns when they are gone. Raises EndUnfinished."""


class Sandboxes(Protocol):
    """Opens sandboxes."""

    @property
    def isolation(self) -> Isolation:
        """The tier of isolation and its gaps."""

    @property
    def profile(self) -> IsolationProfile:
        """What the sandboxes confine, and which limits they enforce."""

    async def open_sandbox(
        self, paths: SessionPaths, limits: Limits, min_reserved: int = 0
    ) -> Sandbox:
        """Opens a sandbox with no process. Raises KernelStartFailed, ShuttingDown."""

    async def check(self) -> None:
        """Raises Unavailable when none can be opened."""
