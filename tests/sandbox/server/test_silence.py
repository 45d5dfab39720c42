"""A zygote or an init that does not answer harms nobody for long, and is told."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import time
from pathlib import Path

import pytest

from era_kernels.errors import KernelStartFailed, Unavailable
from era_kernels.models import Limits
from era_kernels.sandbox.server import control_channel, sandbox, zygote_client
from era_kernels.sandbox.server.process_spec import ProcessNotStarted
from tests.sandbox.sandboxes import forked_program, run_to_end, shell_command
from tests.sandbox.tiers import isolated_sandboxes
from tests.waiting import until

TIMEOUT = 2.0  # seconds for an answer, here


def read_state(pid: int | None) -> str:
    """Returns the letter of a process's state, as in proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let silence be noticed soon."""
    monkeypatch.setattr(control_channel, "PING_TIMEOUT", TIMEOUT)
    monkeypatch.setattr(control_channel, "REQUEST_TIMEOUT", TIMEOUT)
    monkeypatch.setattr(zygote_client, "PULSE_INTERVAL", 0.1)


@pytest.mark.parametrize("tier", [1, 3])
async def test_a_stopped_zygote_is_replaced(tier: int) -> None:
    """Starts that wait for it get another one, and sessions that run notice nothing."""
    async with isolated_sandboxes(tier) as (sandboxes, make_paths):
        before = await sandboxes.open_sandbox(make_paths("a"), Limits())
        old = sandboxes.zygote.pid
        os.kill(old, signal.SIGSTOP)
        after = await asyncio.wait_for(sandboxes.open_sandbox(make_paths("b"), Limits()), 30)
        assert sandboxes.zygote.pid != old
        await sandboxes.check()
        for one in (before, after):
            assert (await run_to_end(one, shell_command("echo here")))[1] == "here\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_an_idle_zygote_is_replaced(number: signal.Signals) -> None:
    """Nobody has to start a kernel for that, and the check is true all the time."""
    async with isolated_sandboxes() as (sandboxes, _):
        old = sandboxes.zygote
        os.kill(old.pid, number)
        await until(lambda: not old.is_alive)
        if sandboxes.zygote is old:
            with pytest.raises(Unavailable, match="started again"):
                await sandboxes.check()
        await until(lambda: sandboxes.zygote is not old)
        await sandboxes.check()


async def test_a_zygote_that_dies_again_and_again_is_paced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The pauses grow, it is logged once, and the last one works."""
    async with isolated_sandboxes() as (sandboxes, make_paths):
        keeper = sandboxes._init_pool._keeper
        pauses = []
        for _ in range(3):
            old = sandboxes.zygote
            os.kill(old.pid, signal.SIGKILL)
            await until(lambda old=old: sandboxes.zygote is not old)  # type: ignore[misc]
            pauses.append(keeper._pause)
        assert pauses == [0.25, 0.5, 1.0]
        opened = await sandboxes.open_sandbox(make_paths("a"), Limits())
        assert (await run_to_end(opened, shell_command("echo here")))[1] == "here\n"
    deaths = [one for one in caplog.records if one.getMessage() == "the zygote died"]
    assert len(deaths) == 1
    assert deaths[0].levelno == logging.ERROR


@pytest.mark.parametrize("tier", [1, 3])
async def test_a_stopped_init_ends_its_session_alone(tier: int) -> None:
    """A request gets an error in time, the end has its cause, and another session goes on."""
    async with isolated_sandboxes(tier) as (sandboxes, make_paths):
        silent = await sandboxes.open_sandbox(make_paths("a"), Limits())
        other = await sandboxes.open_sandbox(make_paths("b"), Limits())
        process = await silent.spawn(forked_program("import time; time.sleep(600)"))
        await until(lambda: silent.pid is not None)
        assert silent.pid is not None
        os.kill(silent.pid, signal.SIGSTOP)
        await until(lambda: read_state(silent.pid) == "T")
        with pytest.raises(KernelStartFailed, match="no answer"):
            await asyncio.wait_for(silent.spawn(shell_command("true")), 20)
        assert (await asyncio.wait_for(process.ended, 20)).reason == sandbox.SILENT
        assert (await run_to_end(other, shell_command("echo here")))[1] == "here\n"
        await asyncio.wait_for(silent.aclose(), 20)


async def test_a_stopped_init_is_found_without_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to ask anything of a session whose init was stopped."""
    monkeypatch.setattr(control_channel.ControlChannel.start_pulse, "__defaults__", (0.1,))
    async with isolated_sandboxes() as (sandboxes, make_paths):
        silent = await sandboxes.open_sandbox(make_paths("a"), Limits())
        await until(lambda: silent.pid is not None)
        assert silent.pid is not None
        os.kill(silent.pid, signal.SIGSTOP)
        assert (await asyncio.wait_for(silent.ended, 20)).reason == sandbox.SILENT


# Stops whatever gets one of the next pids. One try is a microsecond, so it often comes before a
# fork of the init runs its program.
STOP_NEXT = """
import os, signal
print(1, flush=True)
seen = os.getpid()
while True:
    for pid in range(seen + 1, seen + 3):
        try:
            os.kill(pid, signal.SIGSTOP)
        except (ProcessLookupError, PermissionError):  # not yet there, or not yet with this uid
            continue
        print(pid, flush=True)
        seen = pid
"""


@pytest.mark.alone  # the attacker must get a processor between a fork and its program
async def test_a_start_that_code_stops_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork that is stopped before its program runs is killed, and told; the next one runs."""
    monkeypatch.setattr(control_channel, "REQUEST_TIMEOUT", 15.0)
    async with isolated_sandboxes() as (sandboxes, make_paths):
        opened = await sandboxes.open_sandbox(make_paths("a"), Limits())
        attacker = await opened.spawn(forked_program(STOP_NEXT))
        async with asyncio.timeout(90):
            await until(lambda: attacker.stdout.total_bytes)
            began = time.monotonic()
            while True:
                try:
                    process = await opened.spawn(shell_command("sleep 600"))
                except ProcessNotStarted as error:
                    assert error.errno == errno.ETIMEDOUT
                    break
                began = time.monotonic()
                await process.signal(signal.SIGKILL)
                await process.ended
        assert time.monotonic() - began < 15
        await attacker.signal(signal.SIGKILL)
        await attacker.ended
        assert (await run_to_end(opened, shell_command("echo here")))[1] == "here\n"
