"""The last step of a launch: a fork of the init becomes a program of its own.

Either it executes something else, or it goes on as an interpreter that looks as if it had just
been started: what zygote and init changed is undone, what forks share by accident is renewed.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from era_kernels.models import JsonObject
from era_kernels.sandbox import syscalls

# A service manager signals every process of the server; zygote and init wait for the server.
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_IGNORED_BY_INTERPRETERS = (signal.SIGPIPE, signal.SIGXFSZ)


@dataclass(frozen=True, slots=True)
class Launch:
    """What a forked process is to become, and the descriptors that were handed in for it."""

    command: JsonObject
    stdin: int | None  # None: /dev/null
    stdout: int
    stderr: int
    status: int  # closed on execution; before that it takes the errno and the reason of a failure
    parent: int  # pid of the init


@dataclass(frozen=True, slots=True)
class Interpreter:
    """What a plain interpreter on this host has, as noted before anything was changed."""

    path: Sequence[str]  # sys.path without its first entry
    entries: Sequence[str]  # where entry modules lie; no program sees them
    modules: Sequence[str]  # of this project; looked up once, for a walk costs every fork 2 ms


def run(launch: Launch, interpreter: Interpreter) -> None:
    """Execute the command, or call its entry and return when that returns."""
    command = launch.command
    try:
        _settle(launch)
        if command["argv"] is not None:
            _execute(command["argv"], command["env"])
        _become_plain(interpreter, command["env"])
    except (OSError, ValueError) as error:
        told = f"{getattr(error, 'errno', None) or 0}:{_reason(error)}"
        os.write(launch.status, told.encode(errors="replace")[:4096])
        os._exit(127)
    os.close(launch.status)
    _call(interpreter, command["entry"], command["args"])


def _settle(launch: Launch) -> None:
    """A session and process group of its own, the descriptors, the directory."""
    os.setsid()
    # The second net: an init that is killed takes its children along.
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launch.parent:
        os._exit(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY) if launch.stdin is None else launch.stdin, 0)
    os.dup2(launch.stdout, 1)
    os.dup2(launch.stderr, 2)
    syscalls.close_except((0, 1, 2, launch.status))
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # unlike its init: its /proc/self is its own
    for number in IGNORED:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.chdir(launch.command["cwd"])


def _execute(argv: list[str], env: Mapping[str, str]) -> None:
    """Become another program. Raises OSError when there is none."""
    for number in _IGNORED_BY_INTERPRETERS:
        signal.signal(number, signal.SIG_DFL)
    os.execvpe(argv[0], argv, env)


def _become_plain(interpreter: Interpreter, env: Mapping[str, str]) -> None:
    """Look like an interpreter that was just started with this environment."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    named = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = ["", *named, *interpreter.path, *interpreter.entries]
    sys.argv = [""]
    sys.orig_argv = [sys.executable]
    # These were made for pipes and /dev/null, and their descriptors are that again.
    sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__
    _renew()
    # A new one, for the old is frozen: what a program leaves in it would never be finalized.
    main = ModuleType("__main__")
    old = vars(sys.modules["__main__"])
    vars(main).update({name: old[name] for name in old if name.startswith("__")})
    sys.modules["__main__"] = main
    for name in interpreter.modules:
        del sys.modules[name]


def _renew() -> None:
    """What modules made once, at import, and every fork would share. (`random` does it itself.)"""
    if module := _imported("numpy.random"):
        module.seed()
    if module := _imported("multiprocessing.process"):
        module.current_process().authkey = os.urandom(32)
    if module := _imported("tempfile"):
        module.tempdir = None  # depends on the environment
    if module := _imported("site"):
        module.USER_BASE = module.USER_SITE = None  # so do these


def _imported(name: str) -> Any:
    """A module that something has imported already, or None."""
    return sys.modules.get(name)


def _call(interpreter: Interpreter, entry: str, args: Sequence[str]) -> None:
    """Import the entry and call it; uncaught errors end as in every program."""
    name, _, function = entry.partition(":")
    try:
        target = getattr(importlib.import_module(name), function)
        sys.path[:] = [path for path in sys.path if path not in interpreter.entries]
        target(*args)
    except SystemExit:
        raise
    except BaseException as error:
        frames = error.__traceback__ and error.__traceback__.tb_next  # without this one
        sys.excepthook(type(error), error.with_traceback(frames), frames)
        sys.exit(128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1)


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.strerror}: {os.fsdecode(error.filename)}"
    return str(error)
