"""Services that play scripts, so that the web room is tested without a kernel or a disk.

A program is a list of instructions, one a line: `out TEXT`, `err TEXT`, `big N` (N times "x"),
`many N` (N events), `sleep SECONDS`, `show TEXT` (a display), `nan`, `fail NAME`, `timeout`,
`die SIGNAL`, `truncate`, `ask PROMPT` (and wait for a line), `refuse` (the kernel does not start),
`break` (a bug in a service); `endless` alone: a stored execution without an end.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from era_kernels.errors import (
    EraError,
    ExecutionNotFound,
    FileNotFound,
    IdempotencyConflict,
    InsufficientStorage,
    InvalidRequest,
    KernelStartFailed,
    NotFound,
    NotRunning,
    QueueFull,
    QuotaExceeded,
    SessionExists,
    SessionNotFound,
    UnsupportedLanguage,
)
from era_kernels.models import (
    Display,
    Done,
    Event,
    ExceptionInfo,
    ExecSubmission,
    Execution,
    ExecutionStatus,
    Failure,
    Frame,
    InputRequest,
    Isolation,
    NewSession,
    Recorded,
    Session,
    SessionStatus,
    SessionView,
    Stderr,
    Stdout,
    Step,
    Submission,
    Variables,
    now,
)
from era_kernels.services.executions.result import ResultBuilder, RunResult
from era_kernels.services.executions.stdin import StdinBroker
from era_kernels.services.files import Precondition, unconditional
from era_kernels.services.session_duplication import DuplicateRequest
from era_kernels.storage.files import FileStatus
from era_kernels.storage.snapshot import Snapshot
from era_kernels.storage.stored_code import StoredCode

THEN = datetime(2025, 1, 15, 10, 30, tzinfo=UTC)
LANGUAGE = "lingo"
WALLS = Isolation(4, ("files", "network"))


class FakeRunning:
    """Plays one script; as many readers as like."""

    def __init__(
        self, session: Session, submission: Submission | ExecSubmission, number: int
    ) -> None:
        self.execution = Execution(f"exec-{number}", session.id, submission.code, THEN)
        self.session = session
        self.submission = submission
        self.problem: EraError | None = None
        self.abandoned = False
        self.callers = 0
        self.recorded: list[Recorded] = []
        self.finished = asyncio.Event()
        self.truncated = False
        self.readers = 0
        self._changed = asyncio.Event()
        self._exit_code = 0
        self._exception: ExceptionInfo | None = None
        self._cause: str | None = None
        self.stdin = StdinBroker()
        self.lines: list[str] = []  # that it was given
        self._task = asyncio.create_task(self._play())

    @property
    def id(self) -> str:
        return self.execution.id

    @property
    def session_id(self) -> str:
        return self.execution.session_id

    def join(self) -> None:
        self.callers += 1

    async def leave(self) -> None:
        self.callers -= 1
        if not self.callers and self.submission.ends_with_caller:
            await self.abandon()

    async def give_input(self, key: str, value: str) -> bool:
        self.lines.append(value)
        return True

    def refuse_input(self, key: str) -> None:
        """Nobody listens."""

    async def abandon(self) -> None:
        self.abandoned = True
        self._task.cancel()

    async def follow(self, after: int = 0) -> AsyncIterator[list[Recorded]]:
        self.readers += 1
        try:
            while True:
                changed = self._changed
                if batch := self.recorded[after:]:
                    after = batch[-1].seq
                    yield batch
                    if isinstance(batch[-1].event, Done):
                        return
                elif self.finished.is_set():
                    return
                else:
                    await changed.wait()
        finally:
            self.readers -= 1

    follow_with_input = follow

    async def result(self) -> RunResult:
        if "at once" in self.submission.code:
            return self.folded()
        await self.finished.wait()
        if self.problem is not None:
            raise self.problem
        return self.folded()

    def folded(self) -> RunResult:
        fold = ResultBuilder(self.id, self.session_id, 100_000_000)
        fold.add(item.event for item in self.recorded)
        answer = fold.result()
        answer.truncated = self.truncated
        return answer

    async def _play(self) -> None:
        try:
            for line in self.submission.code.splitlines():
                await self._step(*line.partition(" ")[::2])
        except EraError as problem:
            self.problem = problem
            self._tell(Failure(problem.title, problem.message, problem.code))
        self._tell(self._done())
        self.execution = dataclasses.replace(
            self.execution,
            status=ExecutionStatus.FINISHED,
            finished_at=now(),
            exit_code=self._exit_code,
            cause=self._cause,
        )
        self.finished.set()

    async def _step(self, word: str, rest: str) -> None:
        match word:
            case "out":
                self._tell(Stdout(rest + "\n"))
            case "err":
                self._tell(Stderr(rest + "\n"))
            case "big":
                self._tell(Stdout("x" * int(rest)))
            case "many":
                for number in range(int(rest)):
                    self._tell(Stdout(f"{number:07d}" + "." * 1016 + "\n"))
                    await asyncio.sleep(0)
            case "sleep":
                await asyncio.sleep(float(rest))
            case "ask":
                request = InputRequest(rest, key="key")
                with self.stdin.attach(self), self.stdin.reader():
                    assert self.stdin.offer(request)
                    self._tell(request)
                    while not self.lines:
                        await asyncio.sleep(0.001)
            case "show":
                self._tell(Display({"text/plain": rest}))
            case "nan":
                self._tell(Display({"application/json": {"x": float("nan"), "y": "\ud800"}}))
            case "fail":
                self._exit_code, self._exception = 1, ExceptionInfo(rest, "boom", ["line 1"])
            case "timeout":
                self._exit_code, self._cause = 124, "timeout"
                self._tell(Failure("Execution timeout", "It took too long.", "EXECUTION_TIMEOUT"))
            case "die":
                self._exit_code, self._cause = 128 + int(rest), f"signal {rest}"
                self._tell(Failure("Kernel died", "It died.", "KERNEL_DIED"))
            case "truncate":
                self.truncated = True
            case "refuse":
                self._exit_code = 1
                raise KernelStartFailed("The kernel did not start.")

    def _done(self) -> Done:
        return Done(
            exit_code=self._exit_code,
            duration="15.3ms",
            execution_time_ms=15.3,
            files_modified=0,
            session_id=self.session_id,
            execution_id=self.id,
            state="lost" if self._cause else "preserved",
            started_from="fresh",
            kernel_generation=1,
            queued_ms=0.1,
            start_ms=0.2,
            exception=self._exception,
            cause=self._cause,
            data={"secret": "only in the log"},
        )

    def _tell(self, event: Event) -> None:
        self.recorded.append(Recorded(len(self.recorded) + 1, THEN, event))
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class FakeSessions:
    """What the web room uses of `LiveSessions`; `calls` remembers what it was asked."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.runs: dict[str, FakeRunning] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.visits: list[str] = []
        self.visitors: Counter[str] = Counter()
        self.full = False

    async def create(self, new: NewSession) -> SessionView:
        self.calls.append(("create", new))
        if new.language.lower() not in (LANGUAGE, "li"):
            raise UnsupportedLanguage("There is no such language.", details=[LANGUAGE])
        if new.id in self.sessions:
            raise SessionExists(f"The session {new.id} exists already.", id=new.id)
        session = Session(
            id=new.id or f"sess-{len(self.sessions):032x}",
            language=LANGUAGE,
            directory="d",
            created_at=THEN,
            persistent=new.persistent,
            data=new.data,
            metadata=new.metadata,
            default_timeout=new.default_timeout,
            ttl=new.ttl,
            allow_internet=bool(new.allow_internet),
            allow_public=new.allow_public is not False,
            limits=new.limits,
            mounts=new.mounts,
        )
        self.sessions[session.id] = session
        return self._view(session)

    async def get(self, id: str) -> SessionView:
        return self._view(await self.session(id))

    async def session(self, id: str) -> Session:
        if id == "bug":
            raise RuntimeError("a text that nobody must see")
        if id not in self.sessions:
            raise SessionNotFound(f"There is no session {id}.", id=id)
        return self.sessions[id]

    async def files(self, id: str) -> Snapshot:
        return Snapshot({"made.txt": (1, 4, int(THEN.timestamp()) * 10**9)}, 4)

    async def list_sessions(
        self, limit: int | None, offset: int, language: str | None
    ) -> tuple[Iterator[SessionView], int]:
        self.calls.append(("list", limit, offset, language))
        found = list(self.sessions.values())
        stop = None if limit is None else offset + limit
        return map(self._view, found[offset:stop]), len(found)

    async def update(self, id: str, **changes: Any) -> SessionView:
        self.calls.append(("update", id, changes))
        self.sessions[id] = dataclasses.replace(await self.session(id), **changes)
        return self._view(self.sessions[id])

    async def delete(self, id: str) -> datetime:
        await self.session(id)
        del self.sessions[id]
        return THEN

    async def delete_all(self) -> list[str]:
        ids = list(self.sessions)
        self.sessions.clear()
        return ids

    async def duplicate(self, id: str, wish: DuplicateRequest) -> SessionView:
        """`full` in the id: there is no room on disk. `slow`: it never ends."""
        self.calls.append(("duplicate", id, wish))
        source = await self.session(id)
        new = wish.id or f"sess-{len(self.sessions):032x}"
        if new in self.sessions:
            raise SessionExists(f"The session {new} exists already.", id=new)
        if "full" in new:
            raise InsufficientStorage("There is no room on the disk.")
        if "slow" in new:
            try:
                await asyncio.Event().wait()
            finally:
                self.calls.append(("left", new))
        data = source.data if wish.data is None else wish.data
        self.sessions[new] = dataclasses.replace(source, id=new, data=data)
        return self._view(self.sessions[new])

    @contextmanager
    def visiting(self, id: str) -> Iterator[None]:
        self.visits.append(id)
        self.visitors[id] += 1
        try:
            yield
        finally:
            self.visitors[id] -= 1

    async def restart(self, id: str, base_url: str) -> int:
        self.calls.append(("restart", id, base_url))
        await self.session(id)
        return 2

    async def submit(self, id: str, submission: Submission | ExecSubmission) -> FakeRunning:
        session = await self.session(id)
        self.calls.append(("submit", id, submission))
        if self.full:
            raise QueueFull("100 runs wait in this session already.")
        running = FakeRunning(session, submission, len(self.runs) + 1)
        self.runs[running.id] = running
        return running

    async def execute(self, language: str, submission: Submission) -> FakeRunning:
        self.calls.append(("execute", language, submission))
        session = Session("sess-throwaway", LANGUAGE, "d", THEN)
        running = FakeRunning(session, submission, len(self.runs) + 1)
        self.runs[running.id] = running
        return running

    def _view(self, session: Session) -> SessionView:
        return SessionView(session, SessionStatus.IDLE, WALLS)


