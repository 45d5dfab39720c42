"""What ended a run is told where people look, and the next run is told what was lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.client import Client, SessionClient, SseEvent, parse_sse
from tests.contract.checks import (
    SLEEPING_CODE,
    background_runs,
    check,
    wait_for_executions,
    wait_for_file,
)
from tests.waiting import wait_until

# A server whose own limits are near.
SERVER_FLAGS = (
    "--session-memory", "512M", "--session-processes", "100", "--max-execution-output", "1M",
)  # fmt: skip
LIMITS = {"memory_mb": 128, "workspace_mb": 4}
TAIL = "; variables are lost, files are kept"
OWN_MEMORY = "128 MiB (limits.memory_mb, at most session_memory)"
OUT_OF_MEMORY = f"out of memory: the session's limit is {OWN_MEMORY}"
TAKE = """
import os, time
for _ in range(4): os.fork()
data = b"x" * (20 << 20)
time.sleep(60)
"""
TOO_LARGE = (
    "workspace too large: the session's limit is 4 MiB "
    "(limits.workspace_mb, at most session_workspace)"
)
WRITE = """
import time
for name in ("a", "b"): open(name, "wb").write(bytes(3 << 20))
time.sleep(60)
"""
CHILD = """
import subprocess, sys
subprocess.run([sys.executable, "-c", "bytearray(10**10)"], check=True)
"""
# More than the session may have, and less than a process may reserve.
PAST_THE_LIMIT = {
    "growth": "def grow():\n    x = []\n    while True: x.append(bytearray(10**6))\ngrow()",
    "one request": "x = bytearray(10**9)",
    "a forked child": (
        "import os\nif not os.fork():\n    x = bytearray(10**9)\n    os._exit(0)\nos.wait()"
    ),
    "a child process": CHILD.replace("10**10", "10**9"),
}
# The words of OpenBLAS, which then raises SIGINT in its own process.
TELL_NO_THREAD = """
import os, signal, threading
os.write(2, b"OpenBLAS blas_thread_init: pthread_create failed for thread 1 of 2: "
            b"Resource temporarily unavailable\\n")
"""
INTERRUPTS = {
    "numpy": """
import threading
over = threading.Event()
try:
    try:
        while True: threading.Thread(target=over.wait).start()
    except RuntimeError:
        import numpy
finally:
    over.set()
""",
    "raise": TELL_NO_THREAD + "signal.raise_signal(signal.SIGINT)",
    "kill": TELL_NO_THREAD + "os.kill(os.getpid(), signal.SIGINT)",
    "kill of a thread": TELL_NO_THREAD
    + "signal.pthread_kill(threading.get_ident(), signal.SIGINT)",
    "in C": TELL_NO_THREAD + "import ctypes; getattr(ctypes.CDLL(None), 'raise')(2)",
}
IGNORE = "sum(range(10**12))"
ABORT = "import os; os.write(2, b'memory allocation of 80 bytes failed'); os.abort()"

# Code; exit code; cause; the line; what the next run is told.
ENDS = {
    "memory": (
        TAKE,
        137,
        "out of memory at 128 MB",
        f"{OUT_OF_MEMORY}{TAIL}",
        "out of memory at 128 MB",
    ),
    "workspace": (
        WRITE,
        137,
        "workspace larger than 4 MB",
        f"{TOO_LARGE}{TAIL}",
        "workspace larger than 4 MB",
    ),
    "timeout": (
        IGNORE,
        124,
        "timeout",
        f"timeout: the run did not end within 2 s{TAIL}",
        "timeout, and the run did not stop when it was interrupted",
    ),
    "output": (
        "while True: print('x' * 1000)",
        137,
        "output limit 1 MiB",
        f"output limit: the run printed more than 1 MiB (max_execution_output){TAIL}",
        "output limit 1 MiB",
    ),
    "killed": (
        "import os; os.kill(os.getpid(), 9)",
        137,
        "signal 9 (SIGKILL)",
        f"the process was killed by signal 9 (SIGKILL){TAIL}",
        "killed by signal 9 (SIGKILL)",
    ),
    "crashed": (
        "import ctypes; ctypes.string_at(0)",
        139,
        "signal 11 (SIGSEGV)",
        f"the process was killed by signal 11 (SIGSEGV){TAIL}",
        "killed by signal 11 (SIGSEGV)",
    ),
    "aborted for want of memory": (
        ABORT,
        134,
        "out of memory at 128 MB: signal 6 (SIGABRT)",
        f"{OUT_OF_MEMORY}{TAIL}",
        "out of memory at 128 MB: signal 6 (SIGABRT)",
    ),
    "its own exit": (
        "import os; os._exit(7)",
        7,
        "exit 7",
        None,
        "the kernel ended: exit 7",
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _isolated(client: Client) -> None:
    if client.http.get("/health").json()["isolation"]["tier"] == 4:
        pytest.skip("this host has no walls")


@pytest.fixture
def limited(client: Client) -> Iterator[SessionClient]:
    """A session with limits of its own."""
    session = client.session("python", limits=LIMITS)
    yield session
    client.http.delete(session.path)


def stderr_of(events: list[SseEvent]) -> str:
    return "".join(one.data["content"] for one in events if one.event == "stderr")


def interrupt(session: SessionClient, index: int) -> None:
    """Interrupts one of the session's executions."""
    listed = session.executions()
    path = f"{session.path}/executions/{listed[index]['execution_id']}/interrupt"
    session.http.post(path).raise_for_status()


