"""Captures by pipes what children, C code and `os.write` write to descriptors 1 and 2.

A program may put a file in the place of one of them, as shells do: then its prints go there, too.
So each of our pipes is marked, by a number that the system keeps with an open file: the signal of
asynchronous input, which is never sent where nobody asks for such input.
"""

from __future__ import annotations

from _thread import allocate_lock, get_ident
from collections.abc import Iterable
from contextlib import suppress
from fcntl import F_GETSIG, F_SETSIG, fcntl
from os import close as close_descriptor
from os import dup2
from os import read as read_descriptor
from select import EPOLLIN, POLLIN, epoll, poll
from signal import SIGRTMAX

from era_kernel.pipe_reserve import PipeReserve
from era_kernel.rate_limits import TokenBucket
from era_kernel.run_context import OutputStream, RunContext

MARKS = {1: SIGRTMAX - 1, 2: SIGRTMAX - 2}  # of the pipes behind these descriptors
READ_BYTES = 64 * 1024  # bytes that are read at once
MAX_PIPE_BYTES = 1024 * 1024  # bytes that fit into a pipe, at most

StreamBytes = tuple[OutputStream, bytes]


class CapturedPipes:
    """Holds the read ends of descriptors 1 and 2 of all runs that some process can write to."""

    def __init__(self, late_bucket: TokenBucket) -> None:
        self.lock = allocate_lock()  # reading a pipe and queueing the data are one step
        # Threads that hold the lock. A signal handler or a destructor may print in them meanwhile,
        # and would wait for the lock for ever.
        self.lock_holders: set[int] = set()
        self._streams_by_fd: dict[int, OutputStream] = {}
        self._late_bucket = late_bucket  # of what children of earlier runs write
        self._paused_fds: set[int] = set()
        self._epoll = epoll()
        self._newest_poll = poll()
        self._newest_readers: list[int] = []
        self._reserve = PipeReserve()

    def watch(self, *descriptors: int) -> None:
        for descriptor in descriptors:
            self._epoll.register(descriptor, EPOLLIN)

    def open_for_run(self, run: RunContext) -> bool:
        """Puts new pipes in the places of descriptors 1 and 2; returns False when none are left."""
        pipes = self._reserve.take()
        if not pipes:
            return False
        newest, newest_readers = poll(), []
        for (reader, writer), number in zip(pipes, (1, 2), strict=True):
            fcntl(writer, F_SETSIG, MARKS[number])
            dup2(writer, number)
            close_descriptor(writer)
            self._epoll.register(reader, EPOLLIN)
            newest.register(reader, POLLIN)
            newest_readers.append(reader)
        self._newest_poll, self._newest_readers = newest, newest_readers
        self._set_streams(newest_readers, (run.stdout, run.stderr))
        self._reserve.refill()
        return True

    def reuse_for_run(self, run: RunContext) -> None:
        """Gives the newest pipes to another run, because no new ones are to be had."""
        streams = zip(self._newest_readers, (run.stdout, run.stderr), strict=True)
        opened = [(reader, stream) for reader, stream in streams if reader in self._streams_by_fd]
        self._set_streams([reader for reader, _ in opened], [stream for _, stream in opened])

    def holds(self, descriptor: int) -> bool:
        """Returns whether a descriptor is one of those that come and go with the runs."""
        return descriptor in self._streams_by_fd or self._reserve.holds(descriptor)

    def is_redirected(self, descriptor: int) -> bool:
        """Returns whether 1 or 2 is open and no longer the pipe that was put there."""
        try:
            return fcntl(descriptor, F_GETSIG) != MARKS[descriptor]
        except OSError:  # closed: what is printed is seen all the same
            return False

    def has_unread(self) -> bool:
        """Returns whether the newest pipes hold data that has not been queued."""
        if self.is_lock_holder():
            return False
        me = get_ident()
        try:  # no context manager in Python: an interrupt in its middle would keep the lock
            self.lock_holders.add(me)
            with self.lock:
                return bool(self._newest_poll.poll(0))
        finally:
            self.lock_holders.discard(me)

    def _set_streams(self, readers: list[int], streams: Iterable[OutputStream]) -> None:
        """Sets whose output comes from these pipes, where they are still open."""
        me = get_ident()
        try:  # a destructor that prints meanwhile must not wait for the lock
            self.lock_holders.add(me)
            with self.lock:
                self._streams_by_fd.update(zip(readers, streams, strict=True))
        finally:
            self.lock_holders.discard(me)

    def is_lock_holder(self) -> bool:
        """Returns whether this thread holds the lock, so that it must wait for nothing."""
        return get_ident() in self.lock_holders

    def wait(self, seconds: float | None) -> list[int]:
        if self._paused_fds:
            pause = self._late_bucket.seconds_until_ready()
            seconds = pause if seconds is None else min(seconds, pause)
            if not pause:
                for descriptor in self._paused_fds:
                    self._epoll.register(descriptor, EPOLLIN)
                self._paused_fds.clear()
        return [descriptor for descriptor, _ in self._epoll.poll(seconds)]

    def read(self, descriptor: int) -> list[StreamBytes]:
        """Reads what is there, unless late output has to wait; closes a pipe at its end."""
        stream = self._streams_by_fd.get(descriptor)
        if stream is None or descriptor in self._paused_fds:
            return []
        if stream.is_late and self._late_bucket.seconds_until_ready():
            # Unregistered, since epoll reports a hang-up also where no event is asked for.
            self._epoll.unregister(descriptor)
            self._paused_fds.add(descriptor)
            return []
        try:
            data = read_descriptor(descriptor, READ_BYTES)
        except BlockingIOError:
            return []
        if data:
            if stream.is_late:
                self._late_bucket.consume(len(data), stream)
            return [(stream, data)]
        del self._streams_by_fd[descriptor]
        with suppress(KeyError):
            self._newest_poll.unregister(descriptor)
        close_descriptor(descriptor)
        return []

    def read_all(self) -> list[StreamBytes]:
        """Reads what is in the pipes now, and not all that writers go on to write."""
        texts = []
        for descriptor in tuple(self._streams_by_fd):
            for _ in range(MAX_PIPE_BYTES // READ_BYTES):
                found = self.read(descriptor)
                if not found:
                    break
                texts += found
        return texts
