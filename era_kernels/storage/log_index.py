"""Indexes one event log: how much it holds, and where to start reading for an event or a byte."""

from __future__ import annotations

import json
import logging
import os
from bisect import bisect_right
from contextlib import closing
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from era_kernels.models import Stderr, Stdout
from era_kernels.storage.log_format import LineInfo, decode_header, measure

log = logging.getLogger(__name__)

MARK_INTERVAL_BYTES = 256 * 1024  # bytes of log from one mark to the next
CHUNK_BYTES = 256 * 1024  # bytes that are read at once
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Mark(NamedTuple):
    """The offset where event `seq` begins, and the bytes of text of each stream before it."""

    seq: int
    offset: int
    stdout: int
    stderr: int


class LogIndex:
    """Counts the whole lines of a log; one thread adds, others may read meanwhile."""

    def __init__(self, start: int) -> None:
        """Starts empty; `start` is the offset of the first event, after the header."""
        self.size = start
        self.last_seq = 0
        self.text_bytes = {Stdout.type: 0, Stderr.type: 0}
        self.marks = [Mark(1, start, 0, 0)]

    def add(self, line: LineInfo) -> None:
        """Counts one more line at the end."""
        if self.size - self.marks[-1].offset >= MARK_INTERVAL_BYTES:
            self.marks.append(Mark(self.last_seq + 1, self.size, *self.text_bytes.values()))
        self.last_seq += 1
        # The size grows before the text count: a reader never looks for text beyond the size.
        self.size += line.size
        if line.stream is not None:
            self.text_bytes[line.stream] += line.text_size

    @property
    def is_worth_saving(self) -> bool:
        """True if the log is long: counting a short one again costs less than one more file."""
        return len(self.marks) > 1

    def mark_for_event(self, seq: int) -> Mark:
        """Returns the last mark that is not beyond that event."""
        return self._last_mark_up_to("seq", seq)

    def mark_for_text(self, stream: str, position: int) -> Mark:
        """Returns the last mark that is not beyond that byte of a stream's text."""
        return self._last_mark_up_to(stream, position)

    def _last_mark_up_to(self, field: str, value: int) -> Mark:
        key = itemgetter(Mark._fields.index(field))
        return self.marks[max(bisect_right(self.marks, value, key=key) - 1, 0)]

    # ------------------------------------------------------------ on disk (blocking)

    @classmethod
    def load_or_build(cls, path: Path) -> LogIndex:
        """Returns the saved index of a log that has no writer, or else builds and saves it.

        The index ends before the first line that is torn or wrong. Raises OSError.
        """
        saved = _load(path)
        if saved is not None:
            return saved
        index = cls.build(path)
        if index.is_worth_saving:
            index.save(path)
        return index

    @classmethod
    def build(cls, path: Path) -> LogIndex:
        """Builds the index from the whole log, a chunk at a time. Raises OSError."""
        with closing(LineReader(path, 0)) as lines:
            end = lines.file_size()
            batch = lines.read(end)
            index = cls(_header_size(path, batch))
            batch = (batch[1:] or lines.read(end)) if index.size else []
            while batch:
                for line in batch:
                    try:
                        index.add(measure(line, index.last_seq + 1))
                    except ValueError as error:
                        log.warning("a log is torn", extra={"log": path.name, "why": str(error)})
                        return index
                batch = lines.read(end)
        return index

    def save(self, path: Path) -> None:
        """Saves the index beside a finished log; a failure is logged, for it can be built again."""
        values = {
            "boot": boot_id(),
            "size": self.size,
            "last_seq": self.last_seq,
            "text_bytes": self.text_bytes,
            "marks": self.marks,
        }
        try:
            index_path(path).write_text(json.dumps(values))
        except OSError as error:
            log.warning("an index was not saved", extra={"log": path.name, "why": str(error)})


def _header_size(path: Path, lines: list[bytes]) -> int:
    """Returns the bytes of the header; 0 when it is torn, and then the log holds nothing."""
    try:
        decode_header(lines[0] if lines else b"")
    except ValueError as error:
        log.warning("a log is torn", extra={"log": path.name, "why": str(error)})
        return 0
    return len(lines[0])


def _load(path: Path) -> LogIndex | None:
    """Returns the saved index, if there is one and it fits the log.

    An index from before the machine's last start may count lines that a power loss destroyed,
    though the log has its old size: the log's last blocks may hold zeros then.
    """
    try:
        values = json.loads(index_path(path).read_bytes())
        if values["boot"] != boot_id():
            return None
        index = LogIndex(0)
        index.size, index.last_seq = values["size"], values["last_seq"]
        index.text_bytes = {stream: values["text_bytes"][stream] for stream in index.text_bytes}
        index.marks = [Mark(*mark) for mark in values["marks"]]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):  # torn by a crash
        return None
    return index if index.size == path.stat().st_size else None


def boot_id() -> str:
    """Returns an id that differs after each start of the machine; empty where it is unknown."""
    try:
        return BOOT_ID.read_text("ascii").strip()
    except OSError:
        return ""


def index_path(path: Path) -> Path:
    """Returns the path of a log's index."""
    return path.with_suffix(".index")


class LineReader:
    """Reads the whole lines of a log from an offset on, a chunk at a time (blocking).

    The first read opens the file, so that no file is left open when nothing is read.
    """

    def __init__(self, path: Path, offset: int) -> None:
        self._path = path
        self._offset = offset
        self._file = -1

    def read(self, end: int) -> list[bytes]:
        """Reads the next lines before the offset `end`, with their newlines; none at the end.

        Raises OSError.
        """
        data = os.pread(self._open(), min(CHUNK_BYTES, end - self._offset), self._offset)
        stop = data.rfind(b"\n") + 1
        if not stop and len(data) == CHUNK_BYTES:  # a long line, of which only one copy is made
            stop = self._line_size(end)
            data = os.pread(self._file, stop, self._offset)
        self._offset += stop
        if not stop or data.find(b"\n") == stop - 1:  # none, or one line
            return [data[:stop]] if stop else []
        return [line + b"\n" for line in data[: stop - 1].split(b"\n")]

    def _line_size(self, end: int) -> int:
        """Returns the bytes of the next line; 0 when it does not end before the offset `end`."""
        for start in range(self._offset, end, CHUNK_BYTES):
            found = os.pread(self._file, min(CHUNK_BYTES, end - start), start).find(b"\n")
            if found >= 0:
                return start + found + 1 - self._offset
        return 0

    def file_size(self) -> int:
        """Returns the bytes of the file. Raises OSError."""
        return os.fstat(self._open()).st_size

    def close(self) -> None:
        """Closes the file; is called once, as the last step."""
        if self._file >= 0:
            os.close(self._file)

    def _open(self) -> int:
        if self._file < 0:
            self._file = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return self._file


def first_line(path: Path) -> bytes:
    """Reads the header's line; empty when it is torn. Raises OSError."""
    with closing(LineReader(path, 0)) as lines:
        return b"".join(lines.read(lines.file_size())[:1])


def last_line(path: Path, index: LogIndex) -> bytes:
    """Reads the line of the last event in the index, empty without any. Raises OSError."""
    line = b""
    with closing(LineReader(path, index.marks[-1].offset)) as lines:
        while batch := lines.read(index.size):
            line = batch[-1]
    return line
