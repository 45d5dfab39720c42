"""Reads an event log, finished or growing, from any place in it, with bounded memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from era_kernels.errors import ExecutionNotFound, StorageFailed
from era_kernels.long_json import LONG
from era_kernels.models import Recorded, Stdout
from era_kernels.storage.log_index import Lines, LogIndex, last_line
from era_kernels.storage.log_lines import decode, text_in
from era_kernels.storage.threads import Lane, Threads

APPENDERS = 4  # threads that write to logs
READERS = 4  # threads that read logs, and index or remove them


class Pools:
    """The threads of all logs. `long` does what takes long, one after the other."""

    def __init__(self) -> None:
        self.appenders = Threads("log", APPENDERS)
        self.readers = Threads("log-reader", READERS)
        self.long = Threads("log-long", 1)

    def close(self) -> None:
        """Blocking; a second call is fine."""
        for threads in (self.appenders, self.readers, self.long):
            threads.close()


class LogReader:
    """A log as readers see it: events and text. A read ends where the log ends at that time."""

    def __init__(self, path: Path, index: LogIndex, pools: Pools) -> None:
        self._path = path
        self._index = index
        self._pools = pools

    @property
    def size(self) -> int:
        """Bytes of the log so far."""
        return self._index.size

    @property
    def text_bytes(self) -> Mapping[str, int]:
        """Stream → bytes of its text so far, as UTF-8."""
        return self._index.text_bytes

    @property
    def last_seq(self) -> int:
        """The number of the newest event, 0 without any."""
        return self._index.last_seq

    async def last(self) -> Recorded | None:
        """The newest event of a log that does not grow any more.

        Raises ExecutionNotFound when the log is gone, StorageFailed.
        """
        if self.last_seq == 0:
            return None
        return await self._pools.readers.run(_last, self._path, self._index)

    async def read(self, after: int = 0) -> AsyncIterator[list[Recorded]]:
        """Batches of the events after that sequence number, oldest first.

        Raises ExecutionNotFound when the log is gone, StorageFailed.
        """
        lines = Lines(self._path, self._index.before_event(after + 1).offset)
        lane = Lane(self._pools.readers)
        try:
            while batch := await lane.run(_events, lines, self.size):
                if isinstance(batch, Lots):
                    batch = await lane.start_on(self._pools.long, _all_decoded, batch)
                if batch[-1].seq > after:
                    yield [recorded for recorded in batch if recorded.seq > after]
        finally:
            # Nobody waits: the last one to close a deleted log may have to wait for the disk.
            lane.start(lines.close)

    async def text(
        self, stream: str, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes]:
        """The bytes from `start` to `stop` of a stream's text, in pieces.

        `stop` beyond the text, or None, is its end. Raises ExecutionNotFound, StorageFailed.
        """
        total = self.text_bytes[stream]
        stop = total if stop is None else min(stop, total)
        mark = self._index.before_text(stream, start)
        position = mark.stdout if stream == Stdout.type else mark.stderr
        lines = Lines(self._path, mark.offset)
        lane = Lane(self._pools.readers)
        try:
            while max(position, start) < stop:
                data = await lane.run(_text, lines, self.size, stream)
                if data is None:
                    return
                piece = data[max(0, start - position) : stop - position]
                position += len(data)
                if piece:
                    yield piece
        finally:
            lane.start(lines.close)


class Lots(list[bytes]):
    """Lines that take long to decode."""


def _events(lines: Lines, end: int) -> list[Recorded] | Lots:
    taken = _take(lines, end)
    if sum(map(len, taken)) > 16 * LONG:
        return Lots(taken)
    return [_decoded(line) for line in taken]


def _all_decoded(lines: list[bytes]) -> list[Recorded]:
    """Lets go of the lines, which are large."""
    found = [_decoded(line) for line in lines]
    lines.clear()
    return found


def _decoded(line: bytes) -> Recorded:
    try:
        return decode(line)
    except ValueError as error:
        # The lines were whole when they were counted: something else wrote into the file.
        raise StorageFailed("The log of this execution is damaged.") from error


def _text(lines: Lines, end: int, stream: str) -> bytes | None:
    """The text of the next lines; None at the end."""
    taken = _take(lines, end)
    return b"".join(text_in(line, stream) for line in taken) if taken else None


def _take(lines: Lines, end: int) -> list[bytes]:
    with _gone():
        return lines.take(end)


def _last(path: Path, index: LogIndex) -> Recorded:
    with _gone():
        return _decoded(last_line(path, index))


@contextmanager
def _gone() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ExecutionNotFound("The log of this execution is gone.") from error
