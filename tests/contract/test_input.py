"""Programs that ask: who is asked, what an answer does, and what becomes of waiting."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.client import Client, SessionClient, SseEvent, parse_sse
from tests.contract.checks import background_runs, check, check_error, wait_for_file
from tests.server_process import Server
from tests.waiting import wait_until

SECRET = "correct-horse-battery"
# Asks when it is told to, so that a reader can come first.
WHEN_TOLD = """
import time
from pathlib import Path
while not Path("go").exists():
    time.sleep(0.01)
"""


class AskingProgram:
    """A stream that has come to a question."""

    def __init__(self, session: SessionClient, events: Iterator[SseEvent], execution: str) -> None:
        self.session = session
        self.events = events
        self.path = f"{session.path}/executions/{execution}"
        self.seen: list[SseEvent] = []

    def until(self, kind: str) -> dict[str, Any]:
        """The next event of that kind."""
        for frame in self.events:
            self.seen.append(frame)
            if frame.event == kind:
                return frame.data
        raise AssertionError(f"no {kind}: {self.seen}")

    def answer(self, value: str) -> httpx.Response:
        return self.session.http.post(f"{self.path}/input", json={"value": value})

    @property
    def stdout(self) -> str:
        return "".join(frame.data["content"] for frame in self.seen if frame.event == "stdout")


@contextmanager
def asking(session: SessionClient, code: str, **body: Any) -> Iterator[AskingProgram]:
    """A program that is followed from its start."""
    request = {"code": code, **body}
    with session.http.stream("POST", f"{session.path}/stream", json=request) as live:
        yield AskingProgram(session, parse_sse(live.iter_lines()), live.headers["X-Execution-Id"])


def follow(session: SessionClient, execution: str) -> Any:
    return session.http.stream("GET", f"{session.path}/executions/{execution}/stream")


# ---------------------------------------------------------------- a conversation


def test_conversation(shared: SessionClient) -> None:
    """Each question is an event, in order with the output; each answer is the program's line."""
    code = "print('hello')\nname = input('name? ')\nprint('hi', name)\nprint(repr(input()))"
    with asking(shared, code) as program:
        assert program.until("input_request") == {
            "type": "input_request",
            "prompt": "name? ",
            "password": False,
        }
        assert program.stdout == "hello\n"
        answer = program.answer("Ada\n")
        assert (answer.status_code, answer.text) == (200, '{"success":true}\n')
        assert program.until("input_request")["prompt"] == ""
        program.answer("")
        assert program.until("done")["exit_code"] == 0
    assert program.stdout == "hello\nhi Ada\n''\n"
    assert shared.http.get(f"{program.path}/stdout").text == "hello\nhi Ada\n''\n"
    check_error(program.answer("late"), 409, "NO_INPUT_PENDING")


def test_password_leaves_no_trace(server: Server, shared: SessionClient) -> None:
    """A password is in no event, no answer, no log and no file of the server."""
    code = "import getpass\nprint(len(getpass.getpass('secret: ')))\ndel getpass"
    with asking(shared, code) as program:
        asked = program.until("input_request")
        assert (asked["prompt"], asked["password"]) == ("secret: ", True)
        assert program.answer(SECRET).status_code == 200
        assert program.until("done")["exit_code"] == 0
    assert program.stdout == f"{len(SECRET)}\n"
    assert SECRET not in json.dumps([frame.data for frame in program.seen])
    assert SECRET not in server.log_text
    files = [path for path in server.data_dir.rglob("*") if path.is_file()]
    assert len(files) > 2
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_two_threads_ask(shared: SessionClient) -> None:
    """The oldest question is answered first; no line is lost between the two."""
    code = (
        "import sys, threading\n"
        "def ask(n):\n    sys.stdout.write(f'{n} ' + input(f'{n}? ') + '\\n')\n"
        "threads = [threading.Thread(target=ask, args=(n,)) for n in range(2)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()"
    )
    with asking(shared, code) as program:
        prompts = [program.until("input_request")["prompt"] for _ in range(2)]
        for prompt in prompts:
            assert program.answer(f"to {prompt}").status_code == 200
        assert program.until("done")["exit_code"] == 0
    assert sorted(program.stdout.splitlines()) == ["0 to 0? ", "1 to 1? "]


