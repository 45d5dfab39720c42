"""Programs in machines: their output, their end, and that they have the kernel's isolation."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from era_kernels.errors import KernelStartFailed, StartError
from era_kernels.kernels.exec_process import ExecProcess
from era_kernels.kernels.languages import Languages
from era_kernels.kernels.machine import Machine
from era_kernels.kernels.machines import Machines
from era_kernels.models import (
    EndReason,
    ExecutionEnd,
    ExitInfo,
    InterruptStep,
    KernelRequest,
    Limits,
    Output,
    SessionPaths,
    Stderr,
    Stdout,
)
from era_kernels.sandbox.server.sandboxes import Sandboxes
from era_kernels.sandbox.server.tiers import IsolationPolicy
from tests.kernels.conftest import LANGUAGE, make_paths
from tests.waiting import until

STATUS_FIELDS = (
    "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs",
    "Seccomp", "Seccomp_filters",
)  # fmt: skip
PRINT_ISOLATION = """
import os, re
status = open("/proc/self/status").read()
for name in sorted(os.listdir("/proc/self/ns")):
    print(name, os.readlink(f"/proc/self/ns/{name}"))
print(open("/proc/self/limits").read())
print(*(line for line in status.splitlines() if line.split(":")[0] in STATUS_FIELDS), sep="\\n")
try:
    print(os.listdir("/root"))
except OSError as error:
    print(error.errno)
try:
    open("/etc/era-test", "w")
except OSError as error:
    print(error.errno)
""".replace("STATUS_FIELDS", repr(STATUS_FIELDS))


def shell_argv(text: str) -> list[str]:
    return ["/bin/sh", "-c", text]


async def start_command(machine: Machine, text: str) -> ExecProcess:
    """A command that prints a line when it is ready, and has."""
    program = await machine.start_command(shell_argv(text), {})
    assert isinstance(program, ExecProcess)
    return program


async def collect_items(
    machine: Machine, text: str, timeout: float = 30
) -> tuple[list[Output | ExecutionEnd], ExecutionEnd]:
    program = await start_command(machine, text)
    items = [item async for batch in program.events(timeout) for item in batch]
    assert isinstance(items[-1], ExecutionEnd)
    return items[:-1], items[-1]


async def run_command(machine: Machine, text: str, timeout: float = 30) -> tuple[str, ExecutionEnd]:
    items, finished = await collect_items(machine, text, timeout)
    return "".join(item.content for item in items if isinstance(item, Stdout | Stderr)), finished


@asynccontextmanager
async def machine_without_kernel(host: Machines, directory: Path) -> AsyncIterator[Machine]:
    machine = await host.open(LANGUAGE, make_paths(directory), Limits(), {}, kernel=False)
    try:
        yield machine
    finally:
        await machine.aclose()


# ---------------------------------------------------------------- output and ends


async def test_output_and_end(machine: Machine) -> None:
    """Both streams, and the program's own exit code."""
    items, finished = await collect_items(machine, "echo a; echo b >&2; exit 3")
    assert Stdout("a\n") in items
    assert Stderr("b\n") in items
    assert finished == ExecutionEnd(3)


async def test_output_comes_while_it_runs(machine: Machine) -> None:
    """The first line is there before the program ends; many lines come in few batches."""
    program = await start_command(machine, "echo first; read line < /dev/null; sleep 600")
    async with aclosing(program.events(60)) as batches:
        assert await asyncio.wait_for(anext(batches), 10) == [Stdout("first\n")]
        await program.kill("enough")
    program = await start_command(machine, "for i in $(seq 3000); do echo $i; done")
    batches_of = [batch async for batch in program.events(60)]
    text = "".join(i.content for b in batches_of for i in b if isinstance(i, Stdout))
    assert text == "".join(f"{n}\n" for n in range(1, 3001))
    assert len(batches_of) < 1000


async def test_slow_consumer_slows_the_program(machine: Machine) -> None:
    """A program whose output is not taken waits; not a byte is lost and little is buffered."""
    program = await start_command(machine, "head -c 12000000 /dev/zero | tr '\\0' x; echo done >&2")
    total, largest = 0, 0
    async with aclosing(program.events(60)) as batches:
        async for batch in batches:
            size = sum(len(i.content) for i in batch if isinstance(i, Stdout))
            total, largest = total + size, max(largest, size)
            await asyncio.sleep(0.05)
    assert total == 12_000_000
    assert largest < 4 << 20


