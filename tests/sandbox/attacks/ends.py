"""Attacks on a session's end: what each leaves must be gone when the session is, and soon.

Every one is bounded in processes and in time by itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

Host = dict[str, Any]
libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
SECONDS = 20  # until everything would end by itself
CHAINS, LONGEST_CHAIN = 4, 20_000


def _deaf() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.alarm(SECONDS)


def _daemon(work: Callable[[], object]) -> None:
    """Do it in a process that leads a session of its own and has lost its parents."""
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            _deaf()
            work()
        os._exit(0)
    os.waitpid(child, 0)


def _sleep() -> None:
    time.sleep(SECONDS)


def end_of_busy(host: Host) -> None:
    """Be busy in as many processes as there may be."""
    waiting, gate = os.pipe()

    def spin() -> None:
        os.close(gate)
        os.read(waiting, 1)  # until all are there: the first would slow the others' starts
        while True:
            pass

    with contextlib.suppress(OSError):
        for _ in range(60):
            _daemon(spin)
    os.close(gate)


def end_of_daemons(host: Host) -> None:
    """Leave daemons that ignore signals."""
    for _ in range(10):
        _daemon(_sleep)


def end_of_chains(host: Host) -> None:
    """Fork and exit all the time, so that no list of processes is true."""

    def chain() -> None:
        limit = time.monotonic() + SECONDS
        for _ in range(LONGEST_CHAIN):
            with contextlib.suppress(OSError):
                if os.fork():
                    os._exit(0)
                os.setsid()
            if time.monotonic() > limit:
                os._exit(0)

    for _ in range(CHAINS):
        _daemon(chain)


def end_of_stopped(host: Host) -> None:
    """Stand still."""
    for _ in range(4):
        _daemon(lambda: os.kill(os.getpid(), signal.SIGSTOP))


def end_of_traced(host: Host) -> None:
    """Stand still under a tracer of one's own."""

    def trace() -> None:
        child = os.fork()
        if child == 0:
            libc.ptrace(0, 0, None, None)
            os.kill(os.getpid(), signal.SIGUSR1)
            _sleep()
        os.waitpid(child, 0)
        _sleep()

    for _ in range(3):
        _daemon(trace)


def end_of_traced_by_init(host: Host) -> None:
    """Stop under the init as tracer, again and again."""

    def trace() -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        for _ in range(2_000):
            libc.ptrace(0, 0, None, None)
            os.kill(os.getpid(), signal.SIGUSR1)
        _sleep()

    for _ in range(3):
        _daemon(trace)


def end_of_vfork(host: Host) -> None:
    """Wait in vfork for a child that never ends."""

    def wait() -> None:
        flags = ctypes.c_ulong(0x4000 | 0x100 | signal.SIGCHLD)  # CLONE_VFORK, CLONE_VM
        libc.syscall(56 if X86 else 220, flags, 0, 0, 0, 0)
        while True:  # in the child, on the stack of the parent, which waits
            time.sleep(SECONDS)

    _daemon(wait)


def end_of_headless(host: Host) -> None:
    """Live on in a thread when the first thread of the process has ended."""

    def lose_head() -> None:
        threading.Thread(target=_sleep).start()
        libc.syscall(60 if X86 else 93, 0)

    for _ in range(3):
        _daemon(lose_head)


def end_of_stopped_init(host: Host) -> None:
    """Stop the init, where the uid allows it."""
    _daemon(_sleep)
    with contextlib.suppress(OSError):
        os.kill(host["init"], signal.SIGSTOP)


def end_of_killed_init(host: Host) -> None:
    """Kill the init, where the uid allows it, and leave orphans."""
    for _ in range(5):
        _daemon(_sleep)
    with contextlib.suppress(OSError):
        os.kill(host["init"], signal.SIGKILL)


def end_of_flooded_init(host: Host) -> None:
    """Keep the init busy with signals, where the uid allows it."""

    def flood() -> None:
        with contextlib.suppress(OSError):
            for _ in range(2_000_000):
                os.kill(host["init"], signal.SIGCHLD)

    for _ in range(3):
        _daemon(flood)


def end_of_namespaces(host: Host) -> None:
    """Hide in a pid namespace below, where there may be one."""

    def hide() -> None:
        if libc.unshare(0x30000000) == 0 and os.fork():
            os._exit(0)
        _sleep()

    _daemon(hide)
