"""A session has one machine, which is started, shared and stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import pytest

from era_kernels.errors import EraError, KernelStartFailed, SessionNotFound, StorageFailed
from era_kernels.kernels.machine import Machine
from era_kernels.models import EndReason, ExitInfo, Limits
from era_kernels.services.session.machine import SessionMachine
from tests.fakes import FakeHost, make_start_error
from tests.services.service_fixture import SESSION_PATHS
from tests.waiting import until

CLOSED_ERROR = SessionNotFound("It is gone.")


class MachineFixture:
    """A session's machine on a fake host; counts what was reaped."""

    def __init__(self) -> None:
        self.host = FakeHost()
        self.reap_count = 0
        self.reap_fails = False
        self.cancelled = asyncio.Event()
        self.session_machine = SessionMachine(self, self._on_reaped)

    def reserved(self) -> AbstractContextManager[None]:
        return nullcontext()

    async def open(self, env: Mapping[str, str], kernel: bool) -> Machine:
        return cast(
            Machine, await self.host.open("alpha", SESSION_PATHS, Limits(), env, kernel=kernel)
        )

    async def start_kernel(self, machine: Machine, env: Mapping[str, str]) -> None:
        await machine.start_kernel(env)

    async def _on_reaped(self) -> None:
        if self.reap_fails:
            raise StorageFailed("It stays.")
        self.reap_count += 1

    async def acquire(self, env: Mapping[str, str]) -> tuple[Machine, str]:
        acquired = await self.session_machine.acquire(env, self.cancelled)
        assert acquired is not None
        return acquired

    async def acquire_sandbox(self, env: Mapping[str, str]) -> tuple[Machine, str]:
        acquired = await self.session_machine.acquire(env, self.cancelled, with_kernel=False)
        assert acquired is not None
        return acquired

    async def until_starting(self) -> None:
        await until(lambda: self.session_machine.is_starting)


# ---------------------------------------------------------------- one machine


async def test_machine_is_opened_once() -> None:
    """The first run meets a fresh machine, later ones the same, live."""
    fixture = MachineFixture()
    first = await fixture.acquire({"A": "1"})
    second = await fixture.acquire({})
    assert first[0] is second[0]
    assert (first[1], second[1]) == ("fresh", "live")
    assert fixture.host.machines[0].env == {"A": "1"}


async def test_two_calls_at_once_open_one_machine() -> None:
    """A call that comes while a machine is being opened waits for that machine."""
    fixture = MachineFixture()
    await asyncio.gather(*(fixture.acquire({}) for _ in range(3)))
    assert len(fixture.host.machines) == 1


async def test_ended_machine_is_replaced_when_nothing_is_left_of_it() -> None:
    """The next machine is opened when the last is gone and reaped."""
    fixture = MachineFixture()
    fixture.host.close_gate = asyncio.Event()
    await fixture.acquire({})
    fixture.host.machines[0].die(ExitInfo(code=7))
    assert not fixture.session_machine.is_alive
    again = asyncio.create_task(fixture.acquire({}))
    await asyncio.sleep(0.01)
    assert (fixture.reap_count, len(fixture.host.machines)) == (0, 1)
    fixture.host.close_gate.set()
    assert (await again)[1] == "fresh"
    assert (fixture.reap_count, len(fixture.host.machines)) == (1, 2)


async def test_ended_machine_is_reaped_once() -> None:
    """A machine is not reaped while it lives, nor twice after its end."""
    fixture = MachineFixture()
    await fixture.acquire({})
    await fixture.session_machine.reap()
    assert fixture.reap_count == 0
    fixture.host.machines[0].die(ExitInfo(code=7))
    await fixture.session_machine.reap()
    await fixture.session_machine.reap()
    await fixture.acquire({})
    assert fixture.reap_count == 1


