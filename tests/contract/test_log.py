"""The log of a session: late output, what outlives what, and deaths between runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psutil
import pytest

from tests.client import Client, SessionClient, SseEvent, parse_sse
from tests.contract.checks import TIME, Start, check, check_error
from tests.server_process import Launcher, Server
from tests.waiting import wait_until

EVENTS = {"Accept": "text/event-stream"}
TICKER = """
import threading, time
def tick():
    for n in range({count}):
        time.sleep({pause})
        print("tick", n)
threading.Thread(target=tick, daemon=True).start()
"""
FLOOD = """
import sys, threading
def flood():
    while True: {}
threading.Thread(target=flood, daemon=True).start()
"""


def entries(session: SessionClient) -> list[dict[str, str]]:
    answer = session.http.get(f"{session.path}/log").raise_for_status()
    found: list[dict[str, str]] = answer.json()["entries"]
    return found


def text(session: SessionClient, stream: str = "stdout") -> str:
    return "".join(one["content"] for one in entries(session) if one["stream"] == stream)


def logged(session: SessionClient, expected: str, stream: str = "stdout") -> bool:
    """Whether that is all that the log has of the stream, in time."""
    return wait_until(lambda: text(session, stream) == expected, 20)


@contextmanager
def following(session: SessionClient, after: int = 0) -> Iterator[Iterator[SseEvent]]:
    headers = {**EVENTS, "Last-Event-ID": str(after)}
    with session.http.stream("GET", f"{session.path}/log", headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        yield parse_sse(answer.iter_lines())


# ---------------------------------------------------------------- what is late


def test_thread(session: SessionClient) -> None:
    """What a thread prints after its run is in the log and in no run's output."""
    session.run(TICKER.format(count=3, pause=0.2))
    check(session.run("import time; print('a'); time.sleep(0.5); print('b')"), stdout="a\nb\n")
    assert logged(session, "tick 0\ntick 1\ntick 2\n")
    assert all(TIME.fullmatch(one["time"]) for one in entries(session))
    assert session.http.get(f"{session.path}/log").json()["truncated"] is False


def test_what_a_program_left_behind(session: SessionClient) -> None:
    """So is what children of a program beside the kernel print after its end, without a kernel."""
    command = "(sleep 1; echo grüße; echo oh >&2) & echo now"
    answer = session.http.post(f"{session.path}/exec", json={"command": command}).json()
    check(answer, stdout="now\n", stderr="", exit_code=0)
    assert logged(session, "grüße\n")
    assert logged(session, "oh\n", "stderr")


LATE = {
    "timer": "import threading\nt = threading.Timer(0.3, print, ['late'])\n"
    "t.daemon = True\nt.start()",
    "task": "import asyncio\nasync def late():\n    await asyncio.sleep(0.3)\n    print('late')\n"
    "task = asyncio.get_event_loop().create_task(late())",
    "child": "import subprocess\nsubprocess.Popen(['sh', '-c', 'sleep 0.3; echo late'])",
    "grandchild": "import subprocess\nsubprocess.run('(sleep 0.3; echo late) &', shell=True)",
    "fork": "import os, time\n"
    "if not os.fork():\n    time.sleep(0.3)\n    print('late')\n    os._exit(0)",
    "descriptor": "import os, threading, time\n"
    "def late(fd=os.dup(1)):\n    time.sleep(0.3)\n    os.write(fd, b'late\\n')\n"
    "threading.Thread(target=late, daemon=True).start()",
}


@pytest.mark.parametrize("source", LATE)
def test_whatever_prints_late(session: SessionClient, source: str) -> None:
    """Wherever it comes from: in the middle of the next run it is the log's and not that run's."""
    check(session.run(LATE[source]), exit_code=0, stdout="")
    code = "import asyncio\nprint('now')\nawait asyncio.sleep(0.6)\nprint('still')"
    check(session.run(code), stdout="now\nstill\n", stderr="")
    assert logged(session, "late\n")


def test_both_streams_of_a_child(session: SessionClient) -> None:
    """An old child's stdout and stderr are kept apart, between the runs and in them."""
    code = (
        "import subprocess\nsubprocess.Popen(['sh', '-c', 'sleep 0.2; echo a; echo b >&2; echo c'])"
    )
    session.run(code)
    check(session.run("import time; time.sleep(0.5)"), stdout="", stderr="")
    assert logged(session, "a\nc\n")
    assert logged(session, "b\n", "stderr")


