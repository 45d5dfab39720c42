"""In-memory stand-ins for the kernels' room: the same methods, scripted by tests.

A script is an async generator function of the machine and the request. It yields outputs, or
lists of them, and at last a `Finished`; where it yields none, the run ends with exit code 0:

    async def says_hello(machine, request):
        yield Stdout("hello\\n")

    host = FakeHost(says_hello)
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from era_kernels.errors import EraError, KernelStartFailed
from era_kernels.kernels.languages import NO_MINIMUMS, Language, Languages
from era_kernels.models import (
    Ending,
    Finished,
    Frame,
    Isolation,
    Limits,
    Output,
    Place,
    Reason,
    Request,
    Step,
    Variables,
)

NO_WALLS = Isolation(4, ("files", "network"))
Item = Output | Finished
Script = Callable[["FakeMachine", Request], AsyncIterator[Item | list[Item]]]


async def quiet(machine: FakeMachine, request: Request) -> AsyncIterator[Item]:
    """A program that says nothing."""
    yield Finished(0)


async def endless(machine: FakeMachine, request: Request) -> AsyncIterator[Item]:
    """A program that ends when it is interrupted, at its deadline, or with its machine."""
    try:
        async with asyncio.timeout(request.timeout):
            await machine.kernel.interrupted.wait()
        yield Finished(130)
    except TimeoutError:
        yield Finished(124, timed_out=True)


class FakeInside:
    """What is asked of a kernel beside its runs; `variables_found` and `frames` are told."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.variables_found = Variables()
        self.answers: dict[str, str | None] = {}  # by their keys; None: nobody was there
        self.gone: set[str] = set()  # keys of questions that do not wait any more

    async def stack(self) -> list[Frame]:
        return self.frames

    async def variables(self) -> Variables:
        return self.variables_found

    async def give_input(self, key: str, value: str) -> bool:
        if key in self.gone:
            return False
        self.answers[key] = value
        return True

    def refuse_input(self, key: str) -> None:
        self.answers[key] = None

    async def answer_to(self, key: str) -> str | None:
        """What a program does that waits for its input."""
        while key not in self.answers:
            await asyncio.sleep(0.001)
        return self.answers.pop(key)


class FakeKernel:
    """Notes the requests and plays the script."""

    def __init__(self, machine: FakeMachine, script: Script) -> None:
        self.script = script
        self.inside = FakeInside()
        self.requests: list[Request] = []
        self.stopped: list[Request] = []
        self.interrupts = 0
        self.interrupted = asyncio.Event()
        self.late: Callable[[list[Output]], None] = lambda events: None
        self._machine = machine

    async def wait_ready(self, timeout: float) -> None:
        """Always."""

    async def interrupt(self) -> None:
        self.interrupts += 1
        self.interrupted.set()

    async def escalate_interrupt(self, request: Request) -> list[Step]:
        """The first rung of the ladder; the machine is not ended when nobody listens."""
        self.stopped.append(request)
        await self.interrupt()
        return [Step("interrupt", 0.0)]

    async def execute(self, request: Request) -> AsyncGenerator[list[Item], None]:
        """What the script yields; the end of the machine wins over the script at any time."""
        self.requests.append(request)
        self.interrupted.clear()
        ended = self._machine.ended
        async with aclosing(_played(self.script(self._machine, request))) as batches:
            while not ended.done():
                batch = await _unless(ended, anext(batches))
                if batch is None:
                    break
                yield batch
                if isinstance(batch[-1], Finished):
                    return
        ending = ended.result()
        yield [Finished(ending.exit_code, state="lost", ending=ending)]


async def _unless(ended: asyncio.Future[Ending], step: Awaitable[list[Item]]) -> list[Item] | None:
    """The step's result; None, and the step is cancelled, when the machine ends before."""
    task = asyncio.ensure_future(step)
    try:
        await asyncio.wait([task, ended], return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])


async def _played(
    items: AsyncIterator[Item | list[Item]],
) -> AsyncGenerator[list[Item], None]:
    async for item in items:
        batch = item if isinstance(item, list) else [item]
        yield batch
        if isinstance(batch[-1], Finished):
            return
    yield [Finished(0)]


