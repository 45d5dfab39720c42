"""A cancellation ends one execution, wherever it is, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from era_kernels.errors import ExecutionNotFound, NotRunning
from era_kernels.models import Done, ExitInfo, InterruptStep, Queued
from era_kernels.services.executions.live_execution import LiveExecution
from tests.fakes import make_start_error
from tests.services.conftest import OpenServices
from tests.services.service_fixture import Services, end_of, events_of, sleep_briefly


@pytest.fixture
def limited_services(open_services: OpenServices) -> Services:
    """One kernel, and one run that waits."""
    return open_services(max_queue=1, max_kernels=1)


async def interrupt(services: Services, running: LiveExecution) -> tuple[str, list[str]]:
    """Interrupts the execution; returns its state and the names of the steps."""
    execution, state, steps = await services.executions.interrupt("s1", running.id)
    assert execution.status == "finished"
    assert running.finished.is_set()
    return state, actions(steps)


def actions(steps: Sequence[InterruptStep]) -> list[str]:
    assert [step.seconds for step in steps] == sorted(step.seconds for step in steps)
    return [step.action for step in steps]


# ---------------------------------------------------------------- on the kernel


async def test_two_at_once(services: Services) -> None:
    """Both callers wait for the one end and get the same steps; the kernel is interrupted once."""
    await services.create()
    running = await services.submit("listen")
    await services.until_running(1)
    first, second = await asyncio.gather(
        *(services.executions.interrupt("s1", running.id) for _ in range(2))
    )
    assert first == second
    assert services.host.machines[0].kernel.interrupt_count == 1


async def test_caller_that_leaves(services: Services) -> None:
    """The interrupt goes on when its caller is cancelled."""
    await services.create()
    running = await services.submit("listen\ngate never")
    await services.until_running(1)
    asking = asyncio.create_task(services.executions.interrupt("s1", running.id))
    await asyncio.sleep(0)
    asking.cancel()
    await running.finished.wait()
    assert running.execution.exit_code == 130


async def test_finished_execution(services: Services) -> None:
    """A finished execution cannot be interrupted, and an unknown one is not found."""
    await services.create("s1")
    await services.create("s2")
    running = await services.submit("out a")
    await running.result()
    with pytest.raises(NotRunning):
        await services.executions.interrupt("s1", running.id)
    for session, execution in (("s1", "exec-none"), ("s2", running.id)):
        with pytest.raises(ExecutionNotFound):
            await services.executions.interrupt(session, execution)


async def test_death_while_it_is_interrupted(services: Services) -> None:
    """The process may die of the interrupt: the run says so, and no caller waits for ever."""
    await services.create()
    running = await services.submit("wait")
    await services.until_running(1)
    asking = asyncio.create_task(interrupt(services, running))
    await sleep_briefly()
    services.host.machines[0].die(ExitInfo(signal=11))
    assert await asking == ("lost", ["interrupt", "ended"])
    assert await end_of(running) == (["KERNEL_DIED"], (await events_of(running))[-1])


# ---------------------------------------------------------------- before the kernel has it


async def test_queued_run(services: Services) -> None:
    """A cancelled run never starts; the runs behind it move up, and its log says what happened."""
    await services.create()
    first = await services.submit("gate open")
    second, third, fourth = [await services.submit(f"out {name}") for name in "bcd"]
    await services.until_running(1)
    assert await interrupt(services, second) == ("preserved", ["cancel", "ended"])
    positions = [one.execution.position for one in (first, third, fourth)]
    assert positions == [None, 1, 2]
    assert await interrupt(services, fourth) == ("preserved", ["cancel", "ended"])
    answer = await second.result()
    assert (answer.exit_code, answer.cause, answer.error) == (130, "cancelled", None)
    assert answer.started_from == "live"
    [queued, done] = await events_of(second)
    assert isinstance(queued, Queued)
    assert isinstance(done, Done)
    services.gates["open"].set()
    assert (await third.result()).stdout == "c\n"
    assert [one.code for one in services.host.machines[0].kernel.requests] == ["gate open", "out c"]
    stored, _ = await services.executions.list_executions("s1")
    assert [one.exit_code for one in stored] == [0, 130, 0, 130]


async def test_cancelled_runs_give_back_what_they_took(limited_services: Services) -> None:
    """The place in the queue is free at once, the kernel's when the last run is gone."""
    services = limited_services
    await services.create()
    first = await services.submit("listen")
    await services.until_running(1)
    for _ in range(3):
        await interrupt(services, await services.submit("out b"))
    await interrupt(services, first)
    services.host.machines[0].die(ExitInfo(code=0))
    await services.until_free(kernels=1)


