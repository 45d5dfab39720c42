"""The first run that does not find the variables of earlier ones is told why, once."""

from __future__ import annotations

import asyncio

import pytest

from era_kernels.models import Done, ExitInfo, Limits, Stderr, Submission
from tests.services.conftest import OpenServices
from tests.services.service_fixture import Services, end_of, events_of, sleep_briefly

BETWEEN = ", between two runs"


@pytest.fixture
def limited_services(open_services: OpenServices) -> Services:
    return open_services(limits=Limits(memory=64 << 20))


async def notices_of(services: Services, code: str = "out a") -> list[str] | None:
    return (await services.run(code)).notices


@pytest.mark.parametrize(
    ("info", "why"),
    [
        (ExitInfo(signal=9), f"killed by signal 9 (SIGKILL){BETWEEN}"),
        (ExitInfo(code=3), f"the kernel ended: exit 3{BETWEEN}"),
        (ExitInfo(reason="out of memory at 64 MB"), f"out of memory at 64 MB{BETWEEN}"),
    ],
)
async def test_end_that_nobody_saw(services: Services, info: ExitInfo, why: str) -> None:
    """A kernel that ended between two runs is told by the next."""
    await services.create()
    await services.run("out a")
    services.host.machines[0].die(info)
    assert await notices_of(services) == [f"variables were lost: {why}"]


async def test_restart(services: Services) -> None:
    """A restart is told with any number of restarts between; not where no code had run."""
    await services.create()
    await services.sessions.restart("s1", "")
    assert await notices_of(services) is None
    for _ in range(2):
        await services.sessions.restart("s1", "")
    assert await notices_of(services) == ["variables were lost: restarted by request"]


async def test_restart_in_a_run(services: Services) -> None:
    """The run that waits behind the one that a restart ends is told."""
    await services.create()
    running = await services.submit("wait")
    waiting = await services.submit("out b")
    await services.until_running(1)
    await services.sessions.restart("s1", "")
    assert (await running.result()).notices is None
    assert (await waiting.result()).notices == ["variables were lost: restarted by request"]


async def test_commands_lose_nothing(services: Services) -> None:
    """A machine that ended without a kernel, or whose kernel had no code, had no variables."""
    await services.create()
    await (await services.exec("out a")).result()
    services.host.machines[0].die(ExitInfo(signal=9))
    assert await notices_of(services) is None


@pytest.mark.parametrize("state", ["stopped", "died before", "died and told"])
async def test_restart_of_the_server(services: Services, state: str) -> None:
    """What is known of the kernel outlives the server; a stop of the server is a reason, too."""
    await services.create()
    await services.run("out a")
    expected = "the server was restarted"
    if state != "stopped":
        await services.run("die 7")
        expected = "the kernel ended: exit 7"
    if state == "died and told":
        assert await notices_of(services) == [f"variables were lost: {expected}"]
        expected = "the server was restarted"
    await services.aclose()
    async with services.restarted() as later:
        assert await notices_of(later) == [f"variables were lost: {expected}"]
        assert await notices_of(later) is None


async def test_session_that_never_ran_before_a_restart_of_the_server(services: Services) -> None:
    """Nothing is told where nothing was lost, also when a kernel was there."""
    await services.create()
    await services.sessions.restart("s1", "")
    await services.aclose()
    async with services.restarted() as later:
        assert await notices_of(later) is None


async def test_cancelled_before_its_kernel_had_it(services: Services) -> None:
    """A run that is cancelled while its kernel starts leaves the notice to the next."""
    await services.create()
    await services.run("die 7")
    services.host.open_gate = asyncio.Event()
    cancelled = await services.submit("out never")
    await services.until_starting()
    assert cancelled.interrupt is not None
    await cancelled.interrupt()
    _, done = await end_of(cancelled)
    assert (done.exit_code, done.notices) == (130, None)
    services.host.open_gate.set()
    assert await notices_of(services) == ["variables were lost: the kernel ended: exit 7"]


async def test_start_that_fails(services: Services) -> None:
    """A run whose kernel did not start leaves the notice to the next."""
    await services.create()
    await services.run("die 7")
    services.host.open_error = RuntimeError("a bug")
    running = await services.submit("out never")
    await running.finished.wait()
    assert await notices_of(services) == ["variables were lost: the kernel ended: exit 7"]


async def test_notices_are_kept(services: Services) -> None:
    """They are in the `done` event, live and from the log, and in the result from the log."""
    await services.create()
    await services.run("die 7")
    running = await services.submit("out a")
    done = (await events_of(running))[-1]
    assert isinstance(done, Done)
    assert done.notices == ["variables were lost: the kernel ended: exit 7"]
    session = await services.session()
    await sleep_briefly()
    _, result = await services.executions.result(session, running.id)
    assert result.notices == done.notices


async def test_evicted_session(services: Services) -> None:
    """A session that is dropped from memory meanwhile forgets nothing."""
    await services.create()
    await services.run("die 7")
    await services.sessions._live["s1"].wait_idle()
    services.sessions._live.clear()
    assert await notices_of(services) == ["variables were lost: the kernel ended: exit 7"]


# ---------------------------------------------------------------- the line on stderr


@pytest.mark.parametrize(
    ("fields", "before", "line"),
    [
        ({}, "", "[era] timeout: the run did not end within 9 s; variables are lost, files are "),
        ({}, "err x\n", "x\n[era] timeout: the run did not end within 9 s; variables are lost, "),
        ({"persistent": False}, "", "[era] timeout: the run did not end within 9 s; variables and"),
    ],
)
async def test_line(services: Services, fields: dict[str, bool], before: str, line: str) -> None:
    """It comes before `error` and `done`, and tells what is kept."""
    await services.create("s2", **fields)
    running = await services.submit(f"{before}stuck", "s2", timeout=9)
    events = await events_of(running)
    assert [event.type for event in events[-3:]] == ["stderr", "error", "done"]
    text = "".join(event.content for event in events if isinstance(event, Stderr))
    assert text.startswith(line)
    assert text.endswith("\n")


async def test_line_of_a_throw_away_run(services: Services) -> None:
    """Nothing is kept of it anyway, so nothing is said of that."""
    running = await services.sessions.execute("alpha", Submission("stuck", timeout=9))
    assert (await running.result()).stderr == "[era] timeout: the run did not end within 9 s\n"


async def test_line_of_a_limit_that_is_not_enforced(limited_services: Services) -> None:
    """Where nothing enforces a limit it is no reason, and not named."""
    services = limited_services
    await services.create()
    assert (await services.run("err MemoryError\nexit 1")).stderr == "MemoryError\n"
    services.host.enforceable = frozenset({"memory"})
    stderr = (await services.run("err MemoryError\nexit 1")).stderr
    assert stderr.endswith(
        "\n[era] out of memory: the session's limit is 64 MiB (session_memory)\n"
    )
