"""Waits for requests on shell and control, and lets the program's event loop run meanwhile."""

from __future__ import annotations

from _thread import get_ident
from collections import deque
from contextlib import suppress
from os import (
    EFD_CLOEXEC,
    EFD_NONBLOCK,
    eventfd,
    eventfd_read,
    eventfd_write,
    getpid,
    register_at_fork,
)
from select import POLLIN, POLLNVAL, poll
from sys import _current_frames
from typing import Any

from era_kernel.program_loop import ProgramLoop
from era_kernel.program_signals import Activity, ProgramSignals, is_in_callback
from era_kernel.raw_sockets import Parts, Socket, descriptor, has_message, receive_parts


class SocketsClosed(Exception):
    """The program closed the kernel's descriptors: no request can come any more."""


class ForkedWhileWaiting(Exception):
    """This process is a fork, made by code of the program that ran while the kernel waited."""


class RequestLoop:
    """The requests that came on shell and control, those on control first.

    libzmq signals a change, not a state, and sending may swallow the signal: so all messages that
    are there are taken each time, and once more before waiting. The control thread adds those that
    come on control.
    """

    def __init__(
        self, shell: Socket, control: Any, signals: ProgramSignals, program_loop: ProgramLoop
    ) -> None:
        self._shell = shell
        self._control = control
        self._signals = signals
        self._program_loop = program_loop
        self._shell_fd = descriptor(shell)
        self._wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        self._poll = poll()
        for number in (self._shell_fd, self._wake_fd):
            self._poll.register(number, POLLIN)
        self._shell_requests: deque[Parts] = deque()
        self._control_requests: deque[Parts] = deque()
        self._thread_id = get_ident()
        self._pid = getpid()
        self._running_loop: Any = None  # the program's, which runs while the kernel waits
        register_at_fork(after_in_child=self._stop_loop)

    def put_control(self, parts: Parts) -> None:
        """Adds a request that came on control; called by another thread."""
        self._control_requests.append(parts)
        eventfd_write(self._wake_fd, 1)

    @property
    def is_program_running(self) -> bool:
        """True while the main thread runs code of the program, or waits for its threads."""
        if self._signals.activity is Activity.WAITING:
            return is_in_callback(_current_frames().get(self._thread_id))
        return self._signals.activity is Activity.PROGRAM

    def count_waiting(self) -> int:
        """Returns how many requests have come on shell and wait."""
        self._receive_shell()
        return len(self._shell_requests)

    def next(self) -> tuple[Any, Parts]:
        """Waits for the next request; returns the socket that takes its answer, and the request.

        Raises SocketsClosed, ForkedWhileWaiting.
        """
        while True:
            self._receive_shell()
            if self._control_requests:
                return self._control, self._control_requests.popleft()
            if self._shell_requests:
                return self._shell, self._shell_requests.popleft()
            with self._signals.waiting():
                self._wait()
            if getpid() != self._pid:
                raise ForkedWhileWaiting

    def _wait(self) -> None:
        if self._program_loop.has_work():
            self._run_program_loop()
        ready = self._poll.poll(0 if self._program_loop.has_work() else None)
        if any(events & POLLNVAL for _, events in ready):
            raise SocketsClosed
        with suppress(BlockingIOError):
            eventfd_read(self._wake_fd)

    def _run_program_loop(self) -> None:
        """Runs the program's loop until a request arrives, or something stops it."""
        loop = self._program_loop.find()
        assert loop is not None
        descriptors = (self._shell_fd, self._wake_fd)
        try:
            for number in descriptors:
                loop.add_reader(number, loop.stop)
            self._running_loop = loop
            loop.run_forever()
        except BaseException as error:
            # An exit of a task that a program left behind concerns nobody; a loop that cannot run
            # must not be tried again and again.
            if not isinstance(error, SystemExit | KeyboardInterrupt):
                self._program_loop.discard()
                raise
        finally:
            self._running_loop = None
            # A fork would remove them in its parent, too: both wait by the same epoll instance.
            for number in descriptors if getpid() == self._pid else ():
                with suppress(Exception):  # the program may have closed the loop
                    loop.remove_reader(number)

    def _stop_loop(self) -> None:
        """Makes a fork leave the loop in which the kernel waits: requests are for its parent."""
        if self._running_loop is not None and get_ident() == self._thread_id:
            self._running_loop.call_soon(self._running_loop.stop)

    def _receive_shell(self) -> None:
        while has_message(self._shell):
            self._shell_requests.append(receive_parts(self._shell))
