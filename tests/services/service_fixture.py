"""Opens the services on real stores in a temporary directory; fake kernels run a small language.

A program is a list of instructions, one a line: `out TEXT`, `err TEXT`, `show TEXT` (a display),
`wait` (for its end from outside), `listen` (for an interrupt), `gate NAME` (until the test opens
it), `write NAME TEXT`, `read NAME`, `remove NAME`, `env NAME`, `data TEXT` (into
`.session_data.json`), `exit CODE`, `timeout`, `stuck` (a timeout that costs the kernel),
`die CODE`, `bug`, `ask PROMPT` (and print the answer, or that there is none).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

from era_kernels.kernels.machines import Machines
from era_kernels.models import (
    Display,
    Done,
    EndReason,
    ErrorEvent,
    Event,
    ExecSubmission,
    ExecutionEnd,
    ExitInfo,
    InputRequest,
    KernelRequest,
    Limits,
    LoggedEvent,
    NewSession,
    Session,
    SessionPaths,
    Stderr,
    Stdout,
    Submission,
)
from era_kernels.services.context import ServiceContext
from era_kernels.services.executions.live_execution import LiveExecution
from era_kernels.services.executions.result import RunResult
from era_kernels.services.executions.service import ExecutionService
from era_kernels.services.kernel_limiter import KernelLimiter
from era_kernels.services.metrics import Metrics
from era_kernels.services.mounts import Mounts
from era_kernels.services.public_cutoff import PublicCutoff
from era_kernels.services.session_logs import SessionLogs
from era_kernels.services.sessions import SessionService
from era_kernels.services.validation import ServiceLimits
from era_kernels.storage.data_directory import DataDirectory
from era_kernels.storage.database import Database
from era_kernels.storage.execution_log import ExecutionStore
from era_kernels.storage.files import FileStore
from era_kernels.storage.migrations import MIGRATIONS
from era_kernels.storage.session_log import SessionLogStore
from era_kernels.storage.sessions import SessionStore
from era_kernels.storage.stored_code import CodeStore
from era_kernels.storage.workspaces import Workspaces
from tests.fakes import FakeHost, FakeMachine, Item
from tests.new_database import put_new_database

LANGUAGE = "alpha"
DATA = ".session_data.json"
SESSION_PATHS = SessionPaths(Path("/w"), Path("/p"), Path("/c"))  # no test reads these directories

SERVICE_LIMITS: dict[str, Any] = {
    "default_timeout": 30.0,
    "max_timeout": 3600.0,
    "max_background_timeout": 86400.0,
    "max_queue": 100,
    "max_sessions": 1000,
    "max_kernels": 100,
    "max_execution_output": 1 << 30,
    "max_workspace": 1 << 30,
    "public_by_default": True,
    "allow_internet": True,
}


def make_service_limits(**changes: Any) -> ServiceLimits:
    return ServiceLimits(**{**SERVICE_LIMITS, **changes})


class Services:
    """Holds the services and stores of one data directory."""

    def __init__(
        self,
        path: Path,
        keep: int = 100,
        bound: int = 1 << 20,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        offered: Mapping[str, Path] | None = None,
        **service_limits: Any,
    ) -> None:
        self.path = path
        self.host = FakeHost(self._play)
        self.gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._keep = keep
        self._bound = bound
        self._limits = limits
        self._offered_mounts = offered or {}
        self._service_limits = make_service_limits(**service_limits)
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        directory = DataDirectory.open(self.path)
        self._stack.callback(directory.close)
        await put_new_database(directory.database)
        self.database = await Database.open(directory.database, MIGRATIONS)
        self._stack.push_async_callback(self.database.aclose)
        self.store = SessionStore(self.database)
        self.codes = CodeStore(self.database)
        self.execution_store = ExecutionStore(self.database, directory.sessions)
        self._stack.push_async_callback(self.execution_store.aclose)
        self.workspaces = Workspaces(directory.sessions)
        self._stack.push_async_callback(self.workspaces.aclose)
        self.files = FileStore(directory.sessions, directory.incoming)
        self._stack.push_async_callback(self.files.aclose)
        await self.files.remove_unfinished()
        self.executions = ExecutionService(
            self.execution_store,
            max_kept=self._keep,
            max_kept_bytes=1 << 30,
            max_result_bytes=self._bound,
        )
        self.logs = SessionLogs(SessionLogStore(directory.sessions))
        self._stack.push_async_callback(self.logs.aclose)
        self.metrics = Metrics()
        self.kernel_limiter = KernelLimiter(self._service_limits.max_kernels)
        self.public_cutoff = PublicCutoff()
        self.context = ServiceContext(
            host=cast(Machines, self.host),
            store=self.store,
            codes=self.codes,
            workspaces=self.workspaces,
            files=self.files,
            executions=self.executions,
            logs=self.logs,
            kernel_limiter=self.kernel_limiter,
            service_limits=self._service_limits,
            limits=self._limits,
            mounts=Mounts(self._offered_mounts, cast(Machines, self.host)),
            metrics=self.metrics,
            public_cutoff=self.public_cutoff,
        )
        self.sessions = SessionService(self.context)
        self._stack.push_async_callback(self.sessions.aclose)
        await self.sessions.open()

    async def aclose(self) -> None:
        for event in (self.host.open_gate, self.host.close_gate, *self.gates.values()):
            if event is not None:
                event.set()
        await self._stack.aclose()

    @asynccontextmanager
    async def restarted(self, **fields: Any) -> AsyncIterator[Services]:
        """Opens other services on the same directory, as after a restart; these must be closed."""
        services = Services(self.path, **fields)
        services.host.isolation, services.host.enforceable = (
            self.host.isolation,
            self.host.enforceable,
        )
        await services.open()
        try:
            yield services
        finally:
            await services.aclose()

    # ------------------------------------------------------------ what tests do

    async def create(self, session_id: str = "s1", **fields: Any) -> Session:
        view, _ = await self.sessions.create(NewSession(LANGUAGE, id=session_id, **fields))
        return view.session

    async def submit(self, code: str, session_id: str = "s1", **fields: Any) -> LiveExecution:
        return await self.sessions.submit(session_id, Submission(code, **fields))

    async def run(self, code: str, session_id: str = "s1", **fields: Any) -> RunResult:
        return await (await self.submit(code, session_id, **fields)).result()

    async def exec(self, code: str, session_id: str = "s1", **fields: Any) -> LiveExecution:
        """Submits a command that plays those instructions, beside the queue."""
        return await self.sessions.submit(
            session_id, ExecSubmission(("play", code), code, **fields)
        )

    async def until_commands(self, count: int) -> None:
        """Waits until `count` commands have started."""
        while sum(len(machine.programs) for machine in self.host.machines) < count:
            await sleep_briefly()

    async def session(self, session_id: str = "s1") -> Session:
        return await self.sessions.session(session_id)

    async def until_running(self, count: int) -> None:
        """Waits until `count` requests have reached a kernel."""
        while sum(len(machine.kernel.requests) for machine in self.host.machines) < count:
            await sleep_briefly()

    async def until_starting(self, session_id: str = "s1") -> None:
        while (await self.sessions.get(session_id)).status != "starting":
            await sleep_briefly()

    async def until_free(self, kernels: int) -> None:
        """Waits until so many kernels may be started."""
        while self._service_limits.max_kernels - self.kernel_limiter.holder_count != kernels:
            await sleep_briefly()

    async def workspace(self, session_id: str = "s1") -> Path:
        return self.workspaces.session_paths((await self.session(session_id)).directory).workspace

    @property
    def directories(self) -> list[str]:
        return sorted(path.name for path in (self.path / "sessions").iterdir())

    # ------------------------------------------------------------ what kernels do

    async def _play(self, machine: FakeMachine, request: KernelRequest) -> AsyncIterator[Item]:
        for line in request.code.splitlines():
            word, _, rest = line.partition(" ")
            if word == "gate":
                await self.gates[rest].wait()
            elif word == "ask":
                yield InputRequest(rest, key=rest)
                answer = await machine.kernel.control.wait_for_answer(rest)
                yield Stdout("end of file" if answer is None else answer)
            else:
                item = await _step(machine, request, word, rest)
                if item is not None:
                    yield item
                if isinstance(item, ExecutionEnd):
                    return


async def _step(machine: FakeMachine, request: KernelRequest, word: str, rest: str) -> Item | None:
    assert machine.paths is not None
    name, _, text = rest.partition(" ")
    workspace = machine.paths.workspace
    match word:
        case "out":
            return Stdout(rest + "\n")
        case "err":
            return Stderr(rest + "\n")
        case "show":
            return Display({"text/plain": rest})
        case "env":
            return Stdout(request.env[rest])
        case "number":
            return Stdout(str(request.run_number))
        case "write":
            (workspace / name).write_text(text)
        case "remove":
            (workspace / name).unlink()
        case "read":
            file = workspace / name
            return Stdout(file.read_text() if file.exists() else "nothing")
        case "data":
            (workspace / DATA).write_text(rest)
        case "exit":
            return ExecutionEnd(int(rest))
        case "timeout":
            return ExecutionEnd(124, timed_out=True)
        case "stuck":
            machine.die(ExitInfo(reason=EndReason.TIMEOUT))
            return ExecutionEnd(124, None, "lost", machine.ended.result(), timed_out=True)
        case "die":
            machine.die(ExitInfo(code=int(rest)))
            await asyncio.Event().wait()
        case "listen":
            await machine.kernel.interrupted.wait()
            return ExecutionEnd(130, interrupted=True)
        case "wait":
            await asyncio.Event().wait()
        case "bug":
            raise RuntimeError("a bug")
    return None


def failing(problem: Exception) -> Any:
    async def call(*arguments: object, **named: object) -> None:
        raise problem

    return call


async def end_of(running: LiveExecution) -> tuple[list[str], Done]:
    """Returns the codes of the errors, and the last event."""
    events = await events_of(running)
    assert isinstance(events[-1], Done)
    assert [event for event in events if isinstance(event, Done)] == [events[-1]]
    return [event.code for event in events if isinstance(event, ErrorEvent)], events[-1]


async def sleep_briefly() -> None:
    """Lets threads and tasks go on."""
    await asyncio.sleep(0.0005)


async def sleep_steps(steps: int) -> None:
    """Sleeps for up to 20 single steps of the loop, then 0.5 ms for each further step."""
    for _ in range(min(steps, 20)):
        await asyncio.sleep(0)
    await asyncio.sleep(max(0, steps - 20) / 2000)


async def events_of(running: LiveExecution, after: int = 0) -> list[Event]:
    return [item.event for item in await logged_events_of(running, after)]


async def logged_events_of(running: LiveExecution, after: int = 0) -> list[LoggedEvent]:
    return [item async for batch in running.follow(after) for item in batch]