def test_prompts_of_any_kind(shared: SessionClient) -> None:
    """A prompt may be any object, long, or no text; one that cannot be shown is an error."""
    code = (
        "class P:\n    def __str__(self): return 'mine'\n"
        "input(P()); input(5); input('\\ud800'); input('x' * 10**6)\n"
        "class Bad:\n    def __str__(self): raise ValueError('no')\n"
        "input(Bad())"
    )
    with asking(shared, code) as program:
        prompts = []
        for _ in range(4):
            prompts.append(program.until("input_request")["prompt"])
            program.answer("x")
        assert program.until("done")["exception"]["value"] == "no"
    assert prompts[:2] == ["mine", "5"]
    assert len(prompts[2]) == 1
    assert prompts[3] == "x" * 8192


# ---------------------------------------------------------------- who is asked


def test_no_reader(shared: SessionClient) -> None:
    """Without a reader the prompt is printed, and input is at its end, at once."""
    began = time.monotonic()
    answer = shared.run("name = input('name? ')")
    check(answer, stdout="name? ", exit_code=1)
    assert answer["stderr"].endswith("EOFError: EOF when reading a line\n")
    assert time.monotonic() - began < 5
    check(shared.run("try: input('a')\nexcept EOFError: print('end')"), stdout="aend\n")


def test_reader_that_comes_later(session: SessionClient) -> None:
    """A background run asks as soon as somebody has come to follow it."""
    started = session.http.post(
        f"{session.path}/run", json={"code": WHEN_TOLD + "print(input('? '))", "background": True}
    )
    assert started.status_code == 202
    execution = started.json()["execution_id"]
    with follow(session, execution) as live:
        program = AskingProgram(session, parse_sse(live.iter_lines()), execution)
        session.http.put(f"{session.path}/files/go", content=b"")
        program.until("input_request")
        assert program.answer("line").status_code == 200
        program.until("done")
    assert program.stdout == "line\n"


def test_second_reader_keeps_the_question_open(session: SessionClient) -> None:
    """Any reader counts, and sees the question; any caller may answer."""
    with asking(session, "print(input('? '))") as first:
        first.until("input_request")
        execution = first.path.rpartition("/")[2]
        second_stream = follow(session, execution)
        live = second_stream.__enter__()
        second = AskingProgram(session, parse_sse(live.iter_lines()), execution)
        assert second.until("input_request")["prompt"] == "? "
    time.sleep(0.2)
    assert second.answer("still here").status_code == 200
    assert second.until("done")["exit_code"] == 0
    second_stream.__exit__(None, None, None)
    assert second.stdout == "still here\n"


@pytest.mark.timeout(60)
def test_last_reader_leaves(session: SessionClient) -> None:
    """The question outlives its last reader for ten seconds, and then input is at its end."""
    with asking(session, "input('? ')") as program:
        program.until("input_request")
    left = time.monotonic()
    while True:
        answer = session.http.get(program.path, params={"wait": 30}).json()
        if answer["status"] == "finished":
            break
    assert 8 < time.monotonic() - left < 25
    assert answer["stderr"].endswith("EOFError: EOF when reading a line\n")
    assert answer["stdout"] == "? "


def test_stdin_itself_is_at_its_end(shared: SessionClient) -> None:
    """Only `input` and `getpass` ask; what reads from stdin finds its end, with a reader too."""
    code = "import sys\nprint(repr(sys.stdin.readline()), list(sys.stdin), repr(sys.stdin.read()))"
    with asking(shared, code) as program:
        program.until("done")
    assert program.stdout == "'' [] ''\n"
    assert not [frame for frame in program.seen if frame.event == "input_request"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import io, sys\nsys.stdin = io.StringIO('mine\\n')", "sys.stdin = sys.__stdin__"),
        (
            "import builtins\nown = builtins.input\nbuiltins.input = lambda p: p + 'mine'",
            "builtins.input = own",
        ),
        (
            "import os\nkept = os.dup(0)\nr, w = os.pipe()\nos.write(w, b'mine\\n')\nos.dup2(r, 0)",
            "os.dup2(kept, 0)",
        ),
    ],
)
def test_what_the_program_put_there(shared: SessionClient, before: str, after: str) -> None:
    """A program that has put something else in the place of stdin or `input` is not asked."""
    code = f"{before}\ntry: print(input('? '))\nfinally: {after}"
    with asking(shared, code) as program:
        assert program.until("done")["exit_code"] == 0
    assert program.stdout == "? mine\n"


