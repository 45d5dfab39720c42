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
from era_kernels.sandbox.hierarchies import (
    LIMITS,
    PROCESSES,
    Hierarchy,
    delegate,
    hierarchies,
    write,
)

log = logging.getLogger(__name__)

PREFIX = "era-"
EMPTYING = 2.0  # seconds in which processes that were killed leave a group
_MIB = 1024 * 1024
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# What is tried at the start: a child may not fork.
_TRIED = Limits(memory=256 * _MIB, processes=0, cpu=1.0)
_CHILD = "import os, sys\nsys.stdin.read(1)\ntry: os.fork()\nexcept OSError: sys.exit(11)"
_STOPPED = 11
# Where the kernel counts those that it killed for want of memory.
_DEATHS = {1: "memory.oom_control", 2: "memory.events"}


class Group:
    """The groups of one sandbox: one directory in each hierarchy, which bind nobody yet."""

    def __init__(self, parts: Sequence[tuple[Hierarchy, Path]]) -> None:
        """`parts`: each controller and its directory."""
        self.directories = tuple(dict.fromkeys(directory for _, directory in parts))
        self.alarm: int | None = None
        self._parts = parts
        self._deaths: Path | None = None

    @property
    def doors(self) -> list[str]:
        """The files by which a process joins."""
        return [str(directory / PROCESSES) for directory in self.directories]

    def bind(self, limits: Limits) -> None:
        """Bound all members together from now on (blocking, briefly). Raises OSError."""
        for one, directory in self._parts:
            write(directory, one.files(limits))
            if one.controller == "memory" and limits.memory is not None:
                self._deaths = directory / _DEATHS[one.version]
                self.alarm = _alarm(self._deaths) if one.version == 1 else None

    @property
    def out_of_memory(self) -> bool:
        """Did the kernel kill a process because of the limit? Costs some microseconds."""
        if self._deaths is None:
            return False
        with suppress(OSError):
            for line in self._deaths.read_text("ascii").splitlines():
                name, _, number = line.partition(" ")
                if name == "oom_kill":
                    return int(number) > 0
        return False

    def remove(self) -> None:
        """When nothing of the sandbox lives any more (blocking); a second call is fine."""
        if self.alarm is not None:
            os.close(self.alarm)
            self.alarm = None
        for directory in self.directories:
            _remove(directory)


class Groups:
    """The groups of one server, in those hierarchies of the host where it may make some."""

    def __init__(self) -> None:
        """Use `open`."""
        self._homes: dict[Path, int] = {}  # → the descriptor that holds the lock
        self._hierarchies: list[tuple[Hierarchy, Path]] = []
        self._numbers = count(1)
        self.problems: list[str] = []  # why a controller is not used

    @classmethod
    def open(cls) -> Groups:
        """Make what can be made, after trying that it bounds a process (blocking)."""
        groups = cls()
        found = hierarchies()
        for group in dict.fromkeys(one.group for one in found):
            groups._settle(group, [one for one in found if one.group == group])
        groups._try()
        missing = sorted(set(LIMITS) - {one.controller for one in found})
        groups.problems += [f"{name}: this host has no control groups for it" for name in missing]
        return groups

    @property
    def enforced(self) -> frozenset[str]:
        """The limits that these groups enforce, by their names in `Limits`."""
        return frozenset(LIMITS[one.controller] for one, _ in self._hierarchies)

    @property
    def homes(self) -> list[str]:
        """The server's own directories, for the one who removes them when it cannot."""
        return [str(home) for home in self._homes]

    def make(self) -> Group:
        """Groups for one sandbox (blocking, a fraction of a millisecond). Raises OSError."""
        name = str(next(self._numbers))
        made = Group([(one, home / name) for one, home in self._hierarchies])
        try:
            for directory in made.directories:
                directory.mkdir()
        except OSError:
            made.remove()
            raise
        return made

    def close(self) -> None:
        """Remove everything (blocking); no sandbox lives. A second call is fine."""
        for home, lock in self._homes.items():
            remove_home(home)
            os.close(lock)
        self._homes.clear()
        self._hierarchies.clear()

    def _settle(self, group: Path, here: Sequence[Hierarchy]) -> None:
        """Use these controllers, all of the same group, or note why not."""
        names = [one.controller for one in here]
        try:
            sweep(group)
            if here[0].version == 2:
                delegate(group, names)
            home, lock = _home(group)
            self._homes[home] = lock
            if here[0].version == 2:
                delegate(home, names)
        except OSError as error:
            self.problems.append(f"{', '.join(names)}: {error.strerror} in {group}")
            return
        self._hierarchies += [(one, home) for one in here]

    def _try(self) -> None:
        """Put a process into a group and see that it is bound; drop what does not bind."""
        try:
            tried = self.make()
            try:
                tried.bind(_TRIED)
                inside, forked = _tried(tried)
            finally:
                tried.remove()
        except OSError as error:
            inside, forked = [], True
            self.problems.append(f"no group can be used: {error.strerror}")
        for one, home in tuple(self._hierarchies):
            if home not in inside or (one.controller == "pids" and forked):
                self.problems.append(f"{one.controller}: a group binds nobody in {one.group}")
                self._hierarchies.remove((one, home))


