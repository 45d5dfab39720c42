"""Joins this process to control groups and removes the directories of groups; see cgroups(7)."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

log = logging.getLogger(__name__)

REMOVAL_TIMEOUT = 2.0  # seconds in which processes that were killed leave a group


def join_cgroups(cgroup_procs: Iterable[str]) -> None:
    """Makes this process a member; called first in a sandbox's first process. Raises OSError."""
    for path in cgroup_procs:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, b"0")
        finally:
            os.close(descriptor)


def remove_server_cgroup(directory: Path) -> None:
    """Removes a server's directory and the groups in it (blocking); busy groups stay."""
    remove_cgroup_tree(directory, REMOVAL_TIMEOUT)


def remove_cgroup_tree(directory: Path, timeout: float) -> None:
    """Removes a directory and the groups in it (blocking), in `timeout` seconds for each."""
    if not directory.is_dir():
        return
    for child in directory.iterdir():
        if child.is_dir():
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