class FakeProgram:
    """Plays the script with the program's last argument for code; its end is the machine's, too."""

    def __init__(self, machine: FakeMachine, script: Script, request: Request) -> None:
        self.stdin: str | None = None
        self.reasons: list[str] = []
        self._machine = machine
        self._script = script
        self._request = request
        self._ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    async def events(self, timeout: float) -> AsyncGenerator[list[Item], None]:
        machine_ended = self._machine.ended
        machine_ended.add_done_callback(lambda ended: self._end(ended.result()))
        request = replace(self._request, timeout=timeout)
        async with aclosing(_played(self._script(self._machine, request))) as batches:
            while not self._ended.done():
                batch = await _unless(self._ended, anext(batches))
                if batch is None:
                    break
                yield batch
                if isinstance(batch[-1], Finished):
                    return
        ending = self._ended.result()
        state = "lost" if machine_ended.done() else "preserved"
        yield [Finished(ending.exit_code, state=state, ending=ending)]

    async def interrupt(self) -> list[Step]:
        self._end(Ending(signal=2))
        return [Step("interrupt", 0.0)]

    async def kill(self, reason: str) -> None:
        self.reasons.append(reason)
        self._end(Ending(reason=reason))

    def _end(self, ending: Ending) -> None:
        if not self._ended.done():
            self._ended.set_result(ending)


class FakeMachine:
    """A machine without a process. Scripts may look at `place`; `closing` makes its end slow."""

    def __init__(
        self,
        script: Script,
        env: Mapping[str, str],
        place: Place | None = None,
        closing: asyncio.Event | None = None,
        *,
        kernel: bool = True,
    ) -> None:
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.kernel = FakeKernel(self, script)
        self.has_kernel = kernel
        self.late: Callable[[list[Output]], None] = lambda late: None
        self.programs: list[FakeProgram] = []
        self.starting: asyncio.Event | None = None
        self.failure: Exception | None = None
        self.env = dict(env)
        self.place = place
        self.closing = closing

    async def start_kernel(self, env: Mapping[str, str]) -> None:
        """As a real one does: where it fails, or the machine ends meanwhile, all ends."""
        try:
            if self.starting is not None:
                waiting = asyncio.ensure_future(self.starting.wait())
                await asyncio.wait([waiting, self.ended], return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
            if self.failure is not None:
                raise self.failure
            if self.ended.done():
                raise start_failure()
        except BaseException:
            await self.aclose()
            raise
        self.env = dict(env)
        self.has_kernel = True

    async def run(
        self, argv: Sequence[str], env: Mapping[str, str], stdin: str | None = None
    ) -> FakeProgram:
        if self.ended.done():
            raise start_failure()
        program = FakeProgram(self, self.kernel.script, Request(argv[-1], env, 0, 0))
        program.stdin = stdin
        self.programs.append(program)
        return program

    def die(self, ending: Ending) -> None:
        """What a crash does."""
        if not self.ended.done():
            self.ended.set_result(ending)

    async def aclose(self, reason: str | None = None) -> None:
        self.die(Ending(reason=reason or Reason.STOPPED))
        if self.closing is not None:
            await self.closing.wait()


@dataclass
class FakeHost:
    """Opens fake machines and keeps them in `machines`; `failure` is raised by the next opening.

    `opening` is waited for when a test wants a start to take long, `closing` likewise before
    nothing is left of a machine; `broken` is what `check` raises.
    """

    script: Script = quiet
    languages: Languages = field(default_factory=lambda: Languages([a_language("alpha")]))
    isolation: Isolation = NO_WALLS
    enforceable: frozenset[str] = frozenset()
    failure: Exception | None = None
    broken: EraError | None = None
    opening: asyncio.Event | None = None
    closing: asyncio.Event | None = None
    machines: list[FakeMachine] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    limits: list[Limits] = field(default_factory=list)

    async def open(
        self,
        language: str,
        place: Place,
        limits: Limits,
        env: Mapping[str, str],
        *,
        kernel: bool = True,
    ) -> FakeMachine:
        self.languages.resolve_available(language)
        if self.opening is not None:
            await self.opening.wait()
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        machine = FakeMachine(self.script, env, place, self.closing, kernel=kernel)
        self.machines.append(machine)
        self.places.append(place)
        self.limits.append(limits)
        return machine

    async def check(self) -> None:
        if self.broken is not None:
            raise self.broken

    async def aclose(self) -> None:
        for machine in self.machines:
            await machine.aclose(Reason.STOPPED)


def start_failure() -> KernelStartFailed:
    """What an opening raises when a kernel does not come up."""
    return KernelStartFailed("The kernel ended before it was ready: exit 1.")


def a_language(
    name: str, *aliases: str, reason: str | None = None, minimums: Limits = NO_MINIMUMS
) -> Language:
    """A language that runs, or does not for a reason."""
    mode: Literal["signal"] = "signal"
    return Language(
        name=name,
        aliases=aliases,
        directory=Path("/nowhere"),
        argv=("true",),
        entry=None,
        preload=(),
        env={},
        interrupt_mode=mode,
        transport="ipc",
        extension=".txt",
        capabilities=(),
        kernels=(name,),
        unavailable_reason=reason,
        minimums=minimums,
    )
