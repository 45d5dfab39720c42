"""Programs beside the queue: executions that wait for nobody, and end with their machine."""

from __future__ import annotations

import asyncio
import gc
import json
import sys

import pytest

from era_kernels.errors import (
    Capacity,
    EraError,
    InvalidRequest,
    KernelStartFailed,
    QueueFull,
    SessionNotFound,
    ShuttingDown,
    StorageFailed,
)
from era_kernels.models import Ending, ExecutionStatus, Reason
from era_kernels.services.openings import UNRECORDED
from era_kernels.services.pump import UNHEARD
from tests.fakes import start_failure
from tests.services.conftest import OpenHouse
from tests.services.house import DATA, House, end_of, failing, moment, soon


@pytest.fixture
def narrow(open_house: OpenHouse) -> House:
    """One machine, and two programs in a session."""
    return open_house(max_queue=2, max_kernels=1)


@pytest.fixture
def quiet_house(open_house: OpenHouse) -> House:
    """Little may be said."""
    return open_house(max_execution_output=1000)


async def until_quiet(house: House) -> None:
    """Until no program and no run is left in s1."""
    async with house.sessions.using("s1") as live:
        await live.wait_idle()


@pytest.mark.gen_test
async def test_program_is_an_execution(house: House) -> None:
    """It is listed with its text, and answered like a run; no kernel is started for it."""
    await house.create()
    running = await house.exec("out a\nerr b\nwrite f x\nexit 3")
    answer = await running.answer()
    assert (answer.stdout, answer.stderr, answer.exit_code) == ("a\n", "b\n", 3)
    assert (answer.state, answer.started_from) == ("preserved", "fresh")
    assert (answer.files_modified, answer.kernel_generation, answer.queued_ms) == (1, 0, 0.0)
    assert not house.host.machines[0].has_kernel
    [listed], _ = await house.executions.list_executions("s1")
    assert (listed.code, listed.exit_code) == ("out a\nerr b\nwrite f x\nexit 3", 3)
    assert (await house.session()).last_run_at is not None
    assert (await house.sessions.get("s1")).status == "stopped"


@pytest.mark.gen_test
async def test_what_it_read_is_not_kept(house: House) -> None:
    """A large text is gone with its program, and not when the collector comes round."""
    await house.create()
    text = "x" * 1000
    before = sys.getrefcount(text)
    gc.disable()
    try:
        await (await house.exec("out a", stdin=text)).answer()
        await until_quiet(house)
        house.host.machines[0].programs[0].stdin = None  # the fake's own
        async with asyncio.timeout(2):
            while sys.getrefcount(text) != before:
                await soon()
    finally:
        gc.enable()


@pytest.mark.gen_test
async def test_what_it_is_given(house: House) -> None:
    """Its variables, which never win over the session's, and what it reads."""
    await house.create()
    env = {"A": "1", "ERA_SESSION_ID": "other"}
    running = await house.exec(
        "env A\nenv ERA_SESSION_ID", env=env, stdin="text", base_url="http://x"
    )
    assert (await running.answer()).stdout == "1s1"
    assert house.host.machines[0].programs[0].stdin == "text"


@pytest.mark.gen_test
async def test_it_waits_for_no_run(house: House) -> None:
    """Neither waits for the other; both are in one machine, and the session counts no run more."""
    await house.create()
    run = await house.submit("gate run")
    await house.until_running(1)
    program = await house.exec("out now")
    assert (await program.answer()).stdout == "now\n"
    house.gates["run"].set()
    await run.answer()
    program = await house.exec("gate program")
    await house.until_programs(2)
    assert (await house.sessions.get("s1")).status == "idle"
    assert house.sessions.queues() == []
    assert (await house.run("out 2")).stdout == "2\n"
    house.gates["program"].set()
    await program.answer()
    assert len(house.host.machines) == 1
    assert (await house.session()).kernel_generation == 1


@pytest.mark.gen_test
async def test_many_and_a_run_at_once(house: House) -> None:
    """They share one machine, whoever opens it."""
    await house.create()
    programs = [await house.exec(f"out {n}") for n in range(20)]
    run = await house.submit("out run")
    assert (await run.answer()).started_from == "fresh"
    answers = [await program.answer() for program in programs]
    assert [one.stdout for one in answers] == [f"{n}\n" for n in range(20)]
    assert len(house.host.machines) == 1


