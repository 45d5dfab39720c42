"""A live session has a queue, a kernel, data and files, and an end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from era_kernels.errors import (
    AtCapacity,
    EraError,
    InsufficientStorage,
    InvalidRequest,
    KernelStartFailed,
    QueueFull,
    SessionNotFound,
    StorageFailed,
)
from era_kernels.models import (
    SERVER_VARIABLES,
    Done,
    ErrorEvent,
    ExitInfo,
    LoggedEvent,
    Stdout,
    Submission,
)
from era_kernels.services.executions.live_execution import LiveExecution
from era_kernels.services.validation import MAX_SESSION_JSON_BYTES
from tests.fakes import make_start_error
from tests.services.conftest import OpenServices
from tests.services.service_fixture import (
    DATA,
    Services,
    end_of,
    events_of,
    failing,
    sleep_briefly,
    sleep_steps,
)
from tests.waiting import until


def full() -> InsufficientStorage:
    return InsufficientStorage("There is no room.")


# ---------------------------------------------------------------- runs


async def test_run_does_not_end_the_program(services: Services) -> None:
    """The kernel of a session lives on: exit handlers and finalizers do not run."""
    await services.create()
    await services.run("out a")
    assert [one.ends_program for one in services.host.machines[0].kernel.requests] == [False]


async def test_environment(services: Services) -> None:
    """The caller's variables reach the run; those of the server cannot be overridden."""
    await services.create()
    env = {"MINE": "1", "ERA_SESSION_ID": "forged"}
    answer = await services.run(
        "env MINE\nenv ERA_SESSION_ID\nenv ERA_PROXY_URL", env=env, base_url="http://h"
    )
    assert answer.stdout == "1s1http://h/proxy/s1"
    assert "MINE" not in services.host.machines[0].env
    assert services.host.machines[0].env["ERA_LANGUAGE"] == "alpha"
    kernel_env = services.host.machines[0].env.keys()
    assert SERVER_VARIABLES - {"ERA_MEMORY_MB"} <= kernel_env <= SERVER_VARIABLES
    with pytest.raises(KeyError):
        _ = (await _last_request(services)).env["OTHER"]


async def _last_request(services: Services) -> Any:
    return services.host.machines[-1].kernel.requests[-1]


async def test_timeouts(services: Services) -> None:
    """A run has its own timeout, else the session's, else the server's; too much is refused."""
    await services.create("s1", default_timeout=7.0)
    await services.create("s2")
    for id_, asked, expected in (("s1", None, 7), ("s1", 0, 7), ("s1", 2.5, 2.5), ("s2", None, 30)):
        await services.run("out a", id_, timeout=asked)
        assert (await _last_request(services)).timeout == expected
    with pytest.raises(InvalidRequest):
        await services.submit("out a", timeout=3601)


async def test_kernel_that_does_not_start(services: Services) -> None:
    """The caller gets the error, readers its code and `done`; the next run tries again."""
    await services.create()
    services.host.open_error = make_start_error()
    running = await services.submit("out a")
    with pytest.raises(KernelStartFailed):
        await running.result()
    codes, done = await end_of(running)
    assert (codes, done.exit_code, done.state) == (["KERNEL_START_FAILED"], 1, "lost")
    assert (await services.executions.get("s1", running.id)).exit_code == 1
    await services.until_free(kernels=100)
    assert (await services.run("out b")).kernel_generation == 1


# ---------------------------------------------------------------- data


async def test_update_data_of_a_queued_run_waits(services: Services) -> None:
    """The data changes when the run starts, not when it is submitted."""
    await services.create()
    first = await services.submit("gate a")
    second = await services.submit("out b", update_data={"n": 2})
    assert (await services.session()).data == {}
    services.gates["a"].set()
    assert (await first.result()).data == {}
    assert (await second.result()).data == {"n": 2}


@pytest.mark.parametrize("end", ["exit 1", "timeout", "stuck", "die 7"])
async def test_code_replaces_the_data(services: Services, end: str) -> None:
    """Data that the code wrote to the data file replace the session's, however the run ended."""
    await services.create(data={"a": 1})
    answer = await services.run('data {"b": 2}\n' + end)
    assert answer.data == (await services.store.get("s1")).data == {"b": 2}


