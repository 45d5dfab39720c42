"""Commands run beside the queue, wait for no run, and end with their machine."""

from __future__ import annotations

import asyncio
import gc
import sys

import pytest

from era_kernels.errors import (
    AtCapacity,
    EraError,
    InvalidRequest,
    KernelStartFailed,
    QueueFull,
    SessionNotFound,
    ShuttingDown,
    StorageFailed,
)
from era_kernels.models import EndReason, ExitInfo
from era_kernels.services.session.machine_opener import START_NOT_RECORDED
from era_kernels.services.session.runner import OUTPUT_LOST
from tests.fakes import make_start_error
from tests.services.conftest import OpenServices
from tests.services.service_fixture import (
    DATA,
    Services,
    end_of,
    failing,
    sleep_briefly,
    sleep_steps,
)
from tests.waiting import until


@pytest.fixture
def limited_services(open_services: OpenServices) -> Services:
    """One kernel, and two commands in a session."""
    return open_services(max_queue=2, max_kernels=1)


async def wait_idle(services: Services) -> None:
    """Waits until no command and no run is left in s1."""
    async with services.sessions.borrow("s1") as live:
        await live.wait_idle()


async def test_command_is_an_execution(services: Services) -> None:
    """A command is listed with its text, and answered like a run; no kernel is started."""
    await services.create()
    running = await services.exec("out a\nerr b\nwrite f x\nexit 3")
    answer = await running.result()
    assert (answer.stdout, answer.stderr, answer.exit_code) == ("a\n", "b\n", 3)
    assert (answer.state, answer.started_from) == ("preserved", "fresh")
    assert (answer.files_modified, answer.kernel_generation, answer.queued_ms) == (1, 0, 0.0)
    assert not services.host.machines[0].has_kernel
    [listed], _ = await services.executions.list_executions("s1")
    assert (listed.code, listed.exit_code) == ("out a\nerr b\nwrite f x\nexit 3", 3)
    assert (await services.session()).last_run_at is not None
    assert (await services.sessions.get("s1")).status == "stopped"


async def test_stdin_is_not_kept(services: Services) -> None:
    """A command's stdin is freed when it ends, not only at the next garbage collection."""
    await services.create()
    text = "x" * 1000
    before = sys.getrefcount(text)
    gc.disable()
    try:
        await (await services.exec("out a", stdin=text)).result()
        await wait_idle(services)
        services.host.machines[0].programs[0].stdin = None  # the fake's own
        async with asyncio.timeout(2):
            await until(lambda: sys.getrefcount(text) == before)
    finally:
        gc.enable()


async def test_capacity(limited_services: Services) -> None:
    """Commands are limited; a refused one leaves nothing, and an ended one makes room."""
    services = limited_services
    await services.create()
    await services.create("s2")
    programs = [await services.exec("gate a") for _ in range(2)]
    with pytest.raises(QueueFull) as caught:
        await services.exec("out c")
    assert caught.value.retry_after
    with pytest.raises(AtCapacity):
        await services.exec("out c", session_id="s2")
    with pytest.raises(InvalidRequest):
        await services.exec("out c", timeout=1e9)
    services.gates["a"].set()
    for program in programs:
        await program.result()
    await wait_idle(services)
    assert (await (await services.exec("out c")).result()).stdout == "c\n"
    with pytest.raises(AtCapacity):  # the machine is still there
        await services.exec("out c", session_id="s2")
    await services.sessions.delete("s1")
    assert services.kernel_limiter.holder_count == 0
    assert (await (await services.exec("out c", session_id="s2")).result()).stdout == "c\n"


# ---------------------------------------------------------------- interrupts


async def test_interrupt_before_the_start(services: Services) -> None:
    """The command is cancelled at once and never starts; the next one uses the sandbox."""
    await services.create()
    services.host.open_gate = asyncio.Event()
    running = await services.exec("out a")
    assert running.interrupt is not None
    await sleep_briefly()
    steps = await asyncio.wait_for(running.interrupt(), 10)
    assert [step.action for step in steps] == ["cancel", "ended"]
    next_one = await services.exec("gate b")
    await sleep_briefly()
    services.host.open_gate.set()
    await services.until_commands(1)
    answer = await running.result()
    assert (answer.exit_code, answer.cause, answer.stdout) == (130, "cancelled", "")
    assert answer.error is None
    services.gates["b"].set()
    assert (await next_one.result()).exit_code == 0
    assert [len(machine.programs) for machine in services.host.machines] == [1]
    await wait_idle(services)
    assert services.kernel_limiter.holder_count == 1


