"""Sandboxes start processes, report their ends, send them signals, and leave nothing behind."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from pathlib import Path

import psutil
import pytest
from blockbuster import blockbuster_ctx

from era_kernels.errors import KernelStartFailed, ShuttingDown
from era_kernels.models import ExitInfo
from era_kernels.sandbox.server.process_spec import ProcessNotStarted, ProcessSpec
from era_kernels.sandbox.server.sandbox import Sandbox
from era_kernels.sandbox.server.sandboxes import Sandboxes
from tests.conftest import loop
from tests.sandbox.sandboxes import (
    ENV,
    count_descriptors,
    descendants,
    forked_program,
    new_sandbox,
    open_sandboxes,
    run_to_end,
    running_pids,
    shell_command,
    spawn_stubborn,
    wait_for_lines,
)
from tests.waiting import until

io_loop = pytest.fixture(loop, scope="module")


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ("exit 0", ExitInfo(code=0)),
        ("exit 7", ExitInfo(code=7)),
        ("kill -SEGV $$", ExitInfo(signal=signal.SIGSEGV)),
        ("kill -KILL $$", ExitInfo(signal=signal.SIGKILL)),
    ],
)
async def test_a_process_ends_as_it_ends(sandbox: Sandbox, text: str, ending: ExitInfo) -> None:
    """A process's own exit code or signal is what is reported."""
    assert (await run_to_end(sandbox, shell_command(text)))[0] == ending


async def test_a_program_gets_what_its_command_says(sandbox: Sandbox) -> None:
    """Environment, working directory and arguments are the command's, and nothing besides."""
    command = ProcessSpec(argv=("/usr/bin/env",), env={"A": "ä b", "B": ""}, cwd="/")
    assert (await run_to_end(sandbox, command))[1] == "A=ä b\nB=\n"
    command = ProcessSpec(argv=("sh", "-c", 'echo "$PWD" "$1"', "-", "x y"), env=ENV, cwd="/usr")
    assert (await run_to_end(sandbox, command))[1] == "/usr x y\n"


async def test_a_program_has_three_descriptors(sandbox: Sandbox) -> None:
    """No descriptor but /dev/null and two pipes reaches a program, executed or called."""
    code = "import os; print({fd: os.readlink(f'/proc/self/fd/{fd}') for fd in range(30) if "
    code += "os.path.exists(f'/proc/self/fd/{fd}') or os.path.islink(f'/proc/self/fd/{fd}')})"

    for command in (forked_program(code), shell_command("ls -l /proc/$$/fd")):
        _, out, _ = await run_to_end(sandbox, command)
        assert out.count("pipe:") == 2
        assert out.count("/dev/null") == 1
        assert out.count("/proc/") + out.count("socket:") == 0


async def test_streams_are_kept_apart(sandbox: Sandbox) -> None:
    """Descriptors 1 and 2 are two outputs."""
    _, out, err = await run_to_end(sandbox, shell_command("echo out; echo err >&2"))
    assert (out, err) == ("out\n", "err\n")


async def test_a_failed_start_has_the_reason(sandbox: Sandbox) -> None:
    """What cannot be executed is an error with the system's message, never an exit code."""
    cases = [
        (ProcessSpec(argv=("/does/not/exist",), env={}, cwd="/"), "No such file or directory"),
        (
            ProcessSpec(argv=("nothing-of-that-name",), env=ENV, cwd="/"),
            "No such file or directory",
        ),
        (ProcessSpec(argv=("/etc/passwd",), env={}, cwd="/"), "Permission denied"),
        (ProcessSpec(argv=("/bin/true",), env={}, cwd="/does/not/exist"), "/does/not/exist"),
        (forked_program("", cwd="/etc/passwd"), "Not a directory"),
        (ProcessSpec(argv=("/bin/true",), env={"A": "\ud800"}, cwd="/"), "surrogates not allowed"),
    ]

    for command, message in cases:
        with pytest.raises(KernelStartFailed, match=message):
            await sandbox.spawn(command)
    assert (await run_to_end(sandbox, shell_command("exit 3")))[0] == ExitInfo(code=3)


async def test_a_failed_start_leaves_no_descriptor_and_no_process(sandbox: Sandbox) -> None:
    """After a failed start everything is as it was before."""
    command = ProcessSpec(argv=("/does/not/exist",), env={}, cwd="/")
    before = count_descriptors(os.getpid())
    for _ in range(20):
        with pytest.raises(KernelStartFailed):
            await sandbox.spawn(command)
    assert count_descriptors(os.getpid()) == before
    assert sandbox.pid is not None
    await asyncio.sleep(0.1)
    assert descendants(sandbox.pid) == []


