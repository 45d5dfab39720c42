"""Ends every process of a sandbox from outside: no process inside has to do anything for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterable

from era_kernels.concurrency.waiting import ends_within
from era_kernels.errors import EndUnfinished
from era_kernels.sandbox.init.sandbox_spec import SandboxSpec
from era_kernels.sandbox.linux.cgroup import kill_members
from era_kernels.sandbox.linux.process_kill import kill_listed
from era_kernels.sandbox.server.cgroups import SandboxCgroup
from era_kernels.sandbox.server.process_tree import Family, list_by_uid, read_stat

log = logging.getLogger(__name__)

END_TIMEOUT = 5.0  # seconds until callers are told that an end takes longer
_FIRST_LOOK = 0.02  # seconds after which it looks what is left of a pid namespace
_FIRST_PAUSE, _LAST_PAUSE = 0.001, 0.25  # seconds between two such looks
_KILL_TIMEOUT = 1.0  # seconds for a helper, which code may stop
# Linux signals all processes of a user in one step, between which none can fork away.
_KILL_ALL_OF_USER = ("/bin/sh", "-c", "kill -9 -1")


class SandboxKill:
    """Kills the processes of one sandbox until none is left.

    They are the members of its control groups; in a pid namespace all that Linux kills with its
    init, which has not ended before them; without either, those of the session's own uid, else the
    init and its descendants.
    """

    def __init__(self, group: SandboxCgroup | None, spec: SandboxSpec) -> None:
        self._groups = () if group is None else group.directories
        self._has_pid_namespace = spec.has_namespaces
        self._uid = spec.uid
        self._init_pid: int | None = None  # on the host
        self._init_fd: int | None = None  # holds the init, which no other can be mistaken for
        self._family: Family | None = None
        self._waited_since: float | None = None

    def set_init(self, pid: int | None) -> None:
        """Takes the init's pid on the host, while it lives; a second call does nothing."""
        if self._init_pid is None and pid is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended already
                self._init_fd = os.pidfd_open(pid)
            self._init_pid = pid

    @property
    def has_init(self) -> bool:
        """True when the init is known, so that nobody else has to kill it."""
        return self._init_pid is not None

    def begin(self) -> None:
        """Kills the init of a pid namespace, and with it all others; else does nothing."""
        if self._has_pid_namespace:
            self._kill_init()

    async def wait(self, closing: asyncio.Task[None]) -> None:
        """Waits for the task that closes the sandbox, which goes on when the caller is cancelled.

        Raises EndUnfinished END_TIMEOUT seconds after the first call; the task goes on then, too.
        """
        if not closing.done():
            self._waited_since = self._waited_since or time.monotonic()
            remaining = self._waited_since + END_TIMEOUT - time.monotonic()
            await ends_within(closing, max(0, remaining))
        if closing.done():
            return closing.result()
        raise EndUnfinished(
            f"Processes of the session are left {END_TIMEOUT:g} seconds after they were killed: "
            "the system keeps them, as it does while they wait for a disk. The server goes on "
            "ending them, and gives nothing of the session to others before.",
            retry_after=round(END_TIMEOUT),
        )

    async def finish(self) -> None:
        """Returns when no process is left, however long that takes."""
        if self._has_pid_namespace:
            await self._wait_for_init(_FIRST_LOOK)  # with it, mostly all have ended
        pause = _FIRST_PAUSE
        while await asyncio.to_thread(self._kill_once):
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE)

    def close(self) -> None:
        """Lets go of the init; a second call is fine."""
        if self._init_fd is not None:
            os.close(self._init_fd)
            self._init_fd = None

    def _kill_once(self) -> int:
        """Kills all that are there now; returns how many those were (blocking)."""
        if self._groups:
            return kill_members(self._groups) + self._kill_init()
        if self._has_pid_namespace:
            return self._kill_init()
        if self._uid is not None:
            return self._kill_init() + self._kill_user(self._uid)
        # The init goes last: until then orphans become its children, and are found there.
        return kill_listed(self._find_descendants) or self._kill_init()

    def _kill_init(self) -> int:
        """Kills the init; returns 1 until it has ended, and then 0."""
        if not self._is_init_alive() or self._init_fd is None:
            return 0
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            signal.pidfd_send_signal(self._init_fd, signal.SIGKILL)
        return 1

    def _is_init_alive(self) -> bool:
        if self._init_fd is None:
            return False
        poll = select.poll()
        poll.register(self._init_fd, select.POLLIN)
        return not poll.poll(0)

    async def _wait_for_init(self, timeout: float) -> None:
        """Waits at most `timeout` seconds for the end of the init."""
        if self._init_fd is None:
            return
        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_reader(self._init_fd, ended.set)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await ended.wait()
        finally:
            loop.remove_reader(self._init_fd)

    def _find_descendants(self) -> set[int]:
        if self._family is None and self._init_pid is not None:
            head = read_stat(self._init_pid)
            self._family = Family(head) if head is not None and self._is_init_alive() else None
        return set() if self._family is None else self._family.find() - {self._init_pid}

    def _kill_user(self, uid: int) -> int:
        """Kills all processes of a user; returns 0 only when there is none that a list can miss.

        Each of a chain of processes that fork and end may have ended before its status is read.
        """
        found = kill_listed(lambda: list_by_uid(uid))
        return found + (not _signal_user_at_once(uid))


def _signal_user_at_once(uid: int) -> bool:
    """Kills all processes of a user in one step (blocking); False when code prevented that."""
    try:
        done = subprocess.run(
            _KILL_ALL_OF_USER, user=uid, group=uid, extra_groups=(), env={}, cwd="/",
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, timeout=_KILL_TIMEOUT, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    except (OSError, subprocess.SubprocessError):
        return True  # this server cannot do that
    return done.returncode >= 0


async def end_one(end: Callable[[], Awaitable[None]]) -> None:
    """Calls it, and waits; an end that is not finished in time is logged."""
    try:
        await end()
    except EndUnfinished as problem:
        log.error("processes are left", extra={"why": problem.message})


async def end_all(ends: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Calls all at once, and waits for them; an end that is not finished in time is logged."""
    for problem in await asyncio.gather(*(end() for end in ends), return_exceptions=True):
        if isinstance(problem, EndUnfinished):
            log.error("processes are left", extra={"why": problem.message})
        elif problem is not None:
            raise problem
