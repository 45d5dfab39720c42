"""The stream: frames to the byte, order, errors of the server, comments, and its headers."""

from __future__ import annotations

import itertools
import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.client import Client, SessionClient, SseEvent, parse_sse
from tests.contract.checks import (
    SLEEPING_CODE,
    Start,
    background_runs,
    check,
    check_error,
    wait_for_executions,
    wait_for_file,
)
from tests.server_process import Launcher, Server
from tests.web.serving import parse_response, read_all

FRAME = re.compile(r'id: (\d+)\nevent: (\w+)\ndata: (\{"type":"\w+".*\})')
DONE = {
    "type", "exit_code", "duration", "execution_time_ms", "files_modified", "session_id",
    "execution_id", "exception", "state", "started_from", "kernel_generation", "queued_ms",
    "start_ms",
}  # fmt: skip


def text_of(events: list[SseEvent], kind: str = "stdout") -> str:
    """What was written to one of the two."""
    return "".join(event.data["content"] for event in events if event.event == kind)


def raw_stream(server: Server, session: SessionClient, code: str, silence: float = 7) -> str:
    """The body of a stream, to the byte, by HTTP/1.0."""
    body = json.dumps({"code": code}).encode()
    head = f"POST {session.path}/stream HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
    port = int(server.base_url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(head.encode() + body)
        return parse_response(read_all(sock, silence)).body.decode()


@pytest.fixture(scope="module", autouse=True)
def quiet(server: Server, client: Client) -> Iterator[Future[str]]:
    """A stream in which nothing happens for more than 5 seconds, while the other tests run."""
    session = client.session("python")
    code = "print(1)\nimport time; time.sleep(5.8)\nprint(2)"
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(raw_stream, server, session, code)
    session.delete()


# ---------------------------------------------------------------- frames


def test_frames_to_the_byte(server: Server, shared: SessionClient) -> None:
    """A frame is `id`, `event` and one line of `data`, each with one space, and a blank line."""
    code = "print('a\\rb\\u2028c\\u2029d\\x85e')\nimport sys; print('err', file=sys.stderr)\n1/0"
    text = raw_stream(server, shared, code)
    assert text.endswith("}\n\n")
    found = [FRAME.fullmatch(part) for part in text.removesuffix("\n\n").split("\n\n")]
    assert all(found), text
    assert [int(one[1]) for one in found if one] == list(range(1, len(found) + 1))
    assert len(text.splitlines()) == text.count("\n")
    for one in found:
        assert one is not None
        shown = json.loads(one[3])
        assert shown["type"] == one[2]
        assert one[3] == json.dumps(shown, ensure_ascii=False, separators=(",", ":")).replace(
            "\u2028", "\\u2028"
        ).replace("\u2029", "\\u2029").replace("\x85", "\\u0085")


def test_headers(client: Client, shared: SessionClient) -> None:
    """The stream is an event stream that nobody on the way keeps or holds back."""
    body = {"code": "print(1)"}
    with client.http.stream("POST", f"{shared.path}/stream", json=body) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["Cache-Control"] == "no-cache"
        assert answer.headers["X-Accel-Buffering"] == "no"
        assert list(parse_sse(answer.iter_lines()))[-1].event == "done"


def test_events(session: SessionClient) -> None:
    """Output comes as `stdout` and `stderr`; `done` is last, with what the contract names."""
    code = "import sys\nprint('a', flush=True)\nprint('b', file=sys.stderr, flush=True)\nprint('c')"
    events = session.stream(code)
    assert [event.event for event in events] == ["stdout", "stderr", "stdout", "done"]
    assert events[0].data == {"type": "stdout", "content": "a\n"}
    assert events[1].data == {"type": "stderr", "content": "b\n"}
    done = events[-1].data
    assert set(done) == DONE
    check(done, exit_code=0, files_modified=0, session_id=session.id, exception=None)
    check(done, state="preserved", started_from="fresh", kernel_generation=1)


def test_silent_program(shared: SessionClient) -> None:
    """A program that says nothing is one `done`."""
    assert [event.event for event in shared.stream("")] == ["done"]


def test_rich_events(shared: SessionClient) -> None:
    """Rich outputs are events of their own, never part of stdout."""
    code = """
from IPython.display import display, clear_output
handle = display("one", display_id="d")
handle.update("two")
clear_output(wait=True)
6 * 7
"""
    events = shared.stream(code)
    assert [event.event for event in events] == [
        "display", "update_display", "clear_output", "result", "done",
    ]  # fmt: skip
    assert events[0].data["data"]["text/plain"] == "'one'"
    assert events[1].data["data"]["text/plain"] == "'two'"
    assert events[2].data == {"type": "clear_output", "wait": True}
    assert events[3].data["data"]["text/plain"] == "42"


def test_order(shared: SessionClient) -> None:
    """Events keep the order in which the program wrote to the two."""
    code = """
import sys
for n in range(50):
    print("out", n)
    print("err", n, file=sys.stderr)
"""
    both = "".join(event.data.get("content", "") for event in shared.stream(code))
    assert both == "".join(f"out {n}\nerr {n}\n" for n in range(50))


PROGRAMS = [
    "for n in range(5000): print(n, 'x' * 100)",
    "print('x' * 3_000_000)",
    "import sys\nfor n in range(3000): sys.stdout.write(str(n % 10))",
    "import time\nfor c in 'né ☃ 😀': print(c, end='', flush=True); time.sleep(0.03)",
    "import os\nfor n in range(200): os.write(1, '☃'.encode()[n % 3:n % 3 + 1])",
    "import subprocess; print('a', flush=True); subprocess.run(['echo', 'b']); print('c', end='')",
    "print('\\r10%\\r20%\\x1b[0m\\x00', end='')",
]


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_same_as_run(shared: SessionClient, program: str) -> None:
    """The contents of a stream are byte for byte the `stdout` of a run."""
    events = shared.stream(program)
    assert events[-1].data["exit_code"] == 0
    assert text_of(events) == shared.run(program)["stdout"] != ""


def test_lines_go_together(shared: SessionClient) -> None:
    """A frame may hold many lines: a burst is not a frame a line."""
    events = shared.stream("for n in range(20_000): print(n)")
    assert len(events) < 10_000
    assert text_of(events) == "".join(f"{n}\n" for n in range(20_000))


def test_output_is_not_held_back(shared: SessionClient) -> None:
    """What was printed arrives while the program still runs, whole lines and parts of them."""
    code = """
import time
print("whole")
time.sleep(0.4)
print("part", end="", flush=True)
time.sleep(0.4)
print("tail", end="")
time.sleep(0.4)
"""
    with shared.open_stream(code) as events:
        began = time.monotonic()
        seen = [(event.data.get("content"), time.monotonic() - began) for event in events]
    assert [content for content, _ in seen] == ["whole\n", "part", "tail", None]
    for (_, earlier), (_, later) in itertools.pairwise(seen):
        assert later - earlier > 0.2


def test_what_is_flushed_is_seen(shared: SessionClient) -> None:
    """Each time, also where nothing else in the kernel can do anything from then on.

    A program that flushes all the time does not wait each time, and on a busy host it waits longer:
    the pause makes sure that the last one is waited for.
    """
    said = "import ctypes, time\n" + "".join(f"print({n}, flush=True)\n" for n in range(9))
    said += "time.sleep(1.1)\nprint(9, flush=True)\n"
    keep = "ctypes.PyDLL(None).system(b'until [ -e go ]; do sleep 0.01; done; rm go')"
    for _ in range(5):  # one at once after the other: a run ends with a flush of its own
        shared.run("print(1)")
        with shared.open_stream(f"{said}_ = {keep}") as events:
            while not next(events).data["content"].endswith("9\n"):
                pass
            shared.http.put(f"{shared.path}/files/go", content=b"").raise_for_status()
            rest = list(events)
            assert [event.event for event in rest] == ["done"], rest


def test_signal_handlers_print(shared: SessionClient) -> None:
    """Wherever a signal strikes, in the midst of a print, too: its handler can print."""
    code = """
import signal
count = 0
def handler(*_):
    global count
    count += 1
    print("struck")
_ = signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
for n in range(30_000): print(n)
_ = signal.setitimer(signal.ITIMER_REAL, 0, 0)
print("struck", count)
"""
    text, _, count = shared.run(code)["stdout"].rpartition("struck ")
    assert text.count("struck") == int(count)
    while "struck\n" in text:  # again: one may strike in the midst of another's
        text = text.replace("struck\n", "")
    assert text == "".join(f"{n}\n" for n in range(30_000))


# ---------------------------------------------------------------- errors


def test_own_error(shared: SessionClient) -> None:
    """A program's own error is stderr, exit code and exception, and no `error` frame."""
    events = shared.stream("raise ValueError('boom')")
    assert {event.event for event in events} == {"stderr", "done"}
    assert "ValueError: boom" in text_of(events, "stderr")
    done = events[-1].data
    check(done, exit_code=1, state="preserved")
    check(done["exception"], name="ValueError", value="boom")
    assert "cause" not in done


def check_end(events: list[SseEvent], code: str, exit_code: int, cause: str) -> None:
    """An `error` frame of the server, and `done` after it."""
    failure, done = events[-2], events[-1]
    assert failure.event == "error"
    assert set(failure.data) == {"type", "error", "message", "code"}
    assert failure.data["code"] == code
    assert set(done.data) - {"files_changed"} == DONE | {"cause"}
    check(done.data, exit_code=exit_code, cause=cause)


def test_timeout(session: SessionClient) -> None:
    """A timeout is an `error` frame, then `done` with 124."""
    events = session.stream("print('a')\nimport time; time.sleep(60)", timeout=0.5)
    assert text_of(events) == "a\n"
    check_end(events, "EXECUTION_TIMEOUT", 124, "timeout")


@pytest.mark.parametrize(
    ("code", "exit_code", "cause"),
    [
        ("import os; os._exit(7)", 7, "exit 7"),
        ("import os; os.kill(os.getpid(), 9)", 137, "signal 9 (SIGKILL)"),
    ],
)
def test_death(session: SessionClient, code: str, exit_code: int, cause: str) -> None:
    """A kernel that dies is an `error` frame, then `done` with what it died of."""
    events = session.stream(f"print('a', flush=True)\n{code}")
    assert text_of(events) == "a\n"
    check_end(events, "KERNEL_DIED", exit_code, cause)
    assert events[-1].data["state"] == "lost"


@pytest.mark.parametrize(
    ("method", "part", "code", "cause"),
    [
        ("DELETE", "", "SESSION_DELETED", "session deleted"),
        ("POST", "/restart", "SESSION_RESTARTED", "restarted"),
    ],
)
def test_end_from_outside(
    client: Client, session: SessionClient, method: str, part: str, code: str, cause: str
) -> None:
    """A deletion or a restart during a run is an `error` frame, then `done` with 137."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(session.stream, SLEEPING_CODE)
        wait_for_file(session)
        assert client.http.request(method, session.path + part).status_code == 200
        check_end(running.result(), code, 137, cause)


def test_end_by_the_server(start: Start, launcher: Launcher) -> None:
    """Output past its bound, and a server that stops, are reported the same way."""
    client = start("--shutdown-grace", "0.2", "--max-execution-output", "64K")
    events = client.session("python").stream("while True: print('x' * 1000)")
    check_end(events, "OUTPUT_LIMIT", 137, "output limit 64 KiB")
    session = client.session("python")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(session.stream, SLEEPING_CODE)
        wait_for_file(session)
        assert launcher.servers[-1].stop() == 0
        check_end(running.result(), "SERVER_STOPPED", 137, "server stopped")


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/api/sessions/gone/stream", {"code": ""}, 404, "SESSION_NOT_FOUND"),
        ("/api/sessions/-/stream", {"code": ""}, 400, "INVALID_ID"),
        ("{session}/stream", {}, 400, "INVALID_REQUEST"),
        ("{session}/stream", {"code": "", "timeout": -1}, 400, "INVALID_REQUEST"),
        ("{session}/stream", {"code": "", "timeout": 1e9}, 400, "INVALID_REQUEST"),
        ("{session}/stream", {"code": "", "update_data": {"a": "x" * 1_100_000}}, 413, "TOO_LARGE"),
        ("{session}/executions/gone/stream", None, 404, "EXECUTION_NOT_FOUND"),
    ],
)
def test_problem_before_the_first_frame(
    client: Client, shared: SessionClient, path: str, body: Any, status: int, code: str
) -> None:
    """Problems that are found before the first frame are plain JSON errors."""
    method = "GET" if body is None else "POST"
    answer: httpx.Response = client.http.request(
        method, path.format(session=shared.path), json=body
    )
    check_error(answer, status, code)


# ---------------------------------------------------------------- waiting


def test_queued(session: SessionClient) -> None:
    """A run that waits gets its position, once, before anything else."""
    with background_runs(session) as start, ThreadPoolExecutor(1) as pool:
        start("open('ready', 'w').close(); import time; time.sleep(1)")
        wait_for_file(session)
        start("pass")
        wait_for_executions(session, 2)
        events = pool.submit(session.stream, "print('mine')").result()
    assert [event.event for event in events] == ["queued", "stdout", "done"]
    assert events[0].data == {"type": "queued", "position": 2}
    assert events[-1].data["queued_ms"] > 100


def test_comments(quiet: Future[str]) -> None:
    """While nothing happens a comment line keeps the connection."""
    before, after = quiet.result().split('"content":"2\\n"')
    assert re.search(r"\n\n:[^\n]*\n\n", before)
    assert "event: done" in after
