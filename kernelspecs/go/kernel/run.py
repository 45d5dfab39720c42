"""One run: a process that builds a program and becomes it, and what connects it with the kernel."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import termios
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from messages import MessageReader
from output import OutputPipe
from wire import Message

KERNEL_FD = "ERA_KERNEL_FD"  # names the descriptor by which a program shows things


class Run:
    """A program from its source to its end; its process has a process group of its own."""

    def __init__(self, request: Message, number: int, command: list[str], directory: Path) -> None:
        """Takes the command that builds and becomes the program. Starts nothing."""
        era = request["metadata"].get("era") or {}
        self.request, self.number = request, number
        self.is_of_server = bool(era)  # else it is of a client that knows Jupyter only
        self.refusal: str | None = None  # why there is no program
        self.stdout = OutputPipe("stdout", request["header"])
        self.stderr = OutputPipe("stderr", request["header"])
        self.stdin: int | None = None  # the write end, while the program's input is open
        self.unwritten_input = b""  # for which the pipe had no room yet
        self.messages: MessageReader | None = None
        self.pid = 0
        self.ended_fd = -1  # readable when the process has ended
        self.interrupt_count = 0
        self._command, self._env = command, era.get("env") or {}
        self._work = Path(tempfile.mkdtemp(prefix="run-", dir=directory))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, environment: Mapping[str, str], *, has_input: bool) -> None:
        """Starts the process. Raises OSError."""
        source = self._work / "source"
        code = self.request["content"]["code"]
        source.write_text(code, encoding="utf-8", errors="surrogateescape", newline="")
        build = self._work / "build"
        build.mkdir()
        ours, theirs = socket.socketpair()
        reader = os.open(os.devnull, os.O_RDONLY)
        if has_input:
            os.close(reader)
            reader, self.stdin = os.pipe()
            os.set_blocking(self.stdin, False)
        try:
            self._process = subprocess.Popen(
                [*self._command, "-work", str(build), str(source)],
                stdin=reader,
                stdout=self.stdout.write_end,
                stderr=self.stderr.write_end,
                pass_fds=[theirs.fileno()],
                process_group=0,
                env={**environment, **self._env, KERNEL_FD: str(theirs.fileno())},
            )
        finally:
            theirs.close()
            os.close(reader)
            self.stdout.close_write_end()
            self.stderr.close_write_end()
        self.pid = self._process.pid
        self.messages = MessageReader(ours)
        self.ended_fd = os.pidfd_open(self.pid)

    def signal(self, number: int) -> None:
        """Sends a signal to all processes of the program."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def write_input(self, text: str | None) -> None:
        """Gives the program a line, or the end of its input."""
        if text is None:
            self.close_input()
        else:
            self.unwritten_input += f"{text}\n".encode(errors="replace")
            self.pass_on_input()

    def pass_on_input(self) -> None:
        """Writes what the pipe of the program's input has room for."""
        if self.stdin is None:
            return
        try:
            while self.unwritten_input:
                count = os.write(self.stdin, self.unwritten_input)
                self.unwritten_input = self.unwritten_input[count:]
        except BlockingIOError:
            return
        except OSError:  # nobody can read it any more
            self.close_input()

    def has_unread_input(self) -> bool:
        """Returns whether the program has not read all that it was given."""
        if self.stdin is None or self.unwritten_input:
            return True
        count = fcntl.ioctl(self.stdin, termios.FIONREAD, bytes(4))
        return any(count)

    def close_input(self) -> None:
        self.unwritten_input = b""
        if self.stdin is not None:
            os.close(self.stdin)
            self.stdin = None

    def wait(self) -> int:
        """Returns how the process has ended: its exit code, or the negative number of a signal."""
        assert self._process is not None
        return self._process.wait()

    def close(self) -> None:
        """Frees all but the pipes of its output, into which children may still write."""
        self.close_input()
        if self.messages is not None:
            self.messages.close()
        if self.ended_fd >= 0:
            os.close(self.ended_fd)
        shutil.rmtree(self._work, ignore_errors=True)
