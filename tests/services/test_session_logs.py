"""Session logs keep late output, then pass it on; floods and failing disks harm no session."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from era_kernels.errors import InsufficientStorage
from era_kernels.json_incremental import Utf8Text
from era_kernels.models import (
    ClearOutput,
    Display,
    LoggedEvent,
    Result,
    Stderr,
    Stdout,
    Submission,
    UpdateDisplay,
)
from era_kernels.services.session_logs import (
    MAX_PENDING_BYTES,
    PendingOutput,
    SessionLogs,
    event_texts,
)
from era_kernels.storage.session_log import SessionLogStore
from tests.services.service_fixture import Services, failing, sleep_briefly
from tests.waiting import until

PLAIN = {"text/plain": "<Figure>", "image/png": "aGk="}


async def open_logs(path: Path) -> SessionLogs:
    for name in ("s", "t"):
        (path / name).mkdir(exist_ok=True)
    return SessionLogs(SessionLogStore(path))


def shown(entries: list[LoggedEvent]) -> list[tuple[str, str]]:
    return [(entry.event.type, entry.event.content) for entry in entries]  # type: ignore[union-attr]


class Follower:
    """Follows a log in a task of its own."""

    def __init__(self, batches: AsyncIterator[list[LoggedEvent]]) -> None:
        self.entries: list[LoggedEvent] = []
        self.task = asyncio.create_task(self._follow(batches))

    async def _follow(self, batches: AsyncIterator[list[LoggedEvent]]) -> None:
        async with aclosing(batches):
            async for batch in batches:
                self.entries += batch

    async def until(self, seq: int) -> None:
        await until(lambda: bool(self.entries) and self.entries[-1].seq >= seq)


# ---------------------------------------------------------------- what is kept


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Stdout("a"), Stdout("a")),
        (Stderr("b"), Stderr("b")),
        (Display(PLAIN), Stdout("<Figure>\n")),
        (UpdateDisplay({"text/plain": "50 %"}, {}, "d"), Stdout("50 %\n")),
        (Result({"text/html": "x", "image/png": "y"}), Stdout("[text/html, image/png]\n")),
        (Display({"text/plain": 5}), Stdout("[text/plain]\n")),
        (Stdout(""), None),
        (ClearOutput(), None),
    ],
    ids=str,
)
def test_rich_outputs_as_text(event: object, text: object) -> None:
    """The log is text: of a rich output its plain form, or its media types."""
    assert [*event_texts(event)] == ([] if text is None else [text])  # type: ignore[arg-type]


def test_a_long_plain_form_comes_in_pieces() -> None:
    """Of which only the newest are kept; as one string it may take hundreds of megabytes."""
    pieces = [f"{number:4}".encode() * 1000 for number in range(600)]
    texts = [*event_texts(Display({"text/plain": Utf8Text(pieces)}))]
    assert "".join(text.content for text in texts) == b"".join(pieces).decode() + "\n"
    held = PendingOutput()
    for text in texts:
        held.add(text)
    [(_, kept)], left_out = held.drain()
    assert left_out + len(kept.content) == 2_400_001
    assert kept.content.endswith(" 599\n")


def test_neighbours_are_joined() -> None:
    """Texts of one stream that wait together become one entry, with the first one's time."""
    held = PendingOutput()
    for text in (Stdout("a"), Stdout("b"), Stderr("c"), Stdout("d")):
        held.add(text)
    taken, left_out = held.drain()
    assert [text for _, text in taken] == [Stdout("ab"), Stderr("c"), Stdout("d")]
    assert not left_out
    assert not held
    assert held.drain() == ([], 0)


