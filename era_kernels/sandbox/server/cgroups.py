"""Control groups: what the processes of a sandbox may use together, enforced by the kernel.

    our own group / era-<random> / <number>        the server's home / one sandbox

A home is locked while its server lives, so that any later server can tell the groups of a dead one
from those of a neighbour. Only the server and the zygote know these directories: none is visible
inside a sandbox, whose init joins before anything of it runs.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

from era_kernels.models import Limits
from era_kernels.sandbox.server.cgroup_hierarchies import (
    CGROUP_PROCS,
    LIMIT_BY_CONTROLLER,
    Controller,
    delegate,
    find_controllers,
    write_control_files,
)

log = logging.getLogger(__name__)

PREFIX = "era-"
REMOVAL_TIMEOUT = 2.0  # seconds in which processes that were killed leave a group
_MIB = 1024 * 1024
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# What is tried at the start: a child may not fork.
_TEST_LIMITS = Limits(memory=256 * _MIB, processes=0, cpu=1.0)
_TEST_CHILD = "import os, sys\nsys.stdin.read(1)\ntry: os.fork()\nexcept OSError: sys.exit(11)"
_FORK_REFUSED = 11
# Where the kernel counts those that it killed for want of memory.
_OOM_COUNTERS = {1: "memory.oom_control", 2: "memory.events"}


class SandboxCgroup:
    """The groups of one sandbox: one directory in each hierarchy, which bind nobody yet."""

    def __init__(self, controllers: Sequence[tuple[Controller, Path]]) -> None:
        """`parts`: each controller and its directory."""
        self.directories = tuple(dict.fromkeys(directory for _, directory in controllers))
        self.oom_eventfd: int | None = None
        self._controllers = controllers
        self._oom_counter: Path | None = None

    @property
    def cgroup_procs(self) -> list[str]:
        """The files by which a process joins."""
        return [str(directory / CGROUP_PROCS) for directory in self.directories]

    def apply_limits(self, limits: Limits) -> None:
        """Bound all members together from now on (blocking, briefly). Raises OSError."""
        for one, directory in self._controllers:
            write_control_files(directory, one.control_files(limits))
            if one.name == "memory" and limits.memory is not None:
                self._oom_counter = directory / _OOM_COUNTERS[one.version]
                self.oom_eventfd = (
                    _create_oom_eventfd(self._oom_counter) if one.version == 1 else None
                )

    @property
    def has_oom_kill(self) -> bool:
        """Did the kernel kill a process because of the limit? Costs some microseconds."""
        if self._oom_counter is None:
            return False
        with suppress(OSError):
            for line in self._oom_counter.read_text("ascii").splitlines():
                name, _, number = line.partition(" ")
                if name == "oom_kill":
                    return int(number) > 0
        return False

    def remove(self) -> None:
        """When nothing of the sandbox lives any more (blocking); a second call is fine."""
        if self.oom_eventfd is not None:
            os.close(self.oom_eventfd)
            self.oom_eventfd = None
        for directory in self.directories:
            remove_cgroup(directory)


class CgroupTree:
    """The groups of one server, in those hierarchies of the host where it may make some."""

    def __init__(self) -> None:
        """Use `open`."""
        self._directories: dict[Path, int] = {}  # → the descriptor that holds the lock
        self._controllers: list[tuple[Controller, Path]] = []
        self._numbers = count(1)
        self.problems: list[str] = []  # why a controller is not used

    @classmethod
    def open(cls) -> CgroupTree:
        """Make what can be made, after trying that it bounds a process (blocking)."""
        tree = cls()
        found = find_controllers()
        for group in dict.fromkeys(one.directory for one in found):
            tree._adopt(group, [one for one in found if one.directory == group])
        tree._verify()
        missing = sorted(set(LIMIT_BY_CONTROLLER) - {one.name for one in found})
        tree.problems += [f"{name}: this host has no control groups for it" for name in missing]
        return tree

    @property
    def enforced_limits(self) -> frozenset[str]:
        """The limits that these groups enforce, by their names in `Limits`."""
        return frozenset(LIMIT_BY_CONTROLLER[one.name] for one, _ in self._controllers)

    @property
    def directories(self) -> list[str]:
        """The server's own directories, for the one who removes them when it cannot."""
        return [str(home) for home in self._directories]

    def create_cgroup(self) -> SandboxCgroup:
        """Groups for one sandbox (blocking, a fraction of a millisecond). Raises OSError."""
        name = str(next(self._numbers))
        made = SandboxCgroup([(one, home / name) for one, home in self._controllers])
        try:
            for directory in made.directories:
                directory.mkdir()
        except OSError:
            made.remove()
            raise
        return made

    def close(self) -> None:
        """Remove everything (blocking); no sandbox lives. A second call is fine."""
        for directory, lock in self._directories.items():
            remove_server_cgroup(directory)
            os.close(lock)
        self._directories.clear()
        self._controllers.clear()

    def _adopt(self, parent: Path, controllers: Sequence[Controller]) -> None:
        """Use these controllers, all of the same group, or note why not."""
        names = [one.name for one in controllers]
        try:
            remove_stale(parent)
            if controllers[0].version == 2:
                delegate(parent, names)
            directory, lock = _create_locked_directory(parent)
            self._directories[directory] = lock
            if controllers[0].version == 2:
                delegate(directory, names)
        except OSError as error:
            self.problems.append(f"{', '.join(names)}: {error.strerror} in {parent}")
            return
        self._controllers += [(one, directory) for one in controllers]

    def _verify(self) -> None:
        """Put a process into a group and see that it is bound; drop what does not bind."""
        try:
            cgroup = self.create_cgroup()
            try:
                cgroup.apply_limits(_TEST_LIMITS)
                joined, forked = _run_test_child(cgroup)
            finally:
                cgroup.remove()
        except OSError as error:
            joined, forked = [], True
            self.problems.append(f"no group can be used: {error.strerror}")
        for one, server_directory in tuple(self._controllers):
            if server_directory not in joined or (one.name == "pids" and forked):
                self.problems.append(f"{one.name}: a group binds nobody in {one.directory}")
                self._controllers.remove((one, server_directory))