async def test_reaping_that_fails_keeps_the_next_machine_away() -> None:
    """While reaping fails, no next machine is opened."""
    fixture = MachineFixture()
    await fixture.acquire({})
    fixture.host.machines[0].die(ExitInfo(code=7))
    fixture.reap_fails = True
    with pytest.raises(StorageFailed):
        await fixture.acquire({})
    fixture.reap_fails = False
    await fixture.acquire({})
    assert (fixture.reap_count, len(fixture.host.machines)) == (1, 2)


async def test_failed_start_is_raised_and_tried_again() -> None:
    """A machine that does not start leaves nothing: the next call opens another."""
    fixture = MachineFixture()
    fixture.host.open_error = make_start_error()
    with pytest.raises(KernelStartFailed):
        await fixture.acquire({})
    assert fixture.session_machine.is_idle
    assert (await fixture.acquire({}))[1] == "fresh"


async def test_restarted_machine_is_still_fresh() -> None:
    """After a restart, the first run is the first on its machine."""
    fixture = MachineFixture()
    await fixture.acquire({})
    await fixture.session_machine.stop(EndReason.RESTARTED)
    await fixture.session_machine.ensure_started({})
    assert fixture.host.machines[0].ended.result().reason == "restarted"
    assert (await fixture.acquire({}))[1] == "fresh"
    assert len(fixture.host.machines) == 2


async def test_closed_machine_refuses() -> None:
    """After closing, the machine has ended and no call gets another."""
    fixture = MachineFixture()
    await fixture.acquire({})
    await fixture.session_machine.close(EndReason.DELETED, CLOSED_ERROR)
    assert fixture.host.machines[0].ended.result().reason == "session deleted"
    for call in (fixture.acquire, fixture.session_machine.ensure_started):
        with pytest.raises(SessionNotFound):
            await call({})


async def test_closing_does_not_wait_for_a_start() -> None:
    """A start that takes long is cancelled; its caller gets the closing error."""
    fixture = MachineFixture()
    fixture.host.open_gate = asyncio.Event()
    runs = [asyncio.create_task(fixture.acquire({})) for _ in range(2)]
    await fixture.until_starting()
    await asyncio.gather(
        *(fixture.session_machine.close(EndReason.DELETED, CLOSED_ERROR) for _ in range(2))
    )
    for run in runs:
        with pytest.raises(SessionNotFound):
            await run
    assert fixture.host.machines == []
    assert fixture.session_machine.is_idle


async def test_closing_while_the_last_machine_goes() -> None:
    """A call that waits for the last machine to be reaped gets no new machine."""
    fixture = MachineFixture()
    await fixture.acquire({})
    fixture.host.close_gate = fixture.host.machines[0].close_gate = asyncio.Event()
    fixture.host.machines[0].die(ExitInfo(code=7))
    again = asyncio.create_task(fixture.acquire({}))
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(fixture.session_machine.close(EndReason.DELETED, CLOSED_ERROR))
    await asyncio.sleep(0.01)
    fixture.host.close_gate.set()
    with pytest.raises(SessionNotFound):
        await again
    await closing
    assert len(fixture.host.machines) == 1


async def test_cancelled_caller_cancels_its_start() -> None:
    """A restart that is cancelled during its start leaves no machine; the next call opens one."""
    fixture = MachineFixture()
    fixture.host.open_gate = asyncio.Event()
    run = asyncio.create_task(fixture.session_machine.ensure_started({}))
    await fixture.until_starting()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    fixture.host.open_gate.set()
    await fixture.acquire({})
    assert len(fixture.host.machines) == 1


@pytest.mark.parametrize("with_kernel", [True, False])
async def test_cancelled_run_leaves_its_start_to_others(with_kernel: bool) -> None:
    """A run or command that is cancelled does not wait for the start; the next gets the machine."""
    fixture = MachineFixture()
    fixture.host.open_gate = asyncio.Event()
    run = asyncio.create_task(
        fixture.session_machine.acquire({}, fixture.cancelled, with_kernel=with_kernel)
    )
    await asyncio.sleep(0.01)
    fixture.cancelled.set()
    assert await run is None
    fixture.cancelled.clear()
    fixture.host.open_gate.set()
    await fixture.acquire({})
    assert len(fixture.host.machines) == 1


