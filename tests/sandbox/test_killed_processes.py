"""Faults for real: init, zygote and server are killed or frozen, and nothing may be left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from era_kernels.errors import KernelStartFailed, StartError, Unavailable
from era_kernels.models import ExitInfo
from era_kernels.sandbox.server import init_pool as init_pool_module
from era_kernels.sandbox.server.sandboxes import Sandboxes
from tests.sandbox.sandboxes import (
    descendants,
    new_sandbox,
    open_sandboxes,
    run_to_end,
    running_pids,
    shell_command,
    short_directory,
    spawn_stubborn,
)
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]

# A server as short as can be: two sandboxes full of stubborn processes; it tells all pids.
SERVER = """
import asyncio, sys
from pathlib import Path
from era_kernels.sandbox.server.sandboxes import Sandboxes
from tests.sandbox.sandboxes import ENTRIES, descendants, new_sandbox, spawn_stubborn
import os
async def main():
    sandboxes = await Sandboxes.open(Path(sys.argv[1]), (), (ENTRIES,))
    for _ in range(2):
        await spawn_stubborn(await new_sandbox(sandboxes))
    print(*descendants(os.getpid()), flush=True)
    if sys.argv[2] == "return":
        return
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_a_killed_init_takes_everything_along() -> None:
    """SIGKILL of an init is reported at once, and daemons of the sandbox are dead after aclose."""
    async with open_sandboxes() as sandboxes:
        sandbox, other = await new_sandbox(sandboxes), await new_sandbox(sandboxes)
        pids, others = await spawn_stubborn(sandbox), await spawn_stubborn(other)
        process = await sandbox.spawn(shell_command("sleep 600"))
        os.kill(sandbox.pid or 0, signal.SIGKILL)
        assert await asyncio.wait_for(sandbox.ended, 5) == ExitInfo(signal=signal.SIGKILL)
        assert (await process.ended).exit_code == 137
        assert not sandbox.is_running
        with pytest.raises(KernelStartFailed):
            await sandbox.spawn(shell_command("exit 0"))
        await sandbox.aclose()
        assert running_pids(pids) == []
        assert not sandbox.runtime_directory.exists()
        assert running_pids(others) == others
        assert (await run_to_end(other, shell_command("exit 3")))[0] == ExitInfo(code=3)


async def test_an_init_killed_in_a_spawn_is_an_error_of_the_spawn() -> None:
    """Whenever an init dies, spawn answers: a process that ends, or KernelStartFailed."""
    async with open_sandboxes() as sandboxes:
        for delay in range(6):
            sandbox = await new_sandbox(sandboxes)
            start = asyncio.ensure_future(sandbox.spawn(shell_command("sleep 600")))
            await asyncio.sleep(0.001 * delay)
            os.kill(sandbox.pid or 0, signal.SIGKILL)
            try:
                process = await asyncio.wait_for(start, 10)
            except KernelStartFailed:
                pass
            else:
                assert (await asyncio.wait_for(process.ended, 10)).exit_code == 137
            await sandbox.aclose()
        assert descendants(sandboxes.zygote.pid) == []


