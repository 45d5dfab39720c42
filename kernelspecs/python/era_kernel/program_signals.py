"""Decides when the program's signal handlers run, and what SIGINT does.

Python calls a handler in the main thread wherever that is, which may be in the kernel's own code.
There a handler that raises would break what the kernel is about to do. So `signal.signal` puts each
handler of the program behind a `_GuardedHandler`, which

    calls it at once             while the program runs: what it raises belongs to the program
    calls it, and only reports   while the kernel waits for a request
    calls it a little later      while the kernel does something else

SIGINT interrupts a program that runs, cancels one that awaits, and is ignored otherwise. The kernel
never sets SIG_IGN: children would inherit that.
"""

from __future__ import annotations

import inspect
import signal as signals
from _signal import SIG_UNBLOCK, SIGINT, default_int_handler, getsignal, pthread_sigmask, signal
from asyncio import AbstractEventLoop, Handle, Task, current_task
from asyncio import _get_running_loop as get_running_loop
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from sys import getprofile, gettrace, setprofile, settrace
from types import FrameType
from typing import Any

from era_kernel.tracebacks import KERNEL_PATHS, get_traceback, set_traceback

Handler = Callable[[int, FrameType | None], Any]

_HANDLE_RUN_CODE = Handle._run.__code__  # from where a loop calls what is due
_COROUTINE_FLAGS = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class Activity:
    """What the main thread does. No `Enum`: its members are looked up by code in Python."""

    PROGRAM = "runs the program"
    KERNEL = "runs the kernel's own code"
    WAITING = "waits for a request"


class _GuardedHandler:
    """A handler of the program, called only where that does no harm."""

    __slots__ = ("_signals", "handler")

    def __init__(self, signals: ProgramSignals, handler: Handler) -> None:
        self.handler = handler
        self._signals = signals

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._signals.handle(number, frame, self.handler)