# ---------------------------------------------------------------- without a kernel


async def test_sandbox_without_a_kernel() -> None:
    """A command opens a machine without a kernel; a run starts its kernel in that machine."""
    fixture = MachineFixture()
    first, started_from = await fixture.acquire_sandbox({})
    assert (started_from, fixture.session_machine.is_alive, fixture.session_machine.has_kernel) == (
        "fresh",
        True,
        False,
    )
    assert await fixture.acquire_sandbox({}) == (first, "live")
    assert await fixture.acquire({"A": "1"}) == (first, "fresh")
    assert fixture.session_machine.has_kernel
    assert fixture.host.machines[0].env == {"A": "1"}
    assert await fixture.acquire({}) == (first, "live")
    assert await fixture.acquire_sandbox({}) == (first, "live")
    assert len(fixture.host.machines) == 1


async def test_restarted_machine_has_a_kernel() -> None:
    """A restart leaves a machine with a kernel, whatever was there before."""
    fixture = MachineFixture()
    await fixture.acquire_sandbox({})
    await fixture.session_machine.stop(EndReason.RESTARTED)
    await fixture.session_machine.ensure_started({})
    assert fixture.session_machine.has_kernel
    assert len(fixture.host.machines) == 2


async def test_sandbox_and_kernel_at_once() -> None:
    """Simultaneous calls open one machine; only a kernel counts as starting, not a sandbox."""
    fixture = MachineFixture()
    fixture.host.open_gate = asyncio.Event()
    calls = [
        asyncio.create_task(call({}))
        for call in (
            fixture.acquire_sandbox,
            fixture.acquire,
            fixture.acquire_sandbox,
        )
    ]
    await asyncio.sleep(0.01)
    assert not fixture.session_machine.is_starting
    fixture.host.open_gate.set()
    machines = {(await call)[0] for call in calls}
    assert len(machines) == len(fixture.host.machines) == 1
    assert fixture.session_machine.has_kernel


async def test_kernel_that_fails_in_a_machine() -> None:
    """A kernel that fails to start ends its machine; the next call opens another."""
    fixture = MachineFixture()
    await fixture.acquire_sandbox({})
    fixture.host.machines[0].start_error = make_start_error()
    with pytest.raises(KernelStartFailed):
        await fixture.acquire({})
    assert not fixture.session_machine.is_alive
    assert (await fixture.acquire({}))[1] == "fresh"
    assert len(fixture.host.machines) == 2


async def a_starting_kernel(fixture: MachineFixture) -> asyncio.Task[tuple[Machine, str]]:
    """Returns a run that waits for its kernel, in a machine that was there."""
    await fixture.acquire_sandbox({})
    fixture.host.machines[0].start_gate = asyncio.Event()
    run = asyncio.create_task(fixture.acquire({}))
    await fixture.until_starting()
    return run


async def test_restart_while_a_kernel_starts_in_a_machine() -> None:
    """The machine ends with all that runs in it; the run gets its kernel in the next."""
    fixture = MachineFixture()
    run = await a_starting_kernel(fixture)
    await fixture.session_machine.stop(EndReason.RESTARTED)
    await fixture.session_machine.ensure_started({})
    assert (await run)[1] == "fresh"
    assert len(fixture.host.machines) == 2
    assert fixture.host.machines[0].ended.result().reason == "restarted"


async def test_closing_while_a_kernel_starts_in_a_machine() -> None:
    """The machine ends for the reason given, and the run gets the error."""
    fixture = MachineFixture()
    run = await a_starting_kernel(fixture)
    await fixture.session_machine.close(EndReason.DELETED, CLOSED_ERROR)
    with pytest.raises(EraError):
        await run
    assert fixture.host.machines[0].ended.result().reason == "session deleted"
    assert len(fixture.host.machines) == 1