async def test_data_of_the_same_value_and_another_type(services: Services) -> None:
    """1 and true compare as equal in Python, and are not the same JSON."""
    await services.create(data={"a": 1})
    answer = await services.run('data {"a": true}')
    assert answer.data is not None
    assert answer.data["a"] is True


async def test_data_that_is_too_large_keeps_the_old(services: Services) -> None:
    """A data file within the limit does not fail the run when its data, as JSON, is above it."""
    await services.create(data={"a": 1})
    number = "1e15"  # 1000000000000000.0
    count = MAX_SESSION_JSON_BYTES // (len(number) + 1) - 10
    answer = await services.run('out done\ndata {"a":[' + ",".join([number] * count) + "]}")
    assert (answer.stdout, answer.data) == ("done\n", {"a": 1})


async def test_data_changed_by_the_api_during_a_run(services: Services) -> None:
    """The running code sees it; when it writes nothing itself, that is the data."""
    await services.create(data={"a": 1})
    running = await services.submit(f"gate g\nread {DATA}")
    await services.until_running(1)
    await services.sessions.update("s1", data={"a": 2})
    services.gates["g"].set()
    answer = await running.result()
    assert json.loads(answer.stdout) == {"a": 2}
    assert answer.data == {"a": 2}


async def test_data_changed_by_the_api_after_a_run(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last write wins also when it comes while the run's own data is still being stored."""
    await services.create()
    after_run, read = services.workspaces.read_changes, asyncio.Event()

    async def slow_after_run(*arguments: Any) -> Any:
        after = await after_run(*arguments)
        read.set()
        await services.gates["after_run"].wait()
        return after

    monkeypatch.setattr(services.workspaces, "read_changes", slow_after_run)
    running = await services.submit('data {"code": 1}')
    await read.wait()
    update = asyncio.create_task(services.sessions.update("s1", data={"api": 1}))
    await sleep_briefly()
    services.gates["after_run"].set()
    assert (await running.result()).data == {"code": 1}
    assert (await update).session.data == {"api": 1}
    assert (await services.store.get("s1")).data == {"api": 1}
    assert json.loads((await services.workspace() / DATA).read_text()) == {"api": 1}


async def test_update_data_loses_no_change(services: Services) -> None:
    """`update_data` is merged into the data of that moment: simultaneous changes are kept."""
    await services.create()
    await services.run("out a")
    for n in range(20):
        running = asyncio.create_task(services.run("out a", update_data={"run": n}))
        await sleep_steps(n)
        await services.sessions.update("s1", data={"api": n})
        answer = await running
        assert answer.data is not None
        assert answer.data["api"] == n


async def test_data_file_after_a_change_by_the_api(services: Services) -> None:
    """The data file shows new data at once, also without a kernel."""
    await services.create()
    await services.sessions.update("s1", data={"a": 2})
    assert json.loads((await services.workspace() / DATA).read_text()) == {"a": 2}


async def test_data_file_that_cannot_be_written(
    services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The data is changed all the same; the data file is rewritten before the next run."""
    await services.create()
    monkeypatch.setattr(services.workspaces, "write_data_file", failing(full()))
    view = await services.sessions.update("s1", data={"a": 2})
    assert view.session.data == {"a": 2}
    assert "data file" in caplog.text


# ---------------------------------------------------------------- the queue


@pytest.fixture
def short_queue(open_services: OpenServices) -> Services:
    return open_services(max_queue=2)


async def test_burst_never_overfills_the_queue(short_queue: Services) -> None:
    """Of many submissions at once, as many are accepted as the queue has room for."""
    services = short_queue
    await services.create()
    outcomes = await asyncio.gather(
        *(services.submit("gate a") for _ in range(20)), return_exceptions=True
    )
    taken = [one for one in outcomes if isinstance(one, LiveExecution)]
    assert len(taken) == 3
    assert all(isinstance(one, QueueFull) for one in outcomes if not isinstance(one, LiveExecution))
    services.gates["a"].set()
    for running in taken:
        await running.result()


async def test_run_of_a_cancelled_submit_goes_on(services: Services) -> None:
    """A caller that is cancelled while the log is opened stops neither its run nor the queue."""
    await services.create()
    await services.run("out a")
    submitting = asyncio.create_task(services.submit("out left"))
    await asyncio.sleep(0)
    submitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await submitting
    await services.run("out b")
    listed, _ = await services.executions.list_executions("s1")
    assert [(one.code, one.status.value) for one in listed] == [
        ("out a", "finished"),
        ("out left", "finished"),
        ("out b", "finished"),
    ]


@pytest.mark.parametrize("problem", [full(), RuntimeError("a bug")])
async def test_log_that_cannot_be_opened(
    services: Services, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    """The caller gets the error; nothing is left in the queue, and no kernel is counted."""
    await services.create()
    with monkeypatch.context() as patch:
        patch.setattr(services.execution_store, "create", failing(problem))
        with pytest.raises(type(problem)):
            await services.submit("out a")
    await services.until_free(kernels=100)
    assert (await services.run("out b")).stdout == "b\n"


async def test_cancelled_submit_whose_log_cannot_be_opened(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure after the caller was cancelled has no effect on later runs."""
    await services.create()
    await services.run("out a")
    with monkeypatch.context() as patch:
        patch.setattr(services.execution_store, "create", failing(full()))
        submitting = asyncio.create_task(services.submit("out left"))
        await asyncio.sleep(0)
        submitting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submitting
        await asyncio.sleep(0)
    assert (await services.run("out b")).stdout == "b\n"


async def test_log_that_cannot_take_the_first_event(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose `queued` event cannot be logged is refused, and is finished in the list."""
    await services.create()
    first = await services.submit("gate a")
    await services.until_running(1)
    with monkeypatch.context() as patch:
        patch.setattr("era_kernels.storage.execution_log.ExecutionLog.append", failing(full()))
        with pytest.raises(InsufficientStorage):
            await services.submit("out b")
    services.gates["a"].set()
    await first.result()
    await services.run("out c")
    listed, _ = await services.executions.list_executions("s1")
    assert [(one.status.value, one.exit_code) for one in listed] == [
        ("finished", 0),
        ("finished", 1),
        ("finished", 0),
    ]
    assert services.executions._live == {}


# ---------------------------------------------------------------- limit of kernels


@pytest.fixture
def one_kernel(open_services: OpenServices) -> Services:
    return open_services(max_kernels=1)


async def test_kernels_are_limited(one_kernel: Services) -> None:
    """When all kernels are in use, another session is refused with a time to retry."""
    services = one_kernel
    await services.create("s1")
    await services.create("s2")
    await services.run("out a", "s1")
    with pytest.raises(AtCapacity):
        await services.submit("out b", "s2")
    with pytest.raises(AtCapacity):
        await services.sessions.restart("s2", "")
    await services.run("out c", "s1")
    await services.sessions.delete("s1")
    assert (await services.run("out b", "s2")).exit_code == 0


async def test_kernel_is_released_after_every_failure(
    one_kernel: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever keeps a run or a restart from its kernel, the place is released."""
    services = one_kernel
    await services.create("s1")
    await services.create("s2")

    async def other_runs() -> None:
        await services.until_free(kernels=1)
        await services.run("die 1", "s2")
        await services.until_free(kernels=1)

    for failure in (make_start_error(), RuntimeError("a bug")):
        services.host.open_error = failure
        with pytest.raises(EraError):
            await services.run("out a")
        await other_runs()
        services.host.open_error = failure
        with pytest.raises(type(failure)):
            await services.sessions.restart("s1", "")
        await other_runs()
    with monkeypatch.context() as patch:
        patch.setattr(services.workspaces, "write_data_file", failing(full()))
        with pytest.raises(InsufficientStorage):
            await services.run("out a")
    services.host.machines[-1].die(ExitInfo(code=1))
    await other_runs()


async def test_restart_keeps_its_place_in_the_limit(one_kernel: Services) -> None:
    """Between the old kernel and the new one, no other session gets the place."""
    services = one_kernel
    await services.create("s1")
    await services.create("s2")
    await services.run("out a")
    services.host.open_gate = asyncio.Event()
    restart = asyncio.create_task(services.sessions.restart("s1", ""))
    await services.until_starting()
    with pytest.raises(AtCapacity):
        await services.submit("out b", "s2")
    services.host.open_gate.set()
    assert await restart == 2
    with pytest.raises(AtCapacity):
        await services.submit("out b", "s2")
    await services.sessions.delete("s1")
    await services.run("out b", "s2")


async def test_deleted_in_the_last_step_of_its_start(one_kernel: Services) -> None:
    """A machine that is there already ends with its session, and so does its place."""
    services = one_kernel
    await services.create("s1")
    await services.create("s2")
    services.host.internet_gate = asyncio.Event()
    await services.submit("out a", "s1")
    await until(lambda: bool(services.host.machines))
    await services.sessions.delete("s1")
    assert services.host.machines[0].ended.done()
    services.host.internet_gate = None
    await services.run("out b", "s2")


async def test_kernel_that_dies_during_its_start_again(one_kernel: Services) -> None:
    """The end of an old kernel does not release the place of the new one."""
    services = one_kernel
    await services.create("s1")
    await services.create("s2")
    await services.run("die 1")
    await services.run("out a")
    await asyncio.sleep(0)
    with pytest.raises(AtCapacity):
        await services.submit("out b", "s2")


# ---------------------------------------------------------------- restart


async def test_restart_of_an_idle_session(services: Services) -> None:
    """A restart gives a fresh kernel with the same files, and returns its generation."""
    await services.create()
    await services.run("write f 1")
    assert await services.sessions.restart("s1", "http://h") == 2
    assert services.host.machines[1].env["ERA_BASE_URL"] == "http://h"
    answer = await services.run("read f")
    assert (answer.stdout, answer.started_from, answer.kernel_generation) == ("1", "fresh", 2)


async def test_restart_does_not_wait_for_the_next_run(services: Services) -> None:
    """However slowly the old kernel ends, the restart returns while the next run goes on."""
    await services.create()
    await services.submit("wait")
    await services.until_running(1)
    services.host.machines[0].close_gate = asyncio.Event()
    queued = await services.submit("gate b")
    restart = asyncio.create_task(services.sessions.restart("s1", ""))
    await asyncio.sleep(0.01)
    assert len(services.host.machines) == 1
    services.host.machines[0].close_gate.set()
    assert await restart == 2
    await services.until_running(2)
    assert not queued.finished.is_set()
    services.gates["b"].set()
    await queued.result()


async def test_restart_while_the_kernel_starts(services: Services) -> None:
    """A kernel that is only starting is fresh: the run that waits for it goes on."""
    await services.create()
    services.host.open_gate = asyncio.Event()
    running = await services.submit("out a")
    await services.until_starting()
    restart = asyncio.create_task(services.sessions.restart("s1", ""))
    await asyncio.sleep(0)
    services.host.open_gate.set()
    assert await restart == 1
    assert (await running.result()).exit_code == 0
    assert len(services.host.machines) == 1


async def test_two_restarts_at_once(services: Services) -> None:
    """Both return, and each caller has a kernel that started after its call."""
    await services.create()
    running = await services.submit("wait")
    await services.until_running(1)
    generations = await asyncio.gather(*(services.sessions.restart("s1", "") for _ in range(2)))
    assert min(generations) >= 2
    assert (await running.result()).cause == "restarted"
    assert (await services.run("out a")).exit_code == 0


async def test_restart_whose_caller_leaves(services: Services) -> None:
    """A restart goes on when its caller is cancelled."""
    await services.create()
    await services.run("out a")
    services.host.open_gate = asyncio.Event()
    restart = asyncio.create_task(services.sessions.restart("s1", ""))
    await services.until_starting()
    restart.cancel()
    with pytest.raises(asyncio.CancelledError):
        await restart
    services.host.open_gate.set()
    assert (await services.run("out b")).kernel_generation == 2
    assert len(services.host.machines) == 2


async def test_restart_that_fails(services: Services) -> None:
    """The caller gets the error; the run ended all the same, and the next one tries again."""
    await services.create()
    running = await services.submit("wait")
    await services.until_running(1)
    services.host.open_error = make_start_error()
    with pytest.raises(KernelStartFailed):
        await services.sessions.restart("s1", "")
    assert (await running.result()).cause == "restarted"
    assert (await services.run("out a")).exit_code == 0


# ---------------------------------------------------------------- files that do not last


async def test_files_go_with_the_kernel_that_dies_idle(services: Services) -> None:
    """The files are removed without waiting for the next run; the data stays."""
    await services.create(persistent=False, data={"a": 1})
    await services.run("write f 1")
    assert (await services.run("read f")).stdout == "1"
    services.host.machines[0].die(ExitInfo(code=1))
    await services.until_free(kernels=100)
    await services.sessions._live["s1"].wait_idle()
    assert list((await services.workspace()).iterdir()) == []
    session = await services.store.get("s1")
    assert (session.file_count, session.total_size, session.data) == (0, 0, {"a": 1})
    assert (await services.run("read f")).stdout == "nothing"


async def test_next_run_never_sees_the_files_of_a_lost_kernel(services: Services) -> None:
    """The files are gone even for a run submitted before the kernel's end was noticed."""
    await services.create(persistent=False)
    await services.run("write f 1")
    services.host.machines[0].die(ExitInfo(code=1))
    answer = await services.run("read f")
    assert (answer.stdout, answer.files_modified) == ("nothing", 0)


@pytest.mark.parametrize("end", ["die 7", "stuck"])
async def test_files_go_with_the_kernel_that_ends_in_a_run(services: Services, end: str) -> None:
    """The run's result and data are kept; then the files are gone."""
    await services.create(persistent=False)
    queued = asyncio.create_task(services.run(f'write f 1\ndata {{"a": 1}}\n{end}'))
    answer = await queued
    assert (answer.files_modified, answer.data) == (1, {"a": 1})
    assert list((await services.workspace()).iterdir()) == []
    assert (await services.store.get("s1")).file_count == 0
    assert json.loads((await services.run(f"read {DATA}")).stdout) == {"a": 1}


async def test_files_go_at_a_restart(services: Services) -> None:
    """A restart removes the files, and keeps the data that the ended run wrote."""
    await services.create(persistent=False)
    running = await services.submit('write f 1\ndata {"a": 1}\nout ready\nwait')
    queued = await services.submit("read f")
    await anext(running.follow())
    await services.sessions.restart("s1", "")
    assert (await running.result()).data == {"a": 1}
    assert (await queued.result()).stdout == "nothing"


async def test_files_are_dropped_when_nothing_is_left_of_the_kernel(services: Services) -> None:
    """Files are removed after all processes, which could still write to the workspace."""
    await services.create(persistent=False)
    await services.run("write f 1")
    services.host.machines[0].close_gate = asyncio.Event()
    services.host.machines[0].die(ExitInfo(code=1))
    await asyncio.sleep(0.01)
    assert (await services.workspace() / "f").exists()
    services.host.machines[0].close_gate.set()
    assert (await services.run("read f")).stdout == "nothing"


async def test_files_that_cannot_be_dropped(
    services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The next run gets the error and sees no file; the removal is tried again."""
    await services.create(persistent=False)
    await services.run("write f 1")
    with monkeypatch.context() as patch:
        patch.setattr(services.workspaces, "clear_files", failing(StorageFailed("It stays.")))
        services.host.machines[0].die(ExitInfo(code=1))
        await services.until_free(kernels=100)
        await services.sessions._live["s1"].wait_idle()
        assert "not dropped" in caplog.text
        with pytest.raises(StorageFailed):
            await services.run("read f")
    assert (await services.run("read f")).stdout == "nothing"


async def test_files_of_a_persistent_session_stay(services: Services) -> None:
    """The files of a persistent session outlive any number of kernels."""
    await services.create()
    await services.run("write f 1\ndie 7")
    await services.sessions.restart("s1", "")
    assert (await services.run("read f")).stdout == "1"


# ---------------------------------------------------------------- full disks, broken stores


async def test_disk_that_fills_up_in_a_run(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends with the reason for all readers; the session goes on when there is space."""
    await services.create()
    running = await services.submit("out a\ngate b\nout c\nwait")
    await services.until_running(1)
    reader = asyncio.create_task(events_of(running))
    await anext(running.follow())
    with monkeypatch.context() as patch:
        patch.setattr(running.log, "append", failing(full()))
        services.gates["b"].set()
        with pytest.raises(InsufficientStorage):
            await running.result()
    events = await reader
    assert events[0] == Stdout("a\n")
    assert [event.code for event in events if isinstance(event, ErrorEvent)] == [
        "INSUFFICIENT_STORAGE"
    ]
    done = events[-1]
    assert isinstance(done, Done)
    assert (done.exit_code, done.state) == (137, "lost")
    execution = await services.executions.get("s1", running.id)
    assert (execution.status, execution.exit_code) == ("finished", 137)
    assert (await services.run("out d")).kernel_generation == 2


async def test_disk_that_is_full_at_the_end(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When only the end cannot be logged, readers still get it."""
    await services.create()
    running = await services.submit("gate a")
    await services.until_running(1)
    monkeypatch.setattr(running.log, "append", failing(full()))
    services.gates["a"].set()
    events = await events_of(running)
    assert isinstance(events[-1], Done)
    with pytest.raises(InsufficientStorage):
        await running.result()


@pytest.mark.parametrize("problem", [full(), StorageFailed("It failed.")])
async def test_storage_that_fails_after_a_run(
    services: Services, monkeypatch: pytest.MonkeyPatch, problem: StorageFailed
) -> None:
    """A failure of `after_run` is reported; the kernel and the queue go on."""
    await services.create()
    running = await services.submit("out a\ngate b\nexit 3")
    await services.until_running(1)
    with monkeypatch.context() as patch:
        patch.setattr(services.workspaces, "read_changes", failing(problem))
        services.gates["b"].set()
        codes, done = await end_of(running)
        assert (codes, done.exit_code, done.state) == ([problem.code], 3, "preserved")
        with pytest.raises(type(problem)):
            await running.result()
    assert (await services.run("out c")).started_from == "live"


async def test_data_that_cannot_be_stored(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data that cannot be stored does not change in memory either."""
    await services.create(data={"a": 1})
    with monkeypatch.context() as patch:
        patch.setattr(services.store, "update", failing(full()))
        with pytest.raises(InsufficientStorage):
            await services.run('data {"a": 2}')
        with pytest.raises(InsufficientStorage):
            await services.run("out a", update_data={"a": 3})
        with pytest.raises(InsufficientStorage):
            await services.sessions.update("s1", data={"a": 4})
    assert (await services.session()).data == {"a": 1}


@pytest.mark.parametrize(
    "target",
    [
        "era_kernels.storage.execution_log.ExecutionLog.append",
        "era_kernels.storage.execution_log.ExecutionLog.aclose",
        "era_kernels.storage.execution_log.ExecutionStore.trim",
        "era_kernels.storage.workspaces.Workspaces.write_data_file",
        "era_kernels.storage.workspaces.Workspaces.read_changes",
        "era_kernels.storage.workspaces.Workspaces.scan",
        "era_kernels.storage.sessions.SessionStore.update",
    ],
)
async def test_bug_of_a_store(
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    target: str,
) -> None:
    """A bug in a store ends the run for its readers, is logged, and does not stop the queue."""
    await services.create()
    with monkeypatch.context() as patch:
        patch.setattr(target, failing(RuntimeError("a bug")))
        runs = [await services.submit('out a\ndata {"n": 1}')]
        codes, _ = await end_of(runs[0])
        try:
            await runs[0].result()
        except EraError as problem:
            assert "a bug" not in problem.message
            assert (codes, problem.code) == (["INTERNAL_ERROR"], "INTERNAL_ERROR")
        await services.sessions._live["s1"].wait_idle()
    assert "a bug" in caplog.text
    assert (await services.run("out b")).stdout == "b\n"
    assert services.executions._live == {}


async def test_bug_of_a_kernel(services: Services, caplog: pytest.LogCaptureFixture) -> None:
    """A bug in the kernel's code ends the machine, not the session."""
    await services.create()
    running = await services.submit("out a\nbug")
    codes, done = await end_of(running)
    assert (codes, done.exit_code, done.state) == (["INTERNAL_ERROR"], 1, "lost")
    with pytest.raises(EraError, match="failed inside the server"):
        await running.result()
    assert (await services.run("out b")).kernel_generation == 2


@pytest.fixture
def small_logs(open_services: OpenServices) -> Services:
    return open_services(max_execution_output=1024)


async def test_output_limit(small_logs: Services) -> None:
    """A run with too much output is ended, and the cause names the limit."""
    await small_logs.create()
    running = await small_logs.submit("\n".join(["out " + "x" * 200] * 100) + "\nwait")
    codes, done = await end_of(running)
    assert (codes, done.exit_code, done.cause) == (["OUTPUT_LIMIT"], 137, "output limit 1 KiB")
    assert done.state == "lost"


# ---------------------------------------------------------------- the end


async def test_deleted_during_a_run(services: Services) -> None:
    """The run ends with 137 and its cause, the queued ones with 404; later calls are refused."""
    await services.create()
    running = await services.submit("out a\nwait")
    queued = [await services.submit("out b") for _ in range(2)]
    await services.until_running(1)
    live = services.sessions._live["s1"]
    await services.sessions.delete("s1")
    answer = await running.result()
    assert (answer.exit_code, answer.cause, answer.state) == (137, "session deleted", "lost")
    assert answer.error is not None
    assert answer.error.code == "SESSION_DELETED"
    for one in queued:
        with pytest.raises(SessionNotFound):
            await one.result()
        codes, done = await end_of(one)
        assert (codes, done.exit_code) == (["SESSION_DELETED"], 137)
    for call in (live.submit(Submission("out c")), live.restart("")):
        with pytest.raises(SessionNotFound):
            await call


async def test_deleted_while_the_kernel_starts(services: Services) -> None:
    """A deletion does not wait for the start: the run ends with 137, no kernel is left."""
    await services.create()
    services.host.open_gate = asyncio.Event()
    running = await services.submit("out a")
    await services.until_starting()
    await services.sessions.delete("s1")
    answer = await running.result()
    assert (answer.exit_code, answer.cause) == (137, "session deleted")
    assert services.host.machines == []
    assert services.kernel_limiter.holder_count == 0


async def test_deleted_during_a_restart(services: Services) -> None:
    """The restart raises that the session is gone."""
    await services.create()
    await services.run("out a")
    services.host.open_gate = asyncio.Event()
    restart = asyncio.create_task(services.sessions.restart("s1", ""))
    await services.until_starting()
    await services.sessions.delete("s1")
    with pytest.raises(SessionNotFound):
        await restart
    assert services.kernel_limiter.holder_count == 0


async def test_deleted_while_the_log_is_opened(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was just being submitted ends with 404, and does not hang."""
    await services.create()
    create = services.execution_store.create

    async def slow_create(*arguments: Any, **named: Any) -> Any:
        await services.gates["log"].wait()
        return await create(*arguments, **named)

    monkeypatch.setattr(services.execution_store, "create", slow_create)
    submitting = asyncio.create_task(services.submit("out b"))
    await until(lambda: "s1" in services.sessions._live)
    deletion = asyncio.create_task(services.sessions.delete("s1"))
    await until(lambda: "s1" not in services.sessions._live)
    services.gates["log"].set()
    with pytest.raises(SessionNotFound):
        await (await submitting).result()
    await deletion
    assert services.directories == []


async def test_deleted_at_any_moment(services: Services) -> None:
    """Whenever the deletion comes, the run ends, and nothing is left."""
    for steps in range(40):
        await services.create()
        running = await services.submit("write f 1\nout a")
        await sleep_steps(steps)
        await services.sessions.delete("s1")
        codes, done = await end_of(running)
        assert (done.exit_code, codes) in [(0, []), (137, ["SESSION_DELETED"])]
    assert services.directories == []
    assert services.kernel_limiter.holder_count == 0
    assert services.executions._live == {}


async def test_row_that_vanishes_under_a_run(services: Services) -> None:
    """A run does not fail when its session's row has been deleted."""
    await services.create()
    running = await services.submit('gate a\ndata {"n": 1}')
    await services.until_running(1)
    await services.store.delete("s1")
    services.gates["a"].set()
    assert (await running.result()).exit_code == 0
    with pytest.raises(SessionNotFound):
        await services.run("out b", update_data={"n": 2})


async def test_log_of_a_reader(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a reader has seen is in the log, byte for byte."""
    await services.create()
    running = await services.submit("\n".join(f"out {n}" for n in range(200)))
    seen: list[LoggedEvent] = []
    async for batch in running.follow():
        logged: list[LoggedEvent] = [item async for part in running.log.read() for item in part]
        seen += batch
        assert logged[: len(seen)] == seen
    assert [item.seq for item in seen] == list(range(1, 202))
