"""The log of a session on disk: whole entries, bounded, and what faults leave of it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop

from era_kernels.errors import InsufficientStorage, StorageFailed
from era_kernels.models import LoggedEvent, Stderr, Stdout
from era_kernels.storage import session_log
from era_kernels.storage.session_log import (
    DIRECTORY,
    MAX_ENTRY_CHARS,
    NEWER,
    OLDER,
    SessionLogStore,
)
from tests.conftest import entered
from tests.storage.stores import CREATED_AT, small_disk

Act = Callable[[SessionLogStore], Awaitable[None]]


@asynccontextmanager
async def with_store(sessions: Path) -> AsyncIterator[SessionLogStore]:
    """Runs it with a store of sessions, one of which, `s`, has a directory."""
    (sessions / "s").mkdir(exist_ok=True)
    store = SessionLogStore(sessions)
    try:
        yield store
    finally:
        await asyncio.to_thread(store.close)


@pytest.fixture
def store(io_loop: IOLoop, tmp_path: Path) -> Iterator[SessionLogStore]:
    with entered(io_loop, with_store(tmp_path)) as store:
        yield store


def seqs(entries: list[LoggedEvent]) -> list[int]:
    return [entry.seq for entry in entries]


def text(entries: list[LoggedEvent]) -> str:
    return "".join(entry.event.content for entry in entries)  # type: ignore[union-attr]


async def test_entries_come_back(store: SessionLogStore, tmp_path: Path) -> None:
    """Entries count from 1, with their times and streams, also for who opens the log later."""
    log = store.open_log("s")
    assert await log.read() == []
    assert await log.last_seq() == 0
    assert not (tmp_path / "s" / DIRECTORY).exists(), "reading makes nothing"
    first = await log.append([(CREATED_AT, Stdout("é\r\n\x00\ud800")), (CREATED_AT, Stderr("b"))])
    assert first == [
        LoggedEvent(1, CREATED_AT, Stdout("é\r\n\x00\ud800")),
        LoggedEvent(2, CREATED_AT, Stderr("b")),
    ]
    again = store.open_log("s")
    assert await again.read() == first
    assert await again.append([(CREATED_AT, Stdout("c"))]) == [
        LoggedEvent(3, CREATED_AT, Stdout("c"))
    ]
    assert seqs(await again.read(after=1)) == [2, 3]
    assert await again.last_seq() == 3


async def test_long_texts_become_several_entries(store: SessionLogStore) -> None:
    """No entry is longer than the limit, and none is empty."""
    long = "".join(chr(97 + n % 26) for n in range(2 * MAX_ENTRY_CHARS + 10))
    entries = await store.open_log("s").append(
        [(CREATED_AT, Stdout("")), (CREATED_AT, Stdout(long))]
    )
    assert seqs(entries) == [1, 2, 3]
    assert text(entries) == long


@pytest.mark.parametrize("character", ["x", "\x01", "\ud800"])
async def test_bounded(store: SessionLogStore, tmp_path: Path, character: str) -> None:
    """The newest of much is kept: at least one file of it, at most two, in whole entries."""
    log = store.open_log("s")
    for n in range(40):
        await log.append([(CREATED_AT, Stdout(f"{n}".ljust(6) + character * 100_000))])
        files = list((tmp_path / "s" / DIRECTORY).iterdir())
        assert {file.name for file in files} <= {NEWER, OLDER}
        assert all(file.stat().st_size <= session_log.MAX_FILE_BYTES for file in files)
    entries = await log.read()
    assert entries[0].seq > 1
    assert seqs(entries) == list(range(entries[0].seq, 81))
    assert sum(file.stat().st_size for file in files) > session_log.MAX_FILE_BYTES
    assert await store.open_log("s").read() == entries


async def test_one_append_that_is_longer_than_the_log(store: SessionLogStore) -> None:
    """Its end is what is kept."""
    log = store.open_log("s")
    written = await log.append([(CREATED_AT, Stdout(f"{n}" * 50_000)) for n in range(100, 250)])
    kept = await log.read()
    assert kept == written[-len(kept) :]
    assert 4 < len(kept) < len(written)


TORN = [b'{"seq":3', b'{"seq":3,"time":"', b"\x00" * 100, b"\xff"]


@pytest.mark.parametrize("torn", TORN, ids=range(len(TORN)))
async def test_torn_last_line(store: SessionLogStore, tmp_path: Path, torn: bytes) -> None:
    """What a crash left of the last line is no entry, and the next one takes its number."""
    await store.open_log("s").append([(CREATED_AT, Stdout("a")), (CREATED_AT, Stdout("b"))])
    path = tmp_path / "s" / DIRECTORY / NEWER
    with path.open("ab") as file:
        file.write(torn)
    log = store.open_log("s")
    assert seqs(await log.read()) == [1, 2]
    await log.append([(CREATED_AT, Stdout("c"))])
    assert (seqs(await log.read()), text(await log.read())) == ([1, 2, 3], "abc")
    assert [json.loads(line)["seq"] for line in path.read_text().splitlines()] == [1, 2, 3]


async def test_every_byte_may_be_the_last(store: SessionLogStore, tmp_path: Path) -> None:
    """However much of the file a crash left, its whole lines are entries and it goes on."""
    await store.open_log("s").append([(CREATED_AT, Stdout("a")), (CREATED_AT, Stderr("b"))])
    path = tmp_path / "s" / DIRECTORY / NEWER
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        log, left = store.open_log("s"), whole[:size].count(b"\n")
        assert seqs(await log.append([(CREATED_AT, Stdout("c"))])) == [left + 1]
        assert seqs(await log.read()) == list(range(1, left + 2))


async def test_crash_while_the_files_rotate(store: SessionLogStore, tmp_path: Path) -> None:
    """When only the older file is there, the numbers go on after its last."""
    await store.open_log("s").append([(CREATED_AT, Stdout("a")), (CREATED_AT, Stdout("b"))])
    folder = tmp_path / "s" / DIRECTORY
    (folder / NEWER).rename(folder / OLDER)
    log = store.open_log("s")
    assert await log.last_seq() == 2
    assert seqs(await log.append([(CREATED_AT, Stdout("c"))])) == [3]
    assert text(await log.read()) == "abc"


async def test_lines_that_are_no_entries(store: SessionLogStore, tmp_path: Path) -> None:
    """Garbage in the middle is passed over."""
    await store.open_log("s").append([(CREATED_AT, Stdout("a"))])
    path = tmp_path / "s" / DIRECTORY / NEWER
    line = path.read_bytes()
    display = line.replace(b'"stdout"', b'"clear_output"')
    path.write_bytes(b"null\n\n[1]\n\xff\n" + display + line + b'{"seq":"x"}\n')
    log = store.open_log("s")
    assert seqs(await log.read()) == [1]
    assert seqs(await log.append([(CREATED_AT, Stdout("b"))])) == [2]


async def test_full_disk(tmp_path: Path) -> None:
    """An append that finds no room says so and leaves a whole log; with room it goes on."""
    with small_disk(tmp_path, "256k") as disk:
        async with with_store(disk) as store:
            log = store.open_log("s")
            await log.append([(CREATED_AT, Stdout("a"))])
            filler = disk / "filler"
            space = os.statvfs(disk)
            filler.write_bytes(bytes(space.f_bavail * space.f_frsize - 8192))
            with pytest.raises(InsufficientStorage):
                await log.append([(CREATED_AT, Stdout("x" * 60_000))])
            assert text(await log.read()) == "a"
            assert (disk / "s" / DIRECTORY / NEWER).read_bytes().endswith(b"\n")
            filler.unlink()
            assert seqs(await log.append([(CREATED_AT, Stdout("b"))])) == [2]
            assert text(await log.read()) == "ab"


async def test_session_that_is_gone(store: SessionLogStore, tmp_path: Path) -> None:
    """Nothing is made anew for a session whose directory was removed."""
    with pytest.raises(StorageFailed):
        await store.open_log("gone").append([(CREATED_AT, Stdout("a"))])
    assert await store.open_log("gone").read() == []
    assert not (tmp_path / "gone").exists()


async def test_appends_and_reads_at_once(store: SessionLogStore) -> None:
    """Readers see a run of whole entries at any time, also while the files are rotated."""
    log = store.open_log("s")

    async def write() -> None:
        for _ in range(60):
            await log.append([(CREATED_AT, Stdout("x" * 60_000))])

    writing = asyncio.create_task(write())
    reads = 0
    while not writing.done():
        found = seqs(await log.read())
        assert found == list(range(found[0], found[-1] + 1)) if found else True
        reads += 1
    await writing
    assert reads > 10
    assert (await log.read())[-1].seq == 60


async def test_mode(store: SessionLogStore, tmp_path: Path) -> None:
    """Nobody but the server reads it."""
    await store.open_log("s").append([(CREATED_AT, Stdout("a"))])
    folder = tmp_path / "s" / DIRECTORY
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / NEWER).stat().st_mode & 0o777 == 0o600
