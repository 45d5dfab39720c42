"""The pump: what a kernel says of a run goes to the log, then to the readers, until its end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager

from era_kernels.errors import StorageFailed
from era_kernels.kernels.control_client import ControlClient
from era_kernels.kernels.exec_process import ExecProcess, FailedExec
from era_kernels.kernels.machine import Machine
from era_kernels.models import Ending, Finished, InputRequest, Output, Reason, Request
from era_kernels.services.executions import Running
from era_kernels.services.outcome import ended_with

UNHEARD = "the output of the run could not be kept"


async def pump(running: Running, machine: Machine, request: Request, most: int) -> Finished:
    """Run the request and publish what it says; how it ended.

    A run whose log grows past `most` bytes is ended. So is one that cannot be written down: a
    program must not go on when nobody can see what it does.
    """
    try:
        with _seen(running, machine.kernel.control):
            return await _pumped(running, machine.kernel.execute(request), most, machine.aclose)
    except Exception as problem:
        await machine.aclose(UNHEARD)
        if not isinstance(problem, StorageFailed):
            raise
        running.problem = problem
        return ended_with(machine.ended.result())


@contextmanager
def _seen(running: Running, inside: ControlClient) -> Iterator[None]:
    """What the run asks comes from there; who asks for its stack gets it from there."""
    running.inside = inside
    try:
        with running.inputs.of(inside):
            yield
    finally:
        running.inside = None


async def pump_program(
    running: Running, program: ExecProcess | FailedExec, timeout: float, most: int
) -> Finished:
    """The same for a program beside the kernel, which alone is ended."""
    try:
        return await _pumped(running, program.events(timeout), most, program.kill)
    except Exception as problem:
        await program.kill(UNHEARD)
        if not isinstance(problem, StorageFailed):
            raise
        running.problem = problem
        ending = Ending(reason=UNHEARD)
        return Finished(ending.exit_code, ending=ending)


async def _pumped(
    running: Running,
    stream: AsyncGenerator[list[Output | Finished], None],
    most: int,
    end: Callable[[str], Awaitable[None]],
) -> Finished:
    async with aclosing(stream) as batches:
        async for batch in batches:
            last = batch[-1]
            events = [
                event
                for event in batch
                if not isinstance(event, Finished)
                and (not isinstance(event, InputRequest) or running.inputs.take(event))
            ]
            if events:
                await running.publish(events)
            if isinstance(last, Finished):
                return last
            if running.log.size > most:
                await end(f"{Reason.OUTPUT_LIMIT} {size_text(most)}")
    raise RuntimeError("the events of a run ended without an end")


def size_text(size: int) -> str:
    """A size for people, in powers of 1024.

    >>> size_text(1 << 30), size_text(10 << 20), size_text(1000)
    ('1 GiB', '10 MiB', '1000 bytes')
    """
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} bytes"