async def test_interrupt_of_a_process_whose_start_is_not_reported_yet(services: Services) -> None:
    """The steps are those that ended the process: it may have run already."""
    await services.create()
    await (await services.exec("out a")).result()
    machine = services.host.machines[0]
    machine.command_gate = asyncio.Event()
    running = await services.exec("wait")
    await services.until_commands(2)
    assert running.interrupt is not None
    interrupting = asyncio.ensure_future(running.interrupt())
    await sleep_briefly()
    machine.command_gate.set()
    assert [step.action for step in await interrupting] == ["interrupt", "ended"]
    assert (await running.result()).exit_code == 130


async def test_it_waits_for_no_kernel_that_starts(services: Services) -> None:
    """Where there is a sandbox, a command does not wait for a kernel that starts in it."""
    await services.create()
    await (await services.exec("out a")).result()
    services.host.machines[0].start_gate = asyncio.Event()
    run = await services.submit("out b")
    await services.until_starting()
    program = await services.exec("out c")
    assert (await asyncio.wait_for(program.result(), 10)).stdout == "c\n"
    services.host.machines[0].start_gate.set()
    assert (await run.result()).stdout == "b\n"


# ---------------------------------------------------------------- ends of others


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        (ExitInfo(reason=EndReason.RESTARTED), "SESSION_RESTARTED"),
        (ExitInfo(reason="out of memory at 512 MB"), "KERNEL_DIED"),
    ],
)
async def test_end_of_the_machine(services: Services, ending: ExitInfo, code: str) -> None:
    """Commands end with 137 and the reason, and say that variables are lost."""
    await services.create()
    running = await services.exec("out a\nwait")
    await services.until_commands(1)
    services.host.machines[0].die(ending)
    codes, done = await end_of(running)
    assert codes == [code]
    assert (done.exit_code, done.state, done.cause) == (137, "lost", ending.description)
    assert (await services.run("out b")).started_from == "fresh"


async def test_restart_while_others_come(services: Services) -> None:
    """A command that comes during a restart gets the next machine, and is not waited for."""
    await services.create()
    run = await services.submit("wait")
    await services.until_running(1)
    async with services.sessions.borrow("s1") as live:
        workspace = live._workspace  # frozen, it delays `after_run`
    async with workspace.frozen():
        restarting = asyncio.ensure_future(services.sessions.restart("s1", ""))
        await until(lambda: services.host.machines[0].ended.done())
        program = await services.exec("gate a\nout a")
        await until(lambda: len(services.host.machines) >= 2)
    assert await asyncio.wait_for(restarting, 10) == 2
    assert (await end_of(run))[1].cause == "restarted"
    assert not program.finished.is_set()
    services.gates["a"].set()
    assert (await program.result()).stdout == "a\n"


async def test_deletion(services: Services) -> None:
    """Deleting the session ends commands, also those that wait for a sandbox."""
    await services.create()
    running = await services.exec("wait")
    await services.until_commands(1)
    await services.sessions.delete("s1")
    codes, done = await end_of(running)
    assert (codes, done.exit_code) == (["SESSION_DELETED"], 137)
    await services.create()
    services.host.open_gate = asyncio.Event()
    running = await services.exec("wait")
    await sleep_briefly()
    await services.sessions.delete("s1")
    assert (await end_of(running))[0] == ["SESSION_DELETED"]
    with pytest.raises(SessionNotFound):
        await services.exec("out a")


async def test_deletion_while_a_kernel_starts(services: Services) -> None:
    """Commands report the deletion also when the kernel is the first to notice it."""
    await services.create()
    program = await services.exec("wait")
    await services.until_commands(1)
    await services.store.delete("s1")
    with pytest.raises(SessionNotFound):
        await services.run("out a")
    codes, done = await end_of(program)
    assert (codes, done.cause) == (["SESSION_DELETED"], "session deleted")


