"""The event log tells the truth: whatever is appended, torn and read again, by any number at once.

A machine of Hypothesis drives real stores in a real directory. What it knows of a log are the
events that were appended and the bytes on disk; what a reader gets must follow from these.
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
from era_kernels.services.executions.live import LiveExecution
from era_kernels.services.executions.service import ExecutionService
from era_kernels.storage.log_index import boot_id, index_path
from tests.storage.stores import Stores, done_event, open_stores

T = TypeVar("T")
STREAMS = ("stdout", "stderr")

# ---------------------------------------------------------------- events

# What a careless parser of lines, of JSON or of UTF-8 trips over.
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
# The names that a line of the log uses itself are names that a program may use as well.
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
class Story:
    """One execution, and what was appended to its log."""

    execution: Execution
    header: bytes  # the first line of its log
    listed: bool = False  # as finished
    stored: int = 0  # events that stand in the log; an end may stand beside it
    truth: list[Numbered] = field(default_factory=list)
    running: LiveExecution | None = None
    readers: list[Reader] = field(default_factory=list)

    def texts(self) -> dict[str, bytes]:
        """Stream → what it holds, by the events."""
        found = dict.fromkeys(STREAMS, "")
        for _, event in self.truth:
            if isinstance(event, Stdout | Stderr):
                found[event.type] += event.content
        return {stream: text.encode("utf-8", "replace") for stream, text in found.items()}


@dataclass
class Reader:
    """Follows a live execution from a place in it; a slow one takes a batch when it is told to."""

    after: int
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
    """What a crash does to one log. `at` is where, as a share of its bytes."""

    kind: str
    at: float
    index: str
    row: str

    def torn(self, data: bytes) -> bytes:
        """The bytes that are left.

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


def survivors(story: Story, before: bytes, after: bytes) -> int:
    """How many events' lines are whole, up to the first byte that was damaged, now or earlier."""
    if not after.startswith(story.header):
        return 0
    same = len(os.path.commonprefix([before, after]))  # noqa: RUF071 - bytes, no paths
    return min(before[:same].count(b"\n") - 1, story.stored)


# ---------------------------------------------------------------- the machine