async def test_a_large_environment_arrives(sandbox: Sandbox) -> None:
    """Environments and arguments of hundreds of kilobytes are no problem."""
    env = {**ENV, **{f"BIG{number}": "x" * 100_000 for number in range(8)}}

    command = shell_command("echo ${#BIG0} ${#BIG7}", env=env)
    assert (await run_to_end(sandbox, command))[1] == "100000 100000\n"
    command = forked_program("import os; print(sum(map(len, os.environ.values())))", env=env)
    assert int((await run_to_end(sandbox, command))[1]) > 800_000


async def test_signals_reach_the_process_group(sandbox: Sandbox) -> None:
    """A signal goes to a process and to the children that stayed in its group."""
    text = "trap 'echo parent; wait; exit 5' USR1; sh -c 'trap \"echo child; exit\" USR1; "
    text += "echo ready; while :; do sleep 0.05; done' & while :; do sleep 0.05; done"

    process = await sandbox.spawn(shell_command(text))
    async for chunk in process.stdout:
        if b"ready" in chunk:
            break
    await process.signal(signal.SIGUSR1)
    assert await asyncio.wait_for(process.ended, 30) == ExitInfo(code=5)
    assert sorted(process.stdout.tail().split()) == [b"child", b"parent", b"ready"]
    await process.signal(signal.SIGUSR1)  # it has ended: nothing happens


@pytest.mark.parametrize("kills_group", [True, False])
async def test_kill_group_on_exit(sandbox: Sandbox, kills_group: bool) -> None:
    """Members of a group outlive their leader, unless its signal came with kill_group_on_exit."""
    text = (
        "trap '' INT; sleep 600 & left=$!; trap 'exit 3' INT; echo $left; "
        "while :; do sleep 0.01; done"
    )

    process = await sandbox.spawn(shell_command(text))
    [left] = await wait_for_lines(process, 1)
    await process.signal(signal.SIGINT, kill_group_on_exit=kills_group)
    assert await asyncio.wait_for(process.ended, 20) == ExitInfo(code=3)
    if not kills_group:
        assert running_pids([int(left)])
        return
    await until(lambda: not running_pids([int(left)]))


async def test_a_failed_start_has_the_error_number(sandbox: Sandbox) -> None:
    """The system's error number comes with its message."""
    for path, number in (("/no/such", errno.ENOENT), ("/etc/passwd", errno.EACCES)):
        with pytest.raises(ProcessNotStarted) as caught:
            await sandbox.spawn(ProcessSpec(argv=(path,), env=ENV, cwd="/tmp"))
        assert caught.value.errno == number
        assert caught.value.reason == f"{os.strerror(number)}: {path}"


async def test_a_signal_touches_its_process_only(sandbox: Sandbox) -> None:
    """Other processes of the sandbox are in groups of their own."""
    first = await sandbox.spawn(shell_command("sleep 600"))
    second = await sandbox.spawn(shell_command("sleep 600"))
    await first.signal(signal.SIGTERM)
    assert await asyncio.wait_for(first.ended, 30) == ExitInfo(signal=signal.SIGTERM)
    assert second.is_running
    assert not first.is_running


async def test_waiting_for_an_ending_may_be_cancelled(sandbox: Sandbox) -> None:
    """Who gives up waiting takes nothing from others."""
    process = await sandbox.spawn(shell_command("sleep 600"))
    patient = asyncio.ensure_future(process.ended)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.ended, 0.01)
    await process.signal(signal.SIGKILL)
    assert await asyncio.wait_for(patient, 30) == ExitInfo(signal=signal.SIGKILL)


async def test_an_orphan_outlives_its_process_but_not_the_sandbox(sandbox: Sandbox) -> None:
    """Daemons live on when the process that started them has ended, until the sandbox closes."""
    _, out, _ = await run_to_end(sandbox, shell_command("setsid sleep 600 & echo $!"))
    daemon = [int(out)]
    assert running_pids(daemon) == daemon
    assert sandbox.is_running
    await sandbox.aclose()
    assert running_pids(daemon) == []


async def test_closing_ends_what_does_not_want_to_end(sandbox: Sandbox) -> None:
    """Deaf, double-forked processes in sessions of their own are dead when aclose returns."""
    pids = await spawn_stubborn(sandbox)
    (sandbox.runtime_directory / "left").mkdir(mode=0o000)
    assert running_pids(pids) == pids
    await sandbox.aclose("session deleted")
    assert running_pids(pids) == []
    assert not sandbox.runtime_directory.exists()
    assert sandbox.pid is not None
    assert not psutil.pid_exists(sandbox.pid)


async def test_the_reason_of_closing_is_part_of_every_ending(sandbox: Sandbox) -> None:
    """A reason is given to the sandbox and to running processes, not to those that ended before."""
    early = await sandbox.spawn(shell_command("exit 4"))
    await early.ended
    late = await sandbox.spawn(shell_command("sleep 600"))
    await asyncio.gather(sandbox.aclose("session deleted"), sandbox.aclose("too late"))
    await sandbox.aclose()
    assert (await late.ended).description == "session deleted"
    assert (await late.ended).exit_code == 137
    assert (await sandbox.ended).description == "session deleted"
    assert await early.ended == ExitInfo(code=4)