@pytest.mark.gen_test
async def test_room(narrow: House) -> None:
    """There is a bound; what is refused leaves nothing, and a place is free after an end."""
    house = narrow
    await house.create()
    await house.create("s2")
    programs = [await house.exec("gate a") for _ in range(2)]
    with pytest.raises(QueueFull) as caught:
        await house.exec("out c")
    assert caught.value.retry_after
    with pytest.raises(Capacity):
        await house.exec("out c", id="s2")
    with pytest.raises(InvalidRequest):
        await house.exec("out c", timeout=1e9)
    house.gates["a"].set()
    for program in programs:
        await program.answer()
    await until_quiet(house)
    assert (await (await house.exec("out c")).answer()).stdout == "c\n"
    with pytest.raises(Capacity):  # the machine is still there
        await house.exec("out c", id="s2")
    await house.sessions.delete("s1")
    assert house.seats.taken == 0
    assert (await (await house.exec("out c", id="s2")).answer()).stdout == "c\n"


# ---------------------------------------------------------------- interrupts


@pytest.mark.gen_test
async def test_interrupt(house: House) -> None:
    """It ends this one and nothing else; the steps end when the execution has."""
    await house.create()
    other = await house.exec("gate other")
    running = await house.exec("out a\nwait")
    await house.until_programs(2)
    assert running.interrupt is not None
    steps = await running.interrupt()
    assert [step.action for step in steps] == ["interrupt", "ended"]
    assert running.execution.status is ExecutionStatus.FINISHED
    assert (await running.answer()).exit_code == 130
    assert not other.finished.is_set()
    house.gates["other"].set()
    assert (await other.answer()).exit_code == 0


@pytest.mark.gen_test
async def test_interrupt_of_one_that_has_not_begun(house: House) -> None:
    """It is cancelled at once, and never begins; the walls are there for the next one."""
    await house.create()
    house.host.opening = asyncio.Event()
    running = await house.exec("out a")
    assert running.interrupt is not None
    await soon()
    steps = await asyncio.wait_for(running.interrupt(), 10)
    assert [step.action for step in steps] == ["cancel", "ended"]
    next_one = await house.exec("gate b")
    await soon()
    house.host.opening.set()
    await house.until_programs(1)
    answer = await running.answer()
    assert (answer.exit_code, answer.cause, answer.stdout) == (130, "cancelled", "")
    assert answer.failure is None
    house.gates["b"].set()
    assert (await next_one.answer()).exit_code == 0
    assert [len(machine.programs) for machine in house.host.machines] == [1]
    await until_quiet(house)
    assert house.seats.taken == 1


@pytest.mark.gen_test
async def test_it_waits_for_no_kernel_that_starts(house: House) -> None:
    """Where walls stand, a kernel may take its time to start in them."""
    await house.create()
    await (await house.exec("out a")).answer()
    house.host.machines[0].starting = asyncio.Event()
    run = await house.submit("out b")
    await house.until_starting()
    program = await house.exec("out c")
    assert (await asyncio.wait_for(program.answer(), 10)).stdout == "c\n"
    house.host.machines[0].starting.set()
    assert (await run.answer()).stdout == "b\n"


# ---------------------------------------------------------------- ends of others


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        (Ending(reason=Reason.RESTARTED), "SESSION_RESTARTED"),
        (Ending(reason="out of memory at 512 MB"), "KERNEL_DIED"),
    ],
)
@pytest.mark.gen_test
async def test_end_of_the_machine(house: House, ending: Ending, code: str) -> None:
    """Programs end with 137 and the reason, and say that variables are lost."""
    await house.create()
    running = await house.exec("out a\nwait")
    await house.until_programs(1)
    house.host.machines[0].die(ending)
    codes, done = await end_of(running)
    assert codes == [code]
    assert (done.exit_code, done.state, done.cause) == (137, "lost", ending.cause)
    assert (await house.run("out b")).started_from == "fresh"


@pytest.mark.gen_test
async def test_restart(house: House) -> None:
    """Programs end with it, are told before it answers, and a kernel is there afterwards."""
    await house.create()
    running = await house.exec("wait")
    await house.until_programs(1)
    assert await house.sessions.restart("s1", "") == 1
    assert (await end_of(running))[1].cause == "restarted"
    assert (await house.sessions.get("s1")).status == "idle"


