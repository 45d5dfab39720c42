"""Every reader gets the same end of a run: after kills, stops and full disks."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.client import Client, SessionClient, SseEvent
from tests.contract.checks import check
from tests.server_process import Launcher, Server
from tests.stream_readers import StreamReader, slow_stream_reader, start_run
from tests.system.disks import launcher_on_disk
from tests.waiting import wait_until

LINE = "é{n:06}☃"
# Prints without end, faster than slow readers can read.
PRINTER = """
import time
n = 0
while True:
    for _ in range(2000):
        print(f"é{n:06}☃")
        n += 1
    time.sleep(0.01)
"""
ENOUGH = 1 << 20  # bytes that are printed before something happens


def check_printed(text: str) -> None:
    """Checks that the text is a prefix of the printer's output, which may end in a line."""
    lines = text.split("\n")
    expected = [LINE.format(n=n) for n in range(len(lines))]
    assert lines[:-1] == expected[:-1]
    assert expected[-1].startswith(lines[-1])


def check_whole(frames: list[SseEvent]) -> dict[str, Any]:
    """Checks that frames have no gap or repeat and one end, and returns the data of that."""
    assert [frame.id for frame in frames] == list(range(1, len(frames) + 1))
    assert [frame.event for frame in frames].count("done") == 1
    assert frames[-1].event == "done"
    return frames[-1].data


@contextmanager
def reading(server: Server, path: str, readers: list[StreamReader]) -> Iterator[None]:
    """Lets all readers read, until the stream or the server ends."""
    with ThreadPoolExecutor(len(readers)) as pool:
        working: list[Future[StreamReader]] = [
            pool.submit(reader.read, server.base_url, path) for reader in readers
        ]
        yield
        for one in working:
            one.result()


def some_readers() -> list[StreamReader]:
    return [
        StreamReader(),
        slow_stream_reader(),
        StreamReader(chunk_size=1000, chunk_pause=0.002, receive_buffer=4096),
    ]


def printed_enough(reader: StreamReader) -> bool:
    return sum(len(one.data.get("content", "")) for one in reader.events) > ENOUGH


@pytest.fixture
def session(launcher: Launcher) -> Iterator[SessionClient]:
    """Makes a session of a server that gives runs half a second when it stops."""
    client = launcher.start("--shutdown-grace", "0.5").connect()
    yield client.session("python", session_id="s1", data={"kept": 2**70})


def replayed(server: Server, path: str) -> list[SseEvent]:
    return StreamReader().read(server.base_url, path).events


def stored(client: Client, path: str) -> dict[str, Any]:
    answer: dict[str, Any] = client.http.get(path.removesuffix("/stream")).json()
    return answer


def check_stored_text(client: Client, path: str, text: str) -> None:
    """Checks that stdout and a range of it agree with the events."""
    data = text.encode()
    plain = path.removesuffix("stream") + "stdout"
    assert client.http.get(plain).content == data
    start = len(data) // 2 + 1
    part = client.http.get(plain, headers={"Range": f"bytes={start}-{start + 4999}"})
    assert part.content == data[start : start + 5000]


def test_kill_of_the_server_in_a_run(launcher: Launcher, session: SessionClient) -> None:
    """Readers of a run whose server is killed go on after the restart, and get its end.

    Each goes on with its own `Last-Event-ID` and gets the rest that was kept, byte for byte.
    """
    server, readers = launcher.servers[0], some_readers()
    path = start_run(server.base_url, session.id, PRINTER)
    with reading(server, path, readers):
        assert wait_until(lambda: printed_enough(readers[0]), 30)
        server.kill()
    server = launcher.start()
    client = server.connect()
    whole = replayed(server, path)
    check(check_whole(whole), exit_code=137, cause="server stopped", state="lost")
    assert [(one.event, one.data.get("code")) for one in whole[-2:-1]] == [
        ("error", "SERVER_STOPPED")
    ]
    check_printed("".join(one.data["content"] for one in whole[:-3]))
    for reader in readers:
        seen = reader.last_seq
        assert 0 < seen < len(whole)
        reader.read(server.base_url, path)
        assert reader.events == whole
    assert readers[1].events == replayed(server, path)
    check_stored_text(client, path, readers[0].text())
    check(stored(client, path), status="finished", exit_code=137, data={"kept": 2**70})
    again = SessionClient(client.http, "s1").run("print('after')")
    check(again, stdout="after\n", started_from="fresh", kernel_generation=2)


