"""Services that play scripts, so that the web room is tested without a kernel or a disk.

A program is a list of instructions, one a line: `out TEXT`, `err TEXT`, `big N` (N times "x"),
`many N` (N events), `sleep SECONDS`, `show TEXT` (a display), `nan`, `fail NAME`, `timeout`,
`die SIGNAL`, `truncate`, `ask PROMPT` (and wait for a line), `refuse` (the kernel does not start),
`break` (a bug in a service); `endless` alone: a stored execution without an end.
"""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any

from era_kernels.errors import (
    EraError,
    ExecutionNotFound,
    FileNotFound,
    Forbidden,
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
    ErrorEvent,
    Event,
    ExceptionInfo,
    ExecSubmission,
    Execution,
    ExecutionStatus,
    InputRequest,
    InterruptStep,
    Isolation,
    Link,
    ListeningPort,
    LoggedEvent,
    NewSession,
    Session,
    SessionStatus,
    SessionView,
    StackFrame,
    Stderr,
    Stdout,
    Submission,
    Variables,
    now,
)
from era_kernels.services.executions.live_execution import WaitForMemory, do_not_wait
from era_kernels.services.executions.result import ResultBuilder, RunResult
from era_kernels.services.executions.stdin import StdinBroker
from era_kernels.services.files import Precondition, unconditional
from era_kernels.services.session_duplication import DuplicateRequest
from era_kernels.storage.file_listing import FileListing
from era_kernels.storage.open_file import FileStatus
from era_kernels.storage.stored_code import StoredCode

CREATED_AT = datetime(2025, 1, 15, 10, 30, tzinfo=UTC)
LANGUAGE = "lingo"
ISOLATION = Isolation(4, ("files", "network"))


