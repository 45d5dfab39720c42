"""A process in a sandbox as the server sees it: its output, its ending, the way to signal it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable

from era_kernels.models import Ending
from era_kernels.sandbox.channel import Channel, ChannelClosed
from era_kernels.sandbox.feed import Feed

TAIL = 64 * 1024  # bytes kept of each stream
AHEAD = 1024 * 1024  # bytes read ahead of a slow consumer, then the process waits
LATE_PAUSE = 0.05  # seconds between two reads of what nobody waits for; a flood costs no more
_CHUNK = 64 * 1024


class Output:
    """What a process and its children write to one descriptor.

    It is always drained, so that nobody blocks on a pipe that nobody reads, though who writes much
    is slowed down; the last 64 KiB are kept. One consumer may iterate: it gets first what was kept,
    then all that follows; while it is slow the process waits.

    With `news` there is a consumer from the first byte on: whenever the event is set there is
    something to `take`, or the end; until it calls `leave` nothing but that is kept.
    """

    def __init__(self, descriptor: int, news: asyncio.Event | None = None) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._tail = bytearray()
        self._ahead = None if news is None else bytearray()  # what the consumer has not taken yet
        self._changed = news or asyncio.Event()
        self._kept = news is None
        self.left = False  # by its consumer
        self._late: Callable[[bytes], None] = _forget
        self.open = True
        self.total = 0  # bytes that were written so far
        self._loop.add_reader(descriptor, self._readable)

    def tail(self) -> bytes:
        """The last 64 KiB that were written."""
        return bytes(self._tail[-TAIL:])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Chunks as they come, until every writer is gone or the sandbox has ended."""
        if self._ahead is not None:
            raise RuntimeError("an output has one consumer")
        self._ahead = bytearray(self.tail())
        try:
            while self._ahead or self.open:
                chunk = bytes(self._ahead)
                self._ahead.clear()
                if chunk:
                    self._resume()
                    yield chunk
                else:
                    self._changed.clear()
                    await self._changed.wait()
        finally:
            self._ahead = None
            self._resume()

    def take(self) -> bytes:
        """All that its consumer has not had yet."""
        if not self._ahead:
            return b""
        chunk = bytes(self._ahead)
        self._ahead.clear()
        self._resume()
        return chunk

    def leave(self, late: Callable[[bytes], None] | None = None) -> None:
        """From now on what comes is handed to `late`; who writes much is slowed down."""
        self._ahead, self.left = None, True
        self._late = late or _forget
        self._resume()

    def drain(self) -> None:
        """Take what is in the pipe now; a pipe holds little, so this is quick."""
        for _ in range(16):
            if not self.open or not self._take():
                return

    def close(self) -> None:
        """Take the rest and forget the descriptor; a second call is fine."""
        self.drain()
        self._shut()

    def _readable(self) -> None:
        self._take()
        if not self.open:
            return
        if self._ahead is None:
            self._loop.remove_reader(self._descriptor)
            self._loop.call_later(LATE_PAUSE, self._resume)
        elif len(self._ahead) >= AHEAD:
            self._loop.remove_reader(self._descriptor)

    def _resume(self) -> None:
        if self.open:
            self._loop.add_reader(self._descriptor, self._readable)

    def _take(self) -> bool:
        """Read one chunk; tells whether there was one."""
        try:
            chunk = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self._shut()
            return False
        self.total += len(chunk)
        if self._kept:
            self._tail += chunk
            if len(self._tail) > 4 * TAIL:
                del self._tail[:-TAIL]
        if self._ahead is not None:
            self._ahead += chunk
        elif self.left:
            self._late(chunk)
        self._changed.set()
        return True

    def _shut(self) -> None:
        if self.open:
            self.open = False
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._changed.set()


class Process:
    """One process of a sandbox, the leader of a process group and session of its own."""

    def __init__(self, number: int, control: Channel, stdout: Output, stderr: Output) -> None:
        """`number` names the process to the init."""
        self.number = number
        self.pid: int | None = None  # as the init sees it; for logs and tests, never for signals
        self._ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.stdin: Feed | None = None
        self.stdout = stdout
        self.stderr = stderr
        self._control = control

    @property
    def running(self) -> bool:
        """Whether the process has not ended yet, as far as the server was told."""
        return not self._ended.done()

    @property
    def ended(self) -> asyncio.Future[Ending]:
        """How the process ended; a future of the caller's own, that may be cancelled.

        Who asks often uses `running`, or keeps the future: each lives as long as the process.
        """
        return asyncio.shield(self._ended)

    @property
    def finished(self) -> bool:
        """Whether it has ended and nobody can write to its outputs any more."""
        return not (self.running or self.stdout.open or self.stderr.open)

    @property
    def left(self) -> bool:
        """Whether it has ended, and nobody waits for what those print whom it has left behind."""
        return not self.running and self.stdout.left and self.stderr.left

    async def signal(self, number: int, *, sweep: bool = False) -> None:
        """Signal the process group; nothing happens when the process has ended.

        `sweep`: when it ends, whoever is left in its group is killed.
        """
        if not self.running:
            return
        message = {"op": "signal", "process": self.number, "signal": int(number), "sweep": sweep}
        with contextlib.suppress(ChannelClosed):  # the sandbox ended meanwhile
            await self._control.request(message)

    def end(self, ending: Ending) -> None:
        """The sandbox tells how the process ended; only the first call counts."""
        if self.running:
            self.stdout.drain()
            self.stderr.drain()
            self._feed_no_more()
            self._ended.set_result(ending)

    def close(self) -> None:
        """Let go of both outputs, when nothing can write to them any more."""
        self.stdout.close()
        self.stderr.close()
        self._feed_no_more()

    def _feed_no_more(self) -> None:
        if self.stdin is not None:
            self.stdin.close()


def _forget(late: bytes) -> None:
    """Output that nobody wants."""