def test_forked_child_is_not_asked(shared: SessionClient) -> None:
    """A forked child reads from stdin as ever."""
    code = (
        "import os\npid = os.fork()\nif not pid:\n"
        "    try: input()\n    except EOFError: os._exit(5)\n    os._exit(6)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    with asking(shared, code) as program:
        program.until("done")
    assert program.stdout == "5\n"


# ---------------------------------------------------------------- what ends waiting


def test_timeout(session: SessionClient) -> None:
    """A run that waits for input ends at its deadline, at once, and its session goes on."""
    with asking(session, "x = 1\ninput('? ')", timeout=1) as program:
        program.until("input_request")
        done = program.until("done")
    assert (done["exit_code"], done["state"]) == (124, "preserved")
    check_error(program.answer("late"), 409, "NO_INPUT_PENDING")
    check(session.run("print(x)"), stdout="1\n")


def test_interrupt(session: SessionClient) -> None:
    """An interrupt ends waiting at once, with KeyboardInterrupt, and keeps the variables."""
    with asking(session, "x = 1\ninput('? ')") as program:
        program.until("input_request")
        answer = session.http.post(f"{program.path}/interrupt").raise_for_status().json()
        done = program.until("done")
    assert (done["exit_code"], done["exception"]["name"]) == (130, "KeyboardInterrupt")
    assert (answer["success"], answer["state"]) == (True, "preserved")
    assert [step["action"] for step in answer["steps"]] == ["interrupt", "ended"]
    check(session.run("print(x)"), stdout="1\n")


def test_questions_that_were_given_up(session: SessionClient) -> None:
    """A program that asks with a time limit of its own may do so as often as it likes."""
    code = """
import signal
class Late(Exception):
    pass
def ring(*arguments):
    raise Late
signal.signal(signal.SIGALRM, ring)
for number in range(20):
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        input("quick? ")
    except Late:
        pass
print(input("slow? "))
"""
    with asking(session, code) as program:
        while program.until("input_request")["prompt"] != "slow? ":
            pass
        assert program.answer("line").status_code == 200
        assert program.until("done")["exit_code"] == 0
    assert program.stdout == "line\n"


def test_interrupt_that_is_caught(session: SessionClient) -> None:
    """A question that an interrupt has ended is not answered; the next one is."""
    code = (
        "import os, signal, threading, time\n"
        "def stop():\n    time.sleep(0.3)\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=stop).start()\n"
        "try: input('first? ')\n"
        "except KeyboardInterrupt: print('stopped')\n"
        "print(input('second? '))"
    )
    with asking(session, code) as program:
        assert program.until("input_request")["prompt"] == "first? "
        assert program.until("input_request")["prompt"] == "second? "
        assert program.answer("line").status_code == 200
        assert program.until("done")["exit_code"] == 0
    assert program.stdout == "stopped\nline\n"


@pytest.mark.parametrize("end", ["death", "delete", "restart"])
def test_end_of_the_kernel(session: SessionClient, end: str) -> None:
    """Death, deletion and restart end a run that waits for input, and name the cause."""
    code = (
        "import os, threading\n"
        + WHEN_TOLD.replace("while", "def die():\n  while").replace("    time", "    time")
        + "  os._exit(7)\nthreading.Thread(target=die, daemon=True).start()\ninput('? ')"
    )
    with asking(session, code) as program:
        program.until("input_request")
        if end == "death":
            session.http.put(f"{session.path}/files/go", content=b"").raise_for_status()
        elif end == "delete":
            session.delete()
        else:
            session.http.post(f"{session.path}/restart").raise_for_status()
        done = program.until("done")
    assert done["exit_code"] == (7 if end == "death" else 137)
    assert done["state"] == "lost"
    late = program.answer("late")
    assert late.json()["code"] == ("SESSION_NOT_FOUND" if end == "delete" else "NO_INPUT_PENDING")


# ---------------------------------------------------------------- hostile programs


def test_forged_requests(client: Client, session: SessionClient) -> None:
    """A program that sends questions by itself, without end, hurts nobody but itself."""
    code = (
        "kernel = get_ipython().kernel\n"
        "for n in range(5_000):\n"
        "    content = {'prompt': 'x' * 20_000 if n % 100 == 0 else 'y', 'key': str(n)}\n"
        "    get_ipython().publish('input_request', content)\n"
        "for bad in ({}, {'prompt': 1}, {'prompt': '', 'key': []}, {'prompt': '', 'key': 'k' * 99"
        "}):\n"
        "    get_ipython().publish('input_request', bad)\n"
        "print('through')"
    )
    with asking(session, code, timeout=60) as program:
        assert program.until("done")["exit_code"] == 0
    asked = [frame for frame in program.seen if frame.event == "input_request"]
    assert len(asked) == 5_000, "questions are output like any other"
    assert max(len(frame.data["prompt"]) for frame in asked) == 8192
    assert program.stdout == "through\n"
    with asking(session, "print(input('? '))") as program:
        program.until("input_request")
        assert program.answer("works").status_code == 200
        program.until("done")
    assert program.stdout == "works\n"
    assert client.http.get("/health").status_code == 200


def test_forged_request_outside_of_a_run(session: SessionClient) -> None:
    """A thread of an earlier run is not answered by those who follow another."""
    code = (
        "import threading, time\nfrom pathlib import Path\n"
        "def ask():\n    while not Path('go').exists(): time.sleep(0.01)\n"
        "    try: input('old? ')\n    except EOFError: Path('ready').touch()\n"
        "threading.Thread(target=ask, daemon=True).start()"
    )
    check(session.run(code), exit_code=0)
    with asking(session, "open('go', 'w').close()\nprint(input('new? '))") as program:
        assert program.until("input_request")["prompt"] == "new? "
        wait_for_file(session)
        program.answer("line")
        program.until("done")
    assert program.stdout == "line\n"
    assert [f.data["prompt"] for f in program.seen if f.event == "input_request"] == ["new? "]


def test_many_questions_with_nobody(session: SessionClient) -> None:
    """A loop of questions that nobody hears is quick."""
    code = "for _ in range(1000):\n    try: input()\n    except EOFError: pass\nprint('end')"
    check(session.run(code, timeout=30), stdout="end\n")


# ---------------------------------------------------------------- refusals


def test_refusals(session: SessionClient) -> None:
    """What is not there, does not wait, or is no line."""
    place = f"{session.path}/executions/{{}}/input"
    with background_runs(session) as start:
        running = start("import time\nopen('ready', 'w').close()\ntime.sleep(1)")
        wait_for_file(session)
        listed = session.executions()
        (execution,) = [one["execution_id"] for one in listed]
        answer = session.http.post(place.format(execution), json={"value": "x"})
        check_error(answer, 409, "NO_INPUT_PENDING")
        for body in (
            {},
            {"value": 1},
            {"value": None},
            {"value": "s3cret\nb"},
            {"value": ["s3cret"]},
        ):
            answer = session.http.post(place.format(execution), json=body)
            assert "`value`" in check_error(answer, 400, "INVALID_REQUEST")["message"]
            assert "s3cret" not in answer.text
        running.result()
    unknown = session.http.post(place.format("exec-0"), json={"value": "x"})
    check_error(unknown, 404, "EXECUTION_NOT_FOUND")
    nowhere = session.http.post("/api/sessions/none/executions/exec-0/input", json={"value": "x"})
    check_error(nowhere, 404, "SESSION_NOT_FOUND")
    answer = session.http.post(place.format(execution), json={"value": "x"})
    check_error(answer, 409, "NO_INPUT_PENDING")
    assert session.http.get(place.format(execution)).status_code == 405


def test_no_question_is_left_behind(session: SessionClient, tmp_path: Path) -> None:
    """Readers that come and go while nothing is asked leave the session as it was."""
    for _ in range(3):
        with asking(session, "print('a')") as program:
            program.until("done")
    assert wait_until(lambda: bool(session.get()["status"] == "idle"))
