"""Machines with real kernels: what runs, what is stopped, what is left when they end."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import psutil
import pytest
from tornado.ioloop import IOLoop

from era_kernels.errors import KernelStartFailed, LanguageUnavailable, ShuttingDown
from era_kernels.kernels.languages import Languages
from era_kernels.kernels.machine import Machine
from era_kernels.kernels.machines import Machines
from era_kernels.models import (
    EndReason,
    ExecutionEnd,
    ExitInfo,
    KernelRequest,
    Limits,
    Output,
    Stderr,
    Stdout,
)
from tests.conftest import entered
from tests.kernels.conftest import LANGUAGE, make_paths, open_host
from tests.kernels.test_kernelspecs import add_kernelspec
from tests.waiting import until


async def run(machine: Machine, code: str, timeout: float = 30) -> tuple[str, ExecutionEnd]:
    """All that a run wrote to stdout, and its end."""
    request = KernelRequest(code, {}, timeout, 1)
    items = [item async for batch in machine.kernel.execute(request) for item in batch]
    text = "".join(item.content for item in items if isinstance(item, Stdout))
    assert isinstance(items[-1], ExecutionEnd), items
    return text, items[-1]


@asynccontextmanager
async def open_machine(host: Machines, directory: Path) -> AsyncIterator[Machine]:
    machine = await host.open(LANGUAGE, make_paths(directory), Limits(), {})
    try:
        yield machine
    finally:
        await machine.aclose()


@pytest.fixture
def own_machine(io_loop: IOLoop, host: Machines, tmp_path: Path) -> Iterator[Machine]:
    """A machine that the test may end."""
    with entered(io_loop, open_machine(host, tmp_path)) as machine:
        yield machine


# ---------------------------------------------------------------- runs


async def test_state_lives_from_run_to_run(machine: Machine) -> None:
    """What one run defines, the next one sees."""
    assert await run(machine, "x = 41") == ("", ExecutionEnd(0))
    assert await run(machine, "print(x + 1)") == ("42\n", ExecutionEnd(0))


async def test_environment_is_built_from_empty(host: Machines, machine: Machine) -> None:
    """A kernel has the session's variables, and none of the server's."""
    names, _ = await run(machine, "import os; print(*os.environ)")
    assert {"ERA_SESSION", "HOME", "PATH", "LANG", "JPY_PARENT_PID"} <= set(names.split())
    own = {
        "HOME",
        "PATH",
        "LANG",
        "LC_ALL",
        "TMPDIR",
        *host.languages.resolve(LANGUAGE).default.env,
    }
    foreign = set(os.environ) - own
    assert not foreign & set(names.split())


async def test_home_is_the_working_directory(machine: Machine) -> None:
    """Code starts in its workspace, which is empty."""
    code = "import os; print(os.getcwd() == os.environ['HOME'], os.listdir())"
    assert (await run(machine, code))[0] == "True []\n"


async def test_both_streams_keep_their_order(machine: Machine) -> None:
    """Texts of the two streams come in the order in which they were written."""
    code = "import sys\nfor n in range(20):\n    print(n)\n    print(n, file=sys.stderr)"

    async def body() -> list[Output | ExecutionEnd]:
        request = KernelRequest(code, {}, 30, 1)
        return [item async for batch in machine.kernel.execute(request) for item in batch]

    texts = [item for item in await body() if isinstance(item, Stdout | Stderr)]
    assert texts == [kind(f"{n}\n") for n in range(20) for kind in (Stdout, Stderr)]


async def test_ten_megabytes_arrive_whole(machine: Machine) -> None:
    """Not one byte of 100 000 lines is lost, also when the consumer is slow."""
    code = "for n in range(100_000): print(f'{n:06d}', 'x' * 92)"

    pieces = []
    async with aclosing(machine.kernel.execute(KernelRequest(code, {}, 60, 1))) as batches:
        async for batch in batches:
            pieces += [item.content for item in batch if isinstance(item, Stdout)]
            await asyncio.sleep(0.005)
    text = "".join(pieces)
    assert len(text) == 10_000_000
    assert text == "".join(f"{n:06d} {'x' * 92}\n" for n in range(100_000))


async def test_last_output_arrives_whole(own_machine: Machine) -> None:
    """A slow consumer gets all output of a program that prints much and exits at once."""
    code = (
        "import os, sys\n"
        "for n in range(4000):\n    print(f'{n:0500d}')\n    print(n, file=sys.stderr)\n"
        "os._exit(7)"
    )

    items: list[Output | ExecutionEnd] = []
    async with aclosing(own_machine.kernel.execute(KernelRequest(code, {}, 60, 1))) as batches:
        async for batch in batches:
            items += batch
            await asyncio.sleep(0.5)
    text = "".join(item.content for item in items if isinstance(item, Stdout))
    assert text == "".join(f"{n:0500d}\n" for n in range(4000))
    assert items[-1] == ExecutionEnd(7, state="lost", exit_info=ExitInfo(code=7))


async def test_late_output_is_reported_as_late(machine: Machine) -> None:
    """What a daemon thread prints after its run belongs to no run."""
    code = (
        "import threading, time\n"
        "def work():\n    time.sleep(0.5)\n    print('late')\n"
        "threading.Thread(target=work, daemon=True).start()"
    )

    late: list[Output] = []
    machine.kernel.on_late_output = late.extend
    assert await run(machine, code) == ("", ExecutionEnd(0))
    assert await run(machine, "import time; time.sleep(1); print('now')") == (
        "now\n",
        ExecutionEnd(0),
    )
    assert late == [Stdout("late\n")]


# ---------------------------------------------------------------- interrupts and deadlines


async def test_interrupt_keeps_the_state(machine: Machine) -> None:
    """An interrupted run ends with 130 and the kernel goes on at once."""
    running = asyncio.create_task(run(machine, "y = 5\nprint('in'); import time; time.sleep(60)"))
    await asyncio.sleep(0.5)
    began = time.monotonic()
    await machine.kernel.interrupt()
    text, finished = await running
    assert time.monotonic() - began < 5
    assert (text, finished.exit_code, finished.state) == ("in\n", 130, "preserved")
    assert await run(machine, "print(y)") == ("5\n", ExecutionEnd(0))


@pytest.mark.parametrize(
    "code",
    [
        "import time; time.sleep(60)",
        "while True: pass",
        "import asyncio; await asyncio.sleep(60)",
        "import asyncio; asyncio.run(asyncio.sleep(60))",
    ],
)
async def test_program_that_stops_at_its_deadline(machine: Machine, code: str) -> None:
    """A program that can be interrupted has exit code 124 and keeps its variables."""
    await run(machine, "kept = 1")
    _, finished = await run(machine, code, timeout=0.5)
    assert finished == ExecutionEnd(124, timed_out=True)
    assert await run(machine, "print(kept)") == ("1\n", ExecutionEnd(0))


@pytest.mark.parametrize(
    "code",
    [
        "import time\nwhile True:\n    try: time.sleep(60)\n    except BaseException: pass",
        "sum(range(10**12))",
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [2])\nwhile True: pass",
    ],
)
async def test_uninterruptible_program_ends_with_its_machine(
    own_machine: Machine, code: str
) -> None:
    """A program that ignores interrupts ends within five seconds of its deadline, state lost."""
    began = time.monotonic()
    _, finished = await run(own_machine, code, timeout=0.5)
    assert time.monotonic() - began < 5.5
    ending = ExitInfo(reason=EndReason.TIMEOUT)
    assert finished == ExecutionEnd(124, state="lost", exit_info=ending, timed_out=True)
    assert own_machine.ended.result() == ending


# ---------------------------------------------------------------- ends


@pytest.mark.parametrize(
    ("code", "ending"),
    [
        ("import os; os._exit(7)", ExitInfo(code=7)),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", ExitInfo(signal=9)),
        ("import ctypes; ctypes.string_at(0)", ExitInfo(signal=11)),
    ],
)
async def test_death_in_a_run_is_reported(
    own_machine: Machine, code: str, ending: ExitInfo
) -> None:
    """A kernel that dies in a run ends it with its own exit code, after its output."""
    began = time.monotonic()
    text, finished = await run(own_machine, f"print('before', flush=True)\n{code}")
    assert time.monotonic() - began < 5
    assert finished == ExecutionEnd(ending.exit_code, state="lost", exit_info=ending)
    assert text == "before\n"
    assert own_machine.ended.result() == ending


async def test_death_between_runs_is_reported(own_machine: Machine) -> None:
    """A kernel that dies while nothing runs is reported by its machine, and by the next run."""
    code = (
        "import os, threading\n"
        "timer = threading.Timer(0.3, os._exit, [3])\ntimer.daemon = True\ntimer.start()"
    )

    assert await run(own_machine, code) == ("", ExecutionEnd(0))
    assert await asyncio.wait_for(own_machine.ended, 10) == ExitInfo(code=3)
    assert (await run(own_machine, "1"))[1] == ExecutionEnd(
        3, state="lost", exit_info=ExitInfo(code=3)
    )


async def test_everything_dies_with_its_kernel(own_machine: Machine) -> None:
    """Children and daemons do not outlive the kernel, whatever group they are in."""
    code = (
        "import subprocess\n"
        "a = subprocess.Popen(['sleep', '600'])\n"
        "b = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "print(a.pid, b.pid)"
    )

    text, _ = await run(own_machine, code)
    pids = [int(pid) for pid in text.split()]
    assert all(psutil.pid_exists(pid) for pid in pids)
    await run(own_machine, "import os; os._exit(0)")
    await own_machine.aclose()
    assert not any(psutil.pid_exists(pid) for pid in pids)


async def test_closing_ends_the_run_with_the_reason(own_machine: Machine) -> None:
    """A machine that is closed in a run says why, to the consumer of that run."""
    running = asyncio.create_task(run(own_machine, "print('in', flush=True)\nwhile True: pass"))
    await asyncio.sleep(0.5)
    await own_machine.aclose(EndReason.DELETED)
    ending = ExitInfo(reason=EndReason.DELETED)
    assert await running == ("in\n", ExecutionEnd(137, state="lost", exit_info=ending))


# ---------------------------------------------------------------- openings


async def test_many_machines_leave_nothing_behind(host: Machines, tmp_path: Path) -> None:
    """Twenty machines at once work apart from each other; then no trace of them is left."""
    own = psutil.Process()

    def traces() -> tuple[int, int, int]:
        return own.num_fds(), own.num_threads(), len(own.children(recursive=True))

    async def one(number: int) -> None:
        machine = await host.open(LANGUAGE, make_paths(tmp_path / str(number)), Limits(), {})
        await run(machine, f"mine = {number}")
        assert await run(machine, "print(mine)") == (f"{number}\n", ExecutionEnd(0))
        await machine.aclose()

    await one(100)
    await asyncio.gather(*(one(101 + n) for n in range(5)))  # threads of the loop's pool
    before = traces()
    await asyncio.gather(*(one(n) for n in range(20)))
    async with asyncio.timeout(10):  # libzmq closes sockets in a thread of its own
        await until(lambda: traces()[0] <= before[0] and traces()[2] <= before[2])
    assert traces()[1] <= before[1] + 32  # the loop's pool may have grown


async def test_kernel_that_does_not_start(tmp_path: Path) -> None:
    """A kernel that ends instead of starting is refused with its cause, and nothing is left."""
    folder = add_kernelspec(tmp_path / "specs", "alpha", argv=["false", "{connection_file}"])
    add_kernelspec(tmp_path / "specs", "beta", argv=["no-such-program-1"])
    forked = add_kernelspec(tmp_path / "specs", "gamma", era={"entry": "broken:main"})
    (forked / "broken.py").write_text("def main(file): raise RuntimeError('the last words')")
    assert folder.is_dir()

    before = psutil.Process().num_fds()
    async with open_host(Languages.load(builtin=tmp_path / "specs")) as host:
        place = make_paths(tmp_path / "place")
        with pytest.raises(KernelStartFailed, match="exit 1"):
            await host.open("alpha", place, Limits(), {})
        with pytest.raises(LanguageUnavailable, match="no-such-program-1"):
            await host.open("beta", place, Limits(), {})
        with pytest.raises(KernelStartFailed, match="exit 1"):
            await host.open("gamma", place, Limits(), {})
        with pytest.raises(KernelStartFailed, match="could not be started"):
            await host.open("alpha", place, Limits(), {"NUL": "\0"})
        place.workspace.rmdir()
        with pytest.raises(KernelStartFailed, match="could not be started"):
            await host.open("alpha", place, Limits(), {})
    assert psutil.Process().num_fds() <= before


async def test_crash_output_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Why a kernel does not start stands in the server's log, not in the caller's answer."""
    forked = add_kernelspec(tmp_path / "specs", "alpha", era={"entry": "broken:main"})
    (forked / "broken.py").write_text("def main(file): raise RuntimeError('the last words')")

    async with open_host(Languages.load(builtin=tmp_path / "specs")) as host:
        with pytest.raises(KernelStartFailed) as caught:
            await host.open("alpha", make_paths(tmp_path / "place"), Limits(), {})
        assert "last words" not in caught.value.message
    assert any("the last words" in getattr(record, "words", "") for record in caplog.records)


