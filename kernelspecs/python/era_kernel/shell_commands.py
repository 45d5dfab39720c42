"""Runs the commands of shell lines and script magics; an interrupt ends both, command and run.

IPython swallows the KeyboardInterrupt there, and goes on with the next line of the cell.
"""

from __future__ import annotations

import codecs
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

PATIENCE = 0.25  # seconds that an interrupted command has to end by itself
_READ_SIZE = 64 * 1024  # bytes of output that are handed on at once

Command = str | Sequence[str]  # a line for the shell, or a program and its arguments


def run_command(
    command: Command, stdin: bytes | None = None, out: list[str] | None = None, err: Any = None
) -> int:
    """Runs a command to its end and returns its exit code, negative for a signal.

    It writes where the program's sys.stdout and sys.stderr lead. `out` and `err` are lists which
    get the text instead. Raises OSError when there is no such program, and KeyboardInterrupt.
    """
    # What waits in a stream of the program comes before what the command writes.
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    targets = [_find_target(sys.stdout, 1, out), _find_target(sys.stderr, 2, err)]
    process = subprocess.Popen(
        command,
        stdin=None if stdin is None else subprocess.PIPE,
        stdout=None if targets[0] is None else subprocess.PIPE,
        stderr=None if targets[1] is None else subprocess.PIPE,
        **_shell_options(command),
    )
    return _wait(process, stdin, targets)


def read_command(command: str) -> tuple[str, int]:
    """Returns what a shell line wrote to stdout and stderr, and its exit code."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **_shell_options(command),
    )
    output: list[str] = []
    code = _wait(process, None, [output, None])
    return "".join(output), code


def _shell_options(command: Command) -> dict[str, Any]:
    if not isinstance(command, str):
        return {}
    return {"shell": True, "executable": os.environ.get("SHELL") or None}


def _find_target(stream: Any, descriptor: int, texts: list[str] | None) -> Any:
    """Returns what output is to be written to; None where the command can have the descriptor."""
    if texts is not None or stream is None:
        return texts if texts is not None else []
    try:
        return None if stream.fileno() == descriptor else stream
    except (AttributeError, OSError, ValueError):
        return stream


def _wait(process: subprocess.Popen[bytes], stdin: bytes | None, targets: list[Any]) -> int:
    """Waits for the end of the command and of its output; ends it when that is interrupted."""
    pipes = [(process.stdout, targets[0]), (process.stderr, targets[1])]
    workers = [
        threading.Thread(target=_copy, args=(pipe, target), daemon=True)
        for pipe, target in pipes
        if pipe is not None
    ]
    if process.stdin is not None:
        workers.append(threading.Thread(target=_feed, args=(process.stdin, stdin), daemon=True))
    try:
        for worker in workers:
            worker.start()
        code = process.wait()
        for worker in workers:
            worker.join()
        return code
    except KeyboardInterrupt:
        _end(process)
        raise KeyboardInterrupt from None  # without the frames of `subprocess`
    except BaseException:
        _end(process)
        raise


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a command; where an interrupt came, it came to the command, too."""
    try:
        process.wait(PATIENCE)
    except BaseException:  # also the next interrupt
        process.kill()
        process.wait()


def _copy(pipe: Any, target: Any) -> None:
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    write = target.append if isinstance(target, list) else target.write
    while data := os.read(pipe.fileno(), _READ_SIZE):
        write(decode(data))
    write(decode(b"", True))
    pipe.close()


def _feed(pipe: Any, data: bytes) -> None:
    try:
        pipe.write(data)
        pipe.close()
    except OSError:  # it does not read to the end
        return