@pytest.mark.gen_test
async def test_restart_while_others_come(house: House) -> None:
    """A program that comes during a restart has the next machine, and is not waited for."""
    await house.create()
    run = await house.submit("wait")
    await house.until_running(1)
    async with house.sessions.using("s1") as live:
        desk = live._desk  # whoever has its lock keeps the run from being settled
    async with desk.lock:
        restarting = asyncio.ensure_future(house.sessions.restart("s1", ""))
        while not house.host.machines[0].ended.done():
            await soon()
        program = await house.exec("gate a\nout a")
        while len(house.host.machines) < 2:
            await soon()
    assert await asyncio.wait_for(restarting, 10) == 2
    assert (await end_of(run))[1].cause == "restarted"
    assert not program.finished.is_set()
    house.gates["a"].set()
    assert (await program.answer()).stdout == "a\n"


@pytest.mark.gen_test
async def test_deletion(house: House) -> None:
    """So they do when the session is deleted, also those that only wait for walls."""
    await house.create()
    running = await house.exec("wait")
    await house.until_programs(1)
    await house.sessions.delete("s1")
    codes, done = await end_of(running)
    assert (codes, done.exit_code) == (["SESSION_DELETED"], 137)
    await house.create()
    house.host.opening = asyncio.Event()
    running = await house.exec("wait")
    await soon()
    await house.sessions.delete("s1")
    assert (await end_of(running))[0] == ["SESSION_DELETED"]
    with pytest.raises(SessionNotFound):
        await house.exec("out a")


@pytest.mark.gen_test
async def test_deletion_while_a_kernel_starts(house: House) -> None:
    """Programs are told of the deletion also when the kernel is the first to notice it."""
    await house.create()
    program = await house.exec("wait")
    await house.until_programs(1)
    await house.store.delete("s1")
    with pytest.raises(SessionNotFound):
        await house.run("out a")
    codes, done = await end_of(program)
    assert (codes, done.cause) == (["SESSION_DELETED"], "session deleted")


