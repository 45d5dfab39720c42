"""The rule of the Python kernel: what a user sees is what `python main.py` would show."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from era_kernels.kernels.machine import Machine
from era_kernels.kernels.machines import Machines
from era_kernels.models import (
    ExecutionEnd,
    InputRequest,
    KernelRequest,
    Limits,
    Output,
    Stderr,
    Stdout,
)
from tests.kernels.conftest import make_paths
from tests.kernels.test_machine import run
from tests.kernelspecs.python.programs import ENDINGS, PROGRAMS
from tests.kernelspecs.python.programs_descriptors import DESCRIPTORS
from tests.kernelspecs.python.programs_forks import FORKS
from tests.kernelspecs.python.programs_frames import FRAMES
from tests.kernelspecs.python.programs_source import SOURCE_PROGRAMS

ALL_PROGRAMS = PROGRAMS | ENDINGS | FORKS | DESCRIPTORS | FRAMES | SOURCE_PROGRAMS
# Programs that end their process, and the kernel with it.
LAST = {"exec", "exec in PATH", "exec with an environment", "exec large", "_exit", "exit of C"}
ProgramResult = tuple[str, str, int]


def run_plain(directory: Path, program: str) -> ProgramResult:
    """Returns output and exit code of the plain interpreter, its file named as cells are."""
    file = directory / "main.py"
    file.write_bytes(program.encode())
    done = subprocess.run(
        [sys.executable, "main.py"],
        cwd=directory,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        timeout=60,
    )
    stdout, stderr = (text.replace(str(file), "<cell 1>") for text in (done.stdout, done.stderr))
    code = done.returncode if done.returncode >= 0 else 128 - done.returncode
    return stdout, stderr.replace("main.py:", "<cell 1>:"), code


async def run_in_session(
    host: Machines, directory: Path, program: str
) -> tuple[ProgramResult, ExecutionEnd]:
    """Returns the same of a run on a kernel, and its end."""
    machine = await host.open("python", make_paths(directory), Limits(), {})
    late: list[Output] = []
    machine.kernel.on_late_output = late.extend
    request = KernelRequest(program, {}, 60, 1, ends_program=True)
    items: list[Output | ExecutionEnd] = []
    async for batch in machine.kernel.execute(request):
        items += batch
        for item in batch:
            if isinstance(item, InputRequest):
                machine.kernel.control.send_eof(item.key)
    await machine.aclose()
    assert not late
    assert not machine.take_stderr()
    finished = items[-1]
    assert isinstance(finished, ExecutionEnd)
    stdout = "".join(item.content for item in items if isinstance(item, Stdout))
    stderr = "".join(item.content for item in items if isinstance(item, Stderr))
    return (stdout, stderr, finished.exit_code), finished


def without_addresses(ending: ProgramResult) -> ProgramResult:
    stdout, stderr, code = ending
    return re.sub("0x[0-9a-f]+", "0x", stdout), re.sub("0x[0-9a-f]+", "0x", stderr), code


@pytest.mark.parametrize("name", ALL_PROGRAMS)
async def test_program(host: Machines, tmp_path: Path, name: str) -> None:
    """Output, errors and exit code are those of the plain interpreter; the state is kept."""
    expected = run_plain(tmp_path, ALL_PROGRAMS[name])
    found, end = await run_in_session(host, tmp_path / "place", ALL_PROGRAMS[name])
    assert without_addresses(found) == without_addresses(expected)
    assert end.state == ("lost" if name in LAST else "preserved")


@pytest.mark.parametrize("program", DESCRIPTORS.values(), ids=list(DESCRIPTORS))
async def test_output_after_redirection(machine: Machine, program: str) -> None:
    """Whatever a run leaves in the places of stdout and stderr, those of the next are its own."""
    await run(machine, program)
    request = KernelRequest("import sys\nprint('out')\n_ = sys.stderr.write('err\\n')", {}, 60, 1)
    items = [item async for batch in machine.kernel.execute(request) for item in batch]
    assert items == [Stdout("out\n"), Stderr("err\n"), ExecutionEnd(0)]


ENDLESS = [
    "while True: print(1)",
    "import os\nwhile True:\n    print(1, flush=True)\n    os.write(1, b'2\\n')",
    "import subprocess\nwhile True:\n    print(1)\n    subprocess.run(['echo', '2'])",
    "while True: display(1)",
    "import asyncio\nwhile True:\n    print(1)\n    await asyncio.sleep(0)",
    "import asyncio\nawait asyncio.sleep(60)",
    "import asyncio\nasync def f():\n    while True: await asyncio.sleep(0)\nasyncio.run(f())",
    "import asyncio\nasyncio.get_event_loop().run_until_complete(asyncio.sleep(60))",
    "import threading\nwhile True:\n    t = threading.Thread(None, print)\n    t.start(); t.join()",
]


@pytest.mark.parametrize("program", ENDLESS)
async def test_interrupt_at_any_moment(machine: Machine, program: str) -> None:
    """An interrupt at any moment, also while a run begins, ends the run and nothing else."""

    for attempt in range(6):
        running = asyncio.create_task(run(machine, program))
        await asyncio.sleep(attempt * 0.004)
        while not running.done():  # before the program runs, there is nothing to interrupt
            await machine.kernel.interrupt()
            await asyncio.wait([running], timeout=1)
        _, finished = running.result()
        raised = finished.exception.value if finished.exception is not None else ""
        # `threading` itself raises this when it is struck between taking a lock and its `try`.
        expected = (
            1 if raised in ("release unlocked lock", "cannot notify on un-acquired lock") else 130
        )
        assert (finished.exit_code, finished.state) == (expected, "preserved"), raised
        assert await run(machine, "print('whole')") == ("whole\n", ExecutionEnd(0))
