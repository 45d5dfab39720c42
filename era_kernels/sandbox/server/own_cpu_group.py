"""Keeps a server that is nice from waiting for its own sessions, in control groups of version 1.

There a group competes with each process beside it. The group of the sessions has the weight of a
process that is not nice, and a server that is nice far less: it gets a group of its own, beside
that of the sessions and of the same weight. In version 2 it has one in any case.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from era_kernels.own_cgroups import read_or_empty
from era_kernels.sandbox.linux.cgroup import CGROUP_PROCS
from era_kernels.sandbox.server.cgroup_hierarchies import SERVER_LEAF


class OwnCpuGroup:
    """The server's own group of the controller `cpu`, while it is in one."""

    def __init__(self, parent: Path) -> None:
        """Takes the group that the server is in, and that of its sessions; removes old ones."""
        self._parent = parent
        self._directory: Path | None = None
        for old in parent.glob(f"{SERVER_LEAF}-*/"):
            with suppress(OSError):  # somebody is in it
                old.rmdir()

    def enter(self) -> None:
        """Makes the group and moves this process into it, if it is nice. Raises OSError."""
        is_member = str(os.getpid()) in read_or_empty(self._parent / CGROUP_PROCS).split()
        if os.getpriority(os.PRIO_PROCESS, 0) <= 0 or not is_member:
            return
        directory = self._parent / f"{SERVER_LEAF}-{secrets.token_hex(6)}"
        directory.mkdir()
        self._directory = directory
        _move(os.getpid(), directory)

    def leave(self) -> None:
        """Moves all processes back and removes the group; a second call does nothing."""
        if self._directory is None:
            return
        for pid in read_or_empty(self._directory / CGROUP_PROCS).split():
            with suppress(OSError):  # it has ended
                _move(int(pid), self._parent)
        with suppress(OSError):  # a new process came: the next server removes it
            self._directory.rmdir()
        self._directory = None


def _move(pid: int, directory: Path) -> None:
    (directory / CGROUP_PROCS).write_text(str(pid), "ascii")
