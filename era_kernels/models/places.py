"""Where a session's processes live, what they may use, and how they end."""

from __future__ import annotations

import signal as signals
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Place:
    """A session's directories, as handed to a machine."""

    workspace: Path  # home and working directory of the code
    packages: Path  # what setup installed
    cache: Path  # what tools cache; outside the workspace, so that an import is no file of the user
    temporary: Path = Path("/tmp")


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


@dataclass(frozen=True, slots=True)
class Ending:
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
    def ordered(self) -> bool:
        """Whether somebody wanted it: nothing went wrong."""
        return self.reason in set(Reason)

    @property
    def cause(self) -> str:
        """The ending in words: `exit 7`, `signal 11 (SIGSEGV)`, `session deleted`."""
        if self.reason is not None:
            return self.reason
        if self.signal is not None:
            try:
                return f"signal {self.signal} ({signals.Signals(self.signal).name})"
            except ValueError:
                return f"signal {self.signal}"
        return f"exit {self.code}"


class Reason(StrEnum):
    """Why the server itself ended a machine."""

    DELETED = "session deleted"
    RESTARTED = "restarted"
    STOPPED = "server stopped"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"
    CLIENT_GONE = "client gone"
    OUTPUT_LIMIT = "output limit"
