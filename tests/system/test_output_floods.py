"""Output is bounded: a flood costs its own session, not the server or other sessions."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from tests.client import Client, SessionClient
from tests.output_bombs import PROGRAMS, TOO_LONG, TOO_MANY_PARTS
from tests.server_process import Server
from tests.waiting import wait_until

MEGABYTE = 1_000_000
GROWTH = 500 * MEGABYTE
LONGEST = 5.0  # seconds that a request of others may take; some 50 ms on a quiet host
BUSIEST = ("lists of", "messages of")  # programs that need both processors
BUSY_FACTOR = 20  # times that a request took before the flood, which it may take longer

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def session(client: Client) -> Iterator[SessionClient]:
    session = client.session("python")
    session.run("pass")
    yield session
    session.delete()


@pytest.fixture(scope="module")
def neighbour(client: Client) -> SessionClient:
    session = client.session("python")
    session.run("pass")
    return session


def timed_run(session: SessionClient) -> float:
    """Runs a small program, and returns how many seconds that took."""
    began = time.monotonic()
    assert session.run("print(1)")["stdout"] == "1\n"
    return time.monotonic() - began


@contextmanager
def bounded(server: Server, neighbour: SessionClient, growth: int = GROWTH) -> Iterator[None]:
    """Checks that meanwhile the server grows by so little at most, and others are served."""
    process = psutil.Process(server.process.pid)
    before = peak = process.memory_info().rss
    usual = max(timed_run(neighbour) for _ in range(5))  # long where the host is busy already
    longest = 0.0
    over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.01):
            peak = max(peak, process.memory_info().rss)

    def ask() -> None:
        nonlocal longest
        while not (over.wait(0.02) and longest):
            longest = max(longest, timed_run(neighbour))

    threads = [threading.Thread(target=watch), threading.Thread(target=ask)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert peak - before < growth
    assert 0 < longest < LONGEST + BUSY_FACTOR * usual


@pytest.mark.parametrize(
    "name",
    [
        # They keep the server so busy that what else the host does decides how long others wait.
        pytest.param(name, marks=pytest.mark.alone) if name.startswith(BUSIEST) else name
        for name in PROGRAMS
        if name != "a line of 100 MB"  # `test_a_long_line_is_kept_whole` runs it
    ],
)
def test_programs_that_say_too_much(
    server: Server, neighbour: SessionClient, session: SessionClient, name: str
) -> None:
    """Flooding programs end, the server stays small, and others are served."""
    with bounded(server, neighbour):
        answer = session.run(PROGRAMS[name], timeout=120)
    assert answer["exit_code"] == 0, answer["stderr"][-500:]
    assert session.run("print('still here')")["stdout"] == "still here\n"


@pytest.mark.parametrize(
    ("code", "expected_cause"), [(TOO_MANY_PARTS, "parts"), (TOO_LONG, "128 MiB")]
)
def test_what_no_message_may_be(
    server: Server, neighbour: SessionClient, session: SessionClient, code: str, expected_cause: str
) -> None:
    """The kernel is ended with the cause as text, and the next run has a new one."""
    with bounded(server, neighbour, 200 * MEGABYTE):
        answer = session.run(code, timeout=50)
    assert (answer["exit_code"], answer["state"]) == (137, "lost")
    assert answer["cause"].startswith("the kernel broke the protocol")
    assert expected_cause in answer["cause"]
    assert session.run("print(1)")["started_from"] == "fresh"


def test_a_large_image_is_streamed_whole(
    server: Server, neighbour: SessionClient, session: SessionClient
) -> None:
    """A result of 50 MB arrives unchanged, live and again later."""
    with bounded(server, neighbour):
        result, done = session.stream(PROGRAMS["an image of 50 MB"], timeout=120)
        assert result.data["data"]["image/png"] == "A" * 67_000_000
        path = f"{session.path}/executions/{done.data['execution_id']}/stream"
        again = session.http.get(path).text
    assert json.loads(again.splitlines()[2].removeprefix("data: ")) == result.data


def test_a_long_line_is_kept_whole(
    server: Server, neighbour: SessionClient, session: SessionClient
) -> None:
    """A line of 100 MB is cut in the result, which is marked so; the text is whole."""
    with bounded(server, neighbour, 250 * MEGABYTE):
        answer = session.run(PROGRAMS["a line of 100 MB"], timeout=120)
        size = 0
        with session.http.stream("GET", answer["full_output"]["stdout"]) as text:
            for chunk in text.iter_bytes():
                size += len(chunk)
    assert (answer["exit_code"], answer["truncated"]) == (0, True)
    assert size == 100_000_001
    assert session.run("print('still here')")["stdout"] == "still here\n"


def test_a_reader_that_hardly_reads(
    server: Server, neighbour: SessionClient, session: SessionClient
) -> None:
    """A reader of some bytes a second neither slows the program nor fills the server's memory."""
    body = json.dumps({"code": "for n in range(400_000): print('%099d' % n)"}).encode()
    head = f"POST {session.path}/stream HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
    port = int(server.base_url.rpartition(":")[2])

    def finished() -> bool:
        [only] = session.http.get(f"{session.path}/executions").json()["executions"][1:]
        return bool(only["status"] == "finished")

    with bounded(server, neighbour, 60 * MEGABYTE), socket.socket() as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.connect(("127.0.0.1", port))
        wire.sendall(head.encode() + body)
        received = b""
        for _ in range(15):
            received += wire.recv(1)
            time.sleep(0.1)
        assert received == b"HTTP/1.1 200 OK"
        assert wait_until(finished, 60)