@pytest.mark.parametrize("size", [1, 1000, 3 * MAX_PENDING_BYTES])
def test_the_newest_of_a_flood(size: int) -> None:
    """Pending output is bounded: the newest is kept, and all the rest is counted."""
    held = PendingOutput()
    total = 0
    for n in range(5 * MAX_PENDING_BYTES // (size + 100) + 5):
        held.add(Stdout(f"{n % 10}" * size))
        total += size
        assert held.size <= MAX_PENDING_BYTES + 100
    ((_, kept),), left_out = held.drain()
    assert left_out + len(kept.content) == total
    assert kept.content.endswith(f"{n % 10}")


async def test_view(tmp_path: Path) -> None:
    """Output that was written is read back later, also after a restart."""
    logs = await open_logs(tmp_path)
    log = logs.live_log("s")
    log.write([Stdout("a"), ClearOutput(), Stdout(""), Stderr("b")])
    await logs.aclose()
    again = await open_logs(tmp_path)
    view = await again.view("s")
    assert (shown(view.entries), view.truncated) == ([("stdout", "a"), ("stderr", "b")], False)
    assert (await again.view("t")).entries == []
    await again.aclose()


async def test_truncated(tmp_path: Path) -> None:
    """The view tells when older entries are gone."""
    logs = await open_logs(tmp_path)
    log = logs.live_log("s")
    for n in range(6):
        log.write([Stdout(f"{n}" * 900_000)])
        await until(lambda: not log._pending)
    await until(lambda: log._write_task is None)
    view = await logs.view("s")
    assert view.truncated
    assert view.entries[-1].event.content.endswith("5")  # type: ignore[union-attr]
    await logs.aclose()


# ---------------------------------------------------------------- followers


async def test_follow(tmp_path: Path) -> None:
    """A follower gets what is kept and then what comes, once each and in order."""
    logs = await open_logs(tmp_path)
    log = logs.live_log("s")
    log.write([Stdout("old")])
    await until(lambda: log._write_task is None)
    first = Follower(logs.follow("s"))
    await first.until(1)
    for n in range(50):
        log.write([Stdout(f"{n};")])
        await asyncio.sleep(0.002)
    await until(lambda: log._write_task is None)
    last = await log.stored_log.last_seq()
    assert last < 40, "what comes close together is written together"
    await first.until(last)
    assert [entry.seq for entry in first.entries] == list(range(1, last + 1))
    text = "".join(content for _, content in shown(first.entries))
    assert text == "old" + "".join(f"{n};" for n in range(50))
    resumed = Follower(logs.follow("s", after=3))
    await resumed.until(last)
    assert resumed.entries == first.entries[3:]
    logs.close("s")
    await asyncio.wait_for(asyncio.gather(first.task, resumed.task), 5)
    await logs.aclose()


async def test_follow_from_beyond_the_end(tmp_path: Path) -> None:
    """A number that the log has not reached, as after a power cut, hides nothing new."""
    logs = await open_logs(tmp_path)
    log = logs.live_log("s")
    log.write([Stdout("old")])
    await until(lambda: log._write_task is None)
    follower = Follower(log.follow(1000))
    await asyncio.sleep(0.05)
    log.write([Stdout("new")])
    await follower.until(2)
    assert shown(follower.entries) == [("stdout", "new")]
    await logs.aclose()
    await asyncio.wait_for(follower.task, 5)


async def test_slow_follower_reads_from_the_file(tmp_path: Path) -> None:
    """Entries that have left the memory meanwhile are read from the file, in order."""
    logs = await open_logs(tmp_path)
    log = logs.live_log("s")
    batches = log.follow(0)
    log.write([Stdout("first")])
    assert shown(await anext(batches)) == [("stdout", "first")]
    for n in range(8):
        log.write([Stdout(f"{n}" * 100_000)])
        await until(lambda: log._write_task is None)
    rest: list[LoggedEvent] = []
    while not rest or rest[-1].seq < await log.stored_log.last_seq():
        rest += await anext(batches)
    assert [entry.seq for entry in rest] == list(range(2, 18))
    await batches.aclose()  # type: ignore[attr-defined]
    await logs.aclose()


async def test_forgotten_when_nobody_uses_it(tmp_path: Path) -> None:
    """A log without a writer and a follower costs nothing but its files."""
    logs = await open_logs(tmp_path)
    logs.live_log("s").write([Stdout("a")])
    gc.collect()
    await sleep_briefly()
    assert shown((await logs.view("s")).entries) == [("stdout", "a")], "the writer keeps it"
    await until(lambda: gc.collect() < 0 or not logs._live)
    await logs.aclose()


# ---------------------------------------------------------------- faults


async def test_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Output that cannot be written is counted; the count is written when writing works again."""
    logs = await open_logs(tmp_path)
    log = logs.live_log("s")
    log.write([Stdout("before")])
    await until(lambda: log._write_task is None)
    with monkeypatch.context() as patch:
        patch.setattr(log.stored_log, "append", failing(InsufficientStorage("There is no room.")))
        patch.setattr("era_kernels.services.session_logs.RETRY_INTERVAL", 0.05)
        for _ in range(5):
            log.write([Stdout("lost!")])
            await asyncio.sleep(0.03)
    log.write([Stdout("after")])
    follower = Follower(log.follow(1))
    await follower.until(3)
    note, after = shown(follower.entries)
    lost = int(note[1].split()[1])
    assert note == ("stderr", f"[... {lost} characters left out ...]\n")
    assert after[0] == "stdout"
    assert lost + len(after[1]) == 5 * len("lost!") + len("after")
    assert after[1].endswith("after")
    messages = [record.message for record in caplog.records]
    assert set(messages) == {"late output could not be written"}
    assert "lost!" not in caplog.text
    await logs.aclose()


async def test_close_with_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk without room does not keep the server from stopping."""
    logs = await open_logs(tmp_path)
    log = logs.live_log("s")
    monkeypatch.setattr(log.stored_log, "append", failing(InsufficientStorage("There is no room.")))
    log.write([Stdout("lost")])
    await asyncio.wait_for(logs.aclose(), 5)


async def test_nothing_after_the_end(tmp_path: Path) -> None:
    """Output of a kernel whose session is gone is dropped, without a message in the log."""
    logs = await open_logs(tmp_path)
    log = logs.live_log("s")
    logs.close("s")
    log.write([Stdout("a")])
    assert log._write_task is None
    assert [batch async for batch in log.follow(0)] == []
    await logs.aclose()


# ---------------------------------------------------------------- sessions


async def test_late_output_of_a_session(services: Services) -> None:
    """Output of a session's kernel between runs goes to its log, that of the next kernel too."""
    session = await services.create()
    await services.run("out a")
    services.host.machines[0].kernel.on_late_output([Stdout("late")])
    await services.sessions.restart("s1", "")
    services.host.machines[1].kernel.on_late_output([Stderr("later")])
    await until(lambda: services.logs.live_log(session.directory)._write_task is None)
    view = await services.logs.view(session.directory)
    assert "".join(content for _, content in shown(view.entries)) == "latelater"
    assert (await services.run("out b")).stdout == "b\n"


async def test_files_go_and_the_log_stays(services: Services) -> None:
    """A session that is not persistent loses its files with its kernel, and not its log."""
    session = await services.create(persistent=False)
    await services.run("write f x")
    services.host.machines[0].kernel.on_late_output([Stdout("late")])
    await until(lambda: services.logs.live_log(session.directory)._write_task is None)
    await services.run("die 1")
    await services.until_free(kernels=100)
    assert not (await services.workspace()).joinpath("f").exists()
    assert shown((await services.logs.view(session.directory)).entries) == [("stdout", "late")]


async def test_deletion(services: Services) -> None:
    """Followers of a deleted session are let go, whether or not it had a kernel."""
    for name in ("s1", "s2"):
        session = await services.create(name)
        if name == "s1":
            await services.run("out a", name)
        follower = Follower(services.logs.follow(session.directory))
        await asyncio.sleep(0.05)
        assert not follower.task.done()
        await services.sessions.delete(name)
        await asyncio.wait_for(follower.task, 5)
    assert services.directories == []


async def test_ephemeral_session(services: Services) -> None:
    """An ephemeral session has no log: no caller could read it."""
    running = await services.sessions.execute("alpha", Submission("gate g"))
    await services.until_running(1)
    services.host.machines[0].kernel.on_late_output([Stdout("late")])
    assert not len(services.logs._live)
    services.gates["g"].set()
    await running.result()
