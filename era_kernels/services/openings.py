"""Openings: a session's machine is opened and a kernel started in it, and both are counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping
from contextlib import nullcontext

from era_kernels.errors import SessionNotFound
from era_kernels.kernels.machine import Machine
from era_kernels.models import Ending, Reason
from era_kernels.services.record import Record
from era_kernels.services.tools import Tools

UNRECORDED = "the start of the kernel could not be recorded"


class Openings:
    """What a seat needs to have machines. Each has a place among all, which is the holder's."""

    def __init__(
        self, record: Record, tools: Tools, holder: Hashable, on_ended: Callable[[], None]
    ) -> None:
        self._record = record
        self._tools = tools
        self._holder = holder
        self._tell_ended = on_ended

    async def open(self, env: Mapping[str, str], kernel: bool) -> Machine:
        """A new machine. Raises as the host does, StorageFailed, SessionNotFound."""
        tools, session = self._tools, self._record.session
        place, limits = tools.place_of(session), tools.limits_of(session)
        with tools.meters.kernel_starting(session.language) if kernel else nullcontext():
            machine = await tools.host.open(session.language, place, limits, env, kernel=kernel)
        if self._record.stored:
            machine.on_late_output = tools.logs.live(session.directory).take
        tools.seats.take(self._holder)
        machine.ended.add_done_callback(self._on_ended)
        if kernel:
            await self._begin(machine)
        return machine

    async def start_kernel(self, machine: Machine, env: Mapping[str, str]) -> None:
        """Start one in a machine that has none. Raises KernelStartFailed; it has ended then."""
        with self._tools.meters.kernel_starting(self._record.session.language):
            await machine.start_kernel(env)
        await self._begin(machine)

    async def _begin(self, machine: Machine) -> None:
        machine.kernel.on_late_output = machine.on_late_output
        machine.ended.add_done_callback(self._on_kernel_ended)
        try:
            # Durable before any code runs: after a crash it alone tells that variables were lost,
            # and that files of a session that is not persistent must go.
            await self._record.change(kernel_generation=self._record.session.kernel_generation + 1)
        except SessionNotFound:  # its row goes first
            await machine.aclose(Reason.DELETED)
            raise
        except BaseException:
            await machine.aclose(UNRECORDED)
            raise

    def _on_kernel_ended(self, ended: asyncio.Future[Ending]) -> None:
        self._tools.meters.kernel_ended(self._record.session.language, ended.result())

    def _on_ended(self, ended: asyncio.Future[Ending]) -> None:
        self._tools.seats.free(self._holder)
        self._tell_ended()
