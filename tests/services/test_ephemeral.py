"""Nothing is left of runs in throw-away sessions, whenever their caller leaves."""

from __future__ import annotations

import asyncio

import pytest

from era_kernels.errors import (
    AtCapacity,
    InsufficientStorage,
    InvalidRequest,
    KernelStartFailed,
    LanguageUnavailable,
    ShuttingDown,
    StorageFailed,
    UnsupportedLanguage,
)
from era_kernels.kernels.languages import Languages
from era_kernels.models import Submission
from era_kernels.services.executions.live_execution import LiveExecution
from era_kernels.services.executions.result import RunResult
from tests.fakes import make_kernelspec, make_start_error
from tests.services.conftest import OpenServices
from tests.services.service_fixture import Services, failing, sleep_briefly, sleep_steps
from tests.waiting import until


async def execute(services: Services, code: str, language: str = "alpha") -> RunResult:
    return await (await services.sessions.execute(language, Submission(code))).result()


async def leave(running: LiveExecution) -> None:
    """Goes as the only caller goes."""
    running.add_caller()
    await running.remove_caller()


async def execute_while_connected(services: Services, code: str) -> RunResult:
    """Runs code as the web layer does: a caller that is cancelled abandons the run."""
    running = await services.sessions.execute("alpha", Submission(code))
    try:
        return await running.result()
    except asyncio.CancelledError:
        await leave(running)
        raise


async def until_nothing_is_left(services: Services) -> None:
    while (
        services.directories
        or services.kernel_limiter.holder_count
        or services.sessions._ephemeral.live
    ):
        await sleep_briefly()
    assert all(machine.ended.done() for machine in services.host.machines)
    assert services.executions._live == {}
    assert services.sessions._live == {}


async def test_execute(services: Services) -> None:
    """The result is a run's; the session is in no list, and nothing of it stays."""
    answer = await execute(services, "env ERA_SESSION_ID\nexit 3", "ALPHA")
    assert (answer.stdout, answer.exit_code) == (answer.session_id, 3)
    assert answer.started_from == "fresh"
    assert [one.ends_program for one in services.host.machines[0].kernel.requests] == [True]
    await until_nothing_is_left(services)
    assert (await services.sessions.list_sessions())[1] == 0
    _, total = await services.executions.list_executions(answer.session_id)
    assert total == 0


async def test_data_and_files_of_an_execute(services: Services) -> None:
    """A throw-away session has data and files while it lives."""
    answer = await execute(services, 'write f 1\ndata {"a": 1}\nread f')
    assert (answer.stdout, answer.files_modified, answer.data) == ("1", 1, {"a": 1})


@pytest.mark.parametrize("code", ["die 7", "stuck", "timeout", "bug"])
async def test_execute_that_ends_badly(services: Services, code: str) -> None:
    """However the run ends, nothing is left."""
    running = await services.sessions.execute("alpha", Submission(code))
    await running.finished.wait()
    await until_nothing_is_left(services)


async def test_execute_whose_kernel_does_not_start(services: Services) -> None:
    """The caller gets the error, and nothing is left."""
    services.host.open_error = make_start_error()
    with pytest.raises(KernelStartFailed):
        await execute(services, "out a")
    await until_nothing_is_left(services)


async def test_execute_that_cannot_begin(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is refused before the run leaves nothing."""
    services.host.languages = Languages(
        [make_kernelspec("alpha"), make_kernelspec("beta", reason="no beta")]
    )
    with pytest.raises(UnsupportedLanguage):
        await execute(services, "out a", "gamma")
    with pytest.raises(LanguageUnavailable):
        await execute(services, "out a", "beta")
    with pytest.raises(InvalidRequest):
        await services.sessions.execute("alpha", Submission("out a", timeout=1e6))
    monkeypatch.setattr(
        services.execution_store, "create", failing(InsufficientStorage("No room."))
    )
    with pytest.raises(InsufficientStorage):
        await execute(services, "out a")
    monkeypatch.setattr(services.workspaces, "create", failing(InsufficientStorage("No room.")))
    with pytest.raises(InsufficientStorage):
        await execute(services, "out a")
    await until_nothing_is_left(services)


@pytest.fixture
def one_kernel(open_services: OpenServices) -> Services:
    return open_services(max_kernels=1)


async def test_execute_counts_as_a_kernel(one_kernel: Services) -> None:
    """An execute counts as a kernel while it runs, and no longer."""
    services = one_kernel
    running = await services.sessions.execute("alpha", Submission("gate a"))
    with pytest.raises(AtCapacity):
        await services.sessions.execute("alpha", Submission("out b"))
    services.gates["a"].set()
    await running.result()
    await until_nothing_is_left(services)
    for _ in range(5):
        await execute(services, "out c")
        await services.until_free(kernels=1)
    await until_nothing_is_left(services)


async def test_abandoned_execute_is_ended(services: Services) -> None:
    """When its client leaves, the run ends; nothing is left when its leaving is done."""
    running = await services.sessions.execute("alpha", Submission("wait"))
    await services.until_running(1)
    await asyncio.gather(leave(running), leave(running))
    assert running.finished.is_set()
    assert running.execution.cause == "client gone"
    await until_nothing_is_left(services)


async def test_abandoned_after_its_end(services: Services) -> None:
    """Abandoning a run that has ended does nothing."""
    running = await services.sessions.execute("alpha", Submission("exit 0"))
    await running.result()
    await leave(running)
    await until_nothing_is_left(services)


async def test_abandoned_at_any_moment(services: Services) -> None:
    """Nothing is left whenever the client leaves, also before it has its execution."""
    for steps in range(40):
        client = asyncio.create_task(execute_while_connected(services, "out a\nwait"))
        await sleep_steps(steps)
        client.cancel()
        await asyncio.wait([client])
        await until_nothing_is_left(services)


async def test_client_that_is_cancelled_before_it_has_its_run(services: Services) -> None:
    """A call that is cancelled at any step of its start leaves no run behind."""
    for steps in range(40):
        call = asyncio.create_task(services.sessions.execute("alpha", Submission("wait")))
        await sleep_steps(steps)
        if call.done():
            await leave(call.result())
        else:
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        await until_nothing_is_left(services)


async def test_files_that_cannot_be_removed(
    services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The failure is logged; the result is returned, and the session is dropped."""
    with monkeypatch.context() as patch:
        patch.setattr(services.workspaces, "remove", failing(StorageFailed("It stays.")))
        assert (await execute(services, "out a")).stdout == "a\n"
        await until(lambda: not services.sessions._ephemeral.live)
    assert "not removed" in caplog.text
    assert services.kernel_limiter.holder_count == 0


async def test_server_that_closes_during_an_execute(services: Services) -> None:
    """The run ends as `server stopped`, or is refused; no directory is left."""
    running = await services.sessions.execute("alpha", Submission("wait"))
    await services.until_running(1)
    late = asyncio.create_task(services.sessions.execute("alpha", Submission("wait")))
    await asyncio.sleep(0)
    await services.sessions.aclose()
    assert (await running.result()).cause == "server stopped"
    with pytest.raises(ShuttingDown):
        await late
    await until_nothing_is_left(services)
