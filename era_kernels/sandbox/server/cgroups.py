"""Makes control groups, by which Linux limits the processes of a sandbox together.

    our own group / era-<random> / <number>        the server's directory / one sandbox

A server's directory is locked while the server lives, so that a later server can tell the groups
of a dead server from those of a running one. Only the server and the zygote know these
directories: none is visible in a sandbox, whose init joins before any code of a session runs.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

from era_kernels.models import MIB, Limits
from era_kernels.sandbox.linux.cgroup import (
    CGROUP_PROCS,
    remove_cgroup,
    remove_cgroup_tree,
    remove_server_cgroup,
)
from era_kernels.sandbox.server.cgroup_hierarchies import (
    LIMIT_BY_CONTROLLER,
    Controller,
    delegate,
    find_controllers,
    server_control_files,
    write_control_files,
)
from era_kernels.sandbox.server.cgroup_memory import MemoryGroup, OomWatch, Shortage
from era_kernels.sandbox.server.own_cpu_group import OwnCpuGroup

PREFIX = "era-"
STALE_TIMEOUT = 0.2  # seconds in which what a dead server left leaves its group
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# The test at the start: a child that may not fork.
_TEST_LIMITS = Limits(memory=256 * MIB, processes=0, cpu=1.0)
_TEST_CHILD = "import os, sys\nsys.stdin.read(1)\ntry: os.fork()\nexcept OSError: sys.exit(11)"
_FORK_REFUSED = 11


class SandboxCgroup:
    """The groups of one sandbox: one directory in each hierarchy, without limits at first."""

    def __init__(
        self,
        controllers: Sequence[tuple[Controller, Path]],
        server_memory_group: MemoryGroup | None = None,
        server_memory: int | None = None,
    ) -> None:
        """Takes each controller and its directory, and the group of all sandboxes' memory.

        `server_memory`: the bytes that all sandboxes may use together.
        """
        self.directories = tuple(dict.fromkeys(directory for _, directory in controllers))
        self.memory_group = next(
            (MemoryGroup(path, one.version) for one, path in controllers if one.name == "memory"),
            None,
        )
        self._controllers = controllers
        self.server_memory = server_memory
        self._server_memory_group = server_memory_group
        self._oom_watch: OomWatch | None = None

    @property
    def cgroup_procs(self) -> list[str]:
        """The `cgroup.procs` files by which a process joins."""
        return [str(directory / CGROUP_PROCS) for directory in self.directories]

    @property
    def oom_eventfd(self) -> int | None:
        """A descriptor that becomes readable when memory runs out, before any kill, or None."""
        return None if self.memory_group is None else self.memory_group.oom_eventfd

    def apply_limits(self, limits: Limits) -> None:
        """Limits all members together from now on (blocking, briefly). Raises OSError."""
        for one, directory in self._controllers:
            write_control_files(directory, one.control_files(limits))
        if self.memory_group is not None and self._server_memory_group is not None:
            self._oom_watch = OomWatch(self.memory_group, self._server_memory_group)

    def find_shortage(self) -> Shortage | None:
        """Returns whose memory ran out when Linux killed a process, or None when it did not.

        Costs some microseconds, and empties the eventfd.
        """
        return None if self._oom_watch is None else self._oom_watch.shortage()

    def remove(self) -> None:
        """Removes the groups, when no process of the sandbox lives (blocking).

        A second call does nothing.
        """
        self._oom_watch = None
        if self.memory_group is not None:
            self.memory_group.unwatch()
        for directory in self.directories:
            remove_cgroup(directory)


class CgroupTree:
    """The groups of one server, in the hierarchies of the host where it may make groups."""

    def __init__(self) -> None:
        """Makes an empty tree; callers use `open`."""
        self._directories: dict[Path, int] = {}  # directory → the descriptor that holds its lock
        self._controllers: list[tuple[Controller, Path]] = []
        self._numbers = count(1)
        self.problems: list[str] = []  # why a controller is not used
        self.server_memory: int | None = None  # bytes that all sandboxes may use together
        self.memory_group: MemoryGroup | None = None  # that counts what they use
        self._own_cpu_group: OwnCpuGroup | None = None  # the server's

    @classmethod
    def open(cls, server_memory: int | None = None) -> CgroupTree:
        """Makes the server's groups, and tests that their limits work (blocking).

        `server_memory` is how many bytes all sandboxes may use together.
        """
        tree = cls()
        found = find_controllers()
        for group in dict.fromkeys(one.directory for one in found):
            tree._adopt(group, [one for one in found if one.directory == group])
        tree._verify()
        tree._enter_own_cpu_group()
        tree.server_memory = server_memory
        tree._bound_memory()
        missing = sorted(set(LIMIT_BY_CONTROLLER) - {one.name for one in found})
        tree.problems += [f"{name}: this host has no control groups for it" for name in missing]
        return tree

    @property
    def enforced_limits(self) -> frozenset[str]:
        """The limits that these groups enforce, by their names in `Limits`."""
        return frozenset(LIMIT_BY_CONTROLLER[one.name] for one, _ in self._controllers)

    @property
    def directories(self) -> list[str]:
        """The server's own directories, which the zygote removes when the server was killed."""
        return [str(directory) for directory in self._directories]

    def create_cgroup(self) -> SandboxCgroup:
        """Makes the groups of one sandbox (blocking, under a millisecond). Raises OSError."""
        name = str(next(self._numbers))
        cgroup = SandboxCgroup(
            [(one, server_directory / name) for one, server_directory in self._controllers],
            self.memory_group,
            self.server_memory,
        )
        try:
            for directory in cgroup.directories:
                directory.mkdir()
        except OSError:
            cgroup.remove()
            raise
        return cgroup

    def close(self) -> None:
        """Removes all groups, when no sandbox lives (blocking). A second call does nothing."""
        if self._own_cpu_group is not None:
            self._own_cpu_group.leave()
        if self.memory_group is not None:
            self.memory_group.unwatch()
            self.memory_group = None
        for directory, lock in self._directories.items():
            remove_server_cgroup(directory)
            os.close(lock)
        self._directories.clear()
        self._controllers.clear()

    def _adopt(self, parent: Path, controllers: Sequence[Controller]) -> None:
        """Uses these controllers, all of the same group, or notes why they cannot be used."""
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
        """Tests the limits on a process in a group; drops the controllers that do not work."""
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

    def _enter_own_cpu_group(self) -> None:
        """Gives a nice server as much weight as its sessions have; notes why that is impossible."""
        for one, _ in self._controllers:
            if (one.name, one.version) == ("cpu", 1):
                self._own_cpu_group = OwnCpuGroup(one.directory)
                try:
                    self._own_cpu_group.enter()
                except OSError as error:
                    self.problems.append(f"cpu: sessions go before the server, {error.strerror}")

    def _bound_memory(self) -> None:
        """Bounds all sandboxes together, where a group can; notes why it cannot."""
        for one, directory in self._controllers:
            if one.name != "memory":
                continue
            self.memory_group = MemoryGroup(directory, one.version)
            try:
                self.memory_group.watch()
                if self.server_memory is not None:
                    files = server_control_files(one.version, self.server_memory)
                    write_control_files(directory, files)
            except OSError as error:
                why = f"not all sessions together can be bounded, {error.strerror}"
                self.problems.append(f"memory: {why}")


def remove_stale(parent: Path) -> None:
    """Ends what servers that are dead have left in their groups, and removes them (blocking)."""
    for directory in parent.glob(f"{PREFIX}*/"):
        with suppress(OSError):
            lock = os.open(directory, _DIRECTORY_FLAGS)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_cgroup_tree(directory, STALE_TIMEOUT)
            finally:
                os.close(lock)


def _create_locked_directory(parent: Path) -> tuple[Path, int]:
    """Makes our own locked directory; another server may remove it before it is locked."""
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
    """Runs a child in a group.

    Returns the server directories of the groups that it joined, and whether it could fork.
    """
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
