"""A process in a sandbox as the server sees it: its output, its ending, the way to signal it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable

from era_kernels.models import ExitInfo
from era_kernels.sandbox.server.control_channel import ChannelClosed, ControlChannel
from era_kernels.sandbox.server.stdin_writer import StdinWriter

TAIL_BYTES = 64 * 1024  # bytes kept of each stream
MAX_BUFFERED = 1024 * 1024  # bytes read ahead of a slow consumer, then the process waits
UNREAD_INTERVAL = 0.05  # seconds between two reads of what nobody waits for; a flood costs no more
_CHUNK_BYTES = 64 * 1024


class OutputPipe:
    """What a process and its children write to one descriptor.

    It is always drained, so that nobody blocks on a pipe that nobody reads, though who writes much
    is slowed down; the last 64 KiB are kept. One consumer may iterate: it gets first what was kept,
    then all that follows; while it is slow the process waits.

    With `news` there is a consumer from the first byte on: whenever the event is set there is
    something to `take`, or the end; until it calls `leave` nothing but that is kept.
    """

    def __init__(self, descriptor: int, readable: asyncio.Event | None = None) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._tail = bytearray()
        self._buffer = (
            None if readable is None else bytearray()
        )  # what the consumer has not taken yet
        self._changed_event = readable or asyncio.Event()
        self._keeps_tail = readable is None
        self.is_detached = False  # by its consumer
        self._on_late: Callable[[bytes], None] = _discard
        self.is_open = True
        self.total_bytes = 0  # bytes that were written so far
        self._loop.add_reader(descriptor, self._on_readable)

    def tail(self) -> bytes:
        """The last 64 KiB that were written."""
        return bytes(self._tail[-TAIL_BYTES:])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Chunks as they come, until every writer is gone or the sandbox has ended."""
        if self._buffer is not None:
            raise RuntimeError("an output has one consumer")
        self._buffer = bytearray(self.tail())
        try:
            while self._buffer or self.is_open:
                chunk = bytes(self._buffer)
                self._buffer.clear()
                if chunk:
                    self._resume_reading()
                    yield chunk
                else:
                    self._changed_event.clear()
                    await self._changed_event.wait()
        finally:
            self._buffer = None
            self._resume_reading()

    def read_available(self) -> bytes:
        """All that its consumer has not had yet."""
        if not self._buffer:
            return b""
        chunk = bytes(self._buffer)
        self._buffer.clear()
        self._resume_reading()
        return chunk

    def detach(self, on_late: Callable[[bytes], None] | None = None) -> None:
        """From now on what comes is handed to `late`; who writes much is slowed down."""
        self._buffer, self.is_detached = None, True
        self._on_late = on_late or _discard
        self._resume_reading()

    def drain(self) -> None:
        """Take what is in the pipe now; a pipe holds little, so this is quick."""
        for _ in range(16):
            if not self.is_open or not self._read_chunk():
                return

    def close(self) -> None:
        """Take the rest and forget the descriptor; a second call is fine."""
        self.drain()
        self._close_descriptor()

    def _on_readable(self) -> None:
        self._read_chunk()
        if not self.is_open:
            return
        if self._buffer is None:
            self._loop.remove_reader(self._descriptor)
            self._loop.call_later(UNREAD_INTERVAL, self._resume_reading)
        elif len(self._buffer) >= MAX_BUFFERED:
            self._loop.remove_reader(self._descriptor)

    def _resume_reading(self) -> None:
        if self.is_open:
            self._loop.add_reader(self._descriptor, self._on_readable)

    def _read_chunk(self) -> bool:
        """Read one chunk; tells whether there was one."""
        try:
            chunk = os.read(self._descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            self._close_descriptor()
            return False
        self.total_bytes += len(chunk)
        if self._keeps_tail:
            self._tail += chunk
            if len(self._tail) > 4 * TAIL_BYTES:
                del self._tail[:-TAIL_BYTES]
        if self._buffer is not None:
            self._buffer += chunk
        elif self.is_detached:
            self._on_late(chunk)
        self._changed_event.set()
        return True

    def _close_descriptor(self) -> None:
        if self.is_open:
            self.is_open = False
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._changed_event.set()


class Process:
    """One process of a sandbox, the leader of a process group and session of its own."""

    def __init__(
        self, number: int, control: ControlChannel, stdout: OutputPipe, stderr: OutputPipe
    ) -> None:
        """`number` names the process to the init."""
        self.number = number
        self.pid: int | None = None  # as the init sees it; for logs and tests, never for signals
        self._ended: asyncio.Future[ExitInfo] = asyncio.get_running_loop().create_future()
        self.stdin: StdinWriter | None = None
        self.stdout = stdout
        self.stderr = stderr
        self._control = control

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended yet, as far as the server was told."""
        return not self._ended.done()

    @property
    def ended(self) -> asyncio.Future[ExitInfo]:
        """How the process ended; a future of the caller's own, that may be cancelled.

        Who asks often uses `running`, or keeps the future: each lives as long as the process.
        """
        return asyncio.shield(self._ended)

    @property
    def is_finished(self) -> bool:
        """Whether it has ended and nobody can write to its outputs any more."""
        return not (self.is_running or self.stdout.is_open or self.stderr.is_open)

    @property
    def is_detached(self) -> bool:
        """Whether it has ended, and nobody waits for what those print whom it has left behind."""
        return not self.is_running and self.stdout.is_detached and self.stderr.is_detached

    async def signal(self, number: int, *, kill_group_on_exit: bool = False) -> None:
        """Signal the process group; nothing happens when the process has ended.

        `sweep`: when it ends, whoever is left in its group is killed.
        """
        if not self.is_running:
            return
        message = {
            "op": "signal",
            "process": self.number,
            "signal": int(number),
            "kill_group_on_exit": kill_group_on_exit,
        }
        with contextlib.suppress(ChannelClosed):  # the sandbox ended meanwhile
            await self._control.request(message)

    def on_ended(self, exit_info: ExitInfo) -> None:
        """The sandbox tells how the process ended; only the first call counts."""
        if self.is_running:
            self.stdout.drain()
            self.stderr.drain()
            self._close_stdin()
            self._ended.set_result(exit_info)

    def close(self) -> None:
        """Let go of both outputs, when nothing can write to them any more."""
        self.stdout.close()
        self.stderr.close()
        self._close_stdin()

    def _close_stdin(self) -> None:
        if self.stdin is not None:
            self.stdin.close()


def _discard(chunk: bytes) -> None:
    """Output that nobody wants."""
