"""A session's seat, and how many there are."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import cast

import pytest

from era_kernels.errors import Capacity, EraError, KernelStartFailed, SessionNotFound, StorageFailed
from era_kernels.kernels.machine import Machine
from era_kernels.models import Ending, Limits, Reason
from era_kernels.services.seat import Seat, Seats
from tests.fakes import FakeHost, start_failure
from tests.services.house import PLACE

REFUSAL = SessionNotFound("It is gone.")


class Opener:
    """A seat on a fake host; notes what was cleared."""

    def __init__(self) -> None:
        self.host = FakeHost()
        self.clears = 0
        self.clear_fails = False
        self.seat = Seat(self._open, self._start, self._clear)

    async def _open(self, env: Mapping[str, str], kernel: bool) -> Machine:
        return cast(Machine, await self.host.open("alpha", PLACE, Limits(), env, kernel=kernel))

    async def _start(self, machine: Machine, env: Mapping[str, str]) -> None:
        await machine.start_kernel(env)

    async def _clear(self) -> None:
        if self.clear_fails:
            raise StorageFailed("It stays.")
        self.clears += 1

    async def until_starting(self) -> None:
        while not self.seat.starting:
            await asyncio.sleep(0)


# ---------------------------------------------------------------- all seats


def test_seats_are_limited() -> None:
    """When all are taken, the next caller is told to come again."""
    seats = Seats(2)
    seats.take("a")
    seats.take("b")
    with pytest.raises(Capacity, match="max_kernels is 2") as caught:
        seats.take("c")
    assert caught.value.retry_after
    assert "idle" in str(caught.value.hint)
    seats.free("a")
    seats.take("c")


def test_seat_is_free_when_all_reasons_are_gone() -> None:
    """A session has one seat for all its reasons, until the last of them is gone."""
    seats = Seats(1)
    seats.take("a")
    seats.take("a")
    assert seats.taken == 1
    seats.free("a")
    with pytest.raises(Capacity):
        seats.take("b")
    seats.free("a")
    assert seats.taken == 0


def test_held_seat_is_given_back() -> None:
    """What is held is free afterwards, also after a failure."""
    seats = Seats(1)
    with pytest.raises(RuntimeError), seats.held("a"):
        assert seats.taken == 1
        raise RuntimeError
    assert seats.taken == 0


def test_refused_seat_is_not_counted() -> None:
    """Who was refused holds nothing that could be freed."""
    seats = Seats(0)
    with pytest.raises(Capacity), seats.held("a"):
        pass
    assert seats.taken == 0


# ---------------------------------------------------------------- one seat


@pytest.mark.gen_test
async def test_machine_is_opened_once() -> None:
    """The first run meets a fresh machine, later ones the same, live."""
    opener = Opener()
    first = await opener.seat.machine({"A": "1"})
    second = await opener.seat.machine({})
    assert first[0] is second[0]
    assert (first[1], second[1]) == ("fresh", "live")
    assert opener.host.machines[0].env == {"A": "1"}


@pytest.mark.gen_test
async def test_two_calls_at_once_open_one_machine() -> None:
    """Whoever asks while a machine is opened waits for that one."""
    opener = Opener()
    await asyncio.gather(*(opener.seat.machine({}) for _ in range(3)))
    assert len(opener.host.machines) == 1


@pytest.mark.gen_test
async def test_ended_machine_is_replaced_when_nothing_is_left_of_it() -> None:
    """The next machine is opened when the last is gone and its traces are cleared."""
    opener = Opener()
    opener.host.closing = asyncio.Event()
    await opener.seat.machine({})
    opener.host.machines[0].die(Ending(code=7))
    assert not opener.seat.alive
    again = asyncio.create_task(opener.seat.machine({}))
    await asyncio.sleep(0.01)
    assert (opener.clears, len(opener.host.machines)) == (0, 1)
    opener.host.closing.set()
    assert (await again)[1] == "fresh"
    assert (opener.clears, len(opener.host.machines)) == (1, 2)


@pytest.mark.gen_test
async def test_traces_are_cleared_once() -> None:
    """Nothing is cleared while the machine lives, nor twice after its end."""
    opener = Opener()
    await opener.seat.machine({})
    await opener.seat.clear()
    assert opener.clears == 0
    opener.host.machines[0].die(Ending(code=7))
    await opener.seat.clear()
    await opener.seat.clear()
    await opener.seat.machine({})
    assert opener.clears == 1


@pytest.mark.gen_test
async def test_traces_that_stay_keep_the_next_machine_away() -> None:
    """Where clearing fails there is no next machine, until it succeeds."""
    opener = Opener()
    await opener.seat.machine({})
    opener.host.machines[0].die(Ending(code=7))
    opener.clear_fails = True
    with pytest.raises(StorageFailed):
        await opener.seat.machine({})
    opener.clear_fails = False
    await opener.seat.machine({})
    assert (opener.clears, len(opener.host.machines)) == (1, 2)


@pytest.mark.gen_test
async def test_failed_start_is_raised_and_tried_again() -> None:
    """A machine that does not start leaves nothing: the next call opens another."""
    opener = Opener()
    opener.host.failure = start_failure()
    with pytest.raises(KernelStartFailed):
        await opener.seat.machine({})
    assert opener.seat.resting
    assert (await opener.seat.machine({}))[1] == "fresh"


@pytest.mark.gen_test
async def test_renewed_machine_is_still_fresh() -> None:
    """After a restart, the first run is the first on its machine."""
    opener = Opener()
    await opener.seat.machine({})
    await opener.seat.end(Reason.RESTARTED)
    await opener.seat.renew({})
    assert opener.host.machines[0].ended.result().reason == "restarted"
    assert (await opener.seat.machine({}))[1] == "fresh"
    assert len(opener.host.machines) == 2


@pytest.mark.gen_test
async def test_closed_seat_refuses() -> None:
    """After closing, the machine has ended and nobody gets another."""
    opener = Opener()
    await opener.seat.machine({})
    await opener.seat.close(Reason.DELETED, REFUSAL)
    assert opener.host.machines[0].ended.result().reason == "session deleted"
    for call in (opener.seat.machine, opener.seat.renew):
        with pytest.raises(SessionNotFound):
            await call({})


@pytest.mark.gen_test
async def test_closing_does_not_wait_for_a_start() -> None:
    """A start that takes long is cancelled; who waited for it gets the refusal."""
    opener = Opener()
    opener.host.opening = asyncio.Event()
    runs = [asyncio.create_task(opener.seat.machine({})) for _ in range(2)]
    await opener.until_starting()
    await asyncio.gather(*(opener.seat.close(Reason.DELETED, REFUSAL) for _ in range(2)))
    for run in runs:
        with pytest.raises(SessionNotFound):
            await run
    assert opener.host.machines == []
    assert opener.seat.resting


@pytest.mark.gen_test
async def test_closing_while_the_last_machine_goes() -> None:
    """Who waits until nothing is left of the last machine gets no other one after that."""
    opener = Opener()
    await opener.seat.machine({})
    opener.host.closing = opener.host.machines[0].closing = asyncio.Event()
    opener.host.machines[0].die(Ending(code=7))
    again = asyncio.create_task(opener.seat.machine({}))
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(opener.seat.close(Reason.DELETED, REFUSAL))
    await asyncio.sleep(0.01)
    opener.host.closing.set()
    with pytest.raises(SessionNotFound):
        await again
    await closing
    assert len(opener.host.machines) == 1


@pytest.mark.gen_test
async def test_cancelled_caller_cancels_its_start() -> None:
    """Who is cancelled while a machine starts leaves none behind, and the seat usable."""
    opener = Opener()
    opener.host.opening = asyncio.Event()
    run = asyncio.create_task(opener.seat.machine({}))
    await opener.until_starting()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    opener.host.opening.set()
    await opener.seat.machine({})
    assert len(opener.host.machines) == 1


# ---------------------------------------------------------------- without a kernel


@pytest.mark.gen_test
async def test_walls_without_a_kernel() -> None:
    """Who needs no kernel opens none; whoever does starts it in the same machine."""
    opener = Opener()
    first, started_from = await opener.seat.walls({})
    assert (started_from, opener.seat.alive, opener.seat.has_kernel) == ("fresh", True, False)
    assert await opener.seat.walls({}) == (first, "live")
    assert await opener.seat.machine({"A": "1"}) == (first, "fresh")
    assert opener.seat.has_kernel
    assert opener.host.machines[0].env == {"A": "1"}
    assert await opener.seat.machine({}) == (first, "live")
    assert await opener.seat.walls({}) == (first, "live")
    assert len(opener.host.machines) == 1


@pytest.mark.gen_test
async def test_renewed_seat_has_a_kernel() -> None:
    """A restart leaves a machine with a kernel, whatever was there before."""
    opener = Opener()
    await opener.seat.walls({})
    await opener.seat.end(Reason.RESTARTED)
    await opener.seat.renew({})
    assert opener.seat.has_kernel
    assert len(opener.host.machines) == 2


@pytest.mark.gen_test
async def test_walls_and_kernel_at_once() -> None:
    """However they come, there is one machine; a kernel is told as starting, walls are not."""
    opener = Opener()
    opener.host.opening = asyncio.Event()
    calls = [
        asyncio.create_task(call({}))
        for call in (opener.seat.walls, opener.seat.machine, opener.seat.walls)
    ]
    await asyncio.sleep(0.01)
    assert not opener.seat.starting
    opener.host.opening.set()
    machines = {(await call)[0] for call in calls}
    assert len(machines) == len(opener.host.machines) == 1
    assert opener.seat.has_kernel


@pytest.mark.gen_test
async def test_kernel_that_fails_in_a_machine() -> None:
    """The machine is gone, as it is after every end of a kernel; the next is another."""
    opener = Opener()
    await opener.seat.walls({})
    opener.host.machines[0].failure = start_failure()
    with pytest.raises(KernelStartFailed):
        await opener.seat.machine({})
    assert not opener.seat.alive
    assert (await opener.seat.machine({}))[1] == "fresh"
    assert len(opener.host.machines) == 2


async def a_starting_kernel(opener: Opener) -> asyncio.Task[tuple[Machine, str]]:
    """A run that waits for its kernel, in a machine that was there."""
    await opener.seat.walls({})
    opener.host.machines[0].starting = asyncio.Event()
    run = asyncio.create_task(opener.seat.machine({}))
    await opener.until_starting()
    return run


@pytest.mark.gen_test
async def test_restart_while_a_kernel_starts_in_a_machine() -> None:
    """The machine ends with all that runs in it; the run gets its kernel in the next."""
    opener = Opener()
    run = await a_starting_kernel(opener)
    await opener.seat.end(Reason.RESTARTED)
    await opener.seat.renew({})
    assert (await run)[1] == "fresh"
    assert len(opener.host.machines) == 2
    assert opener.host.machines[0].ended.result().reason == "restarted"


@pytest.mark.gen_test
async def test_closing_while_a_kernel_starts_in_a_machine() -> None:
    """All in it ends for the reason given, and the run is told."""
    opener = Opener()
    run = await a_starting_kernel(opener)
    await opener.seat.close(Reason.DELETED, REFUSAL)
    with pytest.raises(EraError):
        await run
    assert opener.host.machines[0].ended.result().reason == "session deleted"
    assert len(opener.host.machines) == 1
