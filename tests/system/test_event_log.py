"""The event log is right whatever is appended, torn and read again, by any number of readers.

A state machine of Hypothesis drives real stores in a real directory. It knows the events that were
appended and the bytes on disk; the events that a reader gets must follow from these.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Coroutine, Iterable
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from era_kernels.models import (
    ClearOutput,
    Display,
    Done,
    ErrorEvent,
    Event,
    ExceptionInfo,
    Execution,
    ExecutionStatus,
    LoggedEvent,
    Queued,
    Result,
    Session,
    Stderr,
    Stdout,
    UpdateDisplay,
)
from era_kernels.services.executions.live_execution import LiveExecution
from era_kernels.services.executions.replay import END_LOST
from era_kernels.services.executions.service import ExecutionService
from era_kernels.storage.log_index import boot_id, index_path
from tests.storage.stores import Stores, done_event, open_stores

T = TypeVar("T")
STREAMS = ("stdout", "stderr")
TEXT_CHARS = 65_536  # of one event of a stream, at most
STOPPED_LINE = "[era] server stopped before the run ended; variables are lost\n"
STOPPED = ErrorEvent("Server stopped", "The server stopped during the run.", "SERVER_STOPPED")

# ---------------------------------------------------------------- events

# Text that breaks careless parsers of lines, of JSON or of UTF-8.
_tricky = st.sampled_from(
    ['"type":"stdout"', '","content":"', "\n", "\r\n", "\x00", "\u2028", "\x85", "\ud83d", "\ude00",
     "é", "😀", "\\", '"', "}\n{", "\ufeff"]
)  # fmt: skip
_text = st.text(max_size=20) | st.lists(_tricky, max_size=6).map("".join)
_sizes = st.sampled_from([9_000, 70_000, 262_144, 300_000, 1_100_000])
_big = st.builds(lambda text, size: (text * (size // len(text)))[:size], st.sampled_from(
    ["x", "é\n", "😀", "\ud83d", "ab\x00"]), _sizes)  # fmt: skip
_contents = st.one_of(_text, _text, _text, _big)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=6,
)
# A program may use the same names that the lines of the log use.
_names = st.sampled_from(["type", "seq", "content", "time", "text/plain"]) | _text
_words = st.sampled_from(["stdout", "stderr", "done", "error"]) | _values
_bundles = st.dictionaries(_names, _words, max_size=3)
_events: st.SearchStrategy[Event] = st.one_of(
    st.builds(Stdout, _contents),
    st.builds(Stderr, _contents),
    st.builds(Result, _bundles, _bundles),
    st.builds(Display, _bundles, _bundles, st.none() | _text),
    st.builds(UpdateDisplay, _bundles, _bundles, st.none() | _text),
    st.builds(ClearOutput, st.booleans()),
    st.builds(Queued, st.integers(1, 1000)),
    st.builds(ErrorEvent, _text, _text, _text),
)
_batches = st.lists(_events, max_size=5)
_ends = st.tuples(st.integers(0, 255), st.none() | st.text(max_size=20), st.none() | st.builds(
    ExceptionInfo, _text, _text, st.lists(_text, max_size=3)), _bundles)  # fmt: skip


# ---------------------------------------------------------------- what is known


Numbered = tuple[int, Event]


def numbered(batch: Iterable[LoggedEvent]) -> list[Numbered]:
    return [(one.seq, one.event) for one in batch]


@dataclass
class ExecutionModel:
    """The model of one execution: the events that were appended to its log."""

    execution: Execution
    header: bytes  # the first line of its log
    listed: bool = False  # as finished
    is_start_known: bool = True  # by the index, which had it before each crash
    stored: int = 0  # events in the log; the end may be in the index only
    expected: list[Numbered] = field(default_factory=list)
    running: LiveExecution | None = None
    readers: list[Reader] = field(default_factory=list)

    def texts(self) -> dict[str, bytes]:
        """Returns the text of each stream, by the events."""
        found = dict.fromkeys(STREAMS, "")
        for _, event in self.expected:
            if isinstance(event, Stdout | Stderr):
                found[event.type] += event.content
        return {stream: text.encode("utf-8", "replace") for stream, text in found.items()}

    def missing_end(self) -> list[Event]:
        """Returns the events before `done` that are supplied for a log without an end."""
        if self.listed:
            return [END_LOST]
        last = self.expected[-1][1] if self.expected else None
        if isinstance(last, ErrorEvent):
            return []
        has_begun = self.is_start_known or not (last is None or isinstance(last, Queued))
        # The line may be there: a crash may tear what the repair after an earlier one wrote.
        is_told = isinstance(last, Stderr) and last.content.endswith(STOPPED_LINE)
        if is_told or not has_begun:
            return [STOPPED]
        stderr = self.texts()["stderr"]
        apart = "" if stderr.endswith(b"\n") or not stderr else "\n"
        return [Stderr(apart + STOPPED_LINE), STOPPED]


@dataclass
class Reader:
    """Follows a live execution from an event on; a slow reader takes a batch per `pace.release`."""

    after: int
    first: int  # of the expected events: a number that is not there yet stands for the last one
    pace: asyncio.Semaphore | None
    got: list[Numbered] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    async def follow(self, running: LiveExecution) -> None:
        async for batch in running.follow(self.after):
            if self.pace is not None:
                await self.pace.acquire()
            self.got += numbered(batch)


@dataclass(frozen=True)
class Damage:
    """The damage of a crash to one log; `at` is its place, as a share of the log's bytes."""

    kind: str
    at: float
    index: str
    row: str

    def torn(self, data: bytes) -> bytes:
        """Returns the bytes that are left.

        A cut falls anywhere, also into a character. After a power loss a file may have its old
        size while its last blocks, or one of them, hold zeros.
        """
        place = int(len(data) * self.at)
        match self.kind:
            case "cut":
                return data[:place]
            case "zeros":
                return data[:place] + bytes(len(data) - place)
            case "hole":
                hole = min(512, len(data) - place)
                return data[:place] + bytes(hole) + data[place + hole :]
            case "longer":
                return data + bytes(place)
        return data