def join_cgroups(cgroup_procs: Iterable[str]) -> None:
    """Become a member; called in a sandbox's first process, before all else. Raises OSError."""
    for path in cgroup_procs:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, b"0")
        finally:
            os.close(descriptor)


def remove_stale(parent: Path) -> None:
    """Remove the homes of servers that are dead (blocking)."""
    for directory in parent.glob(f"{PREFIX}*/"):
        with suppress(OSError):
            lock = os.open(directory, _DIRECTORY_FLAGS)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_cgroup_tree(directory, timeout=0)
            finally:
                os.close(lock)


def remove_server_cgroup(directory: Path) -> None:
    """Remove a server's directory and the groups in it (blocking); what is busy stays."""
    remove_cgroup_tree(directory, REMOVAL_TIMEOUT)


def remove_cgroup_tree(directory: Path, timeout: float) -> None:
    if not directory.is_dir():
        return
    for child in directory.iterdir():
        if child.is_dir():
            remove_cgroup(child, timeout)
    remove_cgroup(directory, timeout)


def remove_cgroup(directory: Path, timeout: float = REMOVAL_TIMEOUT) -> None:
    """Processes that were killed are members until they are gone to the last."""
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


def _create_locked_directory(parent: Path) -> tuple[Path, int]:
    """A locked directory of our own; another server may sweep it before it is locked."""
    while True:
        directory = parent / f"{PREFIX}{secrets.token_hex(6)}"
        directory.mkdir()
        with suppress(FileNotFoundError):
            lock = os.open(directory, _DIRECTORY_FLAGS)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if directory.exists():
                return directory, lock
            os.close(lock)


def _run_test_child(cgroup: SandboxCgroup) -> tuple[list[Path], bool]:
    """A child in a group: the homes of the directories that have it, and whether it could fork."""
    command = [sys.executable, "-I", "-S", "-c", _TEST_CHILD]
    pipe, devnull = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, stdin=pipe, stderr=devnull, env={}) as child:
        try:
            for path in cgroup.cgroup_procs:
                Path(path).write_text(str(child.pid))
            joined = [
                directory.parent
                for directory in cgroup.directories
                if str(child.pid) in (directory / CGROUP_PROCS).read_text().split()
            ]
        finally:
            child.communicate(b"x")
    return joined, child.returncode != _FORK_REFUSED


def _create_oom_eventfd(oom_counter: Path) -> int:
    """A descriptor that becomes readable when memory runs out, before anything is killed.

    Version 2 needs none: there the kernel ends all members, the init among them.
    """
    eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        control = os.open(oom_counter, os.O_RDONLY | os.O_CLOEXEC)
        try:
            (oom_counter.parent / "cgroup.event_control").write_text(f"{eventfd} {control}")
        finally:
            os.close(control)
    except OSError:
        os.close(eventfd)
        raise
    return eventfd
