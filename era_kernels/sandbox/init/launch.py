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
from era_kernels.sandbox.linux import syscalls

# A service manager signals every process of the server; zygote and init wait for the server.
IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SIGNALS_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """What a forked process is to become, and the descriptors that were handed in for it."""

    command: JsonObject
    stdin: int | None  # None: /dev/null
    stdout: int
    stderr: int
    status_fd: (
        int  # closed on execution; before that it takes the errno and the reason of a failure
    )
    init_pid: int  # pid of the init


@dataclass(frozen=True, slots=True)
class Interpreter:
    """What a plain interpreter on this host has, as noted before anything was changed."""

    sys_path: Sequence[str]  # sys.path without its first entry
    entry_paths: Sequence[str]  # where entry modules lie; no program sees them
    project_modules: Sequence[
        str
    ]  # of this project; looked up once, for a walk costs every fork 2 ms


def run(request: LaunchRequest, interpreter: Interpreter) -> None:
    """Execute the command, or call its entry and return when that returns."""
    command = request.command
    try:
        _setup_process(request)
        if command["argv"] is not None:
            _execute(command["argv"], command["env"])
        _reset_interpreter(interpreter, command["env"])
    except (OSError, ValueError) as error:
        message = f"{getattr(error, 'errno', None) or 0}:{_error_text(error)}"
        os.write(request.status_fd, message.encode(errors="replace")[:4096])
        os._exit(127)
    os.close(request.status_fd)
    _call_entry(interpreter, command["entry"], command["args"])


def _setup_process(request: LaunchRequest) -> None:
    """A session and process group of its own, the descriptors, the directory."""
    os.setsid()
    # The second net: an init that is killed takes its children along.
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != request.init_pid:
        os._exit(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY) if request.stdin is None else request.stdin, 0)
    os.dup2(request.stdout, 1)
    os.dup2(request.stderr, 2)
    syscalls.close_except((0, 1, 2, request.status_fd))
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # unlike its init: its /proc/self is its own
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.chdir(request.command["cwd"])


def _execute(argv: list[str], env: Mapping[str, str]) -> None:
    """Become another program. Raises OSError when there is none."""
    for number in _SIGNALS_IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)
    os.execvpe(argv[0], argv, env)


def _reset_interpreter(interpreter: Interpreter, env: Mapping[str, str]) -> None:
    """Look like an interpreter that was just started with this environment."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    python_path = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = ["", *python_path, *interpreter.sys_path, *interpreter.entry_paths]
    sys.argv = [""]
    sys.orig_argv = [sys.executable]
    # These were made for pipes and /dev/null, and their descriptors are that again.
    sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__
    _reseed_modules()
    # A new one, for the old is frozen: what a program leaves in it would never be finalized.
    main = ModuleType("__main__")
    old = vars(sys.modules["__main__"])
    vars(main).update({name: old[name] for name in old if name.startswith("__")})
    sys.modules["__main__"] = main
    for name in interpreter.project_modules:
        del sys.modules[name]


def _reseed_modules() -> None:
    """What modules made once, at import, and every fork would share. (`random` does it itself.)"""
    if module := _get_imported("numpy.random"):
        module.seed()
    if module := _get_imported("multiprocessing.process"):
        module.current_process().authkey = os.urandom(32)
    if module := _get_imported("tempfile"):
        module.tempdir = None  # depends on the environment
    if module := _get_imported("site"):
        module.USER_BASE = module.USER_SITE = None  # so do these


def _get_imported(name: str) -> Any:
    """A module that something has imported already, or None."""
    return sys.modules.get(name)


def _call_entry(interpreter: Interpreter, entry: str, args: Sequence[str]) -> None:
    """Import the entry and call it; uncaught errors end as in every program."""
    name, _, function = entry.partition(":")
    try:
        target = getattr(importlib.import_module(name), function)
        sys.path[:] = [path for path in sys.path if path not in interpreter.entry_paths]
        target(*args)
    except SystemExit:
        raise
    except BaseException as error:
        frames = error.__traceback__ and error.__traceback__.tb_next  # without this one
        sys.excepthook(type(error), error.with_traceback(frames), frames)
        sys.exit(128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1)


def _error_text(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.strerror}: {os.fsdecode(error.filename)}"
    return str(error)