def server_lines(stderr: str) -> list[str]:
    """Returns the server's lines, without their prefix."""
    return [line[6:] for line in stderr.split("\n") if line.startswith("[era] ")]


def replay(session: SessionClient, events: list[SseEvent]) -> list[SseEvent]:
    path = f"{session.path}/executions/{events[-1].data['execution_id']}"
    with session.http.stream("GET", f"{path}/stream") as response:
        replayed = list(parse_sse(response.iter_lines()))
    answer = session.http.get(path).json()
    assert answer["stderr"] == session.http.get(f"{path}/stderr").text == stderr_of(replayed)
    assert answer.get("notices") == replayed[-1].data.get("notices")
    return replayed


@pytest.mark.parametrize("name", ENDS)
def test_end(limited: SessionClient, name: str) -> None:
    """In the answer, the stream and the replay stands one line; the next run has notices."""
    code, exit_code, cause, line, why = ENDS[name]
    lines = [] if line is None else [line]
    notices = [f"variables were lost: {why}"]
    check(limited.run("x = 1"), notices=None)
    events = limited.stream(f"print('before', flush=True)\n{code}", timeout=2)
    check(events[-1].data, exit_code=exit_code, cause=cause, state="lost", notices=None)
    assert server_lines(stderr_of(events)) == lines
    assert [one.event for one in events[-3:]] == [
        "stdout" if line is None else "stderr", "error", "done"
    ]  # fmt: skip
    assert replay(limited, events) == events
    answer = limited.run("import os\nfor name in os.listdir(): os.unlink(name)")
    check(answer, exit_code=0, notices=notices)
    answer = limited.run(code, timeout=2)
    check(answer, exit_code=exit_code, cause=cause, state="lost", notices=None)
    assert server_lines(answer["stderr"]) == lines
    after = limited.stream("print('x' in globals())")
    check(after[-1].data, notices=notices, exit_code=0)
    assert stderr_of(after) == ""
    assert replay(limited, after) == after


def test_line_begins_at_the_start_of_a_line(limited: SessionClient) -> None:
    """What the program left unfinished is finished first, and nothing of it changed."""
    code = (
        "import os, sys\n"
        "sys.stderr.write('no newline'); sys.stderr.flush(); os.kill(os.getpid(), 9)"
    )
    expected = f"no newline\n[era] the process was killed by signal 9 (SIGKILL){TAIL}\n"
    check(limited.run(code), stderr=expected)


def test_a_line_like_the_servers(limited: SessionClient) -> None:
    """A program may print such a line, too; what is true stands in `cause` and `notices`."""
    code = "import sys; print('[era] out of memory', file=sys.stderr)"
    check(limited.run(code), stderr="[era] out of memory\n", cause=None, state="preserved")
    check(limited.run("pass"), notices=None)


