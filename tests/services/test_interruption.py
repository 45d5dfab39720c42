"""One execution is ended for whoever asks, wherever it is on its way, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from era_kernels.errors import ExecutionNotFound, InvalidRequest, NotRunning
from era_kernels.models import Done, Ending, Queued, Step
from era_kernels.services.executions import Running
from tests.fakes import start_failure
from tests.services.conftest import OpenHouse
from tests.services.house import House, end_of, events_of, soon


@pytest.fixture
def narrow(open_house: OpenHouse) -> House:
    """One kernel, one run that waits, two hours in the background."""
    return open_house(max_queue=1, max_kernels=1, max_background_timeout=7200.0)


async def interrupt(house: House, running: Running) -> tuple[str, list[str]]:
    """Its state, and what was done."""
    execution, state, steps = await house.executions.interrupt("s1", running.id)
    assert execution.status == "finished"
    assert running.finished.is_set()
    return state, actions(steps)


def actions(steps: Sequence[Step]) -> list[str]:
    assert [step.seconds for step in steps] == sorted(step.seconds for step in steps)
    return [step.action for step in steps]


# ---------------------------------------------------------------- on the kernel


@pytest.mark.gen_test
async def test_run_that_listens(house: House) -> None:
    """It ends with 130, without an error, and the next run has its kernel."""
    await house.create()
    running = await house.submit("out a\nlisten")
    await house.until_running(1)
    assert await interrupt(house, running) == ("preserved", ["interrupt", "ended"])
    answer = await running.answer()
    assert (answer.exit_code, answer.state, answer.cause) == (130, "preserved", None)
    assert (answer.stdout, answer.failure) == ("a\n", None)
    assert (await house.run("out b")).started_from == "live"


@pytest.mark.gen_test
async def test_two_at_once(house: House) -> None:
    """Both wait for the one end and learn the same steps; the program is asked once."""
    await house.create()
    running = await house.submit("listen")
    await house.until_running(1)
    first, second = await asyncio.gather(
        *(house.executions.interrupt("s1", running.id) for _ in range(2))
    )
    assert first == second
    assert house.host.machines[0].kernel.interrupts == 1


@pytest.mark.gen_test
async def test_caller_that_leaves(house: House) -> None:
    """The interrupt goes on when who asked for it has left."""
    await house.create()
    running = await house.submit("listen\ngate never")
    await house.until_running(1)
    asking = asyncio.create_task(house.executions.interrupt("s1", running.id))
    await asyncio.sleep(0)
    asking.cancel()
    await running.finished.wait()
    assert running.execution.exit_code == 130


@pytest.mark.gen_test
async def test_what_has_finished(house: House) -> None:
    """It cannot be interrupted, and what nobody knows is not found."""
    await house.create("s1")
    await house.create("s2")
    running = await house.submit("out a")
    await running.answer()
    with pytest.raises(NotRunning):
        await house.executions.interrupt("s1", running.id)
    for session, execution in (("s1", "exec-none"), ("s2", running.id)):
        with pytest.raises(ExecutionNotFound):
            await house.executions.interrupt(session, execution)


@pytest.mark.gen_test
async def test_other_runs_are_left_alone(house: House) -> None:
    """What waits behind an interrupted run has its turn, and hears nothing."""
    await house.create()
    first = await house.submit("listen")
    second = await house.submit("out b\ngate open\nout c")
    await house.until_running(1)
    await interrupt(house, first)
    await house.until_running(2)
    assert not house.host.machines[0].kernel.interrupted.is_set()
    house.gates["open"].set()
    answer = await second.answer()
    assert (answer.exit_code, answer.stdout) == (0, "b\nc\n")


@pytest.mark.gen_test
async def test_death_while_it_is_interrupted(house: House) -> None:
    """The process may die of it: the run tells how, and nobody waits for ever."""
    await house.create()
    running = await house.submit("wait")
    await house.until_running(1)
    asking = asyncio.create_task(interrupt(house, running))
    await soon()
    house.host.machines[0].die(Ending(signal=11))
    assert await asking == ("lost", ["interrupt", "ended"])
    assert await end_of(running) == (["KERNEL_DIED"], (await events_of(running))[-1])


# ---------------------------------------------------------------- before the kernel has it


@pytest.mark.gen_test
async def test_queued_run(house: House) -> None:
    """It never runs; those behind it move up, and its log tells what happened."""
    await house.create()
    first = await house.submit("gate open")
    second, third, fourth = [await house.submit(f"out {name}") for name in "bcd"]
    await house.until_running(1)
    assert await interrupt(house, second) == ("preserved", ["cancel", "ended"])
    positions = [one.execution.position for one in (first, third, fourth)]
    assert positions == [None, 1, 2]
    assert await interrupt(house, fourth) == ("preserved", ["cancel", "ended"])
    answer = await second.answer()
    assert (answer.exit_code, answer.cause, answer.failure) == (130, "cancelled", None)
    assert answer.started_from == "live"
    [queued, done] = await events_of(second)
    assert isinstance(queued, Queued)
    assert isinstance(done, Done)
    house.gates["open"].set()
    assert (await third.answer()).stdout == "c\n"
    assert [one.code for one in house.host.machines[0].kernel.requests] == ["gate open", "out c"]
    stored, _ = await house.executions.list_executions("s1")
    assert [one.exit_code for one in stored] == [0, 130, 0, 130]


@pytest.mark.gen_test
async def test_cancelled_runs_give_back_what_they_took(narrow: House) -> None:
    """The place in the queue is free at once, and the seat when the last has gone."""
    house = narrow
    await house.create()
    first = await house.submit("listen")
    await house.until_running(1)
    for _ in range(3):
        await interrupt(house, await house.submit("out b"))
    await interrupt(house, first)
    house.host.machines[0].die(Ending(code=0))
    await house.until(free_seats=1)


@pytest.mark.gen_test
async def test_run_whose_kernel_starts(house: House) -> None:
    """It is cancelled at once; the start goes on, and the next run has the kernel."""
    house.host.opening = asyncio.Event()
    await house.create()
    running = await house.submit("out a")
    await house.until_starting()
    assert await interrupt(house, running) == ("preserved", ["cancel", "ended"])
    assert (await house.sessions.get("s1")).status == "starting"
    following = await house.submit("out b")
    again = await house.submit("out c")
    assert await interrupt(house, again) == ("preserved", ["cancel", "ended"])
    house.host.opening.set()
    answer = await following.answer()
    assert (answer.stdout, answer.started_from, answer.kernel_generation) == ("b\n", "fresh", 1)
    assert len(house.host.machines) == 1
    assert [one.code for one in house.host.machines[0].kernel.requests] == ["out b"]
    house.host.machines[0].die(Ending(code=0))
    await house.until(free_seats=100)


@pytest.mark.gen_test
async def test_start_that_fails_for_nobody(house: House) -> None:
    """A start that fails after its run was cancelled is tried again by the next run."""
    house.host.opening, house.host.failure = asyncio.Event(), start_failure()
    await house.create()
    running = await house.submit("out a")
    await house.until_starting()
    await interrupt(house, running)
    house.host.opening.set()
    assert (await house.run("out b")).stdout == "b\n"


@pytest.mark.gen_test
@pytest.mark.parametrize("end", ["delete", "restart"])
async def test_start_that_nobody_waits_for(house: House, end: str) -> None:
    """Deleting or restarting the session takes care of it, too."""
    house.host.opening = asyncio.Event()
    await house.create()
    running = await house.submit("out a")
    await house.until_starting()
    await interrupt(house, running)
    if end == "delete":
        await house.sessions.delete("s1")
        assert house.host.machines == []
    else:
        restarting = asyncio.create_task(house.sessions.restart("s1", ""))
        await soon()
        house.host.opening.set()
        assert await restarting == 1
        house.host.machines[0].die(Ending(code=0))
    await house.until(free_seats=100)


@pytest.mark.gen_test
@pytest.mark.parametrize("steps", range(0, 40, 2))
async def test_at_any_moment(house: House, steps: int) -> None:
    """Whenever it comes, the run ends, the next one runs, and everything is given back."""
    await house.create()
    running = await house.submit("listen", update_data={"a": 1})
    for _ in range(steps):
        await asyncio.sleep(0.0002)
    state, done = await interrupt(house, running)
    assert state in ("preserved", "lost")
    assert done[0] in ("cancel", "interrupt")
    assert (await running.answer()).exit_code == 130
    answer = await house.run("out b")
    assert (answer.stdout, answer.kernel_generation) == ("b\n", 1)
    assert len(house.host.machines) == 1


@pytest.mark.gen_test
async def test_interrupt_and_delete_at_once(house: House) -> None:
    """Nobody waits for ever, whoever wins."""
    for n in range(12):
        await house.create()
        first, second = await house.submit("listen"), await house.submit("out b")
        asks = [
            asyncio.create_task(house.executions.interrupt("s1", one.id)) for one in (first, second)
        ]
        await asyncio.sleep(n * 0.0005)
        await house.sessions.delete("s1")
        for found in await asyncio.gather(*asks, return_exceptions=True):
            assert isinstance(found, tuple | NotRunning | ExecutionNotFound)
        assert first.finished.is_set()
        assert second.finished.is_set()
    await house.until(free_seats=100)


# ---------------------------------------------------------------- callers that leave


@pytest.mark.gen_test
async def test_run_that_ends_with_its_caller(house: House) -> None:
    """It is interrupted when the last of those who asked for it leaves."""
    await house.create()
    running = await house.submit("listen", ends_with_caller=True)
    await house.until_running(1)
    running.join()
    running.join()
    await running.leave()
    assert not running.finished.is_set()
    await running.leave()
    assert running.execution.exit_code == 130


@pytest.mark.gen_test
async def test_run_that_goes_on_without_its_caller(house: House) -> None:
    """Most runs do."""
    await house.create()
    running = await house.submit("gate open\nout a")
    running.join()
    await running.leave()
    house.gates["open"].set()
    assert (await running.answer()).stdout == "a\n"


# ---------------------------------------------------------------- background


@pytest.mark.gen_test
async def test_timeouts_in_the_background(narrow: House) -> None:
    """None asked: the most there is, whatever the session's default; more is refused."""
    house = narrow
    await house.create(default_timeout=7.0)
    for asked, expected in ((None, 7200), (0, 7200), (5000, 5000)):
        await house.run("out a", timeout=asked, background=True)
        assert house.host.machines[0].kernel.requests[-1].timeout == expected
    with pytest.raises(InvalidRequest, match="background"):
        await house.submit("out a", timeout=7201, background=True)
