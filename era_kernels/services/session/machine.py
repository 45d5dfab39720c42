"""A session's seat: the at most one machine it has, and the place that it takes among all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from era_kernels.errors import EraError, KernelStartFailed
from era_kernels.kernels.machine import Machine
from era_kernels.models import EndReason

T = TypeVar("T")


class SessionMachine:
    """Opens a session's machine when it is needed and ends it when told.

    `open_machine` opens one, with a kernel or with none yet; `start_kernel` starts one in it, and
    ends it when that fails. `on_reaped` is called when nothing is left of a machine that has ended,
    before the next is opened.
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
        self.is_starting = False  # a kernel
        self._machine: Machine | None = None
        self._is_unused = True  # nothing has run on the machine yet
        self._closed_error: EraError | None = None

    @property
    def is_alive(self) -> bool:
        """A machine is there and has not ended."""
        return self._machine is not None and not self._machine.ended.done()

    @property
    def has_kernel(self) -> bool:
        """There is a kernel in it, too."""
        return self._machine is not None and self.is_alive and self._machine.has_kernel

    @property
    def ready_machine(self) -> Machine | None:
        """The machine, if its kernel is there; none is started for it."""
        return self._machine if self.has_kernel and not self.is_starting else None

    @property
    def is_idle(self) -> bool:
        """No machine is there, and nothing is about to change that."""
        return not self.is_alive and not self._lock.locked()

    async def acquire(self, env: Mapping[str, str]) -> tuple[Machine, str]:
        """The machine for a run, and `started_from`; opened when there is none.

        Raises KernelStartFailed, LanguageUnavailable, StorageFailed, or what `close` was given.
        """
        async with self._lock:
            machine = await self._ensure_machine(env)
            started_from, self._is_unused = ("fresh" if self._is_unused else "live"), False
            return machine, started_from

    async def acquire_sandbox(self, env: Mapping[str, str]) -> tuple[Machine, str]:
        """The machine for a program, and whether it was there: `live`, or `fresh`.

        Where there is none, one without a kernel is opened; where there is one, nobody waits for
        the kernel that may just be starting in it. Raises as `acquire` does.
        """
        if self._machine is not None and self.is_alive and self._closed_error is None:
            return self._machine, "live"
        async with self._lock:
            started_from = "live" if self.is_alive else "fresh"
            return await self._ensure_machine(env, with_kernel=False), started_from

    async def ensure_started(self, env: Mapping[str, str]) -> None:
        """Have a machine, on which nothing need run. Raises as `acquire` does."""
        async with self._lock:
            await self._ensure_machine(env)

    async def _ensure_machine(self, env: Mapping[str, str], *, with_kernel: bool = True) -> Machine:
        self._check_open()
        if self._machine is None or self._machine.ended.done():
            await self._reap()
            self._check_open()  # what is left of a machine may take long to go
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

    async def _cancellable(self, step: Coroutine[Any, Any, T], is_kernel: bool) -> T:
        """The result of a step, which `close` may cut short."""
        start_task: asyncio.Task[T] = asyncio.create_task(step)
        self._start_task = start_task
        self.is_starting = is_kernel
        try:
            await asyncio.wait([start_task])
            if start_task.cancelled() and self._closed_error is not None:
                raise self._closed_error
            return start_task.result()
        finally:
            start_task.cancel()  # nothing, unless the caller was cancelled
            self._start_task = None
            self.is_starting = False

    async def stop(self, reason: EndReason) -> None:
        """End the machine, whatever runs on it; one that is just opened is new enough."""
        if self._machine is not None:
            await self._machine.aclose(reason)

    async def reap(self) -> None:
        """Put in order what a machine that has ended left behind; nothing when it has not."""
        async with self._lock:
            await self._reap()

    async def _reap(self) -> None:
        if self._machine is not None and self._machine.ended.done():
            await self._machine.aclose()  # until nothing is left of it
            await self._on_reaped()
            self._machine = None

    async def close(self, reason: EndReason, closed_error: EraError) -> None:
        """End the machine for good; who asks for one from now on gets the refusal."""
        if self._closed_error is None and self._start_task is not None and not self.is_alive:
            self._start_task.cancel()
        self._closed_error = closed_error
        await self.stop(reason)  # also of one in which a kernel only starts
        async with self._lock:
            await self.stop(reason)
