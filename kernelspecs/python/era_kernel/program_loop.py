"""Keeps an event loop for the program, apart from the kernel, which uses none.

No loop runs while a cell without top-level `await` does: so `asyncio.run`, `run_until_complete` and
libraries that start loops work as in a plain program. What a session adds: a cell with a top-level
`await` runs in the program's loop; a cell may call `asyncio.create_task` although no loop runs; and
tasks go on between runs, while the kernel waits for requests.

Within a cell that is awaited, `asyncio.run`, `Runner.run` and `run_until_complete` work, too: no
loop counts as running meanwhile. Inside the program's other tasks they refuse, as they must.
"""

from __future__ import annotations

import asyncio
import asyncio.events
import asyncio.runners
import asyncio.tasks
from _thread import get_ident
from asyncio import (
    AbstractEventLoop,
    BaseEventLoop,
    Handle,
    SelectorEventLoop,
    Task,
    all_tasks,
    current_task,
    ensure_future,
    new_event_loop,
    set_event_loop,
)
from asyncio import _get_running_loop as get_running_loop
from asyncio import _set_running_loop as set_running_loop
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from sys import version_info
from typing import Any

from era_kernel.program_signals import ProgramSignals

NEEDS_LOOP = version_info >= (3, 12)  # else `asyncio.get_event_loop` warns, or raises

_swap_current_task = getattr(asyncio.tasks, "_swap_current_task", None)  # since 3.12
_leave_task, _enter_task = asyncio.tasks._leave_task, asyncio.tasks._enter_task


