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
SAVE_INTERVAL_BYTES = 8 * 1024 * 1024  # bytes that a start reads at most of a log with a writer
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
        self._saved_size = 0

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

    @property
    def is_long_unsaved(self) -> bool:
        """True if much was added since the index was saved: a start would have to count it."""
        return self.size - self._saved_size >= SAVE_INTERVAL_BYTES

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
        """Returns the index of a log that has no writer, and saves it where that saves time.

        It begins with the saved one, and counts what the log has more, up to the first line that is
        torn or wrong. Raises OSError.
        """
        index = cls._load(path)
        if index is None:
            index_path(path).unlink(missing_ok=True)  # once repaired, the log might have its size
            index = cls(_header_size(path))
        if index.size:
            index._add_rest(path)
        if index.is_worth_saving and index.size > index._saved_size:
            index.save(path)
        return index

    @classmethod
    def _load(cls, path: Path) -> LogIndex | None:
        """Returns the saved index, if there is one and the log has all that it counts.

        An index from before the machine's last start may count lines that a power loss destroyed,
        though the log has its old size: the log's last blocks may hold zeros then.
        """
        try:
            values = json.loads(index_path(path).read_bytes())
            if values["boot"] != boot_id():
                return None
            index = cls(0)
            index.size = index._saved_size = values["size"]
            index.last_seq = values["last_seq"]
            index.text_bytes = {stream: values["text_bytes"][stream] for stream in index.text_bytes}
            index.marks = [Mark(*mark) for mark in values["marks"]]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):  # torn by a crash
            return None
        return index if index.size <= path.stat().st_size else None

    def _add_rest(self, path: Path) -> None:
        """Counts the lines of a log that it does not count yet, a chunk at a time."""
        with closing(LineReader(path, self.size)) as lines:
            end = lines.file_size()
            while batch := lines.read(end):
                for line in batch:
                    try:
                        self.add(measure(line, self.last_seq + 1))
                    except ValueError as error:
                        log.warning("a log is torn", extra={"log": path.name, "why": str(error)})
                        return

    def save(self, path: Path) -> None:
        """Saves the index beside its log; a failure is logged, for it can be built again."""
        self._saved_size = self.size
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


def _header_size(path: Path) -> int:
    """Returns the bytes of the header; 0 when it is torn, and then the log holds nothing."""
    header = first_line(path)
    try:
        decode_header(header)
    except ValueError as error:
        log.warning("a log is torn", extra={"log": path.name, "why": str(error)})
        return 0
    return len(header)


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
