"""Where a session's processes live, what they may use, and how they end."""

from __future__ import annotations

import signal as signals
from dataclasses import astuple, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class SessionPaths:
    """A session's directories, as handed to a machine."""

    workspace: Path  # home and working directory of the code
    packages: Path  # what setup installed
    cache: Path  # what tools cache; outside the workspace, so that an import is no file of the user
    temporary: Path = Path("/tmp")
    mounts: tuple[tuple[str, Path], ...] = ()  # of the operator: name, directory of the host


@dataclass(frozen=True, slots=True)
class Limits:
    """What one session may use; None means no limit. Sizes in bytes, `cpu` in processors."""

    memory: int | None = None
    processes: int | None = None
    cpu: float | None = None
    open_files: int | None = None
    file_size: int | None = None
    workspace: int | None = None
    tmp: int | None = None
    shm: int | None = None

    def capped_by(self, other: Limits | None) -> Limits:
        """These, or the other's where they are lower.

        No file may be larger than a workspace that was lowered, and /tmp and /dev/shm, which are
        memory, hold no more than memory that was.
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
    """The least number; None when there is none."""
    return min((value for value in values if value is not None), default=None)


@dataclass(frozen=True, slots=True)
class ExitInfo:
    """How a process ended: a status of its own (`code`), a signal, or a `reason` of ours."""

    code: int | None = None
    signal: int | None = None
    reason: str | None = None

    @property
    def exit_code(self) -> int:
        """What a shell would report: the code, 128 + signal, or 137 when we ended it."""
        if self.signal is not None and self.reason is None:
            return 128 + self.signal
        if self.code is not None and self.reason is None:
            return self.code
        return 137

    @property
    def is_intended(self) -> bool:
        """Whether somebody wanted it: nothing went wrong."""
        return self.reason in set(EndReason)

    @property
    def description(self) -> str:
        """The ending in words: `exit 7`, `signal 11 (SIGSEGV)`, `session deleted`."""
        if self.reason is not None:
            return self.reason
        if self.signal is not None:
            try:
                return f"signal {self.signal} ({signals.Signals(self.signal).name})"
            except ValueError:
                return f"signal {self.signal}"
        return f"exit {self.code}"


class EndReason(StrEnum):
    """Why the server itself ended a machine."""

    DELETED = "session deleted"
    RESTARTED = "restarted"
    STOPPED = "server stopped"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"
    CLIENT_DISCONNECTED = "client gone"
    OUTPUT_LIMIT = "output limit"