def test_server_of_an_earlier_run(session: SessionClient) -> None:
    """What a server that goes on in the session logs for each request is in the log."""
    code = (
        "import http.server, threading, sys\n"
        "server = http.server.HTTPServer(('127.0.0.1', 0), http.server.BaseHTTPRequestHandler)\n"
        "threading.Thread(target=server.serve_forever, daemon=True).start()"
    )
    session.run(code)
    ask = """
import urllib.request
try:
    urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/x")
except Exception as error:
    print(error.code)
"""
    check(session.run(ask), stdout="501\n", stderr="")
    assert wait_until(lambda: '"GET /x HTTP/1.1" 501' in text(session, "stderr"), 20)


def test_rich_output(session: SessionClient) -> None:
    """A display that comes late is text in the log, and nobody's result."""
    code = (
        "import threading, time\nfrom IPython.display import display\n"
        "data = {'text/plain': 'plain', 'text/html': '<b>'}\n"
        "def late():\n    time.sleep(0.2)\n    display(data, raw=True)\n"
        "threading.Thread(target=late, daemon=True).start()"
    )
    session.run(code)
    check(session.run("import time; time.sleep(0.5)"), results=[])
    assert logged(session, "plain\n")


# ---------------------------------------------------------------- following


def test_follow_and_resume(session: SessionClient) -> None:
    """Live entries as they come; who comes back goes on after the last one seen."""
    session.run(TICKER.format(count=6, pause=0.15))
    with following(session) as events:
        began = time.monotonic()
        first = [next(events) for _ in range(3)]
        assert time.monotonic() - began < 5
    assert [one.id for one in first] == [1, 2, 3]
    assert [one.event for one in first] == ["stdout"] * 3
    with following(session, after=3) as events:
        rest = [next(events) for _ in range(3)]
    assert "".join(one.data["content"] for one in first + rest) == "".join(
        f"tick {n}\n" for n in range(6)
    )
    assert [one.id for one in rest] == [4, 5, 6]


def test_head(session: SessionClient) -> None:
    """HEAD describes what GET would send, and waits for nothing."""
    for accept in ("text/event-stream", "application/json"):
        head = session.http.head(f"{session.path}/log", headers={"Accept": accept})
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["Content-Type"].startswith(accept)


def test_deletion_ends_it(session: SessionClient) -> None:
    """A follower of a session that is deleted has heard all."""
    with following(session) as events, ThreadPoolExecutor(1) as pool:
        rest = pool.submit(list, events)
        time.sleep(0.2)
        assert not rest.done()
        session.delete()
        assert rest.result(10) == []
    check_error(session.http.get(f"{session.path}/log"), 404, "SESSION_NOT_FOUND")


# ---------------------------------------------------------------- what outlives what


def test_restart_of_the_kernel(session: SessionClient) -> None:
    """The log goes on when the kernel is another one."""
    session.run(TICKER.format(count=1, pause=0.05))
    assert logged(session, "tick 0\n")
    session.http.post(f"{session.path}/restart").raise_for_status()
    session.run(TICKER.format(count=1, pause=0.05))
    assert logged(session, "tick 0\ntick 0\n")
    assert text(session, "stderr") == "", "nobody died"


def test_stop_with_a_follower(start: Start, launcher: Launcher) -> None:
    """A server that stops lets followers go, and does not wait for them."""
    session = start().session("python")
    with following(session) as events, ThreadPoolExecutor(1) as pool:
        rest = pool.submit(list, events)
        began = time.monotonic()
        assert launcher.servers[-1].stop() == 0
        assert time.monotonic() - began < 10
        assert rest.result(5) == []


def test_duplicate_has_a_log_of_its_own(client: Client, session: SessionClient) -> None:
    """What a session printed is its own history, and no part of a copy."""
    session.run(TICKER.format(count=1, pause=0.05))
    assert logged(session, "tick 0\n")
    answer = session.http.post(f"{session.path}/duplicate", json={}).raise_for_status()
    copy = SessionClient(client.http, answer.json()["id"])
    assert entries(copy) == []
    copy.delete()


