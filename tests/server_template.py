"""Forks servers from a process that has imported all that they need: half of a start is imports.

    worker ──exec──▶ template ──fork──▶ server

A server that is forked has the descriptors, environment, folder, session and signals of one that
is started by its command, and runs the command's own script. What differs is told by `/proc`: its
parent, which is the template, and its command line. Run as a program, this file is the template.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

IMPORTED = ("era_kernels.cli", "era_kernels.app", "tornado.platform.asyncio", "encodings.ascii")
MAX_REQUEST = 1 << 17  # bytes of a request: arguments and environment
# Variables that count when an interpreter starts: a server that needs others is not forked.
START_VARIABLES = ("PYTHON", "LD_", "LC_", "LANG", "TZ", "MALLOC_", "GLIBC_")


class ForkedServer:
    """A server that a template forked; it is used as a `subprocess.Popen` is."""

    def __init__(self, pid: int, pidfd: int, ended: int) -> None:
        """Takes descriptors: of the process, and of a pipe that tells how it ended."""
        self.pid = pid
        self.returncode: int | None = None
        self._pidfd = pidfd
        self._ended = ended
        self._lock = threading.Lock()

    def __del__(self) -> None:
        os.close(self._pidfd)
        os.close(self._ended)

    def poll(self) -> int | None:
        """Returns the exit code; None while it runs."""
        return self._find_exit_code(0)

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end, and returns the exit code. Raises subprocess.TimeoutExpired."""
        code = self._find_exit_code(None if timeout is None else timeout * 1000)
        if code is None:
            raise subprocess.TimeoutExpired("era-kernels serve", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _find_exit_code(self, milliseconds: float | None) -> int | None:
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._ended, select.POLLIN)
            if poll.poll(milliseconds):
                with self._lock:
                    if self.returncode is None:
                        self.returncode = int(os.read(self._ended, 16))
        return self.returncode


class ServerTemplate:
    """The process from which servers are forked; it ends with its maker."""

    def __init__(self) -> None:
        self._maker = os.getpid()
        self._lock = threading.Lock()
        self._environment = dict(os.environ)
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(other.fileno())],
                env={**os.environ, "PYTHONMALLOC": "malloc"},  # as servers have it
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[other.fileno()],
                start_new_session=True,
            )

    def close(self) -> None:
        """Ends the template; the servers go on. In a fork of the maker it does nothing."""
        if os.getpid() != self._maker:
            return
        self._socket.close()
        self._process.wait()

    def can_start(self, environment: Mapping[str, str]) -> bool:
        """Tells whether an interpreter would start in this environment as the template did."""
        return _start_variables(environment) == _start_variables(self._environment)

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], stderr: IO[str]
    ) -> tuple[ForkedServer, IO[str]]:
        """Starts a server; returns it, and the pipe to which it prints."""
        request = {"command": command, "environment": dict(environment), "folder": str(Path.cwd())}
        printed, stdout = os.pipe()
        ended, tell_end = os.pipe()
        with self._lock:
            descriptors = [stdout, stderr.fileno(), tell_end]
            socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
            answer, received, _, _ = socket.recv_fds(self._socket, 16, 1)
        os.close(stdout)
        os.close(tell_end)
        os.set_inheritable(received[0], False)
        return ForkedServer(int(answer), received[0], ended), os.fdopen(printed)


@functools.cache
def shared_template() -> ServerTemplate:
    """Returns the template of this process; it is started when it is first needed."""
    template = ServerTemplate()
    atexit.register(template.close)
    return template


def _start_variables(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: environment[name] for name in environment if name.startswith(START_VARIABLES)}


class _Forks:
    """Forks a server for each request, and tells how they ended; runs in the template."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._running: dict[int, tuple[int, int]] = {}  # pidfd → pid, pipe that tells the end

    def serve(self) -> tuple[dict[str, Any], list[int]]:
        """Forks until the maker is gone; returns in each fork, with what it is to be."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        while True:
            for ready, _ in poll.poll():
                if ready != self._control.fileno():
                    poll.unregister(ready)
                    self._tell_end(ready)
                    continue
                request, descriptors, _, _ = socket.recv_fds(self._control, MAX_REQUEST, 3)
                if not request:
                    os._exit(0)
                pid = os.fork()
                if pid == 0:
                    return json.loads(request), descriptors
                poll.register(self._note(pid, descriptors), select.POLLIN)

    def _note(self, pid: int, descriptors: list[int]) -> int:
        *others, tell_end = descriptors
        pidfd = os.pidfd_open(pid)
        self._running[pidfd] = pid, tell_end
        for descriptor in others:
            os.close(descriptor)
        socket.send_fds(self._control, [str(pid).encode()], [pidfd])
        return pidfd

    def _tell_end(self, pidfd: int) -> None:
        pid, tell_end = self._running.pop(pidfd)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.close(pidfd)
        try:
            os.write(tell_end, str(code).encode())
        except BrokenPipeError:  # nobody waits for it
            return
        finally:
            os.close(tell_end)


def _run_command(request: dict[str, Any], descriptors: list[int]) -> None:
    """Becomes the process that the command would have started; returns when it has ended."""
    os.setsid()
    os.chdir(request["folder"])
    stdout, stderr, _ = descriptors
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv[:] = request["command"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


def main() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    control = socket.socket(fileno=int(sys.argv[1]))
    request, descriptors = _Forks(control).serve()
    control.detach()
    _run_command(request, descriptors)


if __name__ == "__main__":
    main()