# One request for more than any process may ever reserve, with control groups or without.
@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("bytearray(10**10)", [OUT_OF_MEMORY]),
        ("[0] * 10**10", [OUT_OF_MEMORY]),
        ("x = 'x' * 10**10", [OUT_OF_MEMORY]),
        ("import mmap; mmap.mmap(-1, 10**10, mmap.MAP_PRIVATE)", [OUT_OF_MEMORY]),
        (
            "import os\nif not os.fork():\n    bytearray(10**10)\n    os._exit(0)\nos.wait()",
            [OUT_OF_MEMORY],
        ),
        (CHILD, [OUT_OF_MEMORY]),
        ("try: bytearray(10**10)\nexcept MemoryError: print('less will do')", []),
        ("raise ValueError('out of patience')", []),
        ("raise SystemExit(3)", []),
    ],
)
def test_error_for_want_of_memory(limited: SessionClient, code: str, lines: list[str]) -> None:
    """The limit and its setting are named; the variables are still there."""
    limited.run("x = 1")
    answer = limited.run(code)
    assert server_lines(answer["stderr"]) == lines, answer
    check(answer, state="preserved", cause=None)
    check(limited.run("print(x)"), stdout="1\n", notices=None)


@pytest.mark.parametrize("name", PAST_THE_LIMIT)
def test_past_the_limit(client: Client, limited: SessionClient, name: str) -> None:
    """With control groups the session ends, without them the process gets an error; both tell."""
    limited.run("x = 1")
    answer = limited.run(PAST_THE_LIMIT[name])
    if not client.has_memory_groups:
        assert server_lines(answer["stderr"]) == [OUT_OF_MEMORY], answer
        check(answer, state="preserved", cause=None)
        check(limited.run("print(x)"), stdout="1\n", notices=None)
        return
    if answer["state"] == "preserved" and name == "a child process":
        # Linux killed the child, and the run came to its end before the server heard of that.
        expected = ["variables were lost: out of memory at 128 MB, between two runs"]
        assert wait_until(lambda: limited.run("pass").get("notices") == expected)
        return
    assert server_lines(answer["stderr"]) == [OUT_OF_MEMORY + TAIL], answer
    check(answer, exit_code=137, state="lost", cause="out of memory at 128 MB")
    expected = ["variables were lost: out of memory at 128 MB"]
    check(limited.run("print('x' in globals())"), stdout="False\n", notices=expected)


def test_threads(limited: SessionClient) -> None:
    """Where no thread can be started both limits are named: each takes memory, too."""
    code = (
        "import threading, time\n"
        "for n in range(500): threading.Thread(target=time.sleep, args=(2,)).start()"
    )
    answer = limited.run(code)
    assert answer["exception"]["value"] == "can't start new thread"
    [line] = server_lines(answer["stderr"])
    assert OWN_MEMORY.replace(" (", " of memory (") in line
    assert "100 processes and threads (session_processes)" in line


@pytest.mark.parametrize("name", INTERRUPTS)
def test_interrupt_that_nobody_sent(client: Client, name: str) -> None:
    """Libraries of numbers interrupt their own process when they get no thread; it is told why."""
    if name == "numpy" and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("the library starts a thread for each processor beyond the first")
    session = client.session("python", limits={"processes": 8})
    session.run("x = 1")
    answer = session.run(INTERRUPTS[name])
    check(answer, exit_code=130, state="preserved", notices=None)
    [line] = server_lines(answer["stderr"])
    assert line.startswith("no more threads or processes could be started: ")
    assert "8 processes and threads (limits.processes, at most session_processes)" in line
    check(session.run("print(x)"), stdout="1\n", notices=None)
    session.delete()


def test_open_files(limited: SessionClient) -> None:
    """The relatives of memory are named the same way."""
    answer = limited.run("import os\nfiles = [os.dup(1) for _ in range(5000)]")
    [line] = server_lines(answer["stderr"])
    assert line.startswith("no more files could be opened: the session's limit is ")
    assert line.endswith(" (session_open_files)")


@pytest.mark.parametrize("how", ["interrupt", "timeout", "cancel"])
def test_end_that_cost_nothing(limited: SessionClient, how: str) -> None:
    """An interrupt, and a deadline after which the variables are there, need no line."""
    limited.run("x = 1")
    with background_runs(limited) as start:
        running = start(SLEEPING_CODE, timeout=0.5 if how == "timeout" else 30)
        if how == "cancel":
            wait_for_file(limited)
            waiting = start("print('never')")
            wait_for_executions(limited, 3)
            interrupt(limited, 2)
            check(waiting.result().json(), exit_code=130, stderr="", notices=None)
        if how != "timeout":
            wait_for_file(limited)
            interrupt(limited, 1)
        answer = running.result().json()
    check(answer, exit_code=124 if how == "timeout" else 130, state="preserved", notices=None)
    assert server_lines(answer["stderr"]) == []
    check(limited.run("print(x)"), stdout="1\n", notices=None)


