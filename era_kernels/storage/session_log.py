"""Keeps the newest part of a session's log: the output between and after the session's runs.

The log is two files of whole lines, each at most MAX_FILE_BYTES long: when the newer file is full,
it replaces the older one. Entries count from 1 without a gap, so the number of the first entry that
is kept shows how many were dropped.
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
from era_kernels.storage.writing import write_all_at

MAX_FILE_BYTES = 1 << 20  # bytes of each of the two files
MAX_ENTRY_CHARS = 1 << 16  # characters of one entry; a longer text becomes several entries
THREADS = 2

DIRECTORY = "log"
NEWER, OLDER = "newer.jsonl", "older.jsonl"

TextEvent = Stdout | Stderr
TimedText = tuple[datetime, TextEvent]


class SessionLog:
    """Reads and writes the log of one session, one call after the other; all users share it."""

    def __init__(self, session_directory: Path, threads: StorageThreads) -> None:
        """Reads and makes nothing yet; `session_directory` is the session's directory."""
        self._session_directory = session_directory
        self._executor = SerialExecutor(threads)
        self._size: int | None = None  # bytes of the newer file; None: not read yet
        self._last_seq = 0

    async def append(self, texts: Sequence[TimedText]) -> list[LoggedEvent]:
        """Writes texts, each with the time when it came; returns them as they are in the log.

        Raises StorageFailed, InsufficientStorage. The log is whole then, the next call may succeed,
        and the first of many texts may be in the log.
        """
        return await self._executor.run(self._append, texts)

    async def read(self, after: int = 0) -> list[LoggedEvent]:
        """Returns the kept entries after that number, oldest first. Raises StorageFailed."""
        return await self._executor.run(self._read, after)

    async def last_seq(self) -> int:
        """Returns the number of the newest entry, 0 without entries. Raises StorageFailed."""
        return await self._executor.run(self._find_last_seq)

    # ------------------------------------------------------------ in a thread, one at a time

    def _append(self, texts: Sequence[TimedText]) -> list[LoggedEvent]:
        first = self._find_last_seq() + 1
        entries = [LoggedEvent(first + n, *text) for n, text in enumerate(_split_long_texts(texts))]
        try:
            for group in self._lines_per_file(entries):
                self._write(group)
        except BaseException:
            self._size = None  # the files are read again before the next append
            raise
        self._last_seq += len(entries)
        return entries

    def _lines_per_file(self, entries: Iterable[LoggedEvent]) -> Iterator[bytes]:
        """Yields the lines of entries, as many as fit into one file; rotates the files between."""
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
        """Finds the newest entry; reads the files once, and cuts off a line that a crash tore."""
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
                write_all_at(file, data, self._size)
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
        """Opens the newer file; makes a missing directory of the log, never the session's."""
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
    """Opens the logs of sessions; `sessions` holds their directories."""

    def __init__(self, sessions: Path) -> None:
        self._sessions = sessions
        self._threads = StorageThreads("session-log", THREADS)

    def open_log(self, directory: str) -> SessionLog:
        """Opens the log of the session in that directory; use only one at a time."""
        return SessionLog(self._sessions / directory, self._threads)

    def close(self) -> None:
        """Finishes all work that was begun (blocking); a second call is fine."""
        self._threads.close()


def _split_long_texts(texts: Iterable[TimedText]) -> Iterator[TimedText]:
    for time, text in texts:
        for start in range(0, len(text.content), MAX_ENTRY_CHARS):
            yield (
                time,
                dataclasses.replace(text, content=text.content[start : start + MAX_ENTRY_CHARS]),
            )


def _read_entries(path: Path) -> Iterator[LoggedEvent]:
    """Yields the entries of a file, which may be missing; skips a line that is no entry."""
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
    """Cuts off a torn last line; returns the file's size then, 0 when the file is missing."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return 0
    size = data.rfind(b"\n") + 1
    if size < len(data):
        os.truncate(path, size)
    return size
