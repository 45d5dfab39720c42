"""Opens machines for a session, starts kernels in them, and counts both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from era_kernels.errors import EndUnfinished, SessionNotFound
from era_kernels.kernels.kernel import discard_output
from era_kernels.kernels.machine import Machine
from era_kernels.kernels.services_in_machine import Permissions
from era_kernels.models import EndReason, ExitInfo
from era_kernels.services.context import ServiceContext
from era_kernels.services.session.lost_variables import LostVariables
from era_kernels.services.session.session_values import SessionValues

RETRY_INTERVAL = 1.0  # seconds between two looks at a machine that does not end
START_NOT_FINISHED = "the start of the machine was not finished"
START_NOT_RECORDED = "the start of the kernel could not be recorded"


class MachineOpener:
    """Opens a machine for a session and counts it against max_kernels."""

    def __init__(
        self,
        values: SessionValues,
        context: ServiceContext,
        holder: Hashable,
        lost_variables: LostVariables,
        on_ended: Callable[[], None],
    ) -> None:
        self._values = values
        self._context = context
        self._holder = holder
        self._lost_variables = lost_variables
        self._notify_ended = on_ended
        self._releases: set[asyncio.Task[None]] = set()

    def reserved(self) -> AbstractContextManager[None]:
        """Keeps a place for the session while the context is open. Raises AtCapacity."""
        return self._context.kernel_limiter.reserved(self._holder)

    async def open(self, env: Mapping[str, str], with_kernel: bool) -> Machine:
        """Opens a new machine. Raises what the host raises, StorageFailed, SessionNotFound."""
        context, session = self._context, self._values.session
        log = context.logs.live_log(session.directory) if self._values.is_stored else None
        paths, limits = context.paths_for(session), context.limits_for(session)
        with context.metrics.kernel_starting(session.language) if with_kernel else nullcontext():
            machine = await context.host.open(
                session.language,
                paths,
                limits,
                env,
                kernel_name=session.kernel,
                kernel=with_kernel,
                permissions=Permissions(
                    lambda: context.storage_scope_of(self._values.session),
                    lambda: context.internet_access_of(self._values.session),
                ),
                on_late_output=discard_output if log is None else log.write,
            )
        try:
            # A change may have come while the kernel started.
            await machine.services.apply_internet()
            context.kernel_limiter.acquire(self._holder)
        except BaseException:  # a session that is deleted meanwhile, for one
            await machine.aclose(START_NOT_FINISHED)
            raise
        context.machines[session.id] = machine
        machine.ended.add_done_callback(partial(self._on_machine_ended, machine))
        if with_kernel:
            await self._record_start(machine)
        return machine

    async def start_kernel(self, machine: Machine, env: Mapping[str, str]) -> None:
        """Starts a kernel in a machine that has none.

        Raises KernelStartFailed; the machine has ended then.
        """
        with self._context.metrics.kernel_starting(self._values.session.language):
            await machine.start_kernel(env)
        await self._record_start(machine)

    async def _record_start(self, machine: Machine) -> None:
        machine.ended.add_done_callback(partial(self._on_kernel_ended, machine))
        try:
            # Durable before any code runs: after a crash only this number tells that variables were
            # lost, and that the files of a session that is not persistent must be removed.
            await self._values.update(kernel_generation=self._values.session.kernel_generation + 1)
        except SessionNotFound:  # deleting a session removes its row first
            await machine.aclose(EndReason.DELETED)
            raise
        except BaseException:
            await machine.aclose(START_NOT_RECORDED)
            raise

    def _on_kernel_ended(self, machine: Machine, ended: asyncio.Future[ExitInfo]) -> None:
        self._lost_variables.on_kernel_ended(machine, ended.result())
        self._context.metrics.kernel_ended(self._values.session.language, ended.result())

    def _on_machine_ended(self, machine: Machine, ended: asyncio.Future[ExitInfo]) -> None:
        task = asyncio.create_task(self._release_when_gone(machine))
        self._releases.add(task)
        if self._context.machines.get(self._values.session.id) is machine:
            del self._context.machines[self._values.session.id]
        task.add_done_callback(self._releases.discard)
        self._notify_ended()

    async def _release_when_gone(self, machine: Machine) -> None:
        """Gives the machine's place to others when none of its processes is left."""
        while True:
            try:
                await machine.wait_gone()
                break
            except EndUnfinished:
                await asyncio.sleep(RETRY_INTERVAL)
        self._context.kernel_limiter.release(self._holder)