async def test_consumer_that_leaves(machine: Machine) -> None:
    """The program goes on, and nobody needs to read what it prints."""
    program = await start_command(machine, "echo one; seq 200000; echo x > $TMPDIR/left; sleep 600")
    async with aclosing(program.events(600)) as batches:
        await anext(batches)
    for _ in range(400):
        if (await run_command(machine, "cat $TMPDIR/left"))[0] == "x\n":
            break
        await asyncio.sleep(0.05)
    else:
        raise AssertionError("it waits for a reader")
    await program.kill("enough")


async def test_signals(machine: Machine) -> None:
    """A signal that ended the program is reported; the machine goes on."""
    for name in ("SEGV", "KILL", "INT"):
        _, finished = await run_command(machine, f"kill -{name} $$")
        number = signal.Signals[f"SIG{name}"].value
        assert finished == ExecutionEnd(128 + number, exit_info=ExitInfo(signal=number))
    assert machine.is_running


async def test_deadline(machine: Machine) -> None:
    """At its deadline a program is interrupted, and killed where that does not help."""
    assert await run_command(machine, "trap 'echo bye; exit 3' INT; sleep 60 & wait", 0.3) == (
        "bye\n",
        ExecutionEnd(124, timed_out=True),
    )
    began = time.monotonic()
    text, finished = await run_command(machine, "trap '' INT; echo on; sleep 60", 0.3)
    assert (text, finished.exit_code, finished.state) == ("on\n", 124, "preserved")
    assert time.monotonic() - began < 10


# ---------------------------------------------------------------- interrupts


async def interrupt_command(
    machine: Machine, text: str
) -> tuple[str, ExecutionEnd, list[InterruptStep]]:
    """Returns the result of a command that was interrupted when it had printed something."""
    program = await start_command(machine, text)
    items: list[Output | ExecutionEnd] = []
    first = asyncio.Event()

    async def consume() -> None:
        async with aclosing(program.events(60)) as batches:
            async for batch in batches:
                items.extend(batch)
                first.set()

    consumer = asyncio.create_task(consume())
    await asyncio.wait_for(first.wait(), 20)
    both = await asyncio.gather(program.interrupt(), program.interrupt())
    assert both[0] == both[1]
    await consumer
    assert isinstance(items[-1], ExecutionEnd)
    return "".join(i.content for i in items if isinstance(i, Stdout)), items[-1], both[0]


async def test_interrupt(machine: Machine) -> None:
    """A program that handles interrupts ends at the first; its group gets it, too."""

    # Not `sleep`: a shell that is just starting a child may miss the first interrupt.
    child = "python3 -c 'import time; print(\"on\", flush=True); time.sleep(60)'"
    text, finished, steps = await interrupt_command(machine, f"{child}; echo never")
    assert (text, finished.exit_code) == ("on\n", 130)
    assert finished.state == "preserved"
    assert [step.action for step in steps] == ["interrupt"]


async def test_interrupt_twice(machine: Machine) -> None:
    """A program that ends only at the second interrupt gets it."""
    again = "trap 'trap \"exit 4\" INT' INT; echo on; while :; do sleep 0.05; done"
    _, finished, steps = await interrupt_command(machine, again)
    assert finished == ExecutionEnd(4, interrupted=True)
    assert [step.action for step in steps] == ["interrupt", "interrupt again"]
    assert steps[1].seconds >= 0.4


async def test_interrupt_of_an_uninterruptible_program(machine: Machine) -> None:
    """A program that ignores interrupts is killed; the kernel and its variables remain."""
    items = [
        i async for b in machine.kernel.execute(KernelRequest("kept = 5", {}, 30, 1)) for i in b
    ]
    assert items == [ExecutionEnd(0)]
    _, finished, steps = await interrupt_command(machine, "trap '' INT; echo on; sleep 60")
    ending = ExitInfo(reason=EndReason.INTERRUPTED)
    assert finished == ExecutionEnd(130, exit_info=ending, interrupted=True)
    assert [step.action for step in steps] == ["interrupt", "interrupt again", "end"]
    items = [
        i async for b in machine.kernel.execute(KernelRequest("print(kept)", {}, 30, 2)) for i in b
    ]
    assert items == [Stdout("5\n"), ExecutionEnd(0)]


# ---------------------------------------------------------------- machines without a kernel


