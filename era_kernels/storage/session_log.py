"""A session's log: what was written between and after its runs, as far as the newest of it is kept.

Two files of whole lines, each at most MAX_FILE_BYTES bytes long: when the newer one is full it takes the
place of the older one, which is gone then. Entries count from 1 without a gap, so the number of the
first that is left tells how many were dropped.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import chain
from pathlib import Path

from era_kernels.models import LoggedEvent, Stderr, Stdout
from era_kernels.storage.log_format import decode, encode
from era_kernels.storage.threads import SerialExecutor, StorageThreads

MAX_FILE_BYTES = 1 << 20  # bytes of each of the two files
MAX_ENTRY_CHARS = 1 << 16  # characters of one entry; what is longer becomes several
THREADS = 2

DIRECTORY = "log"
NEWER, OLDER = "newer.jsonl", "older.jsonl"

TextEvent = Stdout | Stderr
TimedText = tuple[datetime, TextEvent]


class SessionLog:
    """The log of one session. All of its users share one, for what it does, it does in order."""

    def __init__(self, session_directory: Path, threads: StorageThreads) -> None:
        """`session_directory` is the session's directory. Nothing is read or made before it is needed."""
        self._session_directory = session_directory
        self._executor = SerialExecutor(threads)
        self._size: int | None = None  # of the newer file; None: it has not been looked at
        self._last_seq = 0

    async def append(self, texts: Sequence[TimedText]) -> list[LoggedEvent]:
        """Write texts, each with the time when it came; how they stand in the log.

        Raises StorageFailed, InsufficientStorage. The log is whole then, the next call may succeed,
        and of many texts the first may stand in the log.
        """
        return await self._executor.run(self._append, texts)

    async def read(self, after: int = 0) -> list[LoggedEvent]:
        """The entries after that number that are kept, oldest first. Raises StorageFailed."""
        return await self._executor.run(self._read, after)

    async def last_seq(self) -> int:
        """The number of the newest entry, 0 when there is none. Raises StorageFailed."""
        return await self._executor.run(self._find_last_seq)

    # ------------------------------------------------------------ in a thread, one at a time

    def _append(self, texts: Sequence[TimedText]) -> list[LoggedEvent]:
        first = self._find_last_seq() + 1
        entries = [LoggedEvent(first + n, *text) for n, text in enumerate(_split_long_texts(texts))]
        try:
            for group in self._lines_per_file(entries):
                self._write(group)
        except BaseException:
            self._size = None  # what stands in the files is found out before the next append
            raise
        self._last_seq += len(entries)
        return entries

    def _lines_per_file(self, entries: Iterable[LoggedEvent]) -> Iterator[bytes]:
        """The lines of entries, as many together as go into one file; the files turn between."""
        lines: list[bytes] = []
        size = self._size or 0
        for entry in entries:
            line = encode(entry)[0]
            if size + len(line) > MAX_FILE_BYTES:
                yield b"".join(lines)
                self._rotate()
                lines, size = [], 0
            lines.append(line)
            size += len(line)
        yield b"".join(lines)

    def _read(self, after: int) -> list[LoggedEvent]:
        found = chain.from_iterable(
            _read_entries(self._session_directory / DIRECTORY / n) for n in (OLDER, NEWER)
        )
        return [entry for entry in found if entry.seq > after]

    def _find_last_seq(self) -> int:
        """Look at the files, once. What a crash left of a torn last line is cut off."""
        if self._size is None:
            self._size = _cut_torn_line(self._path(NEWER))
            self._last_seq = max((entry.seq for entry in self._read(0)), default=0)
        return self._last_seq

    def _write(self, data: bytes) -> None:
        if not data:
            return
        assert self._size is not None
        with self._open_newer() as file:
            try:
                _write_all(file, data, self._size)
            except BaseException:
                os.ftruncate(file, self._size)
                raise
        self._size += len(data)

    def _rotate(self) -> None:
        if self._size:
            self._path(NEWER).rename(self._path(OLDER))
            self._size = 0

    @contextmanager
    def _open_newer(self) -> Iterator[int]:
        """The newer file. The directory is made where it is missing, the session's own never."""
        path = self._path(NEWER)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            file = os.open(path, flags, 0o600)
        except FileNotFoundError:
            path.parent.mkdir(mode=0o700)
            file = os.open(path, flags, 0o600)
        try:
            yield file
        finally:
            os.close(file)

    def _path(self, name: str) -> Path:
        return self._session_directory / DIRECTORY / name


class SessionLogStore:
    """Finds the logs of sessions. `sessions` is where their directories are."""

    def __init__(self, sessions: Path) -> None:
        self._sessions = sessions
        self._threads = StorageThreads("session-log", THREADS)

    def open_log(self, directory: str) -> SessionLog:
        """The log of the session in that directory; one at a time is to be used."""
        return SessionLog(self._sessions / directory, self._threads)

    def close(self) -> None:
        """Finish what was begun (blocking); a second call is fine."""
        self._threads.close()


def _split_long_texts(texts: Iterable[TimedText]) -> Iterator[TimedText]:
    for time, text in texts:
        for start in range(0, len(text.content), MAX_ENTRY_CHARS):
            yield (
                time,
                dataclasses.replace(text, content=text.content[start : start + MAX_ENTRY_CHARS]),
            )


def _read_entries(path: Path) -> Iterator[LoggedEvent]:
    """Those of a file, which need not be there. A line that is no entry is passed over."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    for line in data.split(b"\n")[:-1]:
        try:
            entry = decode(line)
        except ValueError:
            continue
        if isinstance(entry.event, Stdout | Stderr) and type(entry.seq) is int:
            yield entry


def _cut_torn_line(path: Path) -> int:
    """The size of the whole lines of a file, after the rest was cut off; 0 when it is not there."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return 0
    size = data.rfind(b"\n") + 1
    if size < len(data):
        os.truncate(path, size)
    return size


def _write_all(file: int, data: bytes, offset: int) -> None:
    """A disk that fills up takes a part first. Raises OSError."""
    written = 0
    while written < len(data):
        written += os.pwrite(file, data[written:], offset + written)