def join(doors: Iterable[str]) -> None:
    """Become a member; called in a sandbox's first process, before all else. Raises OSError."""
    for door in doors:
        descriptor = os.open(door, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, b"0")
        finally:
            os.close(descriptor)


def sweep(group: Path) -> None:
    """Remove the homes of servers that are dead (blocking)."""
    for home in group.glob(f"{PREFIX}*/"):
        with suppress(OSError):
            lock = os.open(home, _DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove_tree(home, patience=0)
            finally:
                os.close(lock)


def remove_home(home: Path) -> None:
    """Remove a server's directory and the groups in it (blocking); what is busy stays."""
    _remove_tree(home, EMPTYING)


def _remove_tree(home: Path, patience: float) -> None:
    if not home.is_dir():
        return
    for child in home.iterdir():
        if child.is_dir():
            _remove(child, patience)
    _remove(home, patience)


def _remove(directory: Path, patience: float = EMPTYING) -> None:
    """Processes that were killed are members until they are gone to the last."""
    limit = time.monotonic() + patience
    while True:
        try:
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if time.monotonic() > limit:
                log.warning("a control group remains", extra={"why": str(error)})
                return
            time.sleep(0.002)
        else:
            return


def _home(group: Path) -> tuple[Path, int]:
    """A locked directory of our own; another server may sweep it before it is locked."""
    while True:
        home = group / f"{PREFIX}{secrets.token_hex(6)}"
        home.mkdir()
        with suppress(FileNotFoundError):
            lock = os.open(home, _DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if home.exists():
                return home, lock
            os.close(lock)


def _tried(group: Group) -> tuple[list[Path], bool]:
    """A child in a group: the homes of the directories that have it, and whether it could fork."""
    command = [sys.executable, "-I", "-S", "-c", _CHILD]
    pipe, none = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, stdin=pipe, stderr=none, env={}) as child:
        try:
            for door in group.doors:
                Path(door).write_text(str(child.pid))
            inside = [
                directory.parent
                for directory in group.directories
                if str(child.pid) in (directory / PROCESSES).read_text().split()
            ]
        finally:
            child.communicate(b"x")
    return inside, child.returncode != _STOPPED


def _alarm(deaths: Path) -> int:
    """A descriptor that becomes readable when memory runs out, before anything is killed.

    Version 2 needs none: there the kernel ends all members, the init among them.
    """
    alarm = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        control = os.open(deaths, os.O_RDONLY | os.O_CLOEXEC)
        try:
            (deaths.parent / "cgroup.event_control").write_text(f"{alarm} {control}")
        finally:
            os.close(control)
    except OSError:
        os.close(alarm)
        raise
    return alarm