class EventLogs(RuleBasedStateMachine):
    """Servers, one after the other, on one directory; each ends in a crash."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.path = Path(tempfile.mkdtemp(prefix="era-log-"))
        self.stories: dict[str, Story] = {}

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
            for story in list(self.stories.values()):
                await self._stop_readers(story)
                assert await self._read(story, 0) == story.truth
            await self._crash()

        try:
            if hasattr(self, "session"):
                self.do(stop())
        finally:
            self.runner.close()
            shutil.rmtree(self.path)

    # ------------------------------------------------------------ what happens

    def live(self) -> list[Story]:
        return [story for story in self.stories.values() if story.running is not None]

    @rule()
    def begin(self) -> None:
        """An execution is opened."""

        async def begin() -> None:
            running = await self.executions.open(self.session, "print('é')")
            self.executions.start(running)
            header = self.stores.log_path(self.session, running.id).read_bytes()
            self.stories[running.id] = Story(running.execution, header, running=running)

        self.do(begin())

    @precondition(live)
    @rule(data=st.data(), batches=st.lists(_batches, min_size=1, max_size=3))
    def append(self, data: st.DataObject, batches: list[list[Event]]) -> None:
        """Its kernel says something; several things at once are published in order."""
        story = data.draw(st.sampled_from(self.live()))

        async def append() -> None:
            assert story.running is not None
            await asyncio.gather(*(story.running.publish(batch) for batch in batches))
            self._appended(story, [event for batch in batches for event in batch])

        self.do(append())

    @precondition(live)
    @rule(data=st.data(), share=st.floats(0, 1.1), slow=st.booleans())
    def connect(self, data: st.DataObject, share: float, slow: bool) -> None:
        """A reader comes, from any event on; also from one that is not there yet."""
        story = data.draw(st.sampled_from(self.live()))

        async def connect() -> None:
            assert story.running is not None
            reader = Reader(int(len(story.truth) * share), asyncio.Semaphore(0) if slow else None)
            reader.task = asyncio.create_task(reader.follow(story.running))
            story.readers.append(reader)

        self.do(connect())

    @precondition(lambda self: any(story.readers for story in self.stories.values()))
    @rule(data=st.data(), batches=st.integers(1, 5))
    def read_on(self, data: st.DataObject, batches: int) -> None:
        """A slow reader takes some of what waits for it."""
        readers = [reader for story in self.stories.values() for reader in story.readers]
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
        """It ends, and every reader gets to its end."""
        story = data.draw(st.sampled_from(self.live()))
        exit_code, cause, exception, kept = end
        last = dataclasses.replace(
            done_event(story.execution),
            exit_code=exit_code,
            cause=cause,
            exception=exception,
            data=kept,
        )

        async def finish() -> None:
            running, story.running = story.running, None
            assert running is not None
            await running.publish([last])
            self._appended(story, [last])
            await self.executions.finish(running, exit_code, cause)
            story.listed = True
            for reader in story.readers:
                if reader.pace is not None:
                    for _ in story.truth:
                        reader.pace.release()
                assert reader.task is not None
                await asyncio.wait_for(reader.task, 30)
                assert reader.got == story.truth[reader.after :]
            story.readers.clear()

        self.do(finish())

    @precondition(lambda self: self.stories)
    @rule(data=st.data(), damage=_damages)
    def crash(self, data: st.DataObject, damage: Damage) -> None:
        """The server dies, a log is damaged, the next server starts and ends what was open."""
        story = data.draw(st.sampled_from(list(self.stories.values())))

        async def crash() -> None:
            for one in self.stories.values():
                await self._stop_readers(one)
            await self._crash()
            log = self.stores.log_path(self.session, story.execution.id)
            before = log.read_bytes()
            after = damage.torn(before)
            log.write_bytes(after)
            self._damage_index(index_path(log), damage.index, before != after)
            story.stored = survivors(story, before, after)
            story.truth = story.truth[: story.stored]
            await self._open()
            await self._damage_row(story, damage.row)
            story.listed &= damage.row == "as it is"
            for _ in range(2):
                await self.stores.executions.close_unfinished()
            if damage.row == "lost" and not after.startswith(story.header):
                # Neither the index nor the log knows of it any more.
                del self.stories[story.execution.id]
                assert not log.exists()
            for one in self.stories.values():
                await self._expect_end(one)

        self.do(crash())

    # ------------------------------------------------------------ what must be true

    @precondition(lambda self: self.stories)
    @rule(data=st.data(), share=st.floats(0, 1.1), width=st.floats(0, 1))
    def replay(self, data: st.DataObject, share: float, width: float) -> None:
        """From any event on, and any range of the text, live or stored."""
        story = data.draw(st.sampled_from(list(self.stories.values())))

        async def replay() -> None:
            after = int(len(story.truth) * share)
            assert await self._read(story, after) == story.truth[after:]
            for stream, expected in story.texts().items():
                start = int(len(expected) * min(share, 1))
                stop = start + int((len(expected) - start) * width)
                text = await self.executions.text(self.session, story.execution.id, stream)
                assert text.total == len(expected)
                found = b"".join([piece async for piece in text.read(start, stop)])
                assert found == expected[start:stop]

        self.do(replay())

    @invariant()
    def readers_have_a_prefix(self) -> None:
        """What a reader has got is what was appended, from its place on, without gap or repeat."""
        for story in self.stories.values():
            for reader in story.readers:
                assert reader.got == story.truth[reader.after :][: len(reader.got)]

    # ------------------------------------------------------------ how

    async def _open(self) -> None:
        self.stack = AsyncExitStack()
        self.stores: Stores = await self.stack.enter_async_context(open_stores(self.path))
        self.executions = ExecutionService(
            self.stores.executions, max_kept=1000, max_kept_bytes=1 << 40, max_result_bytes=1 << 20
        )

    async def _crash(self) -> None:
        """Nothing is finished, no index is saved; what was written is there."""
        for story in self.live():
            assert story.running is not None
            os.close(story.running.log._file)
            story.running = None
        await self.stack.aclose()

    def _appended(self, story: Story, events: list[Event]) -> None:
        """Add what now stands in the log; a text that is too long for a line stands in several."""
        assert story.running is not None or isinstance(events[-1], Done)
        for event in events:
            parts: list[Event] = [event]
            if isinstance(event, Stdout | Stderr) and len(event.content) > 1 << 20:
                parts = [
                    type(event)(event.content[at : at + (1 << 20)])
                    for at in range(0, len(event.content), 1 << 20)
                ]
            story.truth += enumerate(parts, len(story.truth) + 1)
        story.stored = len(story.truth)

    async def _read(self, story: Story, after: int) -> list[Numbered]:
        """What a reader gets now; of a live one, what there is."""
        got: list[Numbered] = []
        batches = self.executions.follow(self.session, story.execution.id, after)
        async with aclosing(batches):  # type: ignore[type-var]
            while story.running is None or after + len(got) < len(story.truth):
                batch = await anext(batches, None)
                if batch is None:
                    break
                got += numbered(batch)
        return got

    async def _expect_end(self, story: Story) -> None:
        """A log that lost its end has one all the same, which tells so and agrees with the list."""
        execution = await self.executions.get("s1", story.execution.id)
        assert execution.status is ExecutionStatus.FINISHED
        found = await self._read(story, 0)
        known = len(story.truth)
        assert found[:known] == story.truth
        last = story.truth[-1][1] if story.truth else None
        kinds = ["error", "done"]
        if isinstance(last, Done):
            kinds = []
        elif isinstance(last, ErrorEvent) and not story.listed:
            kinds = ["done"]
        assert [event.type for _, event in found[known:]] == kinds
        assert [seq for seq, _ in found] == list(range(1, len(found) + 1))
        end = found[-1][1]
        assert isinstance(end, Done)
        assert (end.exit_code, end.cause) == (execution.exit_code, execution.cause)
        if kinds:
            assert (end.state, end.data) == ("lost", self.session.data)
        _, answer = await self.executions.result(self.session, execution.id)
        assert (answer.exit_code, answer.cause) == (execution.exit_code, execution.cause)
        if not story.listed:
            story.stored = len(found)
        story.truth, story.listed = found, True

    async def _stop_readers(self, story: Story) -> None:
        for reader in story.readers:
            assert reader.task is not None
            reader.task.cancel()
            with suppress(asyncio.CancelledError):
                await reader.task
        self.readers_have_a_prefix()
        story.readers.clear()

    def _damage_index(self, index: Path, how: str, power_loss: bool) -> None:
        """What may be beside a log. A machine that lost power has started anew since."""
        if index.exists() and power_loss:
            index.write_bytes(index.read_bytes().replace(boot_id().encode(), b"an earlier one"))
        match how:
            case "missing":
                index.unlink(missing_ok=True)
            case "torn" if index.exists():
                index.write_bytes(index.read_bytes()[: index.stat().st_size // 2])

    async def _damage_row(self, story: Story, how: str) -> None:
        statement = {
            "lost": "DELETE FROM executions WHERE id = ?",
            "behind": "UPDATE executions SET status = 'running' WHERE id = ?",
        }
        if how in statement:
            await self.stores.database.write(
                lambda c: c.execute(statement[how], (story.execution.id,)).rowcount
            )


SHORT = settings(
    max_examples=20,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    report_multiple_bugs=False,
)


def test_any_history_of_an_event_log() -> None:
    """Events of every kind, crashes at any byte, lost indexes and rows, readers at any speed: each
    reader gets a prefix of what was appended, and every log has an honest end."""
    run_state_machine_as_test(EventLogs, settings=SHORT)  # type: ignore[no-untyped-call]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_any_history_of_an_event_log_long() -> None:
    """The same, with many more histories."""
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        EventLogs, settings=settings(SHORT, max_examples=300, stateful_step_count=30)
    )
