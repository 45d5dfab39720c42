"""The fakes have the methods and behaviour of the real classes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

from era_kernels.kernels.kernel import Kernel
from era_kernels.kernels.machine import Machine
from era_kernels.kernels.machines import Machines
from era_kernels.models import (
    EndReason,
    ExecutionEnd,
    ExitInfo,
    KernelRequest,
    Limits,
    SessionPaths,
    Stdout,
)
from tests.fakes import FakeHost, FakeKernel, FakeMachine, Item, Script, endless

PATHS = SessionPaths(Path("/w"), Path("/p"), Path("/c"))


async def play(script: Script, timeout: float = 30) -> tuple[FakeMachine, list[Item]]:
    machine = await FakeHost(script).open("ALPHA", PATHS, Limits(), {})
    request = KernelRequest("code", {}, timeout, 1)
    return machine, [item async for batch in machine.kernel.execute(request) for item in batch]


def test_fakes_have_the_methods_of_the_real_ones() -> None:
    """The fakes have the methods that services call, with the same parameters."""
    shared = {"execute", "interrupt", "wait_ready", "open", "check", "aclose"}
    for real, fake in ((Kernel, FakeKernel), (Machine, FakeMachine), (Machines, FakeHost)):
        for name, method in inspect.getmembers(real, inspect.isfunction):
            if name in shared:
                expected = list(inspect.signature(method).parameters)
                assert list(inspect.signature(getattr(fake, name)).parameters) == expected


async def test_script_is_played_and_finished() -> None:
    """A script's outputs come as batches, and an end is added where it yields none."""

    async def script(
        machine: FakeMachine, request: KernelRequest
    ) -> AsyncIterator[Item | list[Item]]:
        yield Stdout("a")
        yield [Stdout("b"), Stdout("c")]

    machine, items = await play(script)
    assert items == [Stdout("a"), Stdout("b"), Stdout("c"), ExecutionEnd(0)]
    assert [request.code for request in machine.kernel.requests] == ["code"]


async def test_end_of_the_machine_ends_the_run() -> None:
    """A machine that ends in a run ends the run, with the reason."""

    async def script(machine: FakeMachine, request: KernelRequest) -> AsyncIterator[Item]:
        yield Stdout("a")
        await machine.aclose(EndReason.DELETED)
        await asyncio.sleep(60)

    exit_info = ExitInfo(reason=EndReason.DELETED)
    _, items = await play(script)
    assert items == [Stdout("a"), ExecutionEnd(137, state="lost", exit_info=exit_info)]


async def test_endless_program_obeys() -> None:
    """The endless script ends at its deadline, or when it is interrupted."""

    async def interrupt_run() -> list[Item]:
        machine = await FakeHost(endless).open("alpha", PATHS, Limits(), {})
        asyncio.get_running_loop().call_later(0.05, machine.kernel.interrupted.set)
        async with aclosing(machine.kernel.execute(KernelRequest("", {}, 30, 1))) as batches:
            return [item async for batch in batches for item in batch]

    assert await interrupt_run() == [ExecutionEnd(130)]
    assert (await play(endless, 0.05))[1] == [ExecutionEnd(124, timed_out=True)]
