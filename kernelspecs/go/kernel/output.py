"""Reads what programs write to stdout and stderr, and joins it into messages."""

from __future__ import annotations

import codecs
import os
from time import monotonic

from era_kernel.rate_limits import TokenBucket
from wire import Message

READ_BYTES = 64 * 1024  # bytes that are read at once
FULL_BYTES = 64 * 1024  # bytes that are sent without waiting for more
MAX_PIPE_BYTES = 1024 * 1024  # bytes that fit into a pipe, at most
JOIN_SECONDS = 0.02  # seconds for which text is joined after some was sent
TAIL_BYTES = 64 * 1024  # bytes of the newest output that are remembered
MAX_MESSAGE_CHARS = 1024 * 1024


class OutputPipe:
    """A pipe into which a run writes, and its children after its end."""

    def __init__(self, name: str, parent: Message) -> None:
        self.name, self.parent = name, parent
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        self.is_at_end = False
        self.is_late = False  # its run is over
        self.tail = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._sent_at = 0.0

    def close_write_end(self) -> None:
        """Closes the program's end, once it has it, or if there is no program."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def read(self) -> int:
        """Takes what is in the pipe now, up to READ_BYTES; returns how much that was."""
        try:
            data = os.read(self.read_end, READ_BYTES)
        except BlockingIOError:
            return 0
        self.is_at_end = not data
        if data:
            self._pending.append(data)
            self._pending_bytes += len(data)
            self.tail = (self.tail + data)[-TAIL_BYTES:]
        return len(data)

    def read_all(self) -> None:
        """Takes all that is in the pipe now, and not what writers go on to write."""
        for _ in range(MAX_PIPE_BYTES // READ_BYTES):
            if not self.read():
                return

    def seconds_until_due(self) -> float | None:
        """Returns how long text waits for more; None when there is none."""
        if not self._pending:
            return None
        if self._pending_bytes >= FULL_BYTES or self.is_at_end:
            return 0.0
        return max(0.0, self._sent_at + JOIN_SECONDS - monotonic())

    def take_text(self, *, is_final: bool = False) -> list[str]:
        """Returns the texts to be sent; a character that is not whole waits unless `is_final`."""
        data = b"".join(self._pending)
        self._pending, self._pending_bytes = [], 0
        text = self._decoder.decode(data, final=is_final or self.is_at_end)
        if text:
            self._sent_at = monotonic()
        return [
            text[start : start + MAX_MESSAGE_CHARS]
            for start in range(0, len(text), MAX_MESSAGE_CHARS)
        ]

    def unfinished_line(self) -> str:
        """Returns what was written since the last end of a line."""
        return self.tail.rpartition(b"\n")[2].decode(errors="replace")

    def close(self) -> None:
        os.close(self.read_end)


class LatePipes:
    """The pipes of runs that are over: what comes from them is limited, as on a slow terminal."""

    def __init__(self) -> None:
        self._pipes: dict[int, OutputPipe] = {}
        self._bucket = TokenBucket()

    def add(self, pipe: OutputPipe) -> None:
        pipe.is_late = True
        self._pipes[pipe.read_end] = pipe

    def seconds_until_ready(self) -> float:
        """Returns the seconds until they may be read."""
        return self._bucket.seconds_until_ready()

    def descriptors(self) -> list[int]:
        """Returns the descriptors that may be read now."""
        return [] if self.seconds_until_ready() else list(self._pipes)

    def is_empty(self) -> bool:
        return not self._pipes

    def read(self, descriptor: int) -> tuple[OutputPipe, list[str]]:
        """Returns a pipe and the texts that are in it now; closes a pipe at its end."""
        pipe = self._pipes[descriptor]
        self._bucket.consume(pipe.read(), pipe)
        texts = pipe.take_text()
        if pipe.is_at_end:
            del self._pipes[descriptor]
            pipe.close()
        return pipe, texts
