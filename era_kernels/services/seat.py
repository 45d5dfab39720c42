"""A session's seat: the at most one machine it has, and the place that it takes among all."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from era_kernels.errors import Capacity, EraError, KernelStartFailed
from era_kernels.kernels.machine import Machine
from era_kernels.models import Reason

T = TypeVar("T")

RETRY_AFTER = 5  # seconds that a caller is asked to wait for a free kernel or session


class Seats:
    """How many sessions may have a kernel at once, and which have one or are about to.

    A session takes its place as often as it has reasons to, and has it until all are gone.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._reasons: Counter[Hashable] = Counter()

    @property
    def taken(self) -> int:
        return len(self._reasons)

    def take(self, holder: Hashable) -> None:
        """Raises Capacity when all are taken; one's own is there to be taken again."""
        if holder not in self._reasons and self.taken >= self._most:
            raise Capacity(
                f"No kernel is free: max_kernels is {self._most}.",
                hint="A session keeps its kernel while it is idle: delete one that is not needed, "
                "or raise max_kernels.",
                retry_after=RETRY_AFTER,
            )
        self._reasons[holder] += 1

    def free(self, holder: Hashable) -> None:
        """Take back one `take`."""
        self._reasons[holder] -= 1
        if not self._reasons[holder]:
            del self._reasons[holder]

    @contextmanager
    def held(self, holder: Hashable) -> Iterator[None]:
        """Raises Capacity as `take` does."""
        self.take(holder)
        try:
            yield
        finally:
            self.free(holder)


class Seat:
    """Opens a session's machine when it is needed and ends it when told.

    `open_machine` opens one, with a kernel or with none yet; `start_kernel` starts one in it, and
    ends it when that fails. `clear` is called when nothing is left of a machine that has ended,
    before the next is opened.
    """

    def __init__(
        self,
        open_machine: Callable[[Mapping[str, str], bool], Coroutine[Any, Any, Machine]],
        start_kernel: Callable[[Machine, Mapping[str, str]], Coroutine[Any, Any, None]],
        clear: Callable[[], Awaitable[None]],
    ) -> None:
        self._open = open_machine
        self._start_kernel = start_kernel
        self._on_clear = clear
        self._lock = asyncio.Lock()
        self._opening: asyncio.Task[Any] | None = None
        self.starting = False  # a kernel
        self._machine: Machine | None = None
        self._unused = True  # nothing has run on the machine yet
        self._refusal: EraError | None = None

    @property
    def alive(self) -> bool:
        """A machine is there and has not ended."""
        return self._machine is not None and not self._machine.ended.done()

    @property
    def has_kernel(self) -> bool:
        """There is a kernel in it, too."""
        return self._machine is not None and self.alive and self._machine.has_kernel

    @property
    def present(self) -> Machine | None:
        """The machine, if its kernel is there; none is started for it."""
        return self._machine if self.has_kernel and not self.starting else None

    @property
    def resting(self) -> bool:
        """No machine is there, and nothing is about to change that."""
        return not self.alive and not self._lock.locked()

    async def machine(self, env: Mapping[str, str]) -> tuple[Machine, str]:
        """The machine for a run, and `started_from`; opened when there is none.

        Raises KernelStartFailed, LanguageUnavailable, StorageFailed, or what `close` was given.
        """
        async with self._lock:
            machine = await self._opened(env)
            started_from, self._unused = ("fresh" if self._unused else "live"), False
            return machine, started_from

    async def walls(self, env: Mapping[str, str]) -> tuple[Machine, str]:
        """The machine for a program, and whether it was there: `live`, or `fresh`.

        Where there is none, one without a kernel is opened; where there is one, nobody waits for
        the kernel that may just be starting in it. Raises as `machine` does.
        """
        if self._machine is not None and self.alive and self._refusal is None:
            return self._machine, "live"
        async with self._lock:
            started_from = "live" if self.alive else "fresh"
            return await self._opened(env, kernel=False), started_from

    async def renew(self, env: Mapping[str, str]) -> None:
        """Have a machine, on which nothing need run. Raises as `machine` does."""
        async with self._lock:
            await self._opened(env)

    async def _opened(self, env: Mapping[str, str], *, kernel: bool = True) -> Machine:
        self._check_open()
        if self._machine is None or self._machine.ended.done():
            await self._clear()
            self._check_open()  # what is left of a machine may take long to go
            self._unused = True
            self._machine = await self._begun(self._open(env, kernel), kernel)
        elif kernel and not self._machine.has_kernel:
            machine = self._machine
            try:
                await self._begun(self._start_kernel(machine, env), kernel)
            except KernelStartFailed:
                if not machine.ended.done() or machine.ended.result().reason != Reason.RESTARTED:
                    raise
                return await self._opened(env)
        return self._machine

    def _check_open(self) -> None:
        if self._refusal is not None:
            raise self._refusal

    async def _begun(self, step: Coroutine[Any, Any, T], kernel: bool) -> T:
        """The result of a step, which `close` may cut short."""
        opening: asyncio.Task[T] = asyncio.create_task(step)
        self._opening = opening
        self.starting = kernel
        try:
            await asyncio.wait([opening])
            if opening.cancelled() and self._refusal is not None:
                raise self._refusal
            return opening.result()
        finally:
            opening.cancel()  # nothing, unless the caller was cancelled
            self._opening = None
            self.starting = False

    async def end(self, reason: Reason) -> None:
        """End the machine, whatever runs on it; one that is just opened is new enough."""
        if self._machine is not None:
            await self._machine.aclose(reason)

    async def clear(self) -> None:
        """Put in order what a machine that has ended left behind; nothing when it has not."""
        async with self._lock:
            await self._clear()

    async def _clear(self) -> None:
        if self._machine is not None and self._machine.ended.done():
            await self._machine.aclose()  # until nothing is left of it
            await self._on_clear()
            self._machine = None

    async def close(self, reason: Reason, refusal: EraError) -> None:
        """End the machine for good; who asks for one from now on gets the refusal."""
        if self._refusal is None and self._opening is not None and not self.alive:
            self._opening.cancel()
        self._refusal = refusal
        await self.end(reason)  # also of one in which a kernel only starts
        async with self._lock:
            await self.end(reason)
