"""Reads an event log, finished or growing, from any place in it, with bounded memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from era_kernels.errors import ExecutionNotFound, StorageFailed
from era_kernels.json_incremental import LARGE_BYTES
from era_kernels.models import LoggedEvent, Stdout
from era_kernels.storage.log_format import decode, decode_text
from era_kernels.storage.log_index import LineReader, LogIndex, last_line
from era_kernels.storage.threads import SerialExecutor, StorageThreads

APPENDER_THREADS = 4  # threads that write to logs
READER_THREADS = 4  # threads that read, index and remove logs


class LogThreads:
    """Holds the threads of all logs; `much_text` and `slow` run one job after the other."""

    def __init__(self) -> None:
        self.appenders = StorageThreads("log", APPENDER_THREADS)
        self.readers = StorageThreads("log-reader", READER_THREADS)
        self.much_text = StorageThreads("log-text", 1)
        self.slow = StorageThreads("log-long", 1)

    def close(self) -> None:
        """Ends all threads (blocking); a second call is fine."""
        for threads in (self.appenders, self.readers, self.much_text, self.slow):
            threads.close()


class LogReader:
    """Reads events and text from a log; a read ends where the log ends at that time."""

    def __init__(self, path: Path, index: LogIndex, threads: LogThreads) -> None:
        self._path = path
        self._index = index
        self._threads = threads

    @property
    def size(self) -> int:
        """The bytes of the log so far."""
        return self._index.size

    @property
    def text_bytes(self) -> Mapping[str, int]:
        """The bytes of text so far, as UTF-8, by stream."""
        return self._index.text_bytes

    @property
    def last_seq(self) -> int:
        """The number of the newest event, 0 without any."""
        return self._index.last_seq

    async def last_event(self) -> LoggedEvent | None:
        """Reads the newest event of a log that does not grow any more; None without events.

        Raises ExecutionNotFound when the log is gone, StorageFailed.
        """
        if self.last_seq == 0:
            return None
        return await self._threads.readers.run(_read_last_event, self._path, self._index)

    async def read(self, after: int = 0) -> AsyncGenerator[list[LoggedEvent], None]:
        """Yields the events after that sequence number in batches, oldest first.

        Raises ExecutionNotFound when the log is gone, StorageFailed.
        """
        lines = LineReader(self._path, self._index.mark_for_event(after + 1).offset)
        executor = SerialExecutor(self._threads.readers)
        try:
            while batch := await executor.run(_read_events, lines, self.size):
                if isinstance(batch, LargeBatch):
                    batch = await executor.submit_to(self._threads.slow, _decode_all, batch)
                if batch[-1].seq > after:
                    yield [recorded for recorded in batch if recorded.seq > after]
        finally:
            # Not awaited: the last close of a deleted log may wait for the disk.
            executor.submit(lines.close)

    async def text(
        self, stream: str, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yields the bytes from `start` to `stop` of a stream's text, in pieces.

        A `stop` beyond the text, or None, stands for its end. Raises ExecutionNotFound,
        StorageFailed.
        """
        total = self.text_bytes[stream]
        stop = total if stop is None else min(stop, total)
        mark = self._index.mark_for_text(stream, start)
        position = mark.stdout if stream == Stdout.type else mark.stderr
        lines = LineReader(self._path, mark.offset)
        executor = SerialExecutor(self._threads.readers)
        try:
            while max(position, start) < stop:
                data = await executor.run(_read_text, lines, self.size, stream)
                if data is None:
                    return
                piece = data[max(0, start - position) : stop - position]
                position += len(data)
                if piece:
                    yield piece
        finally:
            executor.submit(lines.close)


class LargeBatch(list[bytes]):
    """A batch of lines that take long to decode."""


def _read_events(lines: LineReader, end: int) -> list[LoggedEvent] | LargeBatch:
    batch = _read_lines(lines, end)
    if sum(map(len, batch)) > 16 * LARGE_BYTES:
        return LargeBatch(batch)
    return [_decode(line) for line in batch]


def _decode_all(lines: list[bytes]) -> list[LoggedEvent]:
    """Decodes all lines, and frees them, for they are large."""
    events = [_decode(line) for line in lines]
    lines.clear()
    return events


def _decode(line: bytes) -> LoggedEvent:
    try:
        return decode(line)
    except ValueError as error:
        # The lines were whole when they were counted, so something else wrote into the file.
        raise StorageFailed("The log of this execution is damaged.") from error


def _read_text(lines: LineReader, end: int, stream: str) -> bytes | None:
    """Reads the text of the next lines; returns None at the end."""
    batch = _read_lines(lines, end)
    return b"".join(decode_text(line, stream) for line in batch) if batch else None


def _read_lines(lines: LineReader, end: int) -> list[bytes]:
    with _missing_as_not_found():
        return lines.read(end)


def _read_last_event(path: Path, index: LogIndex) -> LoggedEvent:
    with _missing_as_not_found():
        return _decode(last_line(path, index))


@contextmanager
def _missing_as_not_found() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ExecutionNotFound("The log of this execution is gone.") from error
