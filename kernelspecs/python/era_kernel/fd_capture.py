"""Captures by pipes what children, C code and `os.write` write to descriptors 1 and 2."""

from __future__ import annotations

from _thread import allocate_lock, get_ident
from fcntl import F_DUPFD_CLOEXEC, fcntl
from os import O_CLOEXEC, dup2, pipe2, set_blocking
from os import close as close_descriptor
from os import read as read_descriptor
from select import EPOLLIN, POLLIN, epoll, poll

from era_kernel.rate_limits import TokenBucket
from era_kernel.run_context import OutputStream, RunContext

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

    def watch(self, *descriptors: int) -> None:
        for descriptor in descriptors:
            self._epoll.register(descriptor, EPOLLIN)

    def open_for_run(self, run: RunContext) -> None:
        """Puts new pipes in the places of descriptors 1 and 2."""
        newest = poll()
        for number, stream in ((1, run.stdout), (2, run.stderr)):
            reader, writer = map(_move_above_stdio, pipe2(O_CLOEXEC))
            set_blocking(reader, False)
            dup2(writer, number)
            close_descriptor(writer)
            self._streams_by_fd[reader] = stream
            self._epoll.register(reader, EPOLLIN)
            newest.register(reader, POLLIN)
        with self.lock:
            self._newest_poll = newest

    def has_unread(self) -> bool:
        """Returns whether the newest pipes hold data that has not been queued."""
        if self.is_lock_holder():
            return False
        me = get_ident()
        try:
            self.lock_holders.add(me)
            with self.lock:
                return bool(self._newest_poll.poll(0))
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


def _move_above_stdio(descriptor: int) -> int:
    """Moves a descriptor above 2: where a program closed a standard one, it may take its number."""
    if descriptor > 2:
        return descriptor
    moved = fcntl(descriptor, F_DUPFD_CLOEXEC, 3)
    close_descriptor(descriptor)
    return moved