@pytest.mark.gen_test
async def test_start_that_cannot_be_recorded(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel runs code then; programs beside it are told why they ended."""
    await house.create()
    program = await house.exec("wait")
    await house.until_programs(1)
    monkeypatch.setattr(house.store, "update", failing(StorageFailed("No.")))
    with pytest.raises(StorageFailed):
        await house.run("out a")
    codes, done = await end_of(program)
    assert (codes, done.exit_code, done.cause) == (["KERNEL_DIED"], 137, UNRECORDED)


@pytest.mark.gen_test
async def test_shutdown(house: House) -> None:
    """The grace of a run is theirs, too; then they end."""
    await house.create()
    running = await house.exec("gate a\nout a")
    await house.until_programs(1)
    draining = asyncio.ensure_future(house.sessions.drain(20))
    await soon()
    with pytest.raises(ShuttingDown):
        await house.exec("out b")
    assert not draining.done()
    house.gates["a"].set()
    await asyncio.wait_for(draining, 10)
    assert (await running.answer()).stdout == "a\n"


@pytest.mark.gen_test
async def test_grace_ends(house: House) -> None:
    """Who takes longer is told that the server stopped."""
    await house.create()
    running = await house.exec("wait")
    await house.until_programs(1)
    await house.sessions.drain(0.01)
    await house.sessions.aclose()
    assert (await end_of(running))[0] == ["SERVER_STOPPED"]


@pytest.mark.gen_test
async def test_session_with_a_program_does_not_rest(house: House) -> None:
    """It is not forgotten, nor does its time run out, while a program runs."""
    await house.create()
    running = await house.exec("gate a")
    async with house.sessions.using("s1") as live:
        pass
    assert not live.resting
    assert live.quiet_since is None
    house.gates["a"].set()
    await running.answer()
    await live.wait_idle()
    assert live.quiet_since is not None


# ---------------------------------------------------------------- failures


@pytest.mark.gen_test
async def test_walls_that_cannot_be_raised(house: House) -> None:
    """The caller is told; the next one tries again."""
    await house.create()
    house.host.failure = start_failure()
    with pytest.raises(KernelStartFailed):
        await (await house.exec("out a")).answer()
    assert (await (await house.exec("out a")).answer()).stdout == "a\n"


@pytest.mark.gen_test
async def test_bug(house: House) -> None:
    """A bug in the server is told as one, and nothing waits for the program any more."""
    await house.create()
    running = await house.exec("bug")
    with pytest.raises(EraError, match="inside the server"):
        await running.answer()
    await until_quiet(house)
    assert (await (await house.exec("out a")).answer()).stdout == "a\n"


@pytest.mark.gen_test
async def test_log_that_cannot_be_written(house: House) -> None:
    """A program that nobody could see any more is ended, and the machine is not."""
    await house.create()
    running = await house.exec("gate a\nout a\nwait")
    await house.until_programs(1)
    running.publish = failing(StorageFailed("The disk is gone."))  # type: ignore[method-assign]
    house.gates["a"].set()
    with pytest.raises(StorageFailed):
        await running.answer()
    [machine] = house.host.machines
    assert machine.programs[0].reasons == [UNHEARD]
    assert not machine.ended.done()


@pytest.mark.gen_test
async def test_log_that_cannot_be_opened(house: House) -> None:
    """Nothing is run, and the place is free again."""
    await house.create()
    create = house.execution_store.create
    house.execution_store.create = failing(StorageFailed("No."))  # type: ignore[method-assign]
    with pytest.raises(StorageFailed):
        await house.exec("out a")
    house.execution_store.create = create  # type: ignore[method-assign]
    await until_quiet(house)
    assert house.seats.taken == 0


@pytest.mark.gen_test
async def test_output_past_the_bound(quiet_house: House) -> None:
    """The program is ended, and nothing else."""
    house = quiet_house
    await house.create()
    running = await house.exec("out " + "x" * 2000 + "\nwait")
    codes, done = await end_of(running)
    assert (codes, done.exit_code, done.state) == (["OUTPUT_LIMIT"], 137, "preserved")
    assert done.cause == "output limit 1000 bytes"
    assert not house.host.machines[0].ended.done()


@pytest.mark.gen_test
async def test_caller_that_leaves(house: House) -> None:
    """Whenever the caller of submit is cancelled, the program goes on."""
    await house.create()
    for n in range(0, 60, 3):
        call = asyncio.ensure_future(house.exec(f"write f{n} x"))
        await moment(n)
        call.cancel()
        await asyncio.wait([call])
    await until_quiet(house)
    listed, _ = await house.executions.list_executions("s1")
    assert listed
    assert {one.exit_code for one in listed} == {0}
    files = {path.name for path in (await house.workspace()).iterdir()} - {DATA}
    assert files == {one.code.split()[1] for one in listed}


# ---------------------------------------------------------------- files and data


@pytest.mark.gen_test
async def test_changes_are_counted_once(house: House) -> None:
    """By whoever ends first after them."""
    await house.create()
    await house.run("out a")
    run = await house.submit("write a 1\ngate run")
    await house.until_running(2)
    assert (await (await house.exec("write b 1")).answer()).files_modified == 2
    house.gates["run"].set()
    assert (await run.answer()).files_modified == 0
    assert (await house.session()).file_count == 2


@pytest.mark.gen_test
async def test_data_of_both(house: House) -> None:
    """What a program has written is there when a run begins, and the other way round."""
    await house.create(data={"n": 0})
    program = await house.exec('data {"n": 1}\ngate a')
    await house.until_programs(1)
    answer = await house.run(f"read {DATA}", update_data={"m": 2})
    assert json.loads(answer.stdout) == {"n": 1, "m": 2}
    house.gates["a"].set()
    assert (await program.answer()).data == {"n": 1, "m": 2}
    run = await house.submit('data {"n": 3}\ngate b')
    await house.until_running(2)
    assert json.loads((await (await house.exec(f"read {DATA}")).answer()).stdout) == {"n": 3}
    house.gates["b"].set()
    assert (await run.answer()).data == {"n": 3}


@pytest.mark.gen_test
async def test_files_go_with_the_machine(house: House) -> None:
    """Where files do not persist: after the programs were settled, before the next machine."""
    await house.create(persistent=False)
    running = await house.exec("write f x\nout a\nwait")
    await house.until_programs(1)
    async for batch in running.follow():
        if batch:
            break
    house.host.machines[0].die(Ending(code=1))
    _, done = await end_of(running)
    assert done.files_modified == 1
    assert (await (await house.exec("read f")).answer()).stdout == "nothing"
    assert (await house.session()).file_count == 0


@pytest.mark.gen_test
async def test_files_go_after_a_crash(house: House) -> None:
    """A server that finds traces of a program drops the files of such a session."""
    for name in ("used", "new"):
        await house.create(name, persistent=False)
    await (await house.exec("write f x", id="used")).answer()
    (await house.workspace("new") / "f").write_text("uploaded")
    (await house.workspace("used") / "f").write_text("left")
    await house.database.flush()
    await house.sessions.open()  # what the next server does
    assert list((await house.workspace("used")).iterdir()) == []
    assert [path.name for path in (await house.workspace("new")).iterdir()] == ["f"]