async def test_kernel_joins(host: Machines, tmp_path: Path) -> None:
    """A kernel that is started later is in the same machine, and takes it along at its end."""
    async with machine_without_kernel(host, tmp_path) as machine:
        assert not machine.has_kernel
        program = await start_command(machine, "echo $$; sleep 600")
        events = program.events(60)
        [first] = await anext(events)
        assert isinstance(first, Stdout)
        await machine.start_kernel({"ERA_SESSION": "true"})
        assert machine.has_kernel
        code = f"import os; os.kill({int(first.content)}, 0); os._exit(7)"
        last = [i async for b in machine.kernel.execute(KernelRequest(code, {}, 30, 1)) for i in b]
        assert last[-1] == ExecutionEnd(7, state="lost", exit_info=ExitInfo(code=7))
        [end] = [item async for batch in events for item in batch]
        ending = ExitInfo(reason="the kernel ended: exit 7")
        assert end == ExecutionEnd(137, state="lost", exit_info=ending)
        late = await machine.start_command(["true"], {})
        assert [b async for b in late.events(1)] == [
            [ExecutionEnd(137, state="lost", exit_info=ending)]
        ]


async def test_end_while_a_kernel_starts(
    host: Machines, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A machine that is ended on purpose leaves no failure in the server's log."""
    async with machine_without_kernel(host, tmp_path) as machine:
        starting = asyncio.create_task(machine.start_kernel({}))
        await until(lambda: machine._kernel_process is not None)
        await machine.aclose(EndReason.RESTARTED)
        with pytest.raises(KernelStartFailed):
            await starting
        assert machine.ended.result() == ExitInfo(reason=EndReason.RESTARTED)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("reason", [EndReason.RESTARTED, EndReason.DELETED])
async def test_reason_is_told(host: Machines, tmp_path: Path, reason: EndReason) -> None:
    """When the machine is closed, programs say why."""
    async with machine_without_kernel(host, tmp_path) as machine:
        program = await start_command(machine, "sleep 600")
        await machine.aclose(reason)
        [end] = [item async for batch in program.events(60) for item in batch]
        assert end == ExecutionEnd(137, state="lost", exit_info=ExitInfo(reason=reason))


async def test_connection_file_that_lies_there(host: Machines, tmp_path: Path) -> None:
    """Programs that were there first cannot have the server write elsewhere: no kernel starts.

    They end with the machine, and their end says so.
    """
    async with machine_without_kernel(host, tmp_path) as machine:
        program = await start_command(machine, "sleep 600")
        target = tmp_path / "target"
        trap = machine._sandbox.runtime_directory / "kernel.json"
        trap.symlink_to(target)
        with pytest.raises(Exception, match="could not be started"):
            await machine.start_kernel({})
        assert machine.ended.done()
        assert not target.exists()
        [end] = [item async for batch in program.events(60) for item in batch]
        ending = ExitInfo(reason="the kernel did not start")
        assert end == ExecutionEnd(137, state="lost", exit_info=ending)


# ---------------------------------------------------------------- the same isolation


@pytest.mark.parametrize("tier", [1, 2, 3])
async def test_isolation_is_that_of_the_kernel(tier: int) -> None:
    """Namespaces, uid, capabilities, filters and limits: nothing differs."""
    if os.geteuid() != 0 and tier == 2:
        pytest.skip("needs root")
    languages = Languages.load()
    with tempfile.TemporaryDirectory(prefix="era-", dir="/tmp") as name:
        base = Path(name)
        place = SessionPaths(base / "w", base / "p", base / "c")
        for part in (place.workspace, place.packages, place.cache):
            part.mkdir()
        wish = IsolationPolicy(
            strongest_tier=tier,
            weakest_tier=tier,
            allow_weak_tier3=True,
            readable_paths=languages.readable_paths,
        )
        try:
            sandboxes = await Sandboxes.open(
                base / "r", languages.preload, languages.entry_paths, wish
            )
        except StartError as error:
            pytest.skip(str(error))
        host = Machines(languages, sandboxes)
        try:
            limits = Limits(memory=1 << 30, processes=64, open_files=256, file_size=1 << 20)
            machine = await host.open(LANGUAGE, place, limits, {})
            program = await machine.start_command(["python3", "-c", PRINT_ISOLATION], {})
            items = [i async for b in program.events(60) for i in b]
            request = KernelRequest(PRINT_ISOLATION, {}, 60, 1)
            kernel_items = [i async for b in machine.kernel.execute(request) for i in b]
        finally:
            await host.aclose()
            await sandboxes.aclose()
    texts = [
        "".join(i.content for i in one if isinstance(i, Stdout | Stderr))
        for one in (items, kernel_items)
    ]
    assert items[-1] == kernel_items[-1] == ExecutionEnd(0), texts
    assert texts[0] == texts[1]
    assert "Seccomp:\t2" in texts[0]
    assert "NoNewPrivs:\t1" in texts[0]