async def test_a_closed_sandbox_starts_nothing(sandbox: Sandbox) -> None:
    """spawn on a sandbox that has ended is an error of the domain."""
    await sandbox.aclose()
    assert not sandbox.is_running
    with pytest.raises(KernelStartFailed, match="its sandbox has ended"):
        await sandbox.spawn(shell_command("exit 0"))


async def test_a_start_that_nobody_waits_for_is_undone(sandbox: Sandbox) -> None:
    """When the caller of spawn is cancelled, the process is killed."""
    assert sandbox.pid is not None
    for turns in range(12):
        start = asyncio.ensure_future(sandbox.spawn(shell_command("sleep 600")))
        for _ in range(turns):
            await asyncio.sleep(0)
        start.cancel()
        await asyncio.wait({start})
    async with asyncio.timeout(20):  # the init learns of each some moments later
        await until(lambda: not any(running_pids([pid]) for pid in descendants(sandbox.pid)))


async def test_the_runtime_directory_is_private_and_short(sandbox: Sandbox) -> None:
    """Its mode is 0700, and sockets in it have paths that the kernel accepts."""
    assert sandbox.runtime_directory.stat().st_mode & 0o777 == 0o700
    assert len(str(sandbox.runtime_directory / "kernel-00000")) <= 107


async def test_a_cancelled_opening_leaves_nothing() -> None:
    """Whenever the caller of open_sandbox gives up, no process and no directory is left."""
    async with open_sandboxes() as sandboxes:
        first = await new_sandbox(sandboxes)
        for turns in range(10):
            opening = asyncio.ensure_future(new_sandbox(sandboxes))
            await asyncio.sleep(0.0005 * turns)
            opening.cancel()
            await asyncio.wait({opening})
            if not opening.cancelled():
                await opening.result().aclose()
        assert descendants(sandboxes.zygote.pid) == [first.pid]
        assert {path.name for path in first.runtime_directory.parent.iterdir()} == {
            first.runtime_directory.name,
            "zygote",
        }


async def test_fifty_at_once() -> None:
    """Fifty sandboxes open, run a program each, and close, all at the same time."""

    async def life(sandboxes: Sandboxes, number: int) -> str:
        sandbox = await new_sandbox(sandboxes)
        _, out, _ = await run_to_end(sandbox, forked_program(f"print({number})"))
        await sandbox.aclose()
        return out

    async with open_sandboxes() as sandboxes:
        outs = await asyncio.gather(*(life(sandboxes, number) for number in range(50)))
        assert outs == [f"{number}\n" for number in range(50)]


async def test_a_hundred_cycles_leak_nothing() -> None:
    """After 100 cycles server and zygote hold the same descriptors, processes, directories."""

    async def count(pid: int, runtime: Path) -> tuple[int, int, int, int]:
        here, there = count_descriptors(os.getpid()), count_descriptors(pid)
        return here, there, len(descendants(pid)), len(list(runtime.iterdir()))

    async def cycle(sandboxes: Sandboxes) -> Path:
        sandbox = await new_sandbox(sandboxes)
        await sandbox.spawn(shell_command("sleep 600 & exit 0"))
        process = await sandbox.spawn(forked_program("print('x')"))
        await process.ended
        await sandbox.aclose()
        return sandbox.runtime_directory.parent

    async with open_sandboxes() as sandboxes:
        runtime = await cycle(sandboxes)
        before = await count(sandboxes.zygote.pid, runtime)
        for _ in range(25):
            await asyncio.gather(*(cycle(sandboxes) for _ in range(4)))
        assert await count(sandboxes.zygote.pid, runtime) == before


async def test_the_loop_is_never_blocked() -> None:
    """Opening, starting, signalling and closing make no blocking call on the event loop."""
    async with open_sandboxes() as sandboxes:
        with blockbuster_ctx("era_kernels"):
            sandbox = await new_sandbox(sandboxes)
            process = await sandbox.spawn(
                shell_command("sleep 600", env={**ENV, "B": "x" * 100_000})
            )
            await process.signal(signal.SIGTERM)
            await process.ended
            await sandbox.aclose()


async def test_closing_all_closes_each() -> None:
    """When the sandboxes are closed everything is dead, the zygote too, and nothing opens."""
    async with open_sandboxes() as sandboxes:
        pids = [pid for _ in range(3) for pid in await spawn_stubborn(await new_sandbox(sandboxes))]
        zygote = sandboxes.zygote.pid
        await sandboxes.aclose()
        await sandboxes.aclose()
        assert running_pids([*pids, zygote]) == []
        with pytest.raises(ShuttingDown):
            await new_sandbox(sandboxes)