async def test_run_whose_kernel_starts(services: Services) -> None:
    """The run is cancelled at once; the start goes on, and the next run has the kernel."""
    services.host.open_gate = asyncio.Event()
    await services.create()
    running = await services.submit("out a")
    await services.until_starting()
    assert await interrupt(services, running) == ("preserved", ["cancel", "ended"])
    assert (await services.sessions.get("s1")).status == "starting"
    following = await services.submit("out b")
    again = await services.submit("out c")
    assert await interrupt(services, again) == ("preserved", ["cancel", "ended"])
    services.host.open_gate.set()
    answer = await following.result()
    assert (answer.stdout, answer.started_from, answer.kernel_generation) == ("b\n", "fresh", 1)
    assert len(services.host.machines) == 1
    assert [one.code for one in services.host.machines[0].kernel.requests] == ["out b"]
    services.host.machines[0].die(ExitInfo(code=0))
    await services.until_free(kernels=100)


async def test_start_that_fails_after_its_run_was_cancelled(services: Services) -> None:
    """A start that fails after its run was cancelled is tried again by the next run."""
    services.host.open_gate, services.host.open_error = asyncio.Event(), make_start_error()
    await services.create()
    running = await services.submit("out a")
    await services.until_starting()
    await interrupt(services, running)
    services.host.open_gate.set()
    assert (await services.run("out b")).stdout == "b\n"


@pytest.mark.parametrize("end", ["delete", "restart"])
async def test_start_that_nobody_waits_for(services: Services, end: str) -> None:
    """Deleting or restarting the session ends such a start."""
    services.host.open_gate = asyncio.Event()
    await services.create()
    running = await services.submit("out a")
    await services.until_starting()
    await interrupt(services, running)
    if end == "delete":
        await services.sessions.delete("s1")
        assert services.host.machines == []
    else:
        restarting = asyncio.create_task(services.sessions.restart("s1", ""))
        await sleep_briefly()
        services.host.open_gate.set()
        assert await restarting == 1
        services.host.machines[0].die(ExitInfo(code=0))
    await services.until_free(kernels=100)


@pytest.mark.parametrize("steps", range(0, 40, 2))
async def test_at_any_moment(services: Services, steps: int) -> None:
    """At whatever moment: the run ends, the next one runs, and everything is released."""
    await services.create()
    running = await services.submit("listen", update_data={"a": 1})
    for _ in range(steps):
        await asyncio.sleep(0.0002)
    state, done = await interrupt(services, running)
    assert state in ("preserved", "lost")
    assert done[0] in ("cancel", "interrupt")
    assert (await running.result()).exit_code == 130
    answer = await services.run("out b")
    assert (answer.stdout, answer.kernel_generation) == ("b\n", 1)
    assert len(services.host.machines) == 1


async def test_interrupt_and_delete_at_once(services: Services) -> None:
    """Both calls return, whichever comes first."""
    for n in range(12):
        await services.create()
        first, second = await services.submit("listen"), await services.submit("out b")
        asks = [
            asyncio.create_task(services.executions.interrupt("s1", one.id))
            for one in (first, second)
        ]
        await asyncio.sleep(n * 0.0005)
        await services.sessions.delete("s1")
        for found in await asyncio.gather(*asks, return_exceptions=True):
            assert isinstance(found, tuple | NotRunning | ExecutionNotFound)
        assert first.finished.is_set()
        assert second.finished.is_set()
    await services.until_free(kernels=100)


# ---------------------------------------------------------------- callers that leave


async def test_run_that_ends_with_its_caller(services: Services) -> None:
    """The run is interrupted when the last of its callers leaves."""
    await services.create()
    running = await services.submit("listen", cancel_on_disconnect=True)
    await services.until_running(1)
    running.add_caller()
    running.add_caller()
    await running.remove_caller()
    assert not running.finished.is_set()
    await running.remove_caller()
    assert running.execution.exit_code == 130