class ProgramLoop:
    """The loop of the program's top-level code; made when it is first needed."""

    def __init__(self, signals: ProgramSignals) -> None:
        self.loop: AbstractEventLoop | None = None
        self.cell_task: Task[Any] | None = None  # runs a cell with top-level await; None: none does
        self._signals = signals
        self._main_thread_id = get_ident()

    def install(self) -> None:
        """Patches asyncio."""
        run = self._wrap_function(asyncio.run)
        asyncio.run = asyncio.runners.run = run
        asyncio.Runner.run = self._wrap_function(asyncio.Runner.run)  # type: ignore[method-assign]
        for name in ("run_until_complete", "run_forever"):
            setattr(BaseEventLoop, name, self._wrap_loop_method(getattr(BaseEventLoop, name)))
        create_task = self._wrap_create_task(asyncio.create_task)
        asyncio.create_task = asyncio.tasks.create_task = create_task

    def ensure(self) -> AbstractEventLoop:
        """Returns the program's loop, a new one when there is none that works."""
        loop = self.find() or new_event_loop()
        if _set_loop() is not loop:
            set_event_loop(loop)
        self.loop = loop
        return loop

    def find(self) -> AbstractEventLoop | None:
        """Returns the loop that the program has set, else the one that it used last, if usable."""
        for loop in (_set_loop(), self.loop):
            if loop is not None and _is_usable(loop):
                return loop
        return None

    def restore(self) -> None:
        """Sets a loop that works, for a new run, where an earlier one used a loop.

        `asyncio.run` unsets it, and a program may have closed it or shut down its executor. Newer
        versions of Python make none when they are asked for the loop.
        """
        if NEEDS_LOOP or self.loop is not None or _set_loop() is not None:
            self.ensure()

    def discard(self) -> None:
        """Forgets the loop, for good, because it cannot run any more."""
        self.loop = None
        set_event_loop(None)

    def has_work(self) -> bool:
        """Returns whether tasks, timers or open connections of the program need the loop."""
        try:
            loop = self.find()
            if loop is None or loop.is_running():
                return False
            if not isinstance(loop, SelectorEventLoop):
                return True  # nobody knows
            return bool(
                loop._ready  # type: ignore[attr-defined]
                or loop._scheduled  # type: ignore[attr-defined]
                or len(loop._selector.get_map()) > 1  # type: ignore[attr-defined]
                or all_tasks(loop)
            )
        except BaseException:  # a loop of the program's own, or builtins that do not work
            return False

    def run_until_done(self, task: Task[Any]) -> None:
        """Runs the loop until the task of a cell is done.

        Raises what a signal handler of the program raised meanwhile, and the exit of a task of the
        same run. The exits of tasks that earlier runs left behind concern nobody.
        """
        loop = task.get_loop()
        earlier = all_tasks(loop) - {task}
        task.add_done_callback(lambda _: loop.stop())
        while not task.done():
            try:
                loop.run_forever()
            except BaseException as error:
                if not self._signals.is_from_handler(error) and _is_end_of(earlier, error):
                    continue
                task.cancel()
                self._finish_cancelled(task)
                raise

    def _finish_cancelled(self, task: Task[Any]) -> None:
        """Lets a cancelled task clean up, unless that is disturbed again."""
        with suppress(BaseException):
            if not task.done():
                task.get_loop().run_forever()

    # ------------------------------------------------------------ patches

    def _wrap_create_task(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def create_task(coro: Any, **kwargs: Any) -> Any:
            if get_running_loop() is None and get_ident() == self._main_thread_id:
                return self.ensure().create_task(coro, **kwargs)
            return function(coro, **kwargs)

        return create_task

    def _is_awaited_cell(self) -> bool:
        """Returns whether the caller is the code of an awaited cell, and not another task."""
        return (
            self.cell_task is not None
            and get_ident() == self._main_thread_id
            and get_running_loop() is self.loop
            and current_task(self.loop) in (self.cell_task, None)
        )

    def _wrap_function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if not self._is_awaited_cell():
                return function(*args, **kwargs)
            with self._outside_running_loop():
                return function(*args, **kwargs)

        return call

    def _wrap_loop_method(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(loop: BaseEventLoop, *args: Any) -> Any:
            if not self._is_awaited_cell():
                return function(loop, *args)
            with self._outside_running_loop():
                if loop is self.loop:
                    return _run_nested(loop, *args)
                return function(loop, *args)

        return call

    @contextmanager
    def _outside_running_loop(self) -> Iterator[None]:
        """Unsets the running loop and the current task meanwhile, as in a plain program."""
        loop = self.loop
        assert loop is not None
        task = current_task(loop)
        _swap_task(loop, task, None)
        set_running_loop(None)
        try:
            with self._signals.raising():
                yield
        finally:
            set_running_loop(loop)
            set_event_loop(loop)  # a Runner sets none at its end
            _swap_task(loop, None, task)


def _set_loop() -> AbstractEventLoop | None:
    """Returns the loop that is set for this thread; unlike asyncio's functions it makes none."""
    try:
        loop = asyncio.events._event_loop_policy._local._loop  # type: ignore[attr-defined]
    except BaseException:  # no policy yet, or one of the program's own
        return None
    return loop if isinstance(loop, AbstractEventLoop) else None


def _is_end_of(tasks: set[Task[Any]], error: BaseException) -> bool:
    """Returns whether this is the exit with which one of the tasks has ended."""
    ended = [task for task in tasks if task.done() and not task.cancelled()]
    return any(task.exception() is error for task in ended)


def _is_usable(loop: AbstractEventLoop) -> bool:
    return not loop.is_closed() and not getattr(loop, "_executor_shutdown_called", False)


def _swap_task(loop: AbstractEventLoop, old: Any, new: Any) -> None:
    """Changes which task is the current one of the running loop."""
    if _swap_current_task is not None:
        _swap_current_task(loop, new)
        return
    if old is not None:
        _leave_task(loop, old)
    if new is not None:
        _enter_task(loop, new)


def _run_nested(loop: Any, future: Any = None) -> Any:
    """Runs the program's own loop on, until `future` is done; without one, until it is stopped.

    The loop counts beforehand how many callbacks it is going to call in one iteration. Those that
    are called here are replaced by cancelled ones, which it skips.
    """
    set_running_loop(loop)
    expected = len(loop._ready)
    if future is not None:
        future = ensure_future(future, loop=loop)
    try:
        while not (loop._stopping if future is None else future.done()):
            loop._run_once()
    except BaseException:
        if future is not None:
            future.cancel()  # a plain program would have ended, and the future with it
        raise
    finally:
        loop._stopping = False
        for _ in range(expected):
            handle = Handle(_do_nothing, (), loop)
            handle.cancel()
            loop._ready.appendleft(handle)
    return None if future is None else future.result()


def _do_nothing() -> None:
    """Does nothing; it is the callback of the cancelled handles."""
