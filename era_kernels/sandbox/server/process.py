"""Represents a sandbox's process in the server: its output, its end, and signals to it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Callable

from era_kernels.models import ExitInfo
from era_kernels.sandbox.server.control_channel import ChannelError, ControlChannel
from era_kernels.sandbox.server.process_spec import ProcessSpec, start_error
from era_kernels.sandbox.server.stdin_writer import StdinWriter

TAIL_BYTES = 64 * 1024  # last bytes kept of each stream
MAX_BUFFERED = 1024 * 1024  # bytes read ahead of a slow consumer; then the process waits
UNREAD_INTERVAL = 0.05  # seconds between two reads without a consumer, which limits a flood
_CHUNK_BYTES = 64 * 1024
_numbers = itertools.count(1)  # of processes, by which inits know them


class OutputPipe:
    """Reads what a process and its children write to one descriptor.

    The pipe is always read so writers never block; unread output is rate-limited, and the last
    64 KiB are kept. One consumer may iterate: it gets the kept bytes first, then all that follow;
    while the consumer is slow the process waits.

    With `readable` there is a consumer from the first byte on: when the event is set,
    `read_available` has bytes or the end was reached. Until the consumer calls `detach`, no bytes
    are kept but those that it has not read.
    """

    def __init__(self, descriptor: int, readable: asyncio.Event | None = None) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._tail = bytearray()
        # Bytes that the consumer has not read yet; None without a consumer.
        self._buffer = None if readable is None else bytearray()
        self._changed_event = readable or asyncio.Event()
        self._keeps_tail = readable is None
        self.is_detached = False  # by its consumer
        self._on_late: Callable[[bytes], None] = _discard
        self.is_open = True
        self.total_bytes = 0  # bytes read so far
        self._loop.add_reader(descriptor, self._on_readable)

    def tail(self) -> bytes:
        """Returns the last 64 KiB that were written."""
        return bytes(self._tail[-TAIL_BYTES:])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yields chunks as they come, until every writer is gone or the sandbox has ended."""
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
        """Returns all bytes that the consumer has not read yet."""
        if not self._buffer:
            return b""
        chunk = bytes(self._buffer)
        self._buffer.clear()
        self._resume_reading()
        return chunk

    def detach(self, on_late: Callable[[bytes], None] | None = None) -> None:
        """Ends the consumer's reading: `on_late` gets later output, which is rate-limited."""
        self._buffer, self.is_detached = None, True
        self._on_late = on_late or _discard
        self._resume_reading()

    def drain(self) -> None:
        """Reads the bytes that are in the pipe now; a pipe holds few, so this is quick."""
        for _ in range(16):
            if not self.is_open or not self._read_chunk():
                return

    def close(self) -> None:
        """Reads the rest and closes the descriptor; a second call is fine."""
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
        """Reads one chunk; returns False when there was none."""
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
        """Takes `number`, by which the init knows the process."""
        self.number = number
        self.pid: int | None = None  # as the init sees it: for logs and tests, never for signals
        self._ended: asyncio.Future[ExitInfo] = asyncio.get_running_loop().create_future()
        self.stdin: StdinWriter | None = None
        self.stdout = stdout
        self.stderr = stderr
        self._control = control

    @property
    def is_running(self) -> bool:
        """True until the init has reported the end of the process."""
        return not self._ended.done()

    @property
    def ended(self) -> asyncio.Future[ExitInfo]:
        """A future of how the process ended: a new one for each caller, who may cancel it.

        Each future lives as long as the process, so frequent callers use `is_running` or keep one.
        """
        return asyncio.shield(self._ended)

    @property
    def is_finished(self) -> bool:
        """True when the process has ended and no process can write to its outputs any more."""
        return not (self.is_running or self.stdout.is_open or self.stderr.is_open)

    @property
    def is_detached(self) -> bool:
        """True when it has ended, and no consumer waits for the output of its orphans."""
        return not self.is_running and self.stdout.is_detached and self.stderr.is_detached

    async def signal(self, number: int, *, kill_group_on_exit: bool = False) -> None:
        """Signals the process group; does nothing when the process has ended.

        `kill_group_on_exit`: when the process ends, the rest of its group is killed.
        """
        if not self.is_running:
            return
        message = {
            "op": "signal",
            "process": self.number,
            "signal": int(number),
            "kill_group_on_exit": kill_group_on_exit,
        }
        with contextlib.suppress(ChannelError):  # the sandbox has ended, or is ended: it is silent
            await self._control.request(message)

    def on_ended(self, exit_info: ExitInfo) -> None:
        """Notes how the process ended; only the first call counts."""
        if self.is_running:
            self.stdout.drain()
            self.stderr.drain()
            self._close_stdin()
            self._ended.set_result(exit_info)

    def close(self) -> None:
        """Closes the outputs and stdin, when no process can use them any more."""
        self.stdout.close()
        self.stderr.close()
        self._close_stdin()

    def _close_stdin(self) -> None:
        if self.stdin is not None:
            self.stdin.close()


def open_process(
    control: ControlChannel,
    spec: ProcessSpec,
    stdin: bytes | None = None,
    readable: asyncio.Event | None = None,
) -> tuple[Process, list[int]]:
    """Returns a process that is not started yet, and its ends of its descriptors 1, 2 and 0.

    Descriptor 0 is a pipe where there is `stdin`. Raises KernelStartFailed without descriptors.
    """
    pipes: list[tuple[int, int]] = []
    try:
        for _ in range(2 if stdin is None else 3):
            pipes.append(os.pipe2(os.O_CLOEXEC))
    except OSError as error:
        for end in itertools.chain(*pipes):
            os.close(end)
        raise start_error(spec, str(error)) from error
    (out, out_end), (err, err_end), *rest = pipes
    process = Process(next(_numbers), control, OutputPipe(out, readable), OutputPipe(err, readable))
    ends = [out_end, err_end]
    for read, write in rest:
        process.stdin = StdinWriter(write, stdin or b"")
        ends.append(read)
    return process, ends


def _discard(chunk: bytes) -> None:
    """Drops output that no consumer reads."""
