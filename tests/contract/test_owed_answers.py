"""A kernel that owes the end of a run although no code of the program runs is noticed soon.

Programs can bring their kernel there on purpose: they replace a step of it by one that never ends.
The main thread hangs in that outside of the program, and the control thread goes on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.client import Client, SessionClient
from tests.contract.checks import check

CAUSE = "the kernel stopped answering"
SOON = 4  # seconds, on a host that is busy; the other timers take 10 s and more
FIND = """
import _thread, gc
def find(name):
    return next(one for one in gc.get_objects() if type(one).__name__ == name)
def hang(*args, **options):
    lock = _thread.allocate_lock()
    lock.acquire()
    lock.acquire()
"""

# What is replaced; whether the run that does it ends before that shows.
STEPS = {
    "the wait for the next request": ("find('RequestLoop').next = hang", True),
    "the beginning of a run": ("find('OutputPublisher').begin_run = hang", True),
    "the end of its output": ("find('OutputPublisher').finish_run = hang", False),
}

# What takes longer than the kernel may owe an answer, and is the program's own.
SLOW_PROGRAMS = {
    "code": "import time\ntime.sleep(2.5)",
    "a long calculation in C": "sum(range(10**8))",
    "a thread": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(2.5,)).start()"
    ),
    "an await": "import asyncio\nawait asyncio.sleep(2.5)",
    "the text of an error": (
        "import time\nclass E(Exception):\n"
        "    def __str__(self): time.sleep(2.5); return ''\nraise E"
    ),
    "a value that is shown": (
        "import time\nclass V:\n    def __repr__(self): time.sleep(2.5); return ''\nV()"
    ),
    "a stream of the program": (
        "import sys, time\nclass S:\n    def write(self, text): pass\n"
        "    def flush(self): time.sleep(2.5)\nsys.stdout = S()"
    ),
    "a child": (
        "import multiprocessing, time\n"
        "multiprocessing.Process(target=time.sleep, args=(2.5,)).start()"
    ),
    "a signal that is awaited": (
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [14])\n"
        "signal.alarm(3)\nsignal.sigwait([14])"
    ),
}

# The same at a program's end.
SLOW_ENDS = {
    "an exit function": "import atexit, time\natexit.register(time.sleep, 2.5)",
    "a finalizer": "import time\nclass A:\n    def __del__(self): time.sleep(2.5)\na = A()",
    "a pool": (
        "from concurrent.futures import ThreadPoolExecutor\nimport time\n"
        "ThreadPoolExecutor().submit(time.sleep, 2.5)"
    ),
}


@pytest.fixture(scope="module")
def slow(client: Client) -> Iterator[dict[str, Future[dict[str, Any]]]]:
    """The answers to come of all slow programs, which run beside each other."""
    with ThreadPoolExecutor(len(SLOW_PROGRAMS) + len(SLOW_ENDS)) as pool:

        def execute(code: str) -> dict[str, Any]:
            body = {"language": "python", "code": code}
            answer: dict[str, Any] = client.http.post("/api/execute", json=body).json()
            return answer

        answers = {name: pool.submit(execute, code) for name, code in SLOW_ENDS.items()}
        for name, code in SLOW_PROGRAMS.items():
            answers[name] = pool.submit(client.session("python").run, code)
        yield answers
    client.http.delete("/api/sessions")


def run_timed(session: SessionClient, code: str) -> tuple[dict[str, Any], float]:
    began = time.monotonic()
    answer = session.run(code, timeout=30)
    return answer, time.monotonic() - began


@pytest.mark.parametrize("name", STEPS)
def test_owed_answer(session: SessionClient, name: str) -> None:
    """The run ends soon, with cause and line; the next one works, and is told what was lost."""
    step, is_later = STEPS[name]
    session.run("x = 1")
    answer, duration = run_timed(session, FIND + step)
    if is_later:
        check(answer, exit_code=0, state="preserved")
        answer, duration = run_timed(session, "print(x)")
    check(answer, exit_code=137, state="lost", cause=CAUSE, stdout="", notices=None)
    assert answer["stderr"] == f"[era] {CAUSE}; variables are lost, files are kept\n"
    assert duration < SOON
    notices = [f"variables were lost: {CAUSE}"]
    check(session.run("print('x' in globals())"), stdout="False\n", exit_code=0, notices=notices)
    check(session.run("print(6 * 7)"), stdout="42\n", notices=None)


@pytest.mark.parametrize("name", SLOW_PROGRAMS)
def test_slow_program(slow: dict[str, Future[dict[str, Any]]], name: str) -> None:
    """What is slow and the program's own is waited for, wherever the kernel calls it."""
    exit_code = 1 if name == "the text of an error" else 0
    check(slow[name].result(), exit_code=exit_code, state="preserved", cause=None)


def test_task_that_keeps_the_next_run_waiting(session: SessionClient) -> None:
    """A task that an earlier run left behind is code of the program, too."""
    code = (
        "import asyncio, time\nasync def work(): time.sleep(3)\n"
        "task = asyncio.ensure_future(work())"
    )
    check(session.run(code), exit_code=0)
    check(session.run("print(6 * 7)"), stdout="42\n", state="preserved", exit_code=0)


@pytest.mark.parametrize("name", SLOW_ENDS)
def test_slow_end(slow: dict[str, Future[dict[str, Any]]], name: str) -> None:
    """What a program does at its end is waited for, too."""
    check(slow[name].result(), exit_code=0, stderr="", cause=None)