def test_stop_of_the_server_in_a_run(launcher: Launcher, session: SessionClient) -> None:
    """Readers of a run that SIGTERM ended past the grace get the same events, to the last byte.

    A reader that keeps pace gets the end from the old server, a slow one from the next.
    """
    server, readers = launcher.servers[0], some_readers()
    path = start_run(server.base_url, session.id, PRINTER)
    with reading(server, path, readers):
        assert wait_until(lambda: printed_enough(readers[0]), 30)
        assert server.stop() == 0
    end = check_whole(readers[0].events)
    check(end, exit_code=137, cause="server stopped", state="lost")
    assert readers[0].events[-2].data["code"] == "SERVER_STOPPED"
    check_printed(readers[0].text())
    server = launcher.start()
    client = server.connect()
    assert replayed(server, path) == readers[0].events
    for reader in readers[1:]:
        if not reader.has_ended:
            reader.read(server.base_url, path)
        assert reader.events == readers[0].events
    check_stored_text(client, path, readers[0].text())


def test_a_finished_run_after_a_restart(launcher: Launcher, session: SessionClient) -> None:
    """A finished run's events, result and text are the same after a stop or kill of the server.

    They are read from any event on.
    """
    server = launcher.servers[0]
    code = "for n in range(30_000): print('é', n)\nimport sys; print('e', file=sys.stderr)\n1/0"
    path = start_run(server.base_url, session.id, code)
    before = replayed(server, path)
    check(check_whole(before), exit_code=1, state="preserved")
    found = session.http.get(path.removesuffix("/stream")).json()
    for end in (Server.stop, Server.kill):
        end(server)
        server = launcher.start()
        client = server.connect()
        assert stored(client, path) == found
        assert replayed(server, path) == before
        for after in (0, 1, len(before) // 2, len(before) - 1):
            reader = StreamReader(events=before[:after])
            reader.read(server.base_url, path)
            assert reader.events == before
        check_stored_text(client, path, "".join(f"é {n}\n" for n in range(30_000)))


def test_kill_while_runs_wait(launcher: Launcher, session: SessionClient) -> None:
    """The run that was going on at a kill, and those still queued, have a truthful end."""
    server = launcher.servers[0]
    code = "import time\nprint('before')\ntime.sleep(600)"
    running = start_run(server.base_url, session.id, code)
    with session.http.stream("GET", running) as live:
        assert any("before" in line for line in live.iter_lines())
    waiting = [start_run(server.base_url, session.id, f"print({n})") for n in range(3)]
    server.kill()
    server = launcher.start()
    client = server.connect()
    for path in (running, *waiting):
        check(check_whole(replayed(server, path)), exit_code=137, cause="server stopped")
    check(stored(client, running), status="finished", stdout="before\n", state="lost")
    for path in waiting:
        kinds = [one.event for one in replayed(server, path)]
        assert kinds == ["queued", "error", "done"]
    listed = client.http.get(f"/api/sessions/{session.id}/executions").json()["executions"]
    assert [one["status"] for one in listed] == ["finished"] * 4


# ---------------------------------------------------------------- a full disk


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Launcher]:
    """A launcher whose data directory is a disk of 48 MB."""
    with launcher_on_disk(tmp_path, "48M") as launcher:
        yield launcher


# Fills the disk, to the last byte, and prints: readers cannot get events that are not on disk.
FILLER = """
import os, time
print("before")
time.sleep(0.3)
file = os.open("filler", os.O_CREAT | os.O_WRONLY)
size = 1 << 20
while size:
    try:
        os.write(file, bytes(size))
    except OSError:
        size //= 2
for n in range(100_000):
    print("x" * 1000)
time.sleep(60)
"""


def test_a_full_disk_in_a_run(full: Launcher) -> None:
    """All readers get the same end at once when the disk is full, and the next run works.

    A later reader gets it, too, while the disk is full, after a restart, and with room again.
    """
    server = full.start("--disk-reserve", "0")  # else the session is ended before it is full
    client = server.connect()
    session = client.session("python", session_id="s1")
    path = start_run(server.base_url, "s1", FILLER)
    readers = [StreamReader(), slow_stream_reader()]
    with reading(server, path, readers):
        pass
    end = check_whole(readers[0].events)
    assert readers[0].events == readers[1].events
    check(end, state="lost")
    assert end["exit_code"] != 0
    assert readers[0].events[-2].data["code"] == "INSUFFICIENT_STORAGE"
    assert readers[0].text().startswith("before\n")

    def check_again(server: Server, client: Client) -> None:
        again = replayed(server, path)
        later = check_whole(again)
        assert again[-2].data["code"] in ("INSUFFICIENT_STORAGE", "STORAGE_FAILED")
        assert [one.data for one in again[:-2]] == [one.data for one in readers[0].events[:-2]]
        check(later, exit_code=end["exit_code"], cause=end["cause"], state="lost")
        check(stored(client, path), status="finished", exit_code=end["exit_code"])
        listed = client.http.get(f"{session.path}/executions").json()["executions"]
        check(listed[0], status="finished", exit_code=end["exit_code"], cause=end["cause"])

    check_again(server, client)
    client.http.delete(f"{session.path}/files/filler").raise_for_status()
    check(session.run("print('next')"), stdout="next\n", started_from="fresh")
    check_again(server, client)
    server.kill()
    server = full.start()
    client = server.connect()
    check_again(server, client)