_damages = st.builds(
    Damage,
    st.sampled_from(["nothing", "cut", "cut", "zeros", "hole", "longer"]),
    st.floats(0, 1),
    st.sampled_from(["as it is", "missing", "torn"]),
    st.sampled_from(["as it is", "lost", "behind"]),
)


def count_intact_events(model: ExecutionModel, before: bytes, after: bytes) -> int:
    """Counts the events whose lines are whole, before the first byte ever damaged."""
    if not after.startswith(model.header):
        return 0
    same = len(os.path.commonprefix([before, after]))  # noqa: RUF071 - bytes, no paths
    return min(before[:same].count(b"\n") - 1, model.stored)


# ---------------------------------------------------------------- the machine


class EventLogs(RuleBasedStateMachine):
    """Drives servers, one after the other, on one directory; each ends in a crash."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.path = Path(tempfile.mkdtemp(prefix="era-log-"))
        self.models: dict[str, ExecutionModel] = {}

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize()
    def start(self) -> None:
        async def start() -> None:
            await self._open()
            self.session: Session = await self.stores.create_session(data={"kept": 2**70})

        self.do(start())

    def teardown(self) -> None:
        async def stop() -> None:
            for model in list(self.models.values()):
                await self._stop_readers(model)
                assert await self._read(model, 0) == model.expected
            await self._crash()

        try:
            if hasattr(self, "session"):
                self.do(stop())
        finally:
            self.runner.close()
            shutil.rmtree(self.path)

    # ------------------------------------------------------------ what happens

    def live(self) -> list[ExecutionModel]:
        return [model for model in self.models.values() if model.running is not None]

    @rule()
    def begin(self) -> None:
        """Opens an execution."""

        async def begin() -> None:
            running = await self.executions.open(self.session, "print('é')")
            self.executions.start(running)
            header = self.stores.log_path(self.session, running.id).read_bytes()
            self.models[running.id] = ExecutionModel(running.execution, header, running=running)

        self.do(begin())

    @precondition(live)
    @rule(data=st.data(), batches=st.lists(_batches, min_size=1, max_size=3))
    def append(self, data: st.DataObject, batches: list[list[Event]]) -> None:
        """Publishes events; several batches at once are published in order."""
        model = data.draw(st.sampled_from(self.live()))

        async def append() -> None:
            assert model.running is not None
            await asyncio.gather(*(model.running.publish(batch) for batch in batches))
            self._appended(model, [event for batch in batches for event in batch])

        self.do(append())

    @precondition(live)
    @rule(data=st.data(), share=st.floats(0, 1.1), slow=st.booleans())
    def connect(self, data: st.DataObject, share: float, slow: bool) -> None:
        """Connects a reader, from any event on; also from one that is not there yet."""
        model = data.draw(st.sampled_from(self.live()))

        async def connect() -> None:
            assert model.running is not None
            count = len(model.expected)
            after = int(count * share)
            reader = Reader(after, min(after, count), asyncio.Semaphore(0) if slow else None)
            reader.task = asyncio.create_task(reader.follow(model.running))
            model.readers.append(reader)

        self.do(connect())

    @precondition(lambda self: any(model.readers for model in self.models.values()))
    @rule(data=st.data(), batches=st.integers(1, 5))
    def read_on(self, data: st.DataObject, batches: int) -> None:
        """Lets a slow reader take some of its waiting batches."""
        readers = [reader for model in self.models.values() for reader in model.readers]
        reader = data.draw(st.sampled_from(readers))

        async def read_on() -> None:
            for _ in range(batches):
                if reader.pace is not None:
                    reader.pace.release()
                await asyncio.sleep(0.001)

        self.do(read_on())

    @precondition(live)
    @rule(data=st.data(), end=_ends)
    def finish(self, data: st.DataObject, end: tuple[int, str, ExceptionInfo, Any]) -> None:
        """Finishes an execution; every reader gets to its end."""
        model = data.draw(st.sampled_from(self.live()))
        exit_code, cause, exception, kept = end
        last = dataclasses.replace(
            done_event(model.execution),
            exit_code=exit_code,
            cause=cause,
            exception=exception,
            data=kept,
        )

        async def finish() -> None:
            running, model.running = model.running, None
            assert running is not None
            await running.publish([last])
            self._appended(model, [last])
            await self.executions.finish(running, exit_code, cause)
            model.listed = True
            for reader in model.readers:
                if reader.pace is not None:
                    for _ in model.expected:
                        reader.pace.release()
                assert reader.task is not None
                await asyncio.wait_for(reader.task, 30)
                assert reader.got == model.expected[reader.first :]
            model.readers.clear()

        self.do(finish())

    @precondition(lambda self: self.models)
    @rule(data=st.data(), damage=_damages)
    def crash(self, data: st.DataObject, damage: Damage) -> None:
        """Kills the server and damages a log; the next server ends the open executions."""
        model = data.draw(st.sampled_from(list(self.models.values())))

        async def crash() -> None:
            for one in self.models.values():
                await self._stop_readers(one)
            await self._crash()
            log = self.stores.log_path(self.session, model.execution.id)
            before = log.read_bytes()
            after = damage.torn(before)
            log.write_bytes(after)
            self._damage_index(index_path(log), damage.index, before != after)
            model.stored = count_intact_events(model, before, after)
            model.expected = model.expected[: model.stored]
            await self._open()
            await self._damage_row(model, damage.row)
            model.listed &= damage.row == "as it is"
            model.is_start_known &= damage.row != "lost"
            for _ in range(2):
                await self.stores.executions.close_unfinished()
            if damage.row == "lost" and not after.startswith(model.header):
                # Neither the index nor the log has the execution any more.
                del self.models[model.execution.id]
                assert not log.exists()
            for one in self.models.values():
                await self._expect_end(one)

        self.do(crash())

    # ------------------------------------------------------------ what must be true

    @precondition(lambda self: self.models)
    @rule(data=st.data(), share=st.floats(0, 1.1), width=st.floats(0, 1))
    def replay(self, data: st.DataObject, share: float, width: float) -> None:
        """Reads from any event on, and any range of the text, live or stored."""
        model = data.draw(st.sampled_from(list(self.models.values())))

        async def replay() -> None:
            after = int(len(model.expected) * share)
            assert await self._read(model, after) == model.expected[after:]
            for stream, expected in model.texts().items():
                start = int(len(expected) * min(share, 1))
                stop = start + int((len(expected) - start) * width)
                text = await self.executions.text(self.session, model.execution.id, stream)
                assert text.total == len(expected)
                found = b"".join([piece async for piece in text.read(start, stop)])
                assert found == expected[start:stop]

        self.do(replay())

    @invariant()
    def readers_have_a_prefix(self) -> None:
        """Checks that readers got the appended events from their place on without gap or repeat."""
        for model in self.models.values():
            for reader in model.readers:
                assert reader.got == model.expected[reader.first :][: len(reader.got)]

    # ------------------------------------------------------------ how

    async def _open(self) -> None:
        self.stack = AsyncExitStack()
        self.stores: Stores = await self.stack.enter_async_context(open_stores(self.path))
        self.executions = ExecutionService(
            self.stores.executions, max_kept=1000, max_kept_bytes=1 << 40, max_result_bytes=1 << 20
        )

    async def _crash(self) -> None:
        """Crashes the server: nothing is finished and no index saved; written bytes stay."""
        for model in self.live():
            assert model.running is not None
            os.close(model.running.log._file)
            model.running = None
        await self.stack.aclose()

    def _appended(self, model: ExecutionModel, events: list[Event]) -> None:
        """Adds events to the model; a text that is too long for a line takes several."""
        assert model.running is not None or isinstance(events[-1], Done)
        for event in events:
            parts: list[Event] = [event]
            if isinstance(event, Stdout | Stderr) and len(event.content) > TEXT_CHARS:
                parts = [
                    type(event)(event.content[at : at + TEXT_CHARS])
                    for at in range(0, len(event.content), TEXT_CHARS)
                ]
            model.expected += enumerate(parts, len(model.expected) + 1)
        model.stored = len(model.expected)

    async def _read(self, model: ExecutionModel, after: int) -> list[Numbered]:
        """Returns what a reader gets now; of a live execution, its events so far."""
        got: list[Numbered] = []
        batches = self.executions.follow(self.session, model.execution.id, after)
        async with aclosing(batches):
            while model.running is None or after + len(got) < len(model.expected):
                batch = await anext(batches, None)
                if batch is None:
                    break
                got += numbered(batch)
        return got

    async def _expect_end(self, model: ExecutionModel) -> None:
        """Checks the events supplied for a log that lost its end, in agreement with the index."""
        execution = await self.executions.get("s1", model.execution.id)
        assert execution.status is ExecutionStatus.FINISHED
        found = await self._read(model, 0)
        known = len(model.expected)
        assert found[:known] == model.expected
        is_torn = not model.expected or not isinstance(model.expected[-1][1], Done)
        if is_torn:
            assert [event for _, event in found[known:-1]] == model.missing_end()
        else:
            assert len(found) == known
        assert [seq for seq, _ in found] == list(range(1, len(found) + 1))
        end = found[-1][1]
        assert isinstance(end, Done)
        assert (end.exit_code, end.cause) == (execution.exit_code, execution.cause)
        if is_torn:
            assert (end.state, end.data) == ("lost", self.session.data)
        _, answer = await self.executions.result(self.session, execution.id)
        assert (answer.exit_code, answer.cause) == (execution.exit_code, execution.cause)
        if not model.listed:
            model.stored = len(found)
        model.expected, model.listed = found, True

    async def _stop_readers(self, model: ExecutionModel) -> None:
        for reader in model.readers:
            assert reader.task is not None
            reader.task.cancel()
            with suppress(asyncio.CancelledError):
                await reader.task
        self.readers_have_a_prefix()
        model.readers.clear()

    def _damage_index(self, index: Path, how: str, power_loss: bool) -> None:
        """Damages the index beside a log. After a power loss the boot id is another one."""
        if index.exists() and power_loss:
            index.write_bytes(index.read_bytes().replace(boot_id().encode(), b"an earlier one"))
        match how:
            case "missing":
                index.unlink(missing_ok=True)
            case "torn" if index.exists():
                index.write_bytes(index.read_bytes()[: index.stat().st_size // 2])

    async def _damage_row(self, model: ExecutionModel, how: str) -> None:
        statement = {
            "lost": "DELETE FROM executions WHERE id = ?",
            "behind": "UPDATE executions SET status = 'running' WHERE id = ?",
        }
        if how in statement:
            await self.stores.database.write(
                lambda c: c.execute(statement[how], (model.execution.id,)).rowcount
            )


SHORT = settings(
    max_examples=20,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    report_multiple_bugs=False,
)


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(SHORT, id="short"),
        pytest.param(
            settings(SHORT, max_examples=300, stateful_step_count=30),
            id="long",
            marks=[pytest.mark.long, pytest.mark.timeout(1800)],
        ),
    ],
)
def test_any_history_of_an_event_log(how: settings) -> None:
    """Each reader gets a prefix of the appended events, and every log has a truthful end.

    Events are of every kind, crashes at any byte, indexes and rows lost, readers of any speed.
    """
    run_state_machine_as_test(EventLogs, settings=how)  # type: ignore[no-untyped-call]
