"""Runs the commands of an installation, so that none of them outlives it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

GUARD = Path(__file__).with_name("process_guard.py")
MAX_LINES, MAX_LINE = 200, 4096  # of the output that is kept, and bytes of each
END_TIMEOUT = 10.0  # seconds in which the processes of a command are gone


@dataclass(frozen=True, slots=True)
class Completed:
    """The end of a command: `code` is None when it was stopped or took too long."""

    code: int | None
    stdout: tuple[str, ...]  # the last lines
    stderr: tuple[str, ...]


class CommandRunner:
    """Runs commands, from several threads at once, until it is stopped."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._is_stopped = False

    def run(
        self,
        command: Sequence[str],
        *,
        directory: Path,
        env: Mapping[str, str],
        timeout: float,
        lock: int | None = None,
    ) -> Completed:
        """Runs a command to its end (blocking); `timeout` is in seconds.

        `lock` is a descriptor that stays open as long as any process of the command lives.
        """
        with self._lock:
            if self._is_stopped:
                return Completed(None, (), ())
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARD), *command],
                cwd=directory,
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                pass_fds=() if lock is None else (lock,),
            )
            self._running.add(process)
        try:
            return self._finish(process, timeout)
        finally:
            with self._lock:
                self._running.discard(process)

    def stop(self) -> None:
        """Ends all commands, and refuses further ones."""
        with self._lock:
            self._is_stopped = True
            for process in self._running:
                _end(process)

    @property
    def is_stopped(self) -> bool:
        """True once nothing is to be started any more."""
        return self._is_stopped

    def _finish(self, process: subprocess.Popen[bytes], timeout: float) -> Completed:
        assert process.stdout is not None
        assert process.stderr is not None
        stdout, stderr = _LastLines(process.stdout), _LastLines(process.stderr)
        code: int | None = None
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            with self._lock:
                _end(process)
            process.wait()
        else:
            with self._lock:
                _end(process)
        if self._is_stopped:
            code = None
        return Completed(code, stdout.read(), stderr.read())


class _LastLines:
    """Reads a pipe to its end in a thread, and keeps the last lines."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def read(self) -> tuple[str, ...]:
        """Waits for the end of the pipe, and returns the lines."""
        self._thread.join(END_TIMEOUT)
        return tuple(self._lines)

    def _drain(self) -> None:
        with self._pipe:
            while line := self._pipe.readline(MAX_LINE):
                self._lines.append(line.decode(errors="replace").rstrip())


def _end(process: subprocess.Popen[bytes]) -> None:
    """Closes the pipe whose end tells the guard to end everything."""
    if process.stdin is not None:
        process.stdin.close()