class FakeLiveExecution:
    """Plays one script; as many readers as like."""

    def __init__(
        self, session: Session, submission: Submission | ExecSubmission, number: int
    ) -> None:
        self.execution = Execution(f"exec-{number}", session.id, submission.code, CREATED_AT)
        self.session = session
        self.submission = submission
        self.error: EraError | None = None
        self.is_abandoned = False
        self.callers = 0
        self.ends_with_callers = getattr(submission, "cancel_on_disconnect", False)
        self.logged: list[LoggedEvent] = []
        self.finished = asyncio.Event()
        self.is_truncated = False
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

    def add_caller(self) -> None:
        self.callers += 1

    async def remove_caller(self) -> None:
        self.callers -= 1
        if not self.callers and self.ends_with_callers:
            await self.on_abandoned()

    @property
    def done_event(self) -> Done | None:
        last = self.logged[-1].event if self.logged else None
        return last if isinstance(last, Done) else None

    def has_events_after(self, seq: int) -> bool:
        return self.done_event is None or len(self.logged) > seq

    async def send_input(self, key: str, value: str) -> bool:
        self.lines.append(value)
        return True

    def send_eof(self, key: str) -> None:
        """Nobody listens."""

    async def on_abandoned(self) -> None:
        self.is_abandoned = True
        self._task.cancel()

    async def follow(self, after: int = 0) -> AsyncIterator[list[LoggedEvent]]:
        self.readers += 1
        try:
            while True:
                changed = self._changed
                if batch := self.logged[after:]:
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

    async def result(self, _: WaitForMemory = do_not_wait) -> RunResult:
        if "at once" in self.submission.code:
            return self.partial_result()
        await self.finished.wait()
        if self.error is not None:
            raise self.error
        return self.partial_result()

    def partial_result(self) -> RunResult:
        builder = ResultBuilder(self.id, self.session_id, 100_000_000)
        builder.add(item.event for item in self.logged)
        result = builder.result()
        result.truncated = self.is_truncated
        return result

    async def _play(self) -> None:
        try:
            for line in self.submission.code.splitlines():
                await self._step(*line.partition(" ")[::2])
        except EraError as error:
            self.error = error
            self._publish(ErrorEvent(error.title, error.message, error.code))
        self._publish(self._done())
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
                self._publish(Stdout(rest + "\n"))
            case "err":
                self._publish(Stderr(rest + "\n"))
            case "big":
                self._publish(Stdout("x" * int(rest)))
            case "many":
                for number in range(int(rest)):
                    self._publish(Stdout(f"{number:07d}" + "." * 1016 + "\n"))
                    await asyncio.sleep(0)
            case "sleep":
                await asyncio.sleep(float(rest))
            case "ask":
                request = InputRequest(rest, key="key")
                with self.stdin.attach(self), self.stdin.reader():
                    assert self.stdin.offer(request)
                    self._publish(request)
                    while not self.lines:
                        await asyncio.sleep(0.001)
            case "show":
                self._publish(Display({"text/plain": rest}))
            case "nan":
                self._publish(Display({"application/json": {"x": float("nan"), "y": "\ud800"}}))
            case "fail":
                self._exit_code, self._exception = 1, ExceptionInfo(rest, "boom", ["line 1"])
            case "timeout":
                self._exit_code, self._cause = 124, "timeout"
                self._publish(
                    ErrorEvent("Execution timeout", "It took too long.", "EXECUTION_TIMEOUT")
                )
            case "die":
                self._exit_code, self._cause = 128 + int(rest), f"signal {rest}"
                self._publish(ErrorEvent("Kernel died", "It died.", "KERNEL_DIED"))
            case "truncate":
                self.is_truncated = True
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

    def _publish(self, event: Event) -> None:
        self.logged.append(LoggedEvent(len(self.logged) + 1, CREATED_AT, event))
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class FakeSessionService:
    """What the web room uses of `LiveSessions`; `calls` remembers what it was asked."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.runs: dict[str, FakeLiveExecution] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.touched: list[str] = []
        self.active_touches: Counter[str] = Counter()
        self.lost_variables: Variables | None = Variables()
        self.is_full = False

    async def create(self, new: NewSession) -> tuple[SessionView, bool]:
        self.calls.append(("create", new))
        if new.language.lower() not in (LANGUAGE, "li"):
            raise UnsupportedLanguage("There is no such language.", details=[LANGUAGE])
        if new.id in self.sessions:
            if new.exist_ok:
                return self._view(self.sessions[new.id]), False
            raise SessionExists(f"The session {new.id} exists already.", id=new.id)
        session = Session(
            id=new.id or f"sess-{len(self.sessions):032x}",
            language=LANGUAGE,
            directory="d",
            created_at=CREATED_AT,
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
        return self._view(session), True

    async def get(self, session_id: str) -> SessionView:
        return self._view(await self.session(session_id))

    async def session(self, session_id: str) -> Session:
        if session_id == "bug":
            raise RuntimeError("a text that nobody must see")
        if session_id not in self.sessions:
            raise SessionNotFound(f"There is no session {session_id}.", id=session_id)
        return self.sessions[session_id]

    async def files(self, session_id: str) -> FileListing:
        return FileListing({"made.txt": (1, 4, int(CREATED_AT.timestamp()) * 10**9)}, 4)

    async def list_sessions(
        self,
        limit: int | None,
        offset: int,
        language: str | None,
        *,
        prefix: str,
        metadata: Mapping[str, str],
    ) -> tuple[Iterator[SessionView], int]:
        self.calls.append(("list", limit, offset, language, prefix, metadata))
        found = list(self.sessions.values())
        stop = None if limit is None else offset + limit
        return map(self._view, found[offset:stop]), len(found)

    async def update(self, session_id: str, **changes: Any) -> SessionView:
        self.calls.append(("update", session_id, changes))
        self.sessions[session_id] = dataclasses.replace(await self.session(session_id), **changes)
        return self._view(self.sessions[session_id])

    async def delete(self, session_id: str) -> datetime:
        await self.session(session_id)
        del self.sessions[session_id]
        return CREATED_AT

    async def delete_all(self) -> list[str]:
        ids = list(self.sessions)
        self.sessions.clear()
        return ids

    async def duplicate(
        self, session_id: str, request: DuplicateRequest
    ) -> tuple[SessionView, Variables | None]:
        """`full` in the id: there is no room on disk. `slow`: it never ends."""
        self.calls.append(("duplicate", session_id, request))
        source = await self.session(session_id)
        new = request.id or f"sess-{len(self.sessions):032x}"
        if new in self.sessions:
            raise SessionExists(f"The session {new} exists already.", id=new)
        if "full" in new:
            raise InsufficientStorage("There is no room on the disk.")
        if "slow" in new:
            try:
                await asyncio.Event().wait()
            finally:
                self.calls.append(("left", new))
        data = source.data if request.data is None else request.data
        self.sessions[new] = dataclasses.replace(source, id=new, data=data)
        return self._view(self.sessions[new]), self.lost_variables

    @contextmanager
    def touch(self, session_id: str) -> Iterator[None]:
        self.touched.append(session_id)
        self.active_touches[session_id] += 1
        try:
            yield
        finally:
            self.active_touches[session_id] -= 1

    async def restart(self, session_id: str, base_url: str) -> int:
        self.calls.append(("restart", session_id, base_url))
        await self.session(session_id)
        return 2

    async def submit(
        self, session_id: str, submission: Submission | ExecSubmission
    ) -> FakeLiveExecution:
        session = await self.session(session_id)
        self.calls.append(("submit", session_id, submission))
        if self.is_full:
            raise QueueFull("100 runs wait in this session already.")
        running = FakeLiveExecution(session, submission, len(self.runs) + 1)
        self.runs[running.id] = running
        return running

    async def execute(self, language: str, submission: Submission) -> FakeLiveExecution:
        self.calls.append(("execute", language, submission))
        session = Session("sess-throwaway", LANGUAGE, "d", CREATED_AT)
        running = FakeLiveExecution(session, submission, len(self.runs) + 1)
        running.ends_with_callers = True
        self.runs[running.id] = running
        return running

    def _view(self, session: Session) -> SessionView:
        return SessionView(session, SessionStatus.IDLE, ISOLATION)


@dataclasses.dataclass(frozen=True)
class FakeOutputText:
    total: int
    data: bytes

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        for at in range(start, stop, 65536):
            yield self.data[at : min(at + 65536, stop)]


class FakeIdempotentRuns:
    """What the web room uses of `Repeats`: same key and body, same execution."""

    def __init__(self, sessions: FakeSessionService) -> None:
        self._sessions = sessions
        self.asked: dict[tuple[str, str], tuple[bytes, FakeLiveExecution]] = {}

    async def find(self, session_id: str, key: str, body: bytes) -> FakeLiveExecution | None:
        old, running = self.asked.get((session_id, key), (body, None))
        if old != body:
            raise IdempotencyConflict("This key was used with another body.")
        return running

    async def submit(
        self,
        session_id: str,
        submission: Submission,
        key: str,
        body: bytes,
    ) -> FakeLiveExecution:
        running = await self._sessions.submit(session_id, submission)
        self.asked[session_id, key] = body, running
        return running


class FakeExecutionService:
    """What the web room uses of `Executions`."""

    def __init__(self, sessions: FakeSessionService) -> None:
        self._sessions = sessions
        self.batches_taken = 0
        self.is_closed = False

    async def get(self, session_id: str, execution_id: str) -> Execution:
        return self._find(session_id, execution_id).execution

    async def list_executions(
        self,
        session_id: str,
        limit: int | None,
        offset: int,
        *,
        newest_first: bool,
        status: ExecutionStatus | None,
    ) -> tuple[list[Execution], int]:
        found = [r.execution for r in self._sessions.runs.values() if r.session_id == session_id]
        stop = None if limit is None else offset + limit
        return found[offset:stop], len(found)

    async def follow(
        self, session: Session, execution_id: str, after: int = 0
    ) -> AsyncIterator[list[LoggedEvent]]:
        running = self._find(session.id, execution_id)
        if running.submission.code == "endless":
            async for batch in self._endless():
                yield batch
        async for batch in running.follow(after):
            yield batch
            if "break" in running.submission.code:
                raise RuntimeError("a text that nobody must see")

    async def find_unfinished(self, session_id: str, execution_id: str) -> FakeLiveExecution | None:
        running = self._find(session_id, execution_id)
        return None if running.finished.is_set() else running

    async def _endless(self) -> AsyncIterator[list[LoggedEvent]]:
        """64 KiB whenever somebody asks for more."""
        try:
            while True:
                self.batches_taken += 1
                yield [LoggedEvent(self.batches_taken, CREATED_AT, Stdout("x" * 65536))]
                await asyncio.sleep(0)
        finally:
            self.is_closed = True

    async def result(
        self,
        session: Session,
        execution_id: str,
        wait: float = 0,
        wait_for_memory: WaitForMemory = do_not_wait,
    ) -> tuple[Execution, RunResult]:
        running = self._find(session.id, execution_id)
        began = time.monotonic()
        while time.monotonic() - began < wait and not running.finished.is_set():
            await asyncio.sleep(0.01)
        return running.execution, running.partial_result()

    async def interrupt(
        self, session_id: str, execution_id: str | None = None
    ) -> tuple[Execution, str, list[InterruptStep]]:
        if execution_id is None:
            going = [one.id for one in self._sessions.runs.values() if not one.finished.is_set()]
            if not going:
                raise NotRunning("No run is on the session's kernel.", id=session_id)
            execution_id = going[0]
        running = self._find(session_id, execution_id)
        if running.finished.is_set():
            raise NotRunning("The execution has finished.", id=execution_id)
        await running.on_abandoned()
        return (
            running.execution,
            "preserved",
            [InterruptStep("interrupt", 0.0), InterruptStep("ended", 0.0123456)],
        )

    async def text(self, session: Session, execution_id: str, stream: str) -> FakeOutputText:
        answer = self._find(session.id, execution_id).partial_result()
        data = (answer.stdout if stream == "stdout" else answer.stderr).encode()
        return FakeOutputText(len(data), data)

    def _find(self, session_id: str, execution_id: str) -> FakeLiveExecution:
        running = self._sessions.runs.get(execution_id)
        if running is None or running.session_id != session_id:
            raise ExecutionNotFound(f"There is no execution {execution_id}.", id=execution_id)
        return running


@dataclasses.dataclass
class FakeInspectionService:
    """What the web room uses of `Insights`."""

    sessions: FakeSessionService
    frames: list[StackFrame] = dataclasses.field(default_factory=list)
    visible: Variables = Variables()  # noqa: RUF009 - it is frozen
    error: EraError | None = None

    async def stack(self, session_id: str, execution_id: str) -> tuple[list[StackFrame], str]:
        session = await self.sessions.session(session_id)
        if self.error is not None:
            raise self.error
        return self.frames, session.language

    async def variables(self, session_id: str) -> Variables:
        await self.sessions.session(session_id)
        if self.error is not None:
            raise self.error
        return self.visible


class FakeProxies:
    """What the web room uses of `PortProxies`: ports of sessions are ports of this host."""

    def __init__(self, sessions: FakeSessionService) -> None:
        self._sessions = sessions
        self.served: dict[int, int | EraError] = {}  # by the session's port
        self.listed = [ListeningPort(8000, "127.0.0.1", "python"), ListeningPort(9000, "::", None)]

    async def listening(self, session_id: str) -> list[ListeningPort]:
        await self._sessions.session(session_id)
        return self.listed

    async def has_code(self, session_id: str) -> bool:
        return False

    def hold(
        self, session_id: str, close: Callable[[], object], *, has_token: bool
    ) -> AbstractContextManager[None]:
        return nullcontext()

    async def dial(self, session_id: str, port: int, *, has_token: bool) -> socket.socket | None:
        session = await self._sessions.session(session_id)
        if not session.allow_public and not has_token:
            raise Forbidden("It is not public.")
        place = self.served.get(port)
        if isinstance(place, EraError):
            raise place
        if place is None:
            return None
        connection = socket.create_connection(("127.0.0.1", place))
        connection.setblocking(False)
        return connection


class FakeLinkStore:
    """What the service of links uses of `LinkStore`."""

    def __init__(self) -> None:
        self.links: dict[bytes, Link] = {}

    async def create(self, link: Link, digest: bytes) -> None:
        self.links[digest] = link

    async def find(self, digest: bytes) -> Link | None:
        return self.links.get(digest)

    async def list_links(self, directory: str) -> list[Link]:
        return list(self.links.values())

    async def delete(self, directory: str, link_id: str) -> bool:
        found = [digest for digest, link in self.links.items() if link.id == link_id]
        for digest in found:
            del self.links[digest]
        return bool(found)


class FakeStoredCodeService:
    """What the web room uses of `SessionCodes`."""

    def __init__(self, sessions: FakeSessionService) -> None:
        self._sessions = sessions
        self.stored: dict[str, StoredCode] = {}

    async def get(self, session_id: str) -> StoredCode:
        await self._sessions.session(session_id)
        if session_id not in self.stored:
            raise NotFound("No code is stored.", hint="PUT some.")
        return self.stored[session_id]

    async def put(self, session_id: str, code: str, description: str | None) -> StoredCode:
        await self._sessions.session(session_id)
        if description is None:
            description = self.stored[session_id].description if session_id in self.stored else ""
        self.stored[session_id] = StoredCode(code, description, CREATED_AT)
        return self.stored[session_id]

    async def get_text(self, id: str) -> str:  # noqa: A002
        await self._sessions.session(id)
        if id not in self.stored:
            raise InvalidRequest("`code` is required, and none is stored.")
        return self.stored[id].code


@dataclasses.dataclass
class FakeFile:
    """A file to read; `cut` bytes of it are gone when it is read."""

    data: bytes
    status: FileStatus
    cut_bytes: int = 0
    closed: bool = False

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        for at in range(start, min(stop, len(self.data) - self.cut_bytes), 65536):
            await asyncio.sleep(0)
            yield self.data[at : min(at + 65536, stop, len(self.data) - self.cut_bytes)]

    async def aclose(self) -> None:
        self.closed = True


class FakeUpload:
    """An upload: a path with `full` in it finds no room on disk, one with `slow` takes long."""

    def __init__(self, path: str, room: int) -> None:
        self.path = path
        self.data = b""
        self.is_discarded = False
        self._room = room

    def buffer(self, data: bytes) -> bool:
        return False

    async def write(self, data: bytes) -> None:
        if len(self.data) + len(data) > self._room:
            raise QuotaExceeded("There is no room in the session's workspace.")
        if "full" in self.path:
            raise InsufficientStorage("There is no room on the disk.")
        if "slow" in self.path:
            await asyncio.sleep(0.6)
        self.data += data

    def discard(self) -> None:
        self.is_discarded = True


class FakeFileService:
    """What the web room uses of `SessionFiles`: files by path, in every session the same."""

    ROOM = 3 * 1024 * 1024  # bytes of one file

    def __init__(self, sessions: FakeSessionService) -> None:
        self._sessions = sessions
        self.files: dict[str, FakeFile] = {}
        self.uploads: list[FakeUpload] = []

    def add(self, path: str, data: bytes, content_type: str = "text/plain") -> FakeFile:
        etag = f'"{len(self.uploads)}-{len(data)}"'
        self.files[path] = FakeFile(data, FileStatus(len(data), CREATED_AT, etag, content_type))
        return self.files[path]

    async def list_files(self, session_id: str) -> FileListing:
        await self._sessions.session(session_id)
        stamps = {path: (1, len(file.data), 10**18) for path, file in self.files.items()}
        return FileListing(stamps, sum(size for _, size, _ in stamps.values()))

    async def open(self, session_id: str, path: str) -> FakeFile:
        await self._sessions.session(session_id)
        if path not in self.files:
            raise FileNotFound("There is no such file.")
        return self.files[path]

    async def start_upload(
        self,
        id: str,  # noqa: A002
        path: str,
        size: int,
        meant: Precondition = unconditional,
    ) -> FakeUpload:
        await self._sessions.session(id)
        self._check(path, meant)
        if size > self.ROOM:
            raise QuotaExceeded("There is no room in the session's workspace.")
        self.uploads.append(FakeUpload(path, self.ROOM))
        return self.uploads[-1]

    async def put(
        self,
        session_id: str,
        path: str,
        quota_upload: FakeUpload,
        content_type: str,
        precondition: Precondition = unconditional,
    ) -> FileStatus:
        if "late" in path:
            await asyncio.sleep(0.6)
        self._check(path, precondition)
        return self.add(path, quota_upload.data, content_type).status

    async def delete(
        self, session_id: str, path: str, precondition: Precondition = unconditional
    ) -> None:
        await self.open(session_id, path)
        self._check(path, precondition)
        del self.files[path]

    def _check(self, path: str, precondition: Precondition) -> None:
        precondition(self.files[path].status if path in self.files else None)


class FakeServerInfo:
    """What the web room uses of `Status`."""

    isolation = ISOLATION

    def __init__(self) -> None:
        self.failed_parts: dict[str, str] = {}
        self.lost_parts: dict[str, str] = {}

    async def failures(self) -> dict[str, str]:
        return self.failed_parts

    def damages(self) -> dict[str, str]:
        return self.lost_parts

    async def refresh(self) -> None:
        """Does nothing: all is there."""

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
                "kernel_details": [
                    {
                        "name": "own",
                        "display_name": "Own",
                        "available": True,
                        "version": "1.0",
                        "capabilities": [],
                        "fence": True,
                    }
                ],
            }
        ]

    def limits(self) -> dict[str, object]:
        return {"max_queue": 100, "max_json_body": 33_554_432}
