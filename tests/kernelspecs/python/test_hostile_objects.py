"""Whatever a program's exceptions, modules and hooks do: it is answered, and the next run whole."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
import tempfile

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from tornado.ioloop import IOLoop

from era_kernels.kernels.machine import Machine
from era_kernels.kernels.machines import Machines
from era_kernels.models import ExecutionEnd, KernelRequest, Output, Stdout
from tests.kernelspecs.python.conftest import open_machine
from tests.kernelspecs.python.hostile_programs import (
    NEXT_PROGRAM,
    HostileProgram,
    all_single_parts,
    found_programs,
    programs,
)

LATER = 0.3  # seconds after which what a program does later is done
SECONDS = 20  # seconds in which a run is answered: reply and fence
CRASHES = {134, 139}  # exit codes of an interpreter that crashed, as the plain one would

few = settings(
    max_examples=20,
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.generate,),  # each part alone is in the long form: nothing is to be shrunk
    suppress_health_check=list(HealthCheck),
)


async def run(machine: Machine, code: str) -> tuple[str, ExecutionEnd]:
    """Returns what a run wrote to stdout, and its end."""
    items: list[Output | ExecutionEnd] = []

    async def execute() -> None:
        async for batch in machine.kernel.execute(KernelRequest(code, {}, SECONDS, 1)):
            items.extend(batch)

    await asyncio.wait_for(execute(), 3 * SECONDS)
    assert isinstance(items[-1], ExecutionEnd)
    return "".join(item.content for item in items if isinstance(item, Stdout)), items[-1]


def ends_in_plain_python(program: HostileProgram) -> bool:
    """Returns whether the plain interpreter comes to the end of a program within seconds.

    Whether it does may depend on what is imported already: several ways to start it are asked.
    """
    base = f"{sys.base_prefix}/bin/python3"
    for start in ([sys.executable], [sys.executable, "-S"], [base]):
        command = [*start, "-c", program.source]
        with tempfile.TemporaryDirectory() as directory:
            try:
                subprocess.run(command, cwd=directory, capture_output=True, timeout=5, check=False)
            except subprocess.TimeoutExpired:
                return False
    return True


async def check(host: Machines, program: HostileProgram) -> None:
    """Runs the program on a new machine, and the next one after it."""
    async with open_machine(host) as machine:
        _, end = await run(machine, program.source)
        assert type(end.exit_code) is int, program
        if end.timed_out:
            assert not ends_in_plain_python(program), f"not answered: {program!r}"
        if end.state == "lost":
            assert end.exit_code in CRASHES, f"ended with {end.exit_code}: {program!r}"
            return
        if program.acts_later:
            await asyncio.sleep(LATER)
        text, end = await run(machine, NEXT_PROGRAM)
        assert not end.timed_out, f"the next run was not answered: {program!r}"
        crashed_later = program.acts_later and end.exit_code in CRASHES
        if program.is_lasting or crashed_later:
            return
        assert (text, end.exit_code) == ("whole\n", 0), f"the next run failed: {program!r}"


@few
@given(program=programs())
def test_hostile_programs(io_loop: IOLoop, host: Machines, program: HostileProgram) -> None:
    """A few programs of hostile parts."""
    io_loop.run_sync(lambda: check(host, program))


@pytest.mark.parametrize("program", found_programs(), ids=lambda program: " + ".join(program.parts))
def test_found_programs(io_loop: IOLoop, host: Machines, program: HostileProgram) -> None:
    """What was found by drawing stays answered."""
    io_loop.run_sync(lambda: check(host, program))


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(few, max_examples=300)
@given(program=programs())
def test_many_hostile_programs(io_loop: IOLoop, host: Machines, program: HostileProgram) -> None:
    """Three hundred programs of hostile parts."""
    io_loop.run_sync(lambda: check(host, program))


@pytest.mark.long
@pytest.mark.parametrize("program", all_single_parts(), ids=lambda program: program.parts[0])
def test_each_hostile_part(io_loop: IOLoop, host: Machines, program: HostileProgram) -> None:
    """Each part alone: where this fails, the program is as small as it can be."""
    io_loop.run_sync(lambda: check(host, program))


@given(program=programs())
@settings(few, max_examples=50)
def test_programs_are_programs(program: HostileProgram) -> None:
    """What is drawn can be compiled: it fails by what it does, and not by how it is written."""
    compile(program.source, "<cell 1>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
