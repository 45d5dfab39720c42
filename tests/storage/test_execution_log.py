"""Executions: logs that lose nothing, an index that lists them, and what is dropped when."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import tempfile
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from era_kernels.errors import ExecutionNotFound, InsufficientStorage, StorageFailed
from era_kernels.json_incremental import iterencode
from era_kernels.models import (
    ClearOutput,
    Display,
    ErrorEvent,
    Event,
    Execution,
    ExecutionStatus,
    LoggedEvent,
    Queued,
    Result,
    Session,
    Stderr,
    Stdout,
    UpdateDisplay,
    now,
)
from era_kernels.storage import execution_log, log_format
from era_kernels.storage.execution_log import ExecutionLog, ExecutionStore
from era_kernels.storage.log_index import MARK_INTERVAL_BYTES, index_path
from tests.storage.stores import (
    LANGUAGE,
    Stores,
    done_event,
    make_execution,
    open_stores,
    output_lines,
    read_events,
    read_text,
    small_disk,
)
from tests.waiting import until


async def test_events_come_back_as_they_went_in(
    stores: Stores, session: Session, execution: Execution, log: ExecutionLog
) -> None:
    """Every kind of event, with any text, number and time, is read from the log unchanged."""
    events: list[Event] = [
        Queued(2),
        Stdout("é\r\n\x00\u2028\U0001f600 \ud800 lone \ud83d\ude00 pair"),
        Stderr(""),
        Result({"text/plain": "1", "application/json": {"n": 2**99}}, {"m": 1}),
        Display({"image/png": "AAAA"}, display_id="d"),
        UpdateDisplay({"text/plain": "x"}, {}, "d"),
        ClearOutput(True),
        ErrorEvent("E", "m", "C"),
        done_event(execution),
    ]
    recorded = [*await log.append(events[:3]), *await log.append(events[3:])]
    assert [one.event for one in recorded] == events
    assert [one.seq for one in recorded] == list(range(1, 10))
    assert await read_events(log) == recorded
    await log.aclose()
    again = await stores.executions.open_log(session.directory, execution.id)
    assert await read_events(again) == recorded
    assert await read_events(again, after=7) == recorded[7:]
    assert await read_events(again, after=9) == []


async def test_the_header(
    stores: Stores, session: Session, execution: Execution, log: ExecutionLog
) -> None:
    """The first line has number 0 and holds code, language and time; nothing else."""
    assert await read_events(log) == []
    assert log.size == stores.log_path(session, execution.id).stat().st_size
    await log.aclose()
    first = json.loads(stores.log_path(session, execution.id).read_bytes())
    time = execution.created_at.isoformat()
    assert first == {"seq": 0, "time": time, "code": "code", "language": LANGUAGE}


async def test_concurrent_appends_keep_their_order(log: ExecutionLog) -> None:
    """Appends are written in the order of the calls, without a gap, also when callers leave."""
    tasks = [asyncio.create_task(log.append(output_lines(2, 2 * n))) for n in range(100)]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(o, asyncio.CancelledError) for o in outcomes) == 34
    await log.append([])
    recorded = await read_events(log)
    assert [one.event for one in recorded] == output_lines(200)
    assert [one.seq for one in recorded] == list(range(1, 201))
    await log.aclose()
    with pytest.raises(StorageFailed):
        await log.append(output_lines(1))


async def test_readers_follow_a_growing_log(log: ExecutionLog) -> None:
    """A reader that starts at any time gets whole events only, in order, up to what is there."""

    async def write() -> None:
        for n in range(200):
            await log.append(output_lines(50, 50 * n))

    writing, reads = asyncio.create_task(write()), 0
    while not writing.done():
        recorded = await read_events(log, after=20 * reads)
        first = 20 * reads + 1
        assert [one.seq for one in recorded] == list(range(first, first + len(recorded)))
        reads += 1
    await writing
    assert reads > 3
    assert [one.event for one in await read_events(log)] == output_lines(10_000)


async def test_a_long_text_is_cut_into_events(
    log: ExecutionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line grows without bound: a long text becomes several events, and not a byte is lost."""
    monkeypatch.setattr(log_format, "MAX_TEXT_CHARS", 1000)
    content = "".join(chr(0x3B1 + n % 20) for n in range(10_500))

    recorded = await log.append([Stdout(content), Stderr("end")])
    assert [one.seq for one in recorded] == list(range(1, 13))
    assert await read_text(log, "stdout") == content.encode()
    assert dict(log.text_bytes) == {"stdout": 21_000, "stderr": 3}


