"""A crash, a power loss or a program's output does no harm to a log."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from era_kernels.errors import ExecutionNotFound, StorageFailed
from era_kernels.models import Display, ErrorEvent, Event, Result, Session, Stderr, Stdout
from era_kernels.storage import log_index
from era_kernels.storage.execution_log import ExecutionLog
from era_kernels.storage.log_format import LineInfo, measure
from era_kernels.storage.log_index import (
    MARK_INTERVAL_BYTES,
    SAVE_INTERVAL_BYTES,
    LogIndex,
    boot_id,
    index_path,
)
from tests.storage.stores import (
    Stores,
    done_event,
    make_execution,
    output_lines,
    read_events,
    read_text,
)

LINE = Stderr("[era] server stopped before the run ended; variables are lost\n")
STOPPED = ErrorEvent("Server stopped", "The server stopped during the run.", "SERVER_STOPPED")
MANY: list[Event] = [
    Stdout(f"{n:06}" + "x" * 10_000) for n in range(3 * MARK_INTERVAL_BYTES // 10_000)
]


async def test_rich_output_in_the_words_of_the_log(stores: Stores, session: Session) -> None:
    """A display that names its parts as the log names its own is no text of a stream."""
    events: list[Event] = [
        Display({"type": "stdout"}),
        Result({"type": "stdout", "content": "no"}, {"type": "stderr"}),
        Stdout('"type":"stderr"'),
    ]

    await stores.create_finished_execution(session, "exec-1", *events)
    log = await stores.executions.open_log(session.directory, "exec-1")
    assert [entry.event for entry in await read_events(log)][:3] == events
    assert await read_text(log, "stdout") == b'"type":"stderr"'
    assert await read_text(log, "stderr") == b""


async def _long(stores: Stores) -> Path:
    """The path of a finished log that is long enough for an index of its own."""
    session = await stores.create_session()
    await stores.create_finished_execution(session, "exec-1", *MANY)
    path = stores.log_path(session, "exec-1")
    assert index_path(path).exists()
    return path


async def test_an_index_from_before_a_power_loss(stores: Stores) -> None:
    """A log of the old size whose last blocks hold zeros is counted again after a reboot.

    The saved index does not matter then, and the new count is saved.
    """
    path = await _long(stores)
    data = path.read_bytes()
    path.write_bytes(data[:-5000] + bytes(5000))
    index = index_path(path)
    index.write_bytes(index.read_bytes().replace(boot_id().encode(), b"before"))
    for _ in range(2):
        log = await stores.executions.open_log(path.parent.parent.name, "exec-1")
        assert [entry.event for entry in await read_events(log)] == MANY[:-1]
        assert len(await read_text(log, "stdout")) == log.text_bytes["stdout"]
    assert boot_id() in index.read_text()


@pytest.mark.parametrize("is_saved", [True, False])
async def test_an_index_that_only_happens_to_fit(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, is_saved: bool
) -> None:
    """When a log is repaired its old index goes: the new end may give it the size of before."""
    path = await _long(stores)
    if not is_saved:
        monkeypatch.setattr(LogIndex, "save", lambda *_: None)
    await stores.database.write(
        lambda c: c.execute("UPDATE executions SET status = 'running'").rowcount
    )
    os.truncate(path, path.stat().st_size - 20)
    await stores.executions.close_unfinished()
    assert index_path(path).exists() == is_saved
    log = await stores.executions.open_log(path.parent.parent.name, "exec-1")
    *events, done = [one.event for one in await read_events(log)]
    assert (events, done.type) == ([*MANY, LINE, STOPPED], "done")


async def test_a_start_counts_only_what_is_new(
    stores: Stores, session: Session, log: ExecutionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed server's long log is counted from where its index was saved last."""
    lines: list[Event] = [Stdout("x" * 60_000)] * 40
    while log.size < 3 * SAVE_INTERVAL_BYTES:
        await log.append(lines)
    counted = []

    def count(line: bytes, seq: int) -> LineInfo:
        counted.append(len(line))
        return measure(line, seq)

    monkeypatch.setattr(log_index, "measure", count)
    for _ in range(2):
        await stores.executions.close_unfinished()
        assert sum(counted) < SAVE_INTERVAL_BYTES + len(lines) * 61_000
        counted.clear()
    whole = await stores.executions.open_log(session.directory, "exec-1")
    assert (sum(counted) < 10_000, whole.last_seq) == (True, log.last_seq + 3)
    assert (await read_events(whole))[: log.last_seq][-1].event == lines[0]


async def test_a_header_of_zeros(stores: Stores, session: Session, log: ExecutionLog) -> None:
    """What follows a header that is lost is not trusted; the repair writes a new one."""
    await log.append(output_lines(20))
    await log.aclose()
    path = stores.log_path(session, "exec-1")
    with path.open("r+b") as file:
        file.write(bytes(30))
    torn = await stores.executions.open_log(session.directory, "exec-1")
    assert (await read_events(torn), torn.size) == ([], 0)
    await stores.executions.close_unfinished()
    whole = await stores.executions.open_log(session.directory, "exec-1")
    error, done = [one.event for one in await read_events(whole)]
    assert (error, done.type) == (STOPPED, "done")
    assert path.read_bytes().startswith(b'{"seq":0,')


async def test_the_last_event(stores: Stores, session: Session, log: ExecutionLog) -> None:
    """The last line is found without reading the rest; an empty log has none."""
    assert (await log.last_event(), log.last_seq) == (None, 0)
    recorded = await log.append([*MANY, done_event(make_execution(session))])
    assert (await log.last_event(), log.last_seq) == (recorded[-1], len(MANY) + 1)
    await log.aclose()
    path = stores.log_path(session, "exec-1")
    path.write_bytes(path.read_bytes()[:-10] + bytes(9) + b"\n")
    with pytest.raises(StorageFailed):
        await log.last_event()
    with pytest.raises(StorageFailed):
        await read_events(log)
    path.unlink()
    with pytest.raises(ExecutionNotFound):
        await log.last_event()