def test_workspace_does_not_show_it(session: SessionClient) -> None:
    """The log is no file of the user: neither listed nor counted, and code cannot reach it."""
    session.run(TICKER.format(count=1, pause=0.05))
    assert logged(session, "tick 0\n")
    check(session.get(), file_count=0, total_size_bytes=0, files=[])
    code = "import os; print([n for d in ('..', '../..') for n in os.listdir(d) if n == 'log'])"
    answer = session.run(f"try:\n    {code}\nexcept OSError:\n    print([])")
    check(answer, stdout="[]\n")


# ---------------------------------------------------------------- floods


FLOODS = {
    "lines": FLOOD.format("print('x' * 50)"),
    "much at once": FLOOD.format("print('x' * 100_000)"),
    "alternating": FLOOD.format("print('x'); sys.stderr.write('y')"),
    "child": "import subprocess\nsubprocess.Popen(['yes'])",
}


def test_floods(server: Server, client: Client) -> None:
    """Threads and children that print for ever hold up nobody, and fill no memory and no disk."""
    other = client.session("python")
    other.run("pass")
    flooded = [client.session("python") for _ in FLOODS]
    for session in flooded:
        session.run("kept = 1")
    process = psutil.Process(server.process.pid)
    before, grown = process.memory_info().rss, 0
    for session, flood in zip(flooded, FLOODS.values(), strict=True):
        session.run(flood)
    end = time.monotonic() + 4
    while time.monotonic() < end:
        began = time.monotonic()
        for session in flooded:
            check(session.run("print(kept)"), stdout="1\n", stderr="", state="preserved")
        check(other.run("print(2)"), stdout="2\n")
        assert client.http.get("/health").status_code == 200
        assert time.monotonic() - began < 20
        grown = max(grown, process.memory_info().rss - before)
    assert grown < 64 << 20
    for folder in (server.data_dir / "sessions").glob("*/log"):
        assert sum(file.stat().st_size for file in folder.iterdir()) <= 2 << 20
    for session in flooded:
        assert {"x", "y"} & set(text(session) + text(session, "stderr"))
        session.delete()
    other.delete()


def test_burst(session: SessionClient) -> None:
    """Of a burst that does not fit the newest is kept, and its end is there soon."""
    code = (
        "import threading, time\ndef late():\n    time.sleep(0.1)\n"
        "    for n in range(40_000): print(f'{n:099d}')\n"
        "threading.Thread(target=late, daemon=True).start()"
    )
    session.run(code)
    assert wait_until(lambda: text(session).endswith(f"{39_999:099d}\n"), 30)
    answer = session.http.get(f"{session.path}/log").json()
    lines = text(session).splitlines()
    assert len(lines) * 100 > 1 << 20
    left_out = [one["content"] for one in answer["entries"] if one["stream"] == "stderr"]
    assert answer["truncated"] or left_out


# ---------------------------------------------------------------- deaths between runs


@pytest.mark.alone  # libzmq must get a processor within milliseconds to write a last flush
@pytest.mark.parametrize(
    ("death", "cause", "expected"),
    [
        ("os._exit(7)", "exit 7", ""),
        ("os.kill(os.getpid(), 9)", "signal 9 (SIGKILL)", ""),
        ("ctypes.string_at(0)", "signal 11 (SIGSEGV)", "Fatal Python error: Segmentation fault"),
        ("os.abort()", "signal 6 (SIGABRT)", "Fatal Python error: Aborted"),
    ],
)
def test_death_between_runs(session: SessionClient, death: str, cause: str, expected: str) -> None:
    """A death shows in the status at once and its cause ends the log; the next run is fresh."""
    code = (
        "import ctypes, os, threading, time\n"
        f"def die():\n    time.sleep(0.2)\n    print('bye', flush=True)\n    {death}\n"
        "threading.Thread(target=die, daemon=True).start()"
    )
    check(session.run(code), exit_code=0)
    assert wait_until(lambda: session.get()["status"] == "stopped", 10)
    reported = f"The kernel's process ended: {cause}.\n"
    assert wait_until(lambda: text(session, "stderr").endswith(reported), 10)
    assert text(session) == "bye\n"
    assert text(session, "stderr").startswith(expected or reported)
    assert text(session, "stderr").count("process ended") == 1
    check(session.run("print(1)"), stdout="1\n", started_from="fresh", kernel_generation=2)