async def test_ranges_of_text(
    stores: Stores, session: Session, execution: Execution, log: ExecutionLog
) -> None:
    """Any range of a stream is exactly that slice of its UTF-8, live and from a reopened log."""
    pieces: list[Event] = []
    for n in range(6000):
        pieces += [Stdout(f"{n} é\U0001f600 \ud800\n" + "x" * (n % 170)), Stderr(f"e{n}")]
    out = "".join(e.content for e in pieces if isinstance(e, Stdout)).encode("utf-8", "replace")
    err = "".join(e.content for e in pieces if isinstance(e, Stderr)).encode()

    for start in range(0, len(pieces), 500):
        await log.append(pieces[start : start + 500])
    assert log.size > 3 * MARK_INTERVAL_BYTES
    await log.aclose()
    reopened = await stores.executions.open_log(session.directory, execution.id)
    index_path(stores.log_path(session, execution.id)).unlink()
    counted = await stores.executions.open_log(session.directory, execution.id)
    for reader in (log, reopened, counted):
        assert dict(reader.text_bytes) == {"stdout": len(out), "stderr": len(err)}
        assert await read_text(reader, "stderr") == err
        total = len(out)
        for start, stop in (
            (0, 1), (0, total), (1, 2), (total - 1, total), (total // 2, total // 2 + 9),
            (100, 100), (300_000, 700_001), (5, 4), (total, total + 5),
            (total - 3, total * 2),
        ):  # fmt: skip
            assert await read_text(reader, "stdout", start, stop) == out[start:stop]
        assert await read_text(reader, "stdout", 77_777) == out[77_777:]


async def test_short_texts_do_not_wait_for_long_ones(
    stores: Stores, session: Session, log: ExecutionLog
) -> None:
    """Much text of one run waits for that of others, and nobody's line waits for it."""
    loud = [
        await stores.executions.create(
            make_execution(session, f"loud-{n}"), session.directory, LANGUAGE
        )
        for n in range(8)
    ]
    writing = [asyncio.create_task(one.append([Stdout("y\n" * 500_000)] * 4)) for one in loud]
    for _ in range(20):
        await log.append([Stdout("x")])
    assert not any(task.done() for task in writing[4:])
    for task, one in zip(writing, loud, strict=True):
        assert len(await task) > 50
        await one.aclose()


async def test_no_room_for_long_output(stores: Stores, session: Session) -> None:
    """Without room a log takes what is short, and its end; a long text is refused as a whole."""
    has_room = True

    def check_room() -> None:
        if not has_room:
            raise InsufficientStorage("no room")

    executions = ExecutionStore(stores.database, stores.path / "sessions", check_room=check_room)
    log = await executions.create(make_execution(session, "long"), session.directory, LANGUAGE)
    await log.append([Stdout("x" * 300_000)])
    has_room = False
    size = log.size
    with pytest.raises(InsufficientStorage):
        await log.append([Stdout("y")])
    with pytest.raises(InsufficientStorage):
        await log.append([Display({"a": "y" * 1_000_000}, {})])
    assert log.size == size
    await log.append([Stderr("no room"), done_event(make_execution(session))])
    assert len(await read_text(log, "stderr")) == 7
    await log.aclose()
    short = await executions.create(make_execution(session, "short"), session.directory, LANGUAGE)
    await short.append([Stdout("y" * 1000)])
    await short.aclose()
    with pytest.raises(InsufficientStorage):
        long = dataclasses.replace(make_execution(session, "exec-3"), code="#" * 300_000)
        await executions.create(long, session.directory, LANGUAGE)
    await executions.aclose()


async def test_late_readers_do_not_read_from_the_start(
    stores: Stores, session: Session, execution: Execution, log: ExecutionLog
) -> None:
    """Reading the end of a long log reads little of the file."""
    for _ in range(20):
        await log.append([Stdout("x" * 50_000) for _ in range(20)])
    await log.aclose()
    path = stores.log_path(session, execution.id)
    with path.open("r+b") as file:  # what is not read may be anything
        file.seek(path.stat().st_size // 10)
        file.write(b"\xff" * (path.stat().st_size // 2))
    for reader in (log, await stores.executions.open_log(session.directory, execution.id)):
        assert len(await read_events(reader, after=395)) == 5
        assert await read_text(reader, "stdout", 19_999_990) == b"x" * 10


async def test_a_reader_that_leaves_or_comes_too_late(stores: Stores, session: Session) -> None:
    """Readers that stop leave no descriptor; a log that was deleted is ExecutionNotFound."""
    await stores.create_finished_execution(
        session, "exec-1", *[Stdout("x" * 50_000) for _ in range(40)]
    )
    log = await stores.executions.open_log(session.directory, "exec-1")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        async with aclosing(log.read()) as batches:
            await anext(batches)
        async with aclosing(log.text("stdout")) as pieces:
            await anext(pieces)
        task = asyncio.create_task(read_events(log))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    await until(lambda: len(list(Path("/proc/self/fd").iterdir())) <= before)
    stores.log_path(session, "exec-1").unlink()
    for read in (read_events(log), read_text(log, "stdout")):
        with pytest.raises(ExecutionNotFound):
            await read
    with pytest.raises(ExecutionNotFound):
        await stores.executions.open_log(session.directory, "exec-2")


async def test_a_full_disk_leaves_the_log_whole(
    stores: Stores, session: Session, tmp_path: Path
) -> None:
    """An append that does not fit is 507 and leaves the log whole, readable and able to go on.

    Appends work when there is room; where not even a header fits, nothing is left of the log.
    """
    with small_disk(tmp_path) as disk:
        where = stores.path / "sessions" / session.directory / "executions"
        where.rmdir()
        where.symlink_to(disk)
        log = await stores.executions.create(make_execution(session), session.directory, LANGUAGE)
        kept = await log.append(output_lines(10))
        size = log.size
        with pytest.raises(InsufficientStorage):
            await log.append([*output_lines(5), *[Stdout("x" * 100_000) for _ in range(30)]])
        assert log.size == size == (disk / "exec-1.jsonl").stat().st_size
        assert await read_events(log) == kept
        kept += await log.append(output_lines(3, 10))
        assert [one.seq for one in kept] == list(range(1, 14))
        assert await read_events(log) == kept
        await log.aclose()
        await asyncio.to_thread(_fill, disk / "ballast")
        with pytest.raises(InsufficientStorage):
            await stores.executions.create(
                make_execution(session, "exec-2"), session.directory, LANGUAGE
            )
        assert not (disk / "exec-2.jsonl").exists()


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return


async def test_an_event_that_is_no_json_leaves_the_log_whole(
    stores: Stores, session: Session, log: ExecutionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of the caller's costs its own append, not what others wrote or will write."""
    monkeypatch.setattr(execution_log, "WRITE_BYTES", 10)

    kept = await log.append(output_lines(2))
    with pytest.raises(TypeError):
        await log.append([*output_lines(50), Display({"x": object()})])
    assert log.size == stores.log_path(session, "exec-1").stat().st_size
    kept += await log.append(output_lines(1))
    assert await read_events(log) == kept


# ---------------------------------------------------------------- the index


async def test_the_index_follows_an_execution(
    stores: Stores, execution: Execution, log: ExecutionLog
) -> None:
    """A row is read right after it was handed in, at each step; unknown ids are not found."""
    assert await stores.executions.get("s1", "exec-1") == execution
    execution = dataclasses.replace(execution, status=ExecutionStatus.RUNNING, started_at=now())
    stores.executions.update_soon(execution)
    assert await stores.executions.get("s1", "exec-1") == execution
    execution = dataclasses.replace(
        execution, status=ExecutionStatus.FINISHED, finished_at=now(), exit_code=-9,
        cause="signal 9",
    )  # fmt: skip
    stores.executions.update_soon(execution, log)
    assert await stores.executions.get("s1", "exec-1") == execution
    await log.aclose()
    for ids in (("s1", "exec-2"), ("s2", "exec-1")):
        with pytest.raises(ExecutionNotFound):
            await stores.executions.get(*ids)


async def test_lists(stores: Stores) -> None:
    """Executions of one session, oldest first, by pages; those without index are not listed."""
    session, other = await stores.create_session(), await stores.create_session("s2")
    made = [await stores.create_finished_execution(session, f"exec-{n}") for n in (3, 1, 2)]
    await stores.create_finished_execution(other, "exec-other")
    hidden = make_execution(session, "exec-hidden")
    log = await stores.executions.create(hidden, session.directory, LANGUAGE, is_indexed=False)
    await log.aclose()
    listed = stores.executions.list_executions
    assert await listed("s1") == (made, 3)
    assert await listed("s1", 1, 1) == (made[1:2], 3)
    assert await listed("s1", None, 2) == (made[2:], 3)
    assert await listed("s3") == ([], 0)


async def _kept(stores: Stores, session: Session) -> list[str]:
    kept, total = await stores.executions.list_executions(session.id)
    assert total == len(kept)
    return [one.id for one in kept]


async def _logs(stores: Stores, session: Session) -> list[str]:
    """The logs on disk, once the removal of others had its time."""
    folder = stores.log_path(session, "x").parent
    async with asyncio.timeout(10):
        while len(list(folder.glob("*.jsonl"))) > len(await _kept(stores, session)):
            await asyncio.sleep(0.01)
    return sorted(path.name for path in folder.iterdir())


async def test_trim_by_count(stores: Stores, session: Session) -> None:
    """The newest so many stay, with their logs; a queued or running one and the newest always."""
    running = await stores.executions.create(
        make_execution(session, "exec-0"), session.directory, LANGUAGE
    )
    for n in range(1, 7):
        await stores.create_finished_execution(session, f"exec-{n}")
    await stores.executions.trim("s1", session.directory, 3, 1 << 30)
    assert await _kept(stores, session) == ["exec-0", "exec-4", "exec-5", "exec-6"]
    assert await _logs(stores, session) == [f"exec-{n}.jsonl" for n in (0, 4, 5, 6)]
    await stores.executions.trim("s1", session.directory, 0, 0)
    assert await _kept(stores, session) == ["exec-0", "exec-6"]
    await running.aclose()


async def test_trim_of_requests(stores: Stores, session: Session) -> None:
    """Requests to stored code push out older requests alone, of which fewer are kept."""
    for n in range(3):
        await stores.create_finished_execution(session, f"exec-{n}")
    for n in range(20):
        await stores.create_finished_execution(session, f"exec-r{n:02}", is_request=True)
    await stores.executions.trim("s1", session.directory, 20, 1 << 30)
    runs = ["exec-0", "exec-1", "exec-2"]
    assert await _kept(stores, session) == [*runs, "exec-r18", "exec-r19"]
    await stores.executions.trim("s1", session.directory, 2, 1 << 30)
    assert await _kept(stores, session) == [*runs[1:], "exec-r19"]


async def test_trim_by_size(stores: Stores, session: Session) -> None:
    """The newest stay as long as they fit together; indexes of long logs go with them."""
    for n in range(5):
        await stores.create_finished_execution(
            session, f"exec-{n}", *[Stdout("x" * 100_000) for _ in range(10)]
        )
    assert len(await _logs(stores, session)) == 10
    await stores.executions.trim("s1", session.directory, 100, 3_500_000)
    assert await _kept(stores, session) == ["exec-2", "exec-3", "exec-4"]
    assert len(await _logs(stores, session)) == 6


# ---------------------------------------------------------------- any history

_contents = st.text(
    st.characters(codec=None) | st.sampled_from("\ud83d\ude00"), max_size=30
) | st.just("x" * 9000)
_events = st.builds(Stdout, _contents) | st.builds(Stderr, _contents) | st.just(ClearOutput())
_steps = st.lists(st.lists(_events, max_size=5), min_size=1, max_size=6)
STOPPED_LINE = "[era] server stopped before the run ended; variables are lost\n"


def _expected_end(kept: list[LoggedEvent]) -> list[Event]:
    """The events before `done` that a repair adds: none on stderr where no event shows a run."""
    stderr = "".join(one.event.content for one in kept if isinstance(one.event, Stderr))
    apart = "" if stderr.endswith("\n") or not stderr else "\n"
    return [
        *([Stderr(apart + STOPPED_LINE)] if kept else []),
        ErrorEvent("Server stopped", "The server stopped during the run.", "SERVER_STOPPED"),
    ]


@settings(max_examples=60)
@given(steps=_steps, crash=st.floats(0, 1), again=st.lists(_events, max_size=3))
def test_any_crash_leaves_a_prefix_of_the_truth(
    steps: list[list[Event]], crash: float, again: list[Event]
) -> None:
    """A log that is cut at any byte replays a prefix of what was appended, text included.

    After the repair at the next start it ends with `done`, once, however often it is repaired.
    """

    async def body(path: Path) -> None:
        async with open_stores(path) as stores:
            session = await stores.create_session()
            execution = make_execution(session)
            log = await stores.executions.create(execution, session.directory, LANGUAGE)
            truth: list[LoggedEvent] = []
            for step in [*steps, again]:
                truth += await log.append(step)
            await log.aclose()
            assert await read_events(log) == truth
        file = stores.log_path(session, execution.id)
        os.truncate(file, int(file.stat().st_size * crash))
        async with open_stores(path) as stores:
            torn = await stores.executions.open_log(session.directory, execution.id)
            kept = await read_events(torn)
            assert kept == truth[: len(kept)]
            for stream in ("stdout", "stderr"):
                expected = "".join(
                    one.event.content  # type: ignore[union-attr]
                    for one in kept
                    if one.event.type == stream
                ).encode("utf-8", "replace")
                assert await read_text(torn, stream) == expected
                assert torn.text_bytes[stream] == len(expected)
            for _ in range(2):
                await stores.executions.close_unfinished()
                whole = await stores.executions.open_log(session.directory, execution.id)
                replayed = await read_events(whole)
                assert replayed[: len(kept)] == kept
                *added, done = [one.event for one in replayed[len(kept) :]]
                assert (added, done.type) == (_expected_end(kept), "done")
                assert [one.seq for one in replayed] == list(range(1, len(replayed) + 1))
                row = await stores.executions.get("s1", execution.id)
                assert (row.status, row.exit_code) == (ExecutionStatus.FINISHED, 137)

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(body(Path(directory)))


async def test_time_goes_on_in_a_log(log: ExecutionLog) -> None:
    """Each event has the time of its append, in UTC."""
    began = now()
    (first,) = await log.append(output_lines(1))
    await asyncio.sleep(0.01)
    (second,) = await log.append(output_lines(1))
    assert began <= first.time < second.time <= now()
    assert first.time.utcoffset() == timedelta(0)


async def test_an_execution_without_a_session_directory(
    stores: Stores, session: Session, tmp_path: Path
) -> None:
    """Where the session's directory is gone, create is StorageFailed, and makes no new one."""
    await stores.workspaces.remove(session.directory)
    with pytest.raises(StorageFailed):
        await stores.executions.create(
            Execution("exec-1", "s1", "", now()), session.directory, LANGUAGE
        )
    assert list((tmp_path / "sessions").iterdir()) == []


async def test_long_events_are_kept_like_all_others(
    stores: Stores, session: Session, log: ExecutionLog
) -> None:
    """A large image and deep lists among short events: written and read back as they are."""
    rich = {"image/png": "A" * 5_000_000, "text/plain": "\u20ac" * 300_000, "x": [[1.5]] * 9000}
    events: list[Event] = [
        Stdout("a"),
        Display(rich, {}, "d"),
        Stderr("b" * 9_000_000),
        Stdout("c"),
    ]

    await log.append(events)
    await log.append([Stdout("d")])
    found = [recorded.event for recorded in await read_events(log)]
    assert found[0] == events[0]
    assert isinstance(found[1], Display)
    assert json.loads(b"".join(iterencode(found[1].data))) == rich
    texts = [event for event in found if isinstance(event, Stdout)]
    assert texts == [Stdout("a"), Stdout("c"), Stdout("d")]
    assert await read_text(log, "stderr") == b"b" * 9_000_000
    assert log.size == stores.log_path(session, "exec-1").stat().st_size
