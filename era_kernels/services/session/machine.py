"""Starts, shares and stops the one machine of a session."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from era_kernels.errors import EraError, KernelStartFailed
from era_kernels.kernels.machine import Machine
from era_kernels.models import EndReason

T = TypeVar("T")


class SessionMachine:
    """Opens a session's machine when it is needed, shares it, and stops it.

    `open_machine` opens a machine, with or without a kernel; `start_kernel` starts a kernel in a
    machine, and ends the machine when that fails. `on_reaped` is called when nothing is left of a
    machine that has ended, before the next is opened.
    """

    def __init__(
        self,
        open_machine: Callable[[Mapping[str, str], bool], Coroutine[Any, Any, Machine]],
        start_kernel: Callable[[Machine, Mapping[str, str]], Coroutine[Any, Any, None]],
        on_reaped: Callable[[], Awaitable[None]],
    ) -> None:
        self._open_machine = open_machine
        self._start_kernel = start_kernel
        self._on_reaped = on_reaped
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

    async def acquire(self, env: Mapping[str, str]) -> tuple[Machine, str]:
        """Returns the machine for a run, opened if there is none, and `started_from`.

        That is `fresh` for the first run on a machine, else `live`. Raises KernelStartFailed,
        LanguageUnavailable, StorageFailed, EndUnfinished (of the machine before), or the error that
        `close` was given.
        """
        async with self._lock:
            machine = await self._ensure_machine(env)
            started_from, self._is_unused = ("fresh" if self._is_unused else "live"), False
            return machine, started_from

    async def acquire_sandbox(self, env: Mapping[str, str]) -> tuple[Machine, str]:
        """Returns the machine for a command, and `live` if it was there already, else `fresh`.

        Opens a machine without a kernel if there is none; does not wait for a kernel that is just
        starting in the machine. Raises as `acquire` does.
        """
        if self._machine is not None and self.is_alive and self._closed_error is None:
            return self._machine, "live"
        async with self._lock:
            started_from = "live" if self.is_alive else "fresh"
            return await self._ensure_machine(env, with_kernel=False), started_from

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
                self._open_machine(env, with_kernel), with_kernel
            )
        elif with_kernel and not self._machine.has_kernel:
            machine = self._machine
            try:
                await self._cancellable(self._start_kernel(machine, env), with_kernel)
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
