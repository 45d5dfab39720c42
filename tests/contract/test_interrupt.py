"""Interrupts: one execution ends, whatever it does, and the session is usable again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.client import Client, SessionClient
from tests.contract.checks import (
    background_runs,
    check,
    check_error,
    wait_for_executions,
    wait_for_file,
)
from tests.server_process import PRINT_PID, host_pid
from tests.waiting import wait_until

READY = "open('ready', 'w').close()\n"
MAX_INTERRUPT_SECONDS = (
    1.0  # seconds that an interrupt may take on a busy machine; alone it takes 10 to 30 ms
)
MAX_RECOVERY_SECONDS = 5.0  # seconds until the session must be usable again, whatever it did

# Programs that hear an interrupt, wherever it meets them.
INTERRUPTIBLE = {
    "sleep": "import time; time.sleep(60)",
    "busy loop": "while True: pass",
    "await": "import asyncio; await asyncio.sleep(60)",
    "asyncio.run": "import asyncio; asyncio.run(asyncio.sleep(60))",
    "child": "import subprocess; subprocess.run(['sleep', '60'])",
    "thread": "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()",
    "lock": "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "C code that looks for signals": "3 ** 10 ** 9",
    "regular expression": "import re; re.match('(a+)+$', 'a' * 50 + 'b')",
}
# Programs that do not, so that their kernel is ended.
UNINTERRUPTIBLE = {
    "C code that holds the interpreter": "sum(range(10 ** 12))",
    "ignores it": "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    "# begun\nwhile True: time.sleep(0.1)",
    "catches everything": """
import time
def loop():
    try:
        # begun
        while True: time.sleep(0.01)
    except BaseException:
        loop()
while True:
    try: loop()
    except BaseException: pass
