"""The directories, limits and exit of a session's processes."""

from __future__ import annotations

import signal as signals
import socket as sockets
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

# What the server tells a session's code in its environment, whatever a caller sets.
SERVER_VARIABLES = frozenset(
    {"ERA_SESSION", "ERA_SESSION_ID", "ERA_LANGUAGE", "ERA_BASE_URL", "ERA_PROXY_URL"}
    | {"ERA_MEMORY_MB"}
)


@dataclass(frozen=True, slots=True)
class SessionPaths:
    """The directories of a session that a machine uses."""

    workspace: Path  # home and working directory of the code
    packages: Path  # what setup installed
    cache: Path  # caches of tools; outside the workspace, so they are no user files
    temporary: Path = Path("/tmp")
    mounts: tuple[tuple[str, Path], ...] = ()  # name, directory of the host


class Network(StrEnum):
    """The network of a sandbox's programs."""

    OWN = "own"  # a loopback of their own, in a network namespace
    HOST = "host"
    NONE = "none"  # no sockets of the internet's families


@dataclass(frozen=True, slots=True)
class SessionListener:
    """A listening socket for the code of one session; whoever gets it closes it.

    `url` is its address as that code writes it. `is_from_session` tells whether a connection was
    made by the session, where others can reach the socket, too; None where nobody else can.
    """

    socket: sockets.socket
    url: str
    is_from_session: Callable[[sockets.socket], bool] | None = None


@dataclass(frozen=True, slots=True)
class ListeningPort:
    """A TCP port on which a program of a session listens; `process` is its name, where known."""

    port: int
    address: str
    process: str | None


def default_disk_reserve(total: int) -> int:
    """Returns the bytes to keep free of a disk of `total` bytes: 1 GiB or 5 %, the smaller."""
    return min(1 << 30, total * 5 // 100)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a session; None means no limit. Sizes are in bytes, `cpu` in processors."""

    memory: int | None = None
    processes: int | None = None
    cpu: float | None = None
    open_files: int | None = None
    file_size: int | None = None
    workspace: int | None = None
    tmp: int | None = None
    shm: int | None = None

    def capped_by(self, other: Limits | None) -> Limits:
        """Returns these limits, lowered to those of `other` where these are higher.

        `file_size` is also lowered to the other's `workspace`, and `tmp` and `shm`, which are
        memory, to the other's `memory`.
        """
        if other is None:
            return self
        capped = Limits(
            *(_smallest(a, b) for a, b in zip(astuple(self), astuple(other), strict=True))
        )
        return replace(
            capped,
            file_size=_smallest(capped.file_size, other.workspace),
            tmp=_smallest(capped.tmp, other.memory),
            shm=_smallest(capped.shm, other.memory),
        )


def _smallest(*values: Any) -> Any:
    """Returns the smallest number; None when all are None."""
    return min((value for value in values if value is not None), default=None)


@dataclass(frozen=True, slots=True)
class ExitInfo:
    """The end of a process: its exit status (`code`), a signal, or the server's `reason`.

    `explanation` is what its last words tell of a process that ended by itself.
    """

    code: int | None = None
    signal: int | None = None
    reason: str | None = None
    explanation: str | None = None

    @property
    def exit_code(self) -> int:
        """The code that a shell would report: the status, 128 + signal, or 137 for a `reason`."""
        if self.signal is not None and self.reason is None:
            return 128 + self.signal
        if self.code is not None and self.reason is None:
            return self.code
        return 137

    @property
    def is_intended(self) -> bool:
        """True when the server ended the process on purpose, so that nothing went wrong."""
        return self.reason in set(EndReason)

    @property
    def description(self) -> str:
        """The end in words, such as `exit 7`, `signal 11 (SIGSEGV)`, `session deleted`."""
        if self.reason is not None:
            return self.reason
        own_end = f"exit {self.code}" if self.signal is None else self._signal_words(self.signal)
        return own_end if self.explanation is None else f"{self.explanation}: {own_end}"

    @staticmethod
    def _signal_words(number: int) -> str:
        try:
            return f"signal {number} ({signals.Signals(number).name})"
        except ValueError:
            return f"signal {number}"


class EndReason(StrEnum):
    """The reasons for which the server ends a machine."""

    DELETED = "session deleted"
    RESTARTED = "restarted"
    STOPPED = "server stopped"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"
    CLIENT_DISCONNECTED = "client gone"
    OUTPUT_LIMIT = "output limit"
