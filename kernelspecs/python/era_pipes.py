"""The pipes in the places of descriptors 1 and 2: what children, C code and `os.write` write."""

from __future__ import annotations

import _thread
import fcntl
import os
import select

from era_pace import Pace
from era_runs import Run, Strand

PART = 64 * 1024  # bytes that are read at once
CAPACITY = 1024 * 1024  # bytes that fit into a pipe, at most

Text = tuple[Strand, bytes]


class Pipes:
    """The read ends of the descriptors 1 and 2 of all runs that somebody can still write to."""

    def __init__(self, pace: Pace) -> None:
        self.lock = _thread.allocate_lock()  # reading a pipe and queueing the data are one step
        # Threads that have the lock. In the midst of that a signal's handler or a destructor may
        # print: to wait there would be for ever.
        self.busy: set[int] = set()
        self._strands: dict[int, Strand] = {}
        self._pace = pace  # of what old children write
        self._paused: set[int] = set()
        self._epoll = select.epoll()
        self._newest = select.poll()

    def watch(self, *descriptors: int) -> None:
        for descriptor in descriptors:
            self._epoll.register(descriptor, select.EPOLLIN)

    def open(self, run: Run) -> None:
        """New pipes in the places of descriptors 1 and 2."""
        newest = select.poll()
        for number, strand in ((1, run.stdout), (2, run.stderr)):
            reader, writer = map(_moved, os.pipe2(os.O_CLOEXEC))
            os.set_blocking(reader, False)
            os.dup2(writer, number)
            os.close(writer)
            self._strands[reader] = strand
            self._epoll.register(reader, select.EPOLLIN)
            newest.register(reader, select.POLLIN)
        with self.lock:
            self._newest = newest

    def waiting(self) -> bool:
        """Is there something in the newest pipes that has not been queued?"""
        if self.is_busy():
            return False
        me = _thread.get_ident()
        try:
            self.busy.add(me)
            with self.lock:
                return bool(self._newest.poll(0))
        finally:
            self.busy.discard(me)

    def is_busy(self) -> bool:
        """Is the lock this thread's, so that it must wait for nothing?"""
        return _thread.get_ident() in self.busy

    def wait(self, seconds: float | None) -> list[int]:
        if self._paused:
            pause = self._pace.wait()
            seconds = pause if seconds is None else min(seconds, pause)
            if not pause:
                for descriptor in self._paused:
                    self._epoll.register(descriptor, select.EPOLLIN)
                self._paused.clear()
        return [descriptor for descriptor, _ in self._epoll.poll(seconds)]

    def read(self, descriptor: int) -> list[Text]:
        """What can be read at once, and may be; a pipe at its end is closed."""
        strand = self._strands.get(descriptor)
        if strand is None or descriptor in self._paused:
            return []
        if strand.late and self._pace.wait():
            # Unregistered, for a hang-up is reported to who waits for nothing, too.
            self._epoll.unregister(descriptor)
            self._paused.add(descriptor)
            return []
        try:
            data = os.read(descriptor, PART)
        except BlockingIOError:
            return []
        if data:
            if strand.late:
                self._pace.take(len(data), strand)
            return [(strand, data)]
        del self._strands[descriptor]
        os.close(descriptor)
        return []

    def read_all(self) -> list[Text]:
        """What is in the pipes now; not all that somebody goes on to write."""
        texts = []
        for descriptor in tuple(self._strands):
            for _ in range(CAPACITY // PART):
                found = self.read(descriptor)
                if not found:
                    break
                texts += found
        return texts


def _moved(descriptor: int) -> int:
    """Out of the way of the standard ones, which a program may have closed."""
    if descriptor > 2:
        return descriptor
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return moved