def test_restart_in_a_run(client: Client, limited: SessionClient) -> None:
    """The run that it ends has the line, the next one the notice."""
    limited.run("x = 1")
    with background_runs(limited) as start:
        running = start(SLEEPING_CODE)
        wait_for_file(limited)
        client.http.post(f"{limited.path}/restart").raise_for_status()
        answer = running.result().json()
    check(answer, exit_code=137, cause="restarted", notices=None)
    assert server_lines(answer["stderr"]) == [f"session restarted before the run ended{TAIL}"]
    expected = ["variables were lost: restarted by request"]
    check(limited.run("pass"), notices=expected)
    client.http.post(f"{limited.path}/restart").raise_for_status()
    check(limited.run("pass"), notices=expected)
    check(limited.run("pass"), notices=None)


def test_deletion_in_a_run(client: Client) -> None:
    """The answer and the stream of the run tell it; nothing is kept, so nothing is promised."""
    session = client.session("python")
    with background_runs(session) as start:
        running = start(SLEEPING_CODE)
        wait_for_file(session)
        path = f"{session.execution_path(0)}/stream"
        with session.http.stream("GET", path) as response:
            session.delete()
            events = list(parse_sse(response.iter_lines()))
        answer = running.result().json()
    expected = "[era] session deleted before the run ended\n"
    check(answer, exit_code=137, cause="session deleted", stderr=expected)
    assert [one.event for one in events] == ["stderr", "error", "done"]
    assert events[0].data["content"] == expected


def test_programs_beside_the_kernel(client: Client, limited: SessionClient) -> None:
    """They are told the same of what ended them, and lose no variables of their own."""
    limited.run("x = 1")

    def execute(command: str, **body: Any) -> dict[str, Any]:
        request = {"command": command, **body}
        answer: dict[str, Any] = client.http.post(f"{limited.path}/exec", json=request).json()
        return answer

    answer = execute("python3 -c 'bytearray(10**10)'")
    check(answer, exit_code=1, state="preserved")
    assert server_lines(answer["stderr"]) == [OUT_OF_MEMORY]
    answer = execute("sleep 60", timeout=0.5)
    check(answer, exit_code=124, stderr="", state="preserved")
    answer = execute("kill -9 $$")
    check(answer, exit_code=137, stderr="", cause="signal 9 (SIGKILL)")
    answer = execute("yes")
    check(answer, exit_code=137, cause="output limit 1 MiB", state="preserved")
    expected = "output limit: the run printed more than 1 MiB (max_execution_output)"
    assert server_lines(answer["stderr"]) == [expected]
    code = "import os, time\nfor _ in range(4): os.fork()\nd = b'x' * (20 << 20)\ntime.sleep(60)"
    answer = execute(f'python3 -c "{code}"')
    check(answer, exit_code=137, cause="out of memory at 128 MB", state="lost")
    assert server_lines(answer["stderr"]) == [OUT_OF_MEMORY]
    expected = "variables were lost: out of memory at 128 MB, between two runs"
    check(limited.run("pass"), notices=[expected])


def test_throw_away_run(client: Client) -> None:
    """Its answer has the line, without what is kept: nothing is."""
    body = {"language": "python", "code": "import ctypes; ctypes.string_at(0)"}
    answer = client.http.post("/api/execute", json=body).json()
    check(answer, exit_code=139, cause="signal 11 (SIGSEGV)")
    assert server_lines(answer["stderr"]) == ["the process was killed by signal 11 (SIGSEGV)"]
    assert "notices" not in answer


def test_kernel_that_is_killed_between_runs(limited: SessionClient) -> None:
    """The notice tells it although no run saw it."""
    limited.run("import subprocess, os\nsubprocess.Popen(['sh', '-c', 'sleep 0.5; kill -9 $PPID'])")
    assert wait_until(lambda: limited.get()["status"] == "stopped", 20)
    expected = "variables were lost: killed by signal 9 (SIGKILL), between two runs"
    check(limited.run("pass"), notices=[expected])