@dataclasses.dataclass(frozen=True)
class FakeText:
    total: int
    data: bytes

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        for at in range(start, stop, 65536):
            yield self.data[at : min(at + 65536, stop)]


class FakeRepeats:
    """What the web room uses of `Repeats`: same key and body, same execution."""

    def __init__(self, sessions: FakeSessions) -> None:
        self._sessions = sessions
        self.asked: dict[tuple[str, str], tuple[bytes, FakeRunning]] = {}

    async def find(self, id: str, key: str, body: bytes) -> FakeRunning | None:
        old, running = self.asked.get((id, key), (body, None))
        if old != body:
            raise IdempotencyConflict("This key was used with another body.")
        return running

    async def submit(
        self,
        id: str,
        submission: Submission,
        key: str,
        body: bytes,
    ) -> FakeRunning:
        running = await self._sessions.submit(id, submission)
        self.asked[id, key] = body, running
        return running


class FakeExecutions:
    """What the web room uses of `Executions`."""

    def __init__(self, sessions: FakeSessions) -> None:
        self._sessions = sessions
        self.taken = 0
        self.left = False

    async def get(self, session_id: str, execution_id: str) -> Execution:
        return self._find(session_id, execution_id).execution

    async def list_executions(
        self, session_id: str, limit: int | None, offset: int
    ) -> tuple[list[Execution], int]:
        found = [r.execution for r in self._sessions.runs.values() if r.session_id == session_id]
        stop = None if limit is None else offset + limit
        return found[offset:stop], len(found)

    async def follow(
        self, session: Session, execution_id: str, after: int = 0
    ) -> AsyncIterator[list[Recorded]]:
        running = self._find(session.id, execution_id)
        if running.submission.code == "endless":
            async for batch in self._endless():
                yield batch
        async for batch in running.follow(after):
            yield batch
            if "break" in running.submission.code:
                raise RuntimeError("a text that nobody must see")

    async def find_unfinished(self, session_id: str, execution_id: str) -> FakeRunning | None:
        running = self._find(session_id, execution_id)
        return None if running.finished.is_set() else running

    async def _endless(self) -> AsyncIterator[list[Recorded]]:
        """64 KiB whenever somebody asks for more."""
        try:
            while True:
                self.taken += 1
                yield [Recorded(self.taken, THEN, Stdout("x" * 65536))]
                await asyncio.sleep(0)
        finally:
            self.left = True

    async def result(
        self, session: Session, execution_id: str, wait: float = 0
    ) -> tuple[Execution, RunResult]:
        running = self._find(session.id, execution_id)
        began = time.monotonic()
        while time.monotonic() - began < wait and not running.finished.is_set():
            await asyncio.sleep(0.01)
        return running.execution, running.folded()

    async def interrupt(
        self, session_id: str, execution_id: str
    ) -> tuple[Execution, str, list[Step]]:
        running = self._find(session_id, execution_id)
        if running.finished.is_set():
            raise NotRunning("The execution has finished.", id=execution_id)
        await running.abandon()
        return running.execution, "preserved", [Step("interrupt", 0.0), Step("ended", 0.0123456)]

    async def text(self, session: Session, execution_id: str, stream: str) -> FakeText:
        answer = self._find(session.id, execution_id).folded()
        data = (answer.stdout if stream == "stdout" else answer.stderr).encode()
        return FakeText(len(data), data)

    def _find(self, session_id: str, execution_id: str) -> FakeRunning:
        running = self._sessions.runs.get(execution_id)
        if running is None or running.session_id != session_id:
            raise ExecutionNotFound(f"There is no execution {execution_id}.", id=execution_id)
        return running


