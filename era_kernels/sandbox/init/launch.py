"""Turns a fork of the init into a program.

The fork either executes another program, or goes on as an interpreter that looks as if it had
just been started: changes by the zygote and the init are undone, and state that forks must not
share is renewed.
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
from typing import TYPE_CHECKING, Any

from era_kernels.sandbox.init import isolation
from era_kernels.sandbox.init.sandbox_spec import SandboxSpec
from era_kernels.sandbox.linux import syscalls

if TYPE_CHECKING:  # the zygote imports no more than it uses
    from era_kernels.models import JsonObject

# A service manager signals every process of the server; zygote and init end after the server.
IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SIGNALS_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """The program that a forked process becomes, and the descriptors that came for it."""

    command: JsonObject
    stdin: int | None  # None: /dev/null
    stdout: int
    stderr: int
    status_fd: int  # closed by execve; gets the errno and the reason of a failure before that
    init_pid: int
    spec: SandboxSpec


@dataclass(frozen=True, slots=True)
class InterpreterState:
    """The state of a plain interpreter on this host, noted before anything was changed."""

    sys_path: Sequence[str]  # sys.path without its first entry
    entry_paths: Sequence[str]  # where entry modules lie; hidden from programs
    project_modules: Sequence[str]  # looked up once: a search would cost every fork 2 ms


def run(request: LaunchRequest, interpreter: InterpreterState) -> None:
    """Executes the command, or calls its entry and returns when the entry returns."""
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
    # Programs may read /proc/self; execve does this by itself. Until then no code can trace it.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    _call_entry(interpreter, command["entry"], command["args"])


def _setup_process(request: LaunchRequest) -> None:
    """Sets the process's session, process group, uid, descriptors, signals and directory."""
    os.setsid()
    isolation.enter_session(request.spec)  # changes of uid reset the next
    # A second safeguard: when the init is killed, Linux kills its children.
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != request.init_pid:
        os._exit(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY) if request.stdin is None else request.stdin, 0)
    os.dup2(request.stdout, 1)
    os.dup2(request.stderr, 2)
    syscalls.close_except((0, 1, 2, request.status_fd))
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.chdir(request.command["cwd"])
    if request.command["subdirectory"] != ".":
        syscalls.enter_beneath(request.command["subdirectory"])


def _execute(argv: list[str], env: Mapping[str, str]) -> None:
    """Becomes another program. Raises OSError when there is no such program."""
    for number in _SIGNALS_IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)
    os.execvpe(argv[0], argv, env)


def _reset_interpreter(interpreter: InterpreterState, env: Mapping[str, str]) -> None:
    """Makes this look like an interpreter that was just started with this environment."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    python_path = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = ["", *python_path, *interpreter.sys_path, *interpreter.entry_paths]
    sys.argv = [""]
    sys.orig_argv = [sys.executable]
    # They were made for pipes and /dev/null, and their descriptors are pipes and /dev/null again.
    sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__
    _reseed_modules()
    # A new __main__: gc has frozen the old, so objects that a program left in it would never be
    # finalized.
    main = ModuleType("__main__")
    old = vars(sys.modules["__main__"])
    vars(main).update({name: old[name] for name in old if name.startswith("__")})
    sys.modules["__main__"] = main
    for name in interpreter.project_modules:
        del sys.modules[name]


def _reseed_modules() -> None:
    """Renews state that modules made at import and forks must not share (`random` does itself)."""
    if module := _get_imported("numpy.random"):
        module.seed()
    if module := _get_imported("multiprocessing.process"):
        module.current_process().authkey = os.urandom(32)
    if module := _get_imported("tempfile"):
        module.tempdir = None  # depends on the environment
    if module := _get_imported("site"):
        module.USER_BASE = module.USER_SITE = None  # so do these


def _get_imported(name: str) -> Any:
    """Returns a module if it is imported already, else None."""
    return sys.modules.get(name)


def _call_entry(interpreter: InterpreterState, entry: str, args: Sequence[str]) -> None:
    """Imports the entry and calls it; an uncaught error ends the process as in any program."""
    name, _, function = entry.partition(":")
    try:
        target = getattr(importlib.import_module(name), function)
        sys.path[:] = [path for path in sys.path if path not in interpreter.entry_paths]
        target(*args)
    except SystemExit:
        raise
    except BaseException as error:
        frames = error.__traceback__ and error.__traceback__.tb_next  # without this frame
        sys.excepthook(type(error), error.with_traceback(frames), frames)
        sys.exit(128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1)


def _error_text(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.strerror}: {os.fsdecode(error.filename)}"
    return str(error)
