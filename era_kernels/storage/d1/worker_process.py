"""One worker: a process that runs a request to D1 at a time, and may be killed at any time."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from era_kernels.models import JsonObject
from era_kernels.storage.d1.worker.framing import MAX_HEAD, REPLY_LENGTHS, frame_request

# Nothing of the server is in the command line or in the environment. The last arguments are the
# parent of this package, its end of the socket and the largest file that it may write.
_BOOT_CODE = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from era_kernels.storage.d1.worker.main import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)
_PACKAGE_PARENT = Path(__file__).parents[3]
_SLOW_NICENESS = 10  # more than the server's; lower ones starve where sessions compute
_START_SECONDS = 60.0  # to be ready, on a host that is very busy
_EXIT_SECONDS = 3.0  # to close all databases


class WorkerEnded(Exception):
    """The worker ended, or broke the protocol, before it answered."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a worker answers: a JSON object, and the rows of all results one after the other."""

    head: JsonObject
    rows: bytes


def can_speed_up() -> bool:
    """Returns whether a worker may be made as fast again as it was, which takes root."""
    return os.geteuid() == 0


class WorkerProcess(asyncio.Protocol):
    """A running worker. It serves one request at a time: the next when the last is answered."""

    def __init__(self, popen: subprocess.Popen[bytes], max_rows_bytes: int) -> None:
        self.pid = popen.pid
        self.is_slow = False
        self.is_alive = True
        self._popen = popen
        self._max_rows_bytes = max_rows_bytes
        self._buffer = bytearray()
        self._answer: asyncio.Future[Reply] | None = None
        self._transport: asyncio.Transport | None = None
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def start(cls, max_file: int, max_rows_bytes: int) -> WorkerProcess:
        """Starts a worker that may write files of `max_file` bytes, and answer so many of rows.

        Returns when it is ready: before, an interrupt would end it. It dies with the server, at the
        latest. Raises OSError, WorkerEnded.
        """
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                # The threads of `to_thread` end with the loop, and the worker with its thread.
                popen = await asyncio.to_thread(_start_process, theirs, max_file)
            ours.setblocking(False)
            worker = cls(popen, max_rows_bytes)
            # The first answer comes without a request: that it is ready.
            ready = worker._answer = loop.create_future()
            await loop.create_connection(lambda: worker, sock=ours)
        except BaseException:
            ours.close()
            raise
        try:
            async with asyncio.timeout(_START_SECONDS):
                await ready
        except BaseException:
            worker.kill()
            raise
        return worker

    def send(self, request: bytes) -> asyncio.Future[Reply]:
        """Sends a request; the future holds its reply, or WorkerEnded."""
        assert self._answer is None and self._transport is not None
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._answer = answer
        if self.is_alive:
            self._transport.write(frame_request(request))
        else:
            self._fail()
        return answer

    def interrupt(self) -> None:
        """Stops the statement that runs, as soon as SQLite looks; its reply tells it."""
        self._signal(signal.SIGUSR1)

    def slow_down(self) -> None:
        """Lets everything else on the machine go first."""
        self.is_slow = True
        self._set_niceness(_SLOW_NICENESS)

    def speed_up(self) -> None:
        """Undoes `slow_down`; a worker for which that is not allowed stays slow."""
        self.is_slow = not self._set_niceness(0)

    def _set_niceness(self, more: int) -> bool:
        """Makes the process nicer than the server by so much; returns False if it cannot."""
        try:
            niceness = os.getpriority(os.PRIO_PROCESS, 0) + more
            os.setpriority(os.PRIO_PROCESS, self.pid, min(niceness, 19))
        except OSError:  # not allowed, or the process is gone
            return False
        return True

    def kill(self) -> None:
        """Ends the process at once; its request fails with WorkerEnded."""
        self._signal(signal.SIGKILL)
        self._close_transport()

    async def aclose(self) -> None:
        """Lets an idle process close its databases and end; waits for that."""
        self._close_transport()
        await self._end
        try:
            await asyncio.to_thread(self._popen.wait, _EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            await asyncio.to_thread(self._popen.wait)

    def _close_transport(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _signal(self, number: int) -> None:
        if self._popen.returncode is None:
            self._popen.send_signal(number)

    # ------------------------------------------------------------ asyncio's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) < REPLY_LENGTHS.size:
            return
        head_length, rows_length = REPLY_LENGTHS.unpack_from(self._buffer)
        if head_length > MAX_HEAD or rows_length > self._max_rows_bytes or self._answer is None:
            self.kill()
            return
        start, end = REPLY_LENGTHS.size, REPLY_LENGTHS.size + head_length + rows_length
        if len(self._buffer) < end:
            return
        buffer, self._buffer = self._buffer, bytearray()
        answer, self._answer = self._answer, None
        try:
            head = _parse_head(bytes(buffer[start : start + head_length]))
            if len(buffer) > end:
                raise ValueError
        except (ValueError, RecursionError):  # also for JSON that is nested without end
            self._answer = answer
            self.kill()
            return
        if not answer.done():
            answer.set_result(Reply(head, bytes(memoryview(buffer)[start + head_length :])))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_alive = False
        self._fail()
        if not self._end.done():
            self._end.set_result(None)

    def _fail(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(WorkerEnded())


def _start_process(connection: socket.socket, max_file: int) -> subprocess.Popen[bytes]:
    arguments = [str(_PACKAGE_PARENT), str(connection.fileno()), str(max_file)]
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-W", "ignore", "-c", _BOOT_CODE, *arguments],
        env={"LANG": "C.UTF-8"},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(connection.fileno(),),
        process_group=0,  # signals of a terminal are the server's
    )


def _parse_head(text: bytes) -> JsonObject:
    head: Any = json.loads(text)
    if not isinstance(head, dict):
        raise ValueError
    return head
