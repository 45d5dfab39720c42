"""Lets `os.execv` and its relatives replace the program although this process holds its output.

The read ends of descriptors 1 and 2 are in this process, and would be gone with it. So the new
program runs in a child; this process passes its output on as that of any child, and ends as the
child ends.
"""

from __future__ import annotations

import os
import posix
from collections.abc import Callable
from functools import wraps
from os import (
    O_CLOEXEC,
    WIFSIGNALED,
    WTERMSIG,
    close,
    fork,
    fsdecode,
    getpid,
    kill,
    pipe2,
    read,
    strerror,
    waitpid,
    waitstatus_to_exitcode,
    write,
)
from os import _exit as exit_process
from signal import SIG_BLOCK, SIG_DFL, SIG_SETMASK, SIGKILL, pthread_sigmask, signal, valid_signals
from typing import Any, NoReturn

MAX_PROBLEM_BYTES = 4096  # bytes that tell why a program could not be started


def install(on_exit: Callable[[], object]) -> None:
    """Patches `os.execv` and `os.execve`, on which the others of `os` are built.

    `on_exit` sends all output, before this process ends.
    """
    pid = getpid()

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def execute(path: Any, *args: Any) -> Any:
            if getpid() == pid:
                status = _run_in_child(lambda: function(path, *args), path)
                on_exit()
                _end_as(status)
            return function(path, *args)

        return execute

    os.execv = posix.execv = wrap(os.execv)  # type: ignore[assignment]
    os.execve = posix.execve = wrap(os.execve)  # type: ignore[assignment]


def _run_in_child(execute: Callable[[], object], path: Any) -> int:
    """Runs the new program in a child; returns its wait status. Raises what `execute` raises."""
    problem_fd, child_fd = pipe2(O_CLOEXEC)
    mask = pthread_sigmask(SIG_BLOCK, valid_signals())  # an interrupt is for the new program
    try:
        child = fork()
        if child == 0:
            pthread_sigmask(SIG_SETMASK, mask)
            write(child_fd, _describe_failure(execute))
            exit_process(127)
        close(child_fd)
        problem = read(problem_fd, MAX_PROBLEM_BYTES).decode(errors="replace")
        status = waitpid(child, 0)[1]
    finally:
        close(problem_fd)
        pthread_sigmask(SIG_SETMASK, mask)
    if problem:
        _raise(problem, path)
    return status


def _describe_failure(execute: Callable[[], object]) -> bytes:
    """Tries to become the new program; returns why that failed, for `_raise`."""
    try:
        execute()
    except OSError as error:
        return f"{error.errno} {'' if error.filename is None else 'path'}".encode()
    except BaseException as error:
        return f"{type(error).__name__} {error}".encode(errors="replace")[:MAX_PROBLEM_BYTES]
    return b""


def _raise(problem: str, path: Any) -> NoReturn:
    kind, _, text = problem.partition(" ")
    if kind.isdecimal():
        raise OSError(int(kind), strerror(int(kind)), *([fsdecode(path)] if text else []))
    raise (TypeError if kind == "TypeError" else ValueError)(text)


def _end_as(status: int) -> NoReturn:
    """Ends this process as a child with that status ended."""
    if WIFSIGNALED(status):
        number = WTERMSIG(status)
        if number != SIGKILL:
            signal(number, SIG_DFL)
        kill(getpid(), number)
    exit_process(waitstatus_to_exitcode(status) & 0xFF)
