"""Executes the zygote, holds its output, and kills it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from era_kernels.errors import StartError
from era_kernels.sandbox.server.process import OutputPipe

EXIT_TIMEOUT = 5.0  # seconds to leave after the end of file
# The zygote's command line and environment are visible in /proc/PID/cmdline and /proc/PID/environ
# of every forked process, so they hold nothing of the server. The last argument is the parent of
# this package (another copy may be installed); it is removed from the path before other imports.
_BOOT_CODE = (
    "import sys; sys.path.insert(0, sys.argv[2]); import era_kernels; del sys.path[0]; "
    "from era_kernels.sandbox.init.zygote import main; main()"
)
_PACKAGE_PARENT = Path(__file__).parents[3]


class ZygoteProcess:
    """The zygote as a child process, in a session of its own."""

    def __init__(self, popen: subprocess.Popen[bytes], pidfd: int, output_fd: int) -> None:
        """Takes the read end of the pipe that is descriptor 1 and 2 of the zygote."""
        self.pid = popen.pid
        self._popen = popen
        self._pidfd = pidfd
        self._output = OutputPipe(output_fd)

    @classmethod
    async def start(cls, home: Path) -> tuple[ZygoteProcess, socket.socket]:
        """Starts a zygote; returns it and the control socket. Raises StartError."""
        executing = asyncio.ensure_future(asyncio.to_thread(_execute, home))
        is_cancelled = False
        while not executing.done():
            try:
                await asyncio.wait({executing})
            except asyncio.CancelledError:  # whoever waits for it must not lose a process
                is_cancelled = True
        popen, pidfd, output_fd, control_socket = executing.result()
        process = cls(popen, pidfd, output_fd)
        if is_cancelled:
            control_socket.close()
            process.kill()
            await process.wait()
            process.close()
            raise asyncio.CancelledError
        return process, control_socket

    def kill(self) -> None:
        """Sends SIGKILL; does nothing when the process has ended."""
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def wait(self) -> None:
        """Waits for the exit of the process, which has closed its socket; kills it if need be."""
        try:
            await asyncio.to_thread(self._popen.wait, EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            await asyncio.to_thread(self._popen.wait)

    def last_words(self) -> str:
        """Returns the end of what it has written."""
        self._output.drain()
        return self._output.tail().decode(errors="replace")

    def close(self) -> None:
        """Closes the descriptors, after the exit; a second call is fine."""
        self._output.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def _execute(home: Path) -> tuple[subprocess.Popen[bytes], int, int, socket.socket]:
    """Executes the zygote (blocking); returns it, its pidfd, output pipe and control socket."""
    with contextlib.ExitStack() as stack:
        try:
            control_socket, zygote_socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.callback(control_socket.close)
            with zygote_socket:
                read, write = os.pipe2(os.O_CLOEXEC)
                stack.callback(os.close, read)
                try:
                    popen = _popen(home, zygote_socket.fileno(), write)
                finally:
                    os.close(write)
            pidfd = _open_pidfd(popen)
        except OSError as error:
            raise StartError(f"The process that forks kernels cannot be made: {error}.") from error
        stack.pop_all()
    return popen, pidfd, read, control_socket


def _popen(home: Path, control: int, output: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _BOOT_CODE, str(control), str(_PACKAGE_PARENT)],
        # Without a locale the interpreter would go into UTF-8 mode, which programs can see.
        env={"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": str(home)},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=[control],
        start_new_session=True,
    )


def _open_pidfd(popen: subprocess.Popen[bytes]) -> int:
    try:
        return os.pidfd_open(popen.pid)
    except OSError:
        popen.kill()
        popen.wait()
        raise