async def test_a_frozen_init_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An init that does not answer (code of the same user may stop it) is ended by the zygote."""
    monkeypatch.setattr(init_pool_module, "EXIT_TIMEOUT", 0.3)

    async with open_sandboxes() as sandboxes:
        sandbox = await new_sandbox(sandboxes)
        pids = await spawn_stubborn(sandbox)
        os.kill(sandbox.pid or 0, signal.SIGSTOP)
        await asyncio.wait_for(sandbox.aclose("session deleted"), 10)
        assert running_pids([*pids, sandbox.pid or 0]) == []
        assert (await sandbox.ended).description == "session deleted"


async def test_a_dead_zygote_is_replaced() -> None:
    """SIGKILL of the zygote: check tells, living sandboxes work on, the next open starts anew."""
    async with open_sandboxes() as sandboxes:
        old = await new_sandbox(sandboxes)
        pids = await spawn_stubborn(old)
        await sandboxes.check()
        first = sandboxes.zygote.pid
        os.kill(first, signal.SIGKILL)
        assert await asyncio.to_thread(wait_until, lambda: not running_pids([first]))
        await asyncio.sleep(0.1)
        with (
            pytest.raises(Unavailable)
            if sandboxes.zygote.pid == first
            else contextlib.nullcontext()
        ):
            await sandboxes.check()
        assert (await run_to_end(old, shell_command("exit 3")))[0] == ExitInfo(code=3)
        fresh = await asyncio.gather(*(new_sandbox(sandboxes) for _ in range(3)))
        await sandboxes.check()
        assert sandboxes.zygote.pid != first
        assert (await run_to_end(fresh[0], shell_command("exit 4")))[0] == ExitInfo(code=4)
        await old.aclose()
        assert running_pids(pids) == []


async def test_a_zygote_killed_in_an_opening_is_replaced() -> None:
    """A sandbox that was ordered from a dying zygote comes from the next one."""
    async with open_sandboxes() as sandboxes:
        for delay in range(4):
            openings = [asyncio.ensure_future(new_sandbox(sandboxes)) for _ in range(4)]
            await asyncio.sleep(0.001 * delay)
            with contextlib.suppress(ProcessLookupError):  # the last one, not yet replaced
                os.kill(sandboxes.zygote.pid, signal.SIGKILL)
            for opening in openings:
                sandbox = await asyncio.wait_for(opening, 30)
                assert (await run_to_end(sandbox, shell_command("exit 3")))[0] == ExitInfo(code=3)
                await sandbox.aclose()


async def test_a_zygote_that_cannot_start_is_an_error_of_the_domain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No interpreter: StartError at the start of the server, KernelStartFailed later."""
    async with open_sandboxes() as sandboxes:
        monkeypatch.setattr(sys, "executable", "/bin/false")
        os.kill(sandboxes.zygote.pid, signal.SIGKILL)
        await asyncio.sleep(0.1)
        with pytest.raises(KernelStartFailed):
            await new_sandbox(sandboxes)
        with short_directory() as runtime, pytest.raises(StartError):
            await Sandboxes.open(runtime, (), ())
        monkeypatch.setattr(sys, "executable", "/does/not/exist")
        with short_directory() as runtime, pytest.raises(StartError, match="/does/not/exist"):
            await Sandboxes.open(runtime, (), ())
        monkeypatch.undo()
        async with asyncio.timeout(10):
            while True:  # the next try is paced
                with contextlib.suppress(KernelStartFailed):
                    assert (await new_sandbox(sandboxes)).is_running
                    break
                await asyncio.sleep(0.05)


async def test_zygote_and_init_wait_for_the_server() -> None:
    """SIGTERM, SIGINT and SIGHUP, as a service manager or a terminal sends to all, end neither."""
    async with open_sandboxes() as sandboxes:
        sandbox = await new_sandbox(sandboxes)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(sandboxes.zygote.pid, number)
            os.kill(sandbox.pid or 0, number)
        assert (await run_to_end(sandbox, shell_command("kill -TERM $$")))[0] == ExitInfo(
            signal=signal.SIGTERM
        )
        assert (await new_sandbox(sandboxes)).is_running


def start_server(runtime: Path, what: str) -> tuple[subprocess.Popen[str], list[int]]:
    """Starts that server; returns it, and the pids of all below it, the zygote's first."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(runtime), what],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout is not None
    with server.stdout:
        return server, [int(pid) for pid in server.stdout.readline().split()]


@pytest.mark.alone  # it measures how soon all is gone
@pytest.mark.parametrize("fault", ["kill", "return"])
def test_nothing_survives_the_server(fault: str) -> None:
    """A server that is killed, or leaves without closing: all its processes end within 2 s."""
    with short_directory() as runtime:
        server, pids = start_server(runtime, fault)
        assert len(pids) >= 1 + 2 * 5  # zygote; an init and four processes in each sandbox
        if fault == "kill":
            assert running_pids(pids) == pids
            server.kill()
        server.wait()
        start = time.monotonic()
        assert wait_until(lambda: not running_pids(pids), seconds=2), running_pids(pids)
        assert time.monotonic() - start < 2


def test_init_and_server_killed_together() -> None:
    """When the server dies with an init, the zygote ends what the init left before it leaves."""
    with short_directory() as runtime:
        server, pids = start_server(runtime, "stay")
        zygote = pids[0]
        inits = [pid for pid in pids if pid != zygote and _parent(pid) == zygote]
        assert len(inits) == 2
        for pid in (server.pid, *inits):
            with contextlib.suppress(ProcessLookupError):  # the zygote was as quick
                os.kill(pid, signal.SIGKILL)
        server.wait()
        assert wait_until(lambda: not running_pids(pids), seconds=2), running_pids(pids)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
