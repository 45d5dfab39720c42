"""Joins this process to control groups, kills and removes groups; see cgroups(7)."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from era_kernels.sandbox.linux.process_kill import kill_listed

log = logging.getLogger(__name__)

CGROUP_PROCS = "cgroup.procs"
REMOVAL_TIMEOUT = 2.0  # seconds in which processes that were killed leave a group


def join_cgroups(cgroup_procs: Iterable[str]) -> None:
    """Makes this process a member; called first in a sandbox's first process. Raises OSError."""
    for path in cgroup_procs:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, b"0")
        finally:
            os.close(descriptor)


def list_members(directories: Iterable[Path]) -> set[int]:
    """Returns the pids of the living members of groups, without those of groups below."""
    found: set[int] = set()
    for directory in directories:
        with suppress(OSError):  # the group is gone, or holds threads of their own
            found.update(map(int, (directory / CGROUP_PROCS).read_text("ascii").split()))
    return found - {0}  # that is a process which this one cannot see


def forbid_forks(directory: Path) -> None:
    """Keeps the members of a group from making more; kills them where one call can do that."""
    for name, text in (("pids.max", "0"), ("cgroup.kill", "1")):
        file = directory / name
        with suppress(OSError):
            if file.exists():
                file.write_text(text, "ascii")


def kill_members(directories: Iterable[Path]) -> int:
    """Sends SIGKILL to all members of groups; returns how many there were (blocking, briefly)."""
    groups = tuple(directories)
    for directory in groups:
        forbid_forks(directory)
    return kill_listed(lambda: list_members(groups))


def remove_server_cgroup(directory: Path) -> None:
    """Removes a server's directory and the groups in it (blocking), and kills who is in those.

    Groups stay whose members cannot be killed.
    """
    remove_cgroup_tree(directory, REMOVAL_TIMEOUT)


def remove_cgroup_tree(directory: Path, timeout: float) -> None:
    """Removes a directory and the groups in it (blocking), in `timeout` seconds for each.

    Kills the members of the groups in it, which are what sessions left.
    """
    if not directory.is_dir():
        return
    children = [child for child in directory.iterdir() if child.is_dir()]
    kill_members(children)
    for child in children:
        remove_cgroup(child, timeout)
    remove_cgroup(directory, timeout)


def remove_cgroup(directory: Path, timeout: float = REMOVAL_TIMEOUT) -> None:
    """Removes a group, and retries for `timeout` seconds (blocking); a busy group stays.

    Killed processes are members until they have ended completely.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if time.monotonic() > deadline:
                log.warning("a control group remains", extra={"why": str(error)})
                return
            time.sleep(0.002)
        else:
            return