@dataclasses.dataclass
class FakeInsights:
    """What the web room uses of `Insights`."""

    sessions: FakeSessions
    frames: list[Frame] = dataclasses.field(default_factory=list)
    found: Variables = Variables()
    problem: EraError | None = None

    async def stack(self, id: str, execution_id: str) -> tuple[list[Frame], str]:
        session = await self.sessions.session(id)
        if self.problem is not None:
            raise self.problem
        return self.frames, session.language

    async def variables(self, id: str) -> Variables:
        await self.sessions.session(id)
        if self.problem is not None:
            raise self.problem
        return self.found


class FakeCodes:
    """What the web room uses of `SessionCodes`."""

    def __init__(self, sessions: FakeSessions) -> None:
        self._sessions = sessions
        self.stored: dict[str, StoredCode] = {}

    async def get(self, id: str) -> StoredCode:
        await self._sessions.session(id)
        if id not in self.stored:
            raise NotFound("No code is stored.", hint="PUT some.")
        return self.stored[id]

    async def put(self, id: str, code: str, description: str | None) -> StoredCode:
        await self._sessions.session(id)
        if description is None:
            description = self.stored[id].description if id in self.stored else ""
        self.stored[id] = StoredCode(code, description, THEN)
        return self.stored[id]

    async def get_text(self, id: str) -> str:
        await self._sessions.session(id)
        if id not in self.stored:
            raise InvalidRequest("`code` is required, and none is stored.")
        return self.stored[id].code