async def test_start_that_cannot_be_recorded(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No kernel runs code then; commands beside it report why they ended."""
    await services.create()
    program = await services.exec("wait")
    await services.until_commands(1)
    monkeypatch.setattr(services.store, "update", failing(StorageFailed("No.")))
    with pytest.raises(StorageFailed):
        await services.run("out a")
    codes, done = await end_of(program)
    assert (codes, done.exit_code, done.cause) == (["KERNEL_DIED"], 137, START_NOT_RECORDED)


async def test_shutdown(services: Services) -> None:
    """Commands get the same grace as runs."""
    await services.create()
    running = await services.exec("gate a\nout a")
    await services.until_commands(1)
    draining = asyncio.ensure_future(services.sessions.drain(20))
    await sleep_briefly()
    with pytest.raises(ShuttingDown):
        await services.exec("out b")
    assert not draining.done()
    services.gates["a"].set()
    await asyncio.wait_for(draining, 10)
    assert (await running.result()).stdout == "a\n"


async def test_session_with_a_command_is_not_evicted(services: Services) -> None:
    """A session neither leaves memory nor expires while a command runs."""
    await services.create()
    running = await services.exec("gate a")
    async with services.sessions.borrow("s1") as live:
        pass
    assert not live.is_evictable
    assert live.idle_since is None
    services.gates["a"].set()
    await running.result()
    await live.wait_idle()
    assert live.idle_since is not None


# ---------------------------------------------------------------- failures


async def test_sandbox_that_cannot_start(services: Services) -> None:
    """The caller gets the error; the next command tries again."""
    await services.create()
    services.host.open_error = make_start_error()
    with pytest.raises(KernelStartFailed):
        await (await services.exec("out a")).result()
    assert (await (await services.exec("out a")).result()).stdout == "a\n"


async def test_bug(services: Services) -> None:
    """A bug in the server is reported as one, and nothing waits for the command any more."""
    await services.create()
    running = await services.exec("bug")
    with pytest.raises(EraError, match="inside the server"):
        await running.result()
    await wait_idle(services)
    assert (await (await services.exec("out a")).result()).stdout == "a\n"


async def test_log_that_cannot_be_written(services: Services) -> None:
    """A command whose output cannot be logged is ended; its machine is not."""
    await services.create()
    running = await services.exec("gate a\nout a\nwait")
    await services.until_commands(1)
    running.publish = failing(StorageFailed("The disk is gone."))  # type: ignore[method-assign]
    services.gates["a"].set()
    with pytest.raises(StorageFailed):
        await running.result()
    [machine] = services.host.machines
    assert machine.programs[0].end_reasons == [OUTPUT_LOST]
    assert not machine.ended.done()


async def test_log_that_cannot_be_opened(services: Services) -> None:
    """Nothing is run, and the place is released."""
    await services.create()
    create = services.execution_store.create
    services.execution_store.create = failing(StorageFailed("No."))  # type: ignore[method-assign]
    with pytest.raises(StorageFailed):
        await services.exec("out a")
    services.execution_store.create = create  # type: ignore[method-assign]
    await wait_idle(services)
    assert services.kernel_limiter.holder_count == 0


async def test_caller_that_leaves(services: Services) -> None:
    """Whenever the caller of submit is cancelled, the command goes on."""
    await services.create()
    for n in range(0, 60, 3):
        call = asyncio.ensure_future(services.exec(f"write f{n} x"))
        await sleep_steps(n)
        call.cancel()
        await asyncio.wait([call])
    await wait_idle(services)
    listed, _ = await services.executions.list_executions("s1")
    assert listed
    assert {one.exit_code for one in listed} == {0}
    files = {path.name for path in (await services.workspace()).iterdir()} - {DATA}
    assert files == {one.code.split()[1] for one in listed}


# ---------------------------------------------------------------- files and data


async def test_files_go_with_the_machine(services: Services) -> None:
    """Files that do not persist go after the commands' `after_run`, before the next machine."""
    await services.create(persistent=False)
    running = await services.exec("write f x\nout a\nwait")
    await services.until_commands(1)
    async for batch in running.follow():
        if batch:
            break
    services.host.machines[0].die(ExitInfo(code=1))
    _, done = await end_of(running)
    assert done.files_modified == 1
    assert (await (await services.exec("read f")).result()).stdout == "nothing"
    assert (await services.session()).file_count == 0
