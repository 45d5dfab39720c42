"""Reads the stack of a program in a call that lets no other thread of its interpreter run.

A kernel in such a call answers no request. But a signal handler of its interpreter may write the
frames to a file, innermost first, as fault handlers print them:

    Stack (most recent call first):
      File "<cell 1>", line 3 in f
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from era_kernels.kernels.inspection_replies import MAX_FRAMES, MAX_LINE_LENGTH
from era_kernels.models import StackFrame

MAX_READ_BYTES = 256 * 1024  # bytes of the file's end that are read
# Seconds between two reads of the file; it is complete when nothing was added meanwhile.
POLL_INTERVAL = 0.02

_FRAME = re.compile(r'  File "(.*)", line (\d{1,9}) in (.*)')
_HEADER = re.compile(r"^.*\(most recent call first\):$", re.MULTILINE)
_CELL = re.compile(r"<cell \d{1,18}>")


async def request_dump(
    file: Path, send_signal: Callable[[], Awaitable[None]], timeout: float
) -> str | None:
    """Returns what was written to the file after `send_signal`; None when nothing is in time."""
    before, _ = await asyncio.to_thread(_read_end, file)
    await send_signal()
    last = before
    for _ in range(round(timeout / POLL_INTERVAL)):
        await asyncio.sleep(POLL_INTERVAL)
        size, text = await asyncio.to_thread(_read_end, file)
        if size > before and size == last:
            return text
        last = size
    return None


def _read_end(file: Path) -> tuple[int, str]:
    """Returns the file's size and its end.

    The kernel owns the file and may have put anything there.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return 0, ""
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return 0, ""
        end = os.pread(descriptor, MAX_READ_BYTES, max(0, status.st_size - MAX_READ_BYTES))
        return status.st_size, end.decode(errors="replace")
    finally:
        os.close(descriptor)


def parse_dump(text: str, sources: Mapping[str, Sequence[str]]) -> list[StackFrame]:
    """Returns the program's frames of the last stack in the text, innermost last.

    The kernel's own frames are left out: the outermost ones, down to the first cell, and between
    the program's frames those of files in the same directory as the one which called that cell.
    """
    starts = [match.end() for match in _HEADER.finditer(text)]
    lines = text[starts[-1] :].splitlines() if starts else []
    found = [match for match in map(_FRAME.fullmatch, lines) if match is not None]
    cells = [at for at, match in enumerate(found) if _CELL.fullmatch(match[1])]
    if not cells:
        return []
    outside = found[cells[-1] + 1][1] if cells[-1] + 1 < len(found) else ""
    folder = outside.rpartition("/")[0]
    inner = [
        match
        for match in found[: cells[-1] + 1]
        if not folder or match[1].rpartition("/")[0] != folder
    ]
    return [_to_frame(match, sources) for match in reversed(inner[:MAX_FRAMES])]


def _to_frame(match: re.Match[str], sources: Mapping[str, Sequence[str]]) -> StackFrame:
    file, line = match[1][:MAX_LINE_LENGTH], int(match[2])
    lines = sources.get(file, ())
    source = lines[line - 1].strip()[:MAX_LINE_LENGTH] if 0 < line <= len(lines) else ""
    return StackFrame(file, line, match[3][:MAX_LINE_LENGTH], source)