""",
}


@contextmanager
def running(session: SessionClient, code: str) -> Iterator[tuple[str, Future[httpx.Response]]]:
    """A run that has begun: the path of its execution, and its answer to come."""
    with background_runs(session) as start:
        answer = start(tell_begun(code, READY))
        wait_for_file(session)
        yield session.execution_path(), answer


def tell_begun(code: str, line: str) -> str:
    """Returns the code with a line that runs when the program does what it is to do."""
    return code.replace("# begun\n", line) if "# begun" in code else line + code


def actions(answer: httpx.Response) -> list[str]:
    """What was done, in order."""
    assert answer.status_code == 200, answer.text
    steps = answer.json()["steps"]
    assert [step["ms"] for step in steps] == sorted(step["ms"] for step in steps)
    return [step["action"] for step in steps]


def interrupt(session: SessionClient, path: str) -> httpx.Response:
    return session.http.post(f"{path}/interrupt")


# ---------------------------------------------------------------- what runs


@pytest.mark.parametrize("name", INTERRUPTIBLE)
def test_program_that_can_be_interrupted(session: SessionClient, name: str) -> None:
    """It ends with 130 at once, and its variables are still there."""
    session.run("x = 7")
    with running(session, INTERRUPTIBLE[name]) as (path, run):
        began = time.monotonic()
        answer = interrupt(session, path)
        took = time.monotonic() - began
        assert actions(answer)[0] == "interrupt"
        assert actions(answer)[-1] == "ended"
        check(answer.json(), success=True, execution_id=path.rpartition("/")[2], state="preserved")
        assert run.result().status_code == 200
        check(run.result().json(), exit_code=130, state="preserved")
        assert "cause" not in run.result().json()
    assert took < MAX_INTERRUPT_SECONDS
    check(session.run("print(x)"), stdout="7\n", started_from="live", exit_code=0)


@pytest.mark.parametrize("name", UNINTERRUPTIBLE)
def test_program_that_ignores_interrupts(session: SessionClient, name: str) -> None:
    """Its kernel is ended after three seconds; the session is usable again, and says so.

    Two that interrupt it at once wait for the one end, and get the same steps.
    """
    session.run("x = 7")
    with running(session, UNINTERRUPTIBLE[name]) as (path, run), ThreadPoolExecutor(2) as pool:
        began = time.monotonic()
        answer, other = pool.map(interrupt, [session] * 2, [path] * 2)
        assert answer.json() == other.json()
        assert actions(answer) == ["interrupt", "interrupt again", "end", "ended"]
        check(answer.json(), state="lost")
        assert run.result().status_code == 200
        check(run.result().json(), exit_code=130, state="lost", cause="interrupted")
        check(session.run("print('x' in globals())"), stdout="False\n", started_from="fresh")
        assert time.monotonic() - began < MAX_RECOVERY_SECONDS


def test_stream_of_an_interrupted_run(session: SessionClient) -> None:
    """No `error` frame, also where it cost the kernel: it is no condition of the server."""
    for name, cause in (("sleep", None), ("ignores it", "interrupted")):
        code = {**INTERRUPTIBLE, **UNINTERRUPTIBLE}[name]
        with session.open_stream(tell_begun(code, "print(1, flush=True)\n")) as events:
            frames = [next(events)]
            interrupt(session, session.execution_path())
            frames.extend(events)
        assert "error" not in [frame.event for frame in frames]
        done = frames[-1].data
        check(done, exit_code=130, cause=cause)


def test_at_the_deadline(session: SessionClient) -> None:
    """The deadline and an interrupt share one ladder; whoever came first names the end."""
    for wait in (0.2, 0.45, 0.5, 0.55):
        with background_runs(session) as start:
            run = start(READY + "import time; time.sleep(60)", timeout=0.5)
            wait_for_file(session)
            time.sleep(wait)
            answer = interrupt(session, session.execution_path())
            assert answer.status_code in (200, 409)
            expected = {200: 130, 408: 124}[run.result().status_code]
            check(run.result().json(), exit_code=expected, state="preserved")
        session.run("import os; os.remove('ready')")


def test_next_run_is_never_hit(session: SessionClient) -> None:
    """Interrupts that come when a run just ends leave the next one alone."""
    session.run("import time")
    with ThreadPoolExecutor(2) as pool:
        for number in range(40):
            with background_runs(session) as start:
                first = start(f"time.sleep({0.002 * (number % 8)})")
                wait_for_executions(session, 2 * number + 2)
                path = session.execution_path()
                asked = pool.submit(interrupt, session, path)
                second = start("print(sum(range(10000))); time.sleep(0.01)").result().json()
                check(second, exit_code=0, stdout="49995000\n", exception=None)
                assert first.result().json()["exit_code"] in (0, 130)
                assert asked.result().status_code in (200, 409)
    check(session.run("1"), started_from="live", kernel_generation=1)


# ---------------------------------------------------------------- what waits


def test_queued_run_is_cancelled(session: SessionClient) -> None:
    """It never runs; those behind it move up."""
    with (
        running(session, "import time; time.sleep(60)") as (first, _),
        background_runs(session) as start,
    ):
        waiting = []
        for number in range(3):
            waiting.append(start(f"open('ran{number}', 'w').close()"))
            wait_for_executions(session, number + 2)
        listed = session.executions()
        paths = [f"{session.path}/executions/{one['execution_id']}" for one in listed]
        assert actions(interrupt(session, paths[1])) == ["cancel", "ended"]
        check(waiting[0].result().json(), exit_code=130, cause="cancelled", state="preserved")
        listed = session.executions()
        assert [one.get("position") for one in listed] == [None, None, 1, 2]
        assert [one["status"] for one in listed] == ["running", "finished", "queued", "queued"]
        interrupt(session, first)
        assert [one.result().json()["exit_code"] for one in waiting] == [130, 0, 0]
    made = {file["path"] for file in session.get()["files"]}
    assert made == {"ready", "ran1", "ran2"}


def test_run_whose_kernel_starts(client: Client) -> None:
    """It is cancelled, and the next run is served as ever."""
    for _ in range(5):
        session = client.session("python")
        with background_runs(session) as start:
            run = start("print('ran')\nimport time; time.sleep(60)")
            wait_for_executions(session, 1)
            [listed] = session.executions()
            answer = interrupt(session, f"{session.path}/executions/{listed['execution_id']}")
            assert actions(answer)[0] in ("cancel", "interrupt")
            check(run.result().json(), exit_code=130)
            check(session.run("print(1)"), stdout="1\n", kernel_generation=1)
        session.delete()


# ---------------------------------------------------------------- what cannot be interrupted


def test_finished_and_unknown(session: SessionClient) -> None:
    """409 for what has finished, 404 for what nobody knows."""
    execution = session.run("1")["execution_id"]
    path = f"{session.path}/executions"
    shown = check_error(interrupt(session, f"{path}/{execution}"), 409, "NOT_RUNNING")
    assert shown["id"] == execution
    check_error(interrupt(session, f"{path}/exec-none"), 404, "EXECUTION_NOT_FOUND")
    check_error(
        session.http.post("/api/sessions/none/executions/e/interrupt"), 404, "SESSION_NOT_FOUND"
    )
    check_error(session.http.get(f"{path}/{execution}/interrupt"), 405, "METHOD_NOT_ALLOWED")


# ---------------------------------------------------------------- kernels that die


def test_kernel_that_dies_idle(session: SessionClient) -> None:
    """It is noticed at once: the status, the next run and the generation show it."""
    pid = host_pid(session.run(PRINT_PID)["stdout"])
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: session.get()["status"] == "stopped", 2)
    began = time.monotonic()
    check(session.run("1"), started_from="fresh", kernel_generation=2)
    assert time.monotonic() - began < 2


def test_kernel_that_dies_in_a_run(session: SessionClient) -> None:
    """The run ends with the signal as its cause; the session goes on."""
    pid = host_pid(session.run(PRINT_PID)["stdout"])
    with running(session, "import time; time.sleep(60)") as (_, run):
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        answer: dict[str, Any] = run.result().json()
        took = time.monotonic() - began
    check(answer, exit_code=137, state="lost", cause="signal 9 (SIGKILL)")
    assert took < MAX_INTERRUPT_SECONDS
    check(session.run("1"), started_from="fresh", kernel_generation=2)