@dataclasses.dataclass
class FakeFile:
    """A file to read; `cut` bytes of it are gone when it is read."""

    data: bytes
    status: FileStatus
    cut: int = 0
    closed: bool = False

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        for at in range(start, min(stop, len(self.data) - self.cut), 65536):
            await asyncio.sleep(0)
            yield self.data[at : min(at + 65536, stop, len(self.data) - self.cut)]

    async def aclose(self) -> None:
        self.closed = True


class FakeIncoming:
    """An upload: a path with `full` in it finds no room on disk, one with `slow` takes long."""

    def __init__(self, path: str, room: int) -> None:
        self.path = path
        self.data = b""
        self.forgotten = False
        self._room = room

    async def write(self, data: bytes) -> None:
        if len(self.data) + len(data) > self._room:
            raise QuotaExceeded("There is no room in the session's workspace.")
        if "full" in self.path:
            raise InsufficientStorage("There is no room on the disk.")
        if "slow" in self.path:
            await asyncio.sleep(0.6)
        self.data += data

    def forget(self) -> None:
        self.forgotten = True


class FakeFiles:
    """What the web room uses of `SessionFiles`: files by path, in every session the same."""

    ROOM = 3 * 1024 * 1024  # bytes of one file

    def __init__(self, sessions: FakeSessions) -> None:
        self._sessions = sessions
        self.files: dict[str, FakeFile] = {}
        self.uploads: list[FakeIncoming] = []

    def add(self, path: str, data: bytes, content_type: str = "text/plain") -> FakeFile:
        etag = f'"{len(self.uploads)}-{len(data)}"'
        self.files[path] = FakeFile(data, FileStatus(len(data), THEN, etag, content_type))
        return self.files[path]

    async def list_files(self, id: str) -> Snapshot:
        await self._sessions.session(id)
        stamps = {path: (1, len(file.data), 10**18) for path, file in self.files.items()}
        return Snapshot(stamps, sum(size for _, size, _ in stamps.values()))

    async def open(self, id: str, path: str) -> FakeFile:
        await self._sessions.session(id)
        if path not in self.files:
            raise FileNotFound("There is no such file.")
        return self.files[path]

    async def start_upload(
        self,
        id: str,
        path: str,
        size: int,
        meant: Precondition = unconditional,
    ) -> FakeIncoming:
        await self._sessions.session(id)
        self._check(path, meant)
        if size > self.ROOM:
            raise QuotaExceeded("There is no room in the session's workspace.")
        self.uploads.append(FakeIncoming(path, self.ROOM))
        return self.uploads[-1]

    async def put(
        self,
        id: str,
        path: str,
        incoming: FakeIncoming,
        content_type: str,
        meant: Precondition = unconditional,
    ) -> int:
        if "late" in path:
            await asyncio.sleep(0.6)
        self._check(path, meant)
        self.add(path, incoming.data, content_type)
        return len(incoming.data)

    async def delete(self, id: str, path: str, meant: Precondition = unconditional) -> None:
        await self.open(id, path)
        self._check(path, meant)
        del self.files[path]

    def _check(self, path: str, meant: Precondition) -> None:
        meant(self.files[path].status if path in self.files else None)


class FakeStatus:
    """What the web room uses of `Status`."""

    isolation = WALLS

    def __init__(self) -> None:
        self.down: dict[str, str] = {}

    async def problems(self) -> dict[str, str]:
        return self.down

    def availability(self) -> dict[str, bool]:
        return {LANGUAGE: True}

    def languages(self) -> list[dict[str, Any]]:
        return [
            {
                "name": LANGUAGE,
                "aliases": ["li"],
                "available": True,
                "version": "1.0",
                "kernels": ["own"],
                "capabilities": [],
            }
        ]

    def limits(self) -> dict[str, object]:
        return {"max_queue": 100, "max_json_body": 33_554_432}