class ProgramSignals:
    """Guards the program's handlers; `report` gets what they raise while no program runs."""

    def __init__(self, report: Callable[[BaseException], object]) -> None:
        self.activity = Activity.KERNEL
        self.has_interrupted = False  # SIGINT came while this run's program was awaited
        self._report = report
        self._deferred: deque[tuple[int, Handler]] = deque()
        self._raised_id = 0  # of the last exception that a handler raised in this run
        self._cancel_awaited: Handler | None = None  # does what SIGINT does while a cell is awaited
        self._default = _GuardedHandler(self, default_int_handler)
        self._unguarded: Any = None  # SIG_DFL or SIG_IGN, which the program set for SIGINT
        signal(SIGINT, self._default)

    def install(self) -> None:
        """Replaces `signal.signal` and `signal.getsignal`, which show no guard to programs."""

        set_signal, get_signal = signals.signal, signals.getsignal

        @wraps(set_signal)
        def set_guarded(signalnum: int, handler: Any) -> Any:
            return _unguarded(set_signal(signalnum, self._guarded(handler)))

        @wraps(get_signal)
        def get_unguarded(signalnum: int) -> Any:
            return _unguarded(get_signal(signalnum))

        signals.signal, signals.getsignal = set_guarded, get_unguarded

    def reset(self) -> None:
        """Restores what SIGINT does, and that it comes, for a new run."""
        self._unguarded, self._raised_id, self._cancel_awaited = None, 0, None
        self.has_interrupted = False
        if getsignal(SIGINT) is not self._default:
            signal(SIGINT, self._default)
        pthread_sigmask(SIG_UNBLOCK, (SIGINT,))

    def call(self, function: Callable[[], object]) -> BaseException | None:
        """Calls a function of the program; returns what it or a handler raised, or None.

        The frame of this method is not in the traceback: it would keep the exception alive. Trace
        and profile functions that the program left on are off afterwards.
        """
        error: BaseException | None = None
        if self.activity is Activity.PROGRAM:  # the program called the kernel, which calls it again
            return _call_nested(function)
        try:
            try:
                self._enter_program()
                function()
            except BaseException as raised:
                error = raised
            finally:
                if gettrace() is not None:  # what the program left on would trace the kernel
                    settrace(None)
                if getprofile() is not None:
                    setprofile(None)
                self._leave_program()
        except BaseException as raised:  # SIGINT came when the program had ended
            self._leave_program()
            error = error or raised
        if error is not None:
            _drop_first_frame(error)
        try:
            return error
        finally:
            del error

    def is_from_handler(self, error: BaseException) -> bool:
        """Returns whether a signal handler of the program raised this exception in this run."""
        return id(error) == self._raised_id

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Lets handlers run while the kernel waits for a request."""
        self.activity = Activity.WAITING
        try:
            while self._deferred:
                self._call_and_report(*self._deferred.popleft(), None)
            yield
        finally:
            self.activity = Activity.KERNEL

    @contextmanager
    def cancelling(self, task: Task[None], loop: AbstractEventLoop) -> Iterator[None]:
        """Makes SIGINT cancel the task while the loop runs, and raise in code that computes."""

        def on_sigint(_: int, frame: FrameType | None) -> None:
            self.has_interrupted = True
            computing = current_task(loop) if get_running_loop() is loop else None
            is_computing = computing is not None and _is_in_coroutine(frame)
            if not is_computing or computing is not task:
                loop.call_soon_threadsafe(task.cancel)
            if is_computing:
                raise KeyboardInterrupt

        with self._handling_sigint(on_sigint):
            yield

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Makes SIGINT raise KeyboardInterrupt again, within `cancelling`."""
        with self._handling_sigint(None):
            yield

    def handle(self, number: int, frame: FrameType | None, handler: Handler) -> None:
        """Calls a handler now or later, or reports what it raises: see the module."""
        if self.activity is Activity.PROGRAM:
            if handler is default_int_handler and self._cancel_awaited is not None:
                handler = self._cancel_awaited
            else:
                frame = _program_frame(frame)
            try:
                handler(number, frame)
            except BaseException as error:
                self._raised_id = id(error)
                raise
        elif handler is default_int_handler:
            # A task that an earlier run left behind may keep the next run from its start.
            if self.activity is Activity.WAITING and is_in_callback(frame):
                raise KeyboardInterrupt
        elif self.activity is Activity.KERNEL:
            self._deferred.append((number, handler))
        else:
            self._call_and_report(number, handler, frame)

    def _call_and_report(self, number: int, handler: Handler, frame: FrameType | None) -> None:
        try:
            handler(number, frame)
        except BaseException as error:
            _drop_first_frame(error)
            self._report(error)

    def _guarded(self, handler: Any) -> Any:
        if handler is default_int_handler:
            return self._default
        return _GuardedHandler(self, handler) if callable(handler) else handler

    def _enter_program(self) -> None:
        if self._unguarded is not None:
            signal(SIGINT, self._unguarded)
        self.activity = Activity.PROGRAM
        while self._deferred:
            number, handler = self._deferred.popleft()
            handler(number, None)

    def _leave_program(self) -> None:
        self.activity = Activity.KERNEL
        handler = getsignal(SIGINT)
        self._unguarded = None if isinstance(handler, _GuardedHandler) else handler
        if self._unguarded is not None:
            signal(SIGINT, self._default)

    @contextmanager
    def _handling_sigint(self, handler: Handler | None) -> Iterator[None]:
        previous, self._cancel_awaited = self._cancel_awaited, handler
        try:
            yield
        finally:
            self._cancel_awaited = previous


def _call_nested(function: Callable[[], object]) -> BaseException | None:
    try:
        function()
    except BaseException as error:
        _drop_first_frame(error)
        return error
    return None


def _unguarded(handler: Any) -> Any:
    return handler.handler if isinstance(handler, _GuardedHandler) else handler


def _drop_first_frame(error: BaseException) -> None:
    """Removes the frame that caught the exception from its traceback."""
    traceback = get_traceback(error)
    if traceback is not None:
        set_traceback(error, traceback.tb_next)


def _program_frame(frame: FrameType | None) -> FrameType | None:
    """Returns the innermost frame that is not the kernel's: it may have patched what was called."""
    inner = frame
    while inner is not None and inner.f_code.co_filename.startswith(KERNEL_PATHS):
        inner = inner.f_back
    return inner or frame


def _is_in_coroutine(frame: FrameType | None) -> bool:
    """Returns whether a coroutine's own code is running, and not the loop's around it.

    A task is the current one also while the loop schedules its next step. An exception there would
    leave a task that is never called again.
    """
    while frame is not None and frame.f_code is not _HANDLE_RUN_CODE:
        if frame.f_code.co_flags & _COROUTINE_FLAGS:
            return True
        frame = frame.f_back
    return False


def is_in_callback(frame: FrameType | None) -> bool:
    """Returns whether a loop is calling what was due."""
    while frame is not None and frame.f_code is not _HANDLE_RUN_CODE:
        frame = frame.f_back
    return frame is not None