async def test_cancelled_opening_leaves_nothing(host: Machines, tmp_path: Path) -> None:
    """A caller that stops waiting for a machine leaves no process behind, at whatever moment."""
    own = psutil.Process()

    before = len(own.children(recursive=True))
    for number in range(8):
        place = make_paths(tmp_path / str(number))
        opening = asyncio.create_task(host.open(LANGUAGE, place, Limits(), {}))
        await asyncio.sleep(number * 0.01)
        opening.cancel()
        await asyncio.wait([opening])
        if not opening.cancelled():  # it was there already
            await opening.result().aclose()
    await until(lambda: len(own.children(recursive=True)) <= before)


async def test_host_ends_what_is_still_there(tmp_path: Path) -> None:
    """Closing the host ends its machines; then it opens none."""
    async with open_host(Languages.load()) as host:
        machine = await host.open(LANGUAGE, make_paths(tmp_path / "a"), Limits(), {})
        running = asyncio.create_task(run(machine, "while True: pass"))
        await asyncio.sleep(0.2)
        assert host.isolation.tier in range(1, 5)
        await host.check()
    ending = ExitInfo(reason=EndReason.STOPPED)
    assert (await running)[1] == ExecutionEnd(137, state="lost", exit_info=ending)
    with pytest.raises(ShuttingDown):
        await host.open(LANGUAGE, make_paths(tmp_path / "b"), Limits(), {})
