"""Starts, shares and stops the one machine of a session."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from era_kernels.concurrency.background import BackgroundTasks
from era_kernels.concurrency.waiting import ends_before
from era_kernels.errors import EraError, KernelStartFailed
from era_kernels.kernels.machine import Machine
from era_kernels.models import EndReason

T = TypeVar("T")


class Opener(Protocol):
    """Opens machines and starts kernels in them, counted against max_kernels."""

    def reserved(self) -> AbstractContextManager[None]:
        """Keeps a place for the session while the context is open. Raises AtCapacity."""

    async def open(self, env: Mapping[str, str], with_kernel: bool) -> Machine:
        """Opens a machine, with or without a kernel."""

    async def start_kernel(self, machine: Machine, env: Mapping[str, str]) -> None:
        """Starts a kernel in a machine, and ends the machine when that fails."""


class SessionMachine:
    """Opens a session's machine when it is needed, shares it, and stops it.

    `on_reaped` is called when nothing is left of a machine that has ended, before the next is
    opened.
    """

    def __init__(self, opener: Opener, on_reaped: Callable[[], Awaitable[None]]) -> None:
        self._opener = opener
        self._on_reaped = on_reaped
        # Starts of machines; they go on when the one that waited for them is cancelled.
        self._background = BackgroundTasks(expected_errors=(EraError,))
        self._lock = asyncio.Lock()
        self._start_task: asyncio.Task[Any] | None = None
        self.is_starting = False  # True while a kernel starts
        self._machine: Machine | None = None
        self._is_unused = True  # no run has had the machine yet
        self._closed_error: EraError | None = None

    @property
    def is_alive(self) -> bool:
        """True if there is a machine that has not ended."""
        return self._machine is not None and not self._machine.ended.done()

    @property
    def has_kernel(self) -> bool:
        """True if there is a machine that has not ended, with a kernel in it."""
        return self._machine is not None and self.is_alive and self._machine.has_kernel

    def find(self, *, with_kernel: bool = False) -> Machine | None:
        """Returns the machine that runs now, if there is one; starts nothing.

        `with_kernel`: only if its kernel has started.
        """
        is_found = self.has_kernel and not self.is_starting if with_kernel else self.is_alive
        return self._machine if is_found else None

    @property
    def is_idle(self) -> bool:
        """True if there is no machine and none is being opened or reaped."""
        return not self.is_alive and not self._lock.locked()

    async def acquire(
        self, env: Mapping[str, str], cancelled: asyncio.Event, *, with_kernel: bool = True
    ) -> tuple[Machine, str] | None:
        """Returns the machine and `started_from`, or None when `cancelled` is set first.

        A machine is opened, or a kernel started, if there is none; that goes on when the caller is
        cancelled. `started_from` is `fresh` for the first run on a machine, and for a command that
        had to open it, else `live`. A command does not wait for a kernel that is just starting.
        Raises AtCapacity, KernelStartFailed, LanguageUnavailable, StorageFailed, EndUnfinished (of
        the machine before), or the error that `close` was given.
        """
        if not with_kernel and self._machine and self.is_alive and self._closed_error is None:
            return self._machine, "live"
        if not (with_kernel and self.has_kernel):
            start_task = self._background.spawn(self._start(env, with_kernel))
            if not await ends_before(start_task, cancelled):
                return None
            started = start_task.result()
            if not with_kernel:
                return started
        async with self._lock:
            machine = await self._ensure_machine(env)
            started_from, self._is_unused = ("fresh" if self._is_unused else "live"), False
            return machine, started_from

    async def _start(self, env: Mapping[str, str], with_kernel: bool) -> tuple[Machine, str]:
        with self._opener.reserved():
            async with self._lock:
                started_from = "live" if self.is_alive else "fresh"
                return await self._ensure_machine(env, with_kernel=with_kernel), started_from

    async def ensure_started(self, env: Mapping[str, str]) -> None:
        """Opens a machine with a kernel unless there is one. Raises as `acquire` does."""
        async with self._lock:
            await self._ensure_machine(env)

    async def _ensure_machine(self, env: Mapping[str, str], *, with_kernel: bool = True) -> Machine:
        self._check_open()
        if self._machine is None or self._machine.ended.done():
            await self._reap()
            self._check_open()  # reaping may have taken long
            self._is_unused = True
            self._machine = await self._cancellable(
                self._opener.open(env, with_kernel), with_kernel
            )
        elif with_kernel and not self._machine.has_kernel:
            machine = self._machine
            try:
                await self._cancellable(self._opener.start_kernel(machine, env), with_kernel)
            except KernelStartFailed:
                if not machine.ended.done() or machine.ended.result().reason != EndReason.RESTARTED:
                    raise
                return await self._ensure_machine(env)
        return self._machine

    def _check_open(self) -> None:
        if self._closed_error is not None:
            raise self._closed_error

    async def _cancellable(self, coroutine: Coroutine[Any, Any, T], with_kernel: bool) -> T:
        """Returns the coroutine's result; `close` may cancel the coroutine."""
        start_task: asyncio.Task[T] = asyncio.create_task(coroutine)
        self._start_task = start_task
        self.is_starting = with_kernel
        try:
            await asyncio.wait([start_task])
            if start_task.cancelled() and self._closed_error is not None:
                raise self._closed_error
            return start_task.result()
        finally:
            start_task.cancel()  # has an effect only if the caller was cancelled
            self._start_task = None
            self.is_starting = False

    async def stop(self, reason: EndReason) -> None:
        """Ends the machine, whatever runs on it; leaves a machine that is being opened alone.

        What does not end in time is left to `reap`, which comes before the next machine.
        """
        if self._machine is not None:
            await self._machine.aclose(reason)

    async def reap(self) -> None:
        """Removes what a machine that has ended left behind; does nothing while it lives.

        Raises EndUnfinished.
        """
        async with self._lock:
            await self._reap()

    async def _reap(self) -> None:
        if self._machine is not None and self._machine.ended.done():
            await self._machine.wait_gone()
            await self._on_reaped()
            self._machine = None

    async def close(self, reason: EndReason, closed_error: EraError) -> None:
        """Ends the machine for good; from now on, asking for one raises `closed_error`.

        Raises EndUnfinished when processes of it are left.
        """
        if self._closed_error is None and self._start_task is not None and not self.is_alive:
            self._start_task.cancel()
        self._closed_error = closed_error
        await self.stop(reason)  # also a machine whose kernel is only starting
        async with self._lock:
            await self.stop(reason)
            if self._machine is not None:
                await self._machine.wait_gone()
