"""Programs beside the kernel: POST exec, through a real server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.client import Client, SessionClient, parse_sse
from tests.contract.checks import (
    SLEEPING_CODE,
    background_runs,
    check,
    check_error,
    open_client,
    wait_for_file,
)
from tests.server_process import Launcher
from tests.waiting import wait_until

FIELDS = {
    "execution_id", "session_id", "stdout", "stderr", "exit_code", "execution_time_ms",
    "duration", "files_modified", "files_changed", "data", "exception", "state", "started_from",
    "kernel_generation", "queued_ms", "start_ms",
}  # fmt: skip
READY = "touch ready; "
UNTIL_GO = "\nimport os, time\nwhile not os.path.exists('go'): time.sleep(0.05)\n"


def exec_response(session: SessionClient, command: str | None = None, **body: Any) -> Any:
    given = {"command": command, **body} if command is not None else body
    return session.http.post(f"{session.path}/exec", json=given)


def execute(session: SessionClient, command: str | None = None, **body: Any) -> dict[str, Any]:
    """The answer; a timeout's answer (408) is an answer too."""
    response = exec_response(session, command, **body)
    assert response.status_code in (200, 408), response.text
    answer: dict[str, Any] = response.json()
    return answer


@contextmanager
def background_commands(session: SessionClient) -> Iterator[Callable[..., Future[dict[str, Any]]]]:
    """Starts programs whose answers come later."""
    with ThreadPoolExecutor(32) as pool:
        yield lambda command, **body: pool.submit(execute, session, command, **body)


def wait_until_running(session: SessionClient, number: int = 1) -> str:
    """The id of the newest execution, when so many are under way."""

    def running() -> bool:
        return sum(one["status"] == "running" for one in session.executions()) >= number

    assert wait_until(running, 20)
    return str(session.executions()[-1]["execution_id"])


# ---------------------------------------------------------------- the answer


def test_answer(session: SessionClient) -> None:
    """The run answer without results, and the header that names the execution."""
    response = exec_response(session, "echo out; echo err >&2; exit 3")
    assert response.status_code == 200
    answer = response.json()
    assert set(answer) == FIELDS
    assert response.headers["X-Execution-Id"] == answer["execution_id"]
    check(
        answer, stdout="out\n", stderr="err\n", exit_code=3, exception=None, state="preserved",
        started_from="fresh", kernel_generation=0, queued_ms=0, files_modified=0, data={},
    )  # fmt: skip
    assert answer["start_ms"] > 0
    assert execute(session, "true")["started_from"] == "live"


def test_argv_is_executed_as_it_is(shared: SessionClient) -> None:
    """No shell looks at the arguments; the program is looked up in PATH."""
    answer = execute(shared, argv=["printf", "%s|", "a b", "$HOME", "*", ""])
    check(answer, stdout="a b|$HOME|*||", exit_code=0)
    assert shared.executions()[-1]["code"] == "printf '%s|' 'a b' '$HOME' '*' ''"
    execute(shared, "echo a  b")
    assert shared.executions()[-1]["code"] == "echo a  b"


@pytest.mark.parametrize(
    ("body", "exit_code", "expected"),
    [
        ({"argv": ["no-such-program"]}, 127, "no-such-program: No such file or directory\n"),
        ({"argv": ["/no/such"]}, 127, "/no/such: No such file or directory\n"),
        ({"argv": ["/etc/passwd"]}, 126, "/etc/passwd: Permission denied\n"),
        ({"argv": ["/etc"]}, 126, "/etc: Permission denied\n"),
        ({"argv": [""]}, 127, ": No such file or directory\n"),
        ({"argv": ["true", "x" * 200_000]}, 126, "true: Argument list too long\n"),
        ({"argv": ["true", "é" * 7_000_000]}, 126, "true: Argument list too long\n"),
        ({"argv": ["true"], "env": {"PATH": "/nowhere"}}, 127, "true: No such file or directory\n"),
    ],
)
def test_what_cannot_be_started(
    shared: SessionClient, body: dict[str, Any], exit_code: int, expected: str
) -> None:
    """Exit codes are a shell's: 127 not found, 126 not executable; the reason is on stderr."""
    answer = execute(shared, **body)
    check(answer, stdout="", stderr=expected, exit_code=exit_code, state="preserved")


def test_shell_tells_the_same(shared: SessionClient) -> None:
    """So does the shell that runs commands."""
    assert execute(shared, "no-such-program")["exit_code"] == 127
    assert execute(shared, "/etc/passwd")["exit_code"] == 126


ONE_OF_TWO = "Exactly one of `command` and `argv` is required."


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, ONE_OF_TWO),
        ({"command": None, "argv": None}, ONE_OF_TWO),
        ({"command": "true", "argv": ["true"]}, ONE_OF_TWO),
        ({"argv": []}, "`argv` must not be empty."),
        ({"argv": "true"}, "`argv` must be"),
        ({"argv": ["a", 1]}, "`argv.1` must be a string."),
        ({"command": ["true"]}, "`command` must be a string."),
        ({"command": "a\0b"}, "`command` must not hold a NUL character."),
        ({"argv": ["a", "b\0"]}, "`argv.1` must not hold a NUL character."),
        ({"command": "true", "stdin": 1}, "`stdin` must be a string."),
        ({"command": "true", "timeout": -1}, "`timeout`"),
        ({"command": "true", "timeout": 1e9}, "`timeout`"),
        ({"command": "true", "env": {"A=": "1"}}, "`env`"),
        ({"command": "true", "env": {"A": None}}, "`env`"),
    ],
)
def test_mistakes(shared: SessionClient, body: dict[str, Any], told: str) -> None:
    """They are 400 in a sentence that names the field, and nothing is run."""
    before = len(shared.executions())
    error = check_error(exec_response(shared, **body), 400, "INVALID_REQUEST")
    assert error["message"].startswith(told)
    assert len(shared.executions()) == before


def test_no_session(client: Client) -> None:
    """An unknown session is 404."""
    answer = client.http.post("/api/sessions/nobody/exec", json={"command": "true"})
    check_error(answer, 404, "SESSION_NOT_FOUND")


# ---------------------------------------------------------------- what it finds


def test_environment(shared: SessionClient) -> None:
    """That of the kernel: built from empty, with what the session says and the caller adds."""
    code = "import os, json; print(json.dumps(dict(os.environ)))"
    command = ["python3", "-c", code]
    env = {"MINE": "1", "NUMBER": 1.50, "ERA_SESSION_ID": "other", "PYTHONPATH": "/tmp"}
    seen = json.loads(execute(shared, argv=command, env=env)["stdout"])
    kernel = json.loads(shared.run(code)["stdout"])
    own = {"MINE": "1", "NUMBER": "1.5", "PYTHONPATH": "/tmp"}
    assert {name: seen[name] for name in own} == own
    assert seen["ERA_SESSION_ID"] == shared.id
    changed = {name for name in seen if seen[name] != kernel.get(name)}
    assert changed <= {"MINE", "NUMBER", "PYTHONPATH"}
    assert {name for name in kernel if name not in seen} <= {"COLUMNS", "LINES"}
    assert "MINE" not in execute(shared, "env")["stdout"]


def test_directory(session: SessionClient) -> None:
    """It begins in the workspace, whose files are those of the kernel, and shares its /tmp."""
    assert execute(session, "pwd; echo here > made; echo t > $TMPDIR/t")["files_modified"] == 1
    code = (
        "import os; print(os.getcwd(), open('made').read(), open(os.environ['TMPDIR']+'/t').read())"
    )
    where = execute(session, "pwd")["stdout"].strip()
    assert session.run(code)["stdout"] == f"{where} here\n t\n\n"


def test_stdin(shared: SessionClient) -> None:
    """Text on descriptor 0, then end of file; without it there is nothing to read."""
    assert execute(shared, "cat", stdin="hällo\0\n")["stdout"] == "hällo\0\n"
    assert execute(shared, "cat", stdin="")["stdout"] == ""
    assert execute(shared, "cat; readlink /proc/self/fd/0")["stdout"] == "/dev/null\n"
    assert execute(shared, "wc -c", stdin="x" * 3_000_000)["stdout"].strip() == "3000000"


def test_stdin_that_nobody_reads(shared: SessionClient) -> None:
    """A program may leave without reading; a program that it leaves behind gets end of file."""
    assert execute(shared, "true", stdin="x" * 3_000_000)["exit_code"] == 0
    execute(shared, "(wc -c > count.new; mv count.new count) <&0 & exit 0", stdin="x" * 3_000_000)
    wait_for_file(shared, "count")
    assert 0 <= int(execute(shared, "cat count; rm count")["stdout"]) < 3_000_000


def test_bytes_that_are_no_text(shared: SessionClient) -> None:
    """They become U+FFFD; a character that comes in two pieces is whole."""
    command = r"printf '\303'; sleep 0.1; printf '\244\377x\303'"
    assert execute(shared, command)["stdout"] == "ä\ufffdx\ufffd"


# ---------------------------------------------------------------- how it ends


def test_killed(shared: SessionClient) -> None:
    """128 and the signal, with a cause that names it; the kernel knows nothing of it."""
    shared.run("kept = 1")
    check(
        execute(shared, "echo a; kill -SEGV $$"), stdout="a\n", exit_code=139,
        cause="signal 11 (SIGSEGV)", state="preserved",
    )  # fmt: skip
    check(execute(shared, "kill -9 $$"), exit_code=137, cause="signal 9 (SIGKILL)")
    check(shared.run("print(kept)"), stdout="1\n", started_from="live")


def test_timeout(session: SessionClient) -> None:
    """408 with all output so far; nothing of its process group goes on."""
    command = "trap '' INT; sleep 600.5 & echo before; sleep 600.5; sleep 600.5"
    response = exec_response(session, command, timeout=0.3)
    assert response.status_code == 408
    answer = response.json()
    check(
        answer, code="EXECUTION_TIMEOUT", stdout="before\n", exit_code=124, state="preserved",
        cause="timeout",
    )  # fmt: skip
    assert set(answer) == FIELDS | {"error", "message", "code", "cause"}
    assert answer["execution_time_ms"] < 5000
    assert (
        "600.5" not in execute(session, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; true")["stdout"]
    )


def test_timeout_of_one_that_leaves_when_asked(session: SessionClient) -> None:
    """It may clean up, but those that it leaves behind in its group do not outlive it."""
    command = (
        "(trap '' INT; sleep 600.75; sleep 600.75) & trap 'echo bye; exit 3' INT; "
        "while :; do sleep 0.05; done"
    )
    check(execute(session, command, timeout_ms=300), stdout="bye\n", exit_code=124)
    rest = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; true"
    assert wait_until(lambda: "600.75" not in execute(session, rest)["stdout"], 5)


def test_session_timeout(client: Client) -> None:
    """Without a timeout of its own the session's counts."""
    session = client.session("python", default_timeout=0.2)
    assert execute(session, "sleep 30")["exit_code"] == 124
    session.delete()


def test_children_that_hold_the_outputs(session: SessionClient) -> None:
    """The execution ends with its process; who is left behind serves on, and may print."""
    port = 8123
    server = f"nohup python3 -u -m http.server {port} --bind 127.0.0.1 & echo started"
    answer = execute(session, server, timeout=20)
    check(answer, exit_code=0)
    assert answer["stdout"].startswith("started\n")
    assert answer["execution_time_ms"] < 10_000
    ask = (
        "import urllib.request, time\n"
        "for _ in range(200):\n"
        "    try:\n"
        f"        url = 'http://127.0.0.1:{port}/'\n"
        "        n = [urllib.request.urlopen(url).status for _ in range(50)]\n"
        "        break\n"
        "    except OSError:\n"
        "        time.sleep(0.05)\n"
        "print(len(n), set(n))"
    )
    # A request prints a line; more of them than any pipe holds must not block it.
    check(session.run(ask), stdout="50 {200}\n")
    check(execute(session, "yes | head -c 3000000 & exit 0"), exit_code=0)
    check(session.run(ask), stdout="50 {200}\n", started_from="live")


def test_late_output_of_children(shared: SessionClient) -> None:
    """What a child prints within a moment after the end of its parent is still heard."""
    assert execute(shared, "(sleep 0.02; echo late) & echo early")["stdout"] == "early\nlate\n"


@pytest.mark.parametrize(
    ("command", "exit_code", "actions"),
    [
        (f'python3 -c "{SLEEPING_CODE}"; echo never', 130, ["interrupt", "ended"]),
        (f"trap 'exit 3' INT; {READY} while :; do sleep 0.05; done", 3, ["interrupt", "ended"]),
        (
            f"trap '' INT; {READY} sleep 60",
            130,
            ["interrupt", "interrupt again", "end", "ended"],
        ),
    ],
)
def test_interrupt(
    session: SessionClient, command: str, exit_code: int, actions: list[str]
) -> None:
    """The program ends, and nothing else: the kernel, its run and other programs go on."""
    with background_commands(session) as start, background_runs(session) as run:
        busy = run(f"open('busy', 'w').close(){UNTIL_GO}print('through')")
        wait_for_file(session, "busy")
        other = start("touch other; until [ -e go ]; do sleep 0.05; done; echo through")
        wait_for_file(session, "other")
        program = start(command)
        wait_for_file(session)
        eid = wait_until_running(session, 3)
        reported = session.http.post(f"{session.path}/executions/{eid}/interrupt").json()
        check(reported, success=True, execution_id=eid, state="preserved")
        assert [step["action"] for step in reported["steps"]] == actions
        check(program.result(), exit_code=exit_code, state="preserved", stdout="")
        again = session.http.post(f"{session.path}/executions/{eid}/interrupt")
        check_error(again, 409, "NOT_RUNNING")
        assert not other.done() and not busy.done()
        session.http.put(f"{session.path}/files/go", content=b"").raise_for_status()
        assert other.result()["stdout"] == "through\n"
        assert busy.result().json()["stdout"] == "through\n"


# ---------------------------------------------------------------- output


def test_much_output(shared: SessionClient) -> None:
    """Not one byte is lost, of two streams at once."""
    answer = execute(shared, "seq 300000; seq 300000 >&2")
    text = "".join(f"{number}\n" for number in range(1, 300_001))
    assert answer["stdout"] == text
    assert answer["stderr"] == text


@pytest.fixture(scope="module")
def small_server() -> Iterator[Client]:
    """A client of a server with small bounds."""
    flags = (
        "--max-answer-output", "64K", "--max-execution-output", "8M", "--max-queue", "2",
        "--max-kernels", "1", "--max-background-timeout", "1", "--max-timeout", "100",
    )  # fmt: skip
    with open_client(*flags) as client:
        yield client


@pytest.fixture
def small(small_server: Client) -> Iterator[Client]:
    yield small_server
    small_server.http.delete("/api/sessions")


def test_output_past_the_bounds(small: Client) -> None:
    """The answer is cut and says where the rest is; past the last bound the program is ended."""
    session = small.session("python")
    session.run("kept = 1")
    answer = execute(session, "seq 100000")
    assert answer["truncated"] is True
    text = small.http.get(answer["full_output"]["stdout"]).text
    assert text == "".join(f"{number}\n" for number in range(1, 100_001))
    answer = execute(session, "yes & yes", timeout=60)
    check(answer, exit_code=137, cause="output limit 8 MiB", state="preserved")
    stream = small.http.get(f"{session.path}/executions/{answer['execution_id']}/stream")
    assert '"code":"OUTPUT_LIMIT"' in stream.text
    assert "yes" not in execute(session, "cat /proc/[0-9]*/comm")["stdout"].split()
    check(session.run("print(kept)"), stdout="1\n")


def test_stream_and_reading(session: SessionClient) -> None:
    """Output comes as it is printed, and is read like that of any execution; no stack is shown."""
    with background_commands(session) as start:
        future = start(f"{READY} echo one; mkfifo go; echo two; cat go")
        wait_for_file(session)
        eid = wait_until_running(session)
        place = f"{session.path}/executions/{eid}"
        with session.http.stream("GET", f"{place}/stream") as response:
            events = parse_sse(response.iter_lines())
            first = next(events).data["content"]
            assert first.startswith("one\n")
            so_far = session.http.get(place).json()
            check(so_far, status="running", exit_code=None, results=[])
            assert so_far["stdout"].startswith("one\n")
            check_error(session.http.get(f"{place}/stack"), 409, "NOT_SUPPORTED")
            execute(session, "until [ -p go ]; do sleep 0.01; done; echo three > go")
            rest = list(events)
        text = first + "".join(one.data.get("content", "") for one in rest)
        assert text == "one\ntwo\nthree\n"
        assert rest[-1].event == "done"
        assert future.result()["stdout"] == "one\ntwo\nthree\n"
    assert session.http.get(f"{place}/stdout").text == "one\ntwo\nthree\n"
    assert session.http.get(f"{place}/stderr").text == ""
    check(session.http.get(f"{place}?wait=5").json(), status="finished", exit_code=0)


# ---------------------------------------------------------------- outside the queue


def test_beside_a_run(session: SessionClient) -> None:
    """It does not wait for the run, nor make the session busy, nor does a run wait for it."""
    with background_runs(session) as start:
        run = start(SLEEPING_CODE)
        wait_for_file(session)
        assert session.get()["status"] == "busy"
        check(execute(session, "echo now"), stdout="now\n", started_from="live")
        session.http.post(f"{session.path}/restart").raise_for_status()
        run.result()
    with background_commands(session) as start_program:
        program = start_program(f"{READY.replace('ready', 'two')} sleep 60 & wait")
        wait_for_file(session, "two")
        assert session.get()["status"] == "idle"
        check(session.run("print(2)"), stdout="2\n")
        session.http.post(f"{session.path}/restart").raise_for_status()
        check(program.result(), exit_code=137, cause="restarted", state="lost")


def test_kernel_starts_in_the_same_machine(session: SessionClient) -> None:
    """A server that was started before there was a kernel is reached by the kernel."""
    answer = execute(session, "(echo x > $TMPDIR/shared); sleep 600 > /dev/null 2>&1 & echo $!")
    check(answer, started_from="fresh", kernel_generation=0)
    assert session.get()["status"] == "stopped"
    assert session.get()["kernel_generation"] == 0
    pid = answer["stdout"].strip()
    code = f"import os; print(open('/tmp/shared').read(), os.path.exists('/proc/{pid}'))"
    if "tmp" in json.dumps(session.get()["isolation"]):
        code = code.replace("'/tmp/shared'", "os.environ['TMPDIR'] + '/shared'")
    check(session.run(code), stdout="x\n True\n", started_from="fresh", kernel_generation=1)
    assert session.get()["status"] == "idle"
    check(execute(session, "true"), started_from="live", kernel_generation=1)


@pytest.mark.parametrize(
    ("end", "exit_code", "cause"),
    [
        ("import os; os._exit(7)", 7, "the kernel ended: exit 7"),
        ("import os; os.kill(os.getpid(), 11)", 139, "the kernel ended: signal 11 (SIGSEGV)"),
    ],
)
def test_kernel_death(session: SessionClient, end: str, exit_code: int, cause: str) -> None:
    """When the kernel ends all of the sandbox does, programs too, which say why."""
    session.run("pass")
    with background_commands(session) as start:
        program = start(f"{READY} sleep 60")
        wait_for_file(session)
        check(session.run(end), exit_code=exit_code)
        check(program.result(), exit_code=137, cause=cause, state="lost")
    eid = session.executions()[-2]["execution_id"]
    stream = session.http.get(f"{session.path}/executions/{eid}/stream").text
    assert '"code":"KERNEL_DIED"' in stream
    check(execute(session, "true"), started_from="fresh", kernel_generation=1)


def test_twenty_at_once(session: SessionClient) -> None:
    """All of them, and a run, meet one machine, which none of them finds there."""
    with background_commands(session) as start, background_runs(session) as run:
        programs = [start("readlink /proc/self/ns/pid; echo x >> $TMPDIR/all") for _ in range(20)]
        code = "import os; print(os.readlink('/proc/self/ns/pid'))"
        answer = run(code).result().json()
        answers = [program.result() for program in programs]
    assert {one["stdout"] for one in answers} == {answer["stdout"]}
    assert execute(session, "wc -l < $TMPDIR/all")["stdout"].strip() == "20"
    assert session.get()["kernel_generation"] == 1


def test_too_many(small: Client) -> None:
    """As many at once as may wait in the queue; the next gets 429."""
    session = small.session("python")
    with background_commands(session) as start:
        for name in ("one", "two"):
            start(f"touch {name}; sleep 60")
            wait_for_file(session, name)
        refused = exec_response(session, "true")
        check_error(refused, 429, "QUEUE_FULL")
        assert int(refused.headers["Retry-After"]) > 0
        other = small.session("python")
        check_error(exec_response(other, "true"), 503, "CAPACITY")
        session.delete()
    check(execute(other, "echo in"), stdout="in\n")


def test_seat_is_kept(small: Client) -> None:
    """A machine without a kernel takes the place of one."""
    session, other = small.session("python"), small.session("python")
    execute(session, "sleep 600 > /dev/null 2>&1 &")
    answer = small.http.post(f"{other.path}/run", json={"code": "1"})
    check_error(answer, 503, "CAPACITY")
    session.delete()
    assert other.run("print(1)")["stdout"] == "1\n"


# ---------------------------------------------------------------- files and data


def test_files_are_counted_once(session: SessionClient) -> None:
    """A change is reported by the first that ends after it, be it a program or a run."""
    check(execute(session, "echo 1 > a; echo 1 > b"), files_modified=2)
    check(session.run("open('c', 'w').write('1')"), files_modified=1)
    check(execute(session, "rm a; echo 2 > b"), files_modified=2)
    check(execute(session, "true"), files_modified=0)
    with background_runs(session) as start:
        run = start("open('d', 'w').write('1')\n" + SLEEPING_CODE.replace("60", "1.5"))
        wait_for_file(session)
        check(execute(session, "echo 1 > e"), files_modified=3)
        answer = run.result().json()
        check(answer, files_modified=0, exit_code=0)
    assert session.get()["file_count"] == 5


def test_data_are_adopted(session: SessionClient) -> None:
    """What a program writes to `.session_data.json` becomes the session's data."""
    session.http.patch(session.path, json={"data": {"n": 1}}).raise_for_status()
    assert json.loads(execute(session, "cat .session_data.json")["stdout"]) == {"n": 1}
    check(execute(session, """echo '{"n": 2}' > .session_data.json"""), data={"n": 2})
    assert session.get()["data"] == {"n": 2}
    code = "import json; d = json.load(open('.session_data.json')); d['m'] = 1; "
    session.run(code + "json.dump(d, open('.session_data.json', 'w'))")
    assert session.get()["data"] == {"n": 2, "m": 1}


def test_data_beside_a_run(session: SessionClient) -> None:
    """Neither a run nor a program loses what the other has written."""
    with background_runs(session) as start:
        write = "import json; json.dump({'run': 1}, open('.session_data.json', 'w'))\n"
        run = start(write + SLEEPING_CODE.replace("60", "1"))
        wait_for_file(session)
        assert json.loads(execute(session, "cat .session_data.json")["stdout"]) == {"run": 1}
        assert run.result().json()["data"] == {"run": 1}
    with background_commands(session) as start_program:
        program = start_program(
            """echo '{"program": 1}' > .session_data.json; touch two; sleep 1"""
        )
        wait_for_file(session, "two")
        answer = session.run("print(open('.session_data.json').read())", update_data={"more": 2})
        assert json.loads(answer["stdout"]) == {"program": 1, "more": 2}
        assert program.result()["data"] == {"program": 1, "more": 2}


def test_not_persistent(client: Client) -> None:
    """The files of such a session live as long as its machine, with a kernel or without."""
    session = client.session("python", persistent=False)
    execute(session, "echo 1 > a")
    assert execute(session, "cat a")["stdout"] == "1\n"
    assert session.run("print(open('a').read())")["stdout"] == "1\n\n"
    session.http.post(f"{session.path}/restart").raise_for_status()
    assert execute(session, "ls")["stdout"] == ""
    execute(session, "echo 1 > a")
    session.run("import os; os._exit(1)")
    assert wait_until(lambda: session.get()["files"] == [], 10)
    session.delete()


# ---------------------------------------------------------------- clients, servers and deletion


def test_client_leaves(session: SessionClient) -> None:
    """The program goes on, and its answer is there to be read."""
    with pytest.raises(httpx.ReadTimeout):
        session.http.post(
            f"{session.path}/exec", json={"command": "sleep 1; echo done"}, timeout=0.5
        )
    eid = wait_until_running(session)
    place = f"{session.path}/executions/{eid}"
    check(session.http.get(f"{place}?wait=20").json(), stdout="done\n", exit_code=0)


def test_deletion(client: Client) -> None:
    """Programs of a session that is deleted end with it."""
    session = client.session("python")
    with background_commands(session) as start:
        program = start(f"{READY} sleep 60")
        wait_for_file(session)
        session.delete()
        check(program.result(), exit_code=137, cause="session deleted", state="lost")


def test_deletion_of_one_that_starts(client: Client) -> None:
    """Whenever the session is deleted, every program has an answer."""
    for delay in (0, 0.01, 0.03, 0.06, 0.1):
        session = client.session("python")
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(exec_response, session, "sleep 60") for _ in range(4)]
            threading.Event().wait(delay)
            session.delete()
            for answer in answers:
                response = answer.result()
                assert response.status_code in (200, 404), response.text
                if response.status_code == 200:
                    check(response.json(), exit_code=137, cause="session deleted")


def test_stop_of_the_server(launcher: Launcher) -> None:
    """It is given the grace of a run, and then ended, with an answer to its client."""
    server = launcher.start("--shutdown-grace", "1")
    client = Client(server.base_url)
    session = client.session("python")
    with background_commands(session) as start:
        short = start(f"{READY} sleep 0.5; echo done")
        long = start("touch two; sleep 60")
        wait_for_file(session)
        wait_for_file(session, "two")
        assert server.stop() == 0
        check(short.result(), stdout="done\n", exit_code=0)
        check(long.result(), exit_code=137, cause="server stopped", state="lost")
    client.close()


def test_ttl(client: Client) -> None:
    """A session with a program in it is not expired; its time begins when that ends."""
    session = client.session("python", ttl=0.5)
    with pytest.raises(httpx.ReadTimeout):
        session.http.post(f"{session.path}/exec", json={"command": "sleep 2"}, timeout=0.2)
    threading.Event().wait(1.2)
    assert client.http.get("/api/sessions").json()["count"] >= 1
    assert session.id in client.http.get("/api/sessions").text
    gone = wait_until(lambda: session.id not in client.http.get("/api/sessions").text, 10)
    assert gone


# ---------------------------------------------------------------- its other forms


def test_background(session: SessionClient) -> None:
    """In the background it is answered at once, and found, followed and interrupted like any."""
    response = exec_response(session, "echo a; sleep 60", background=True)
    assert response.status_code == 202
    started = response.json()
    assert set(started) == {"execution_id", "session_id"}
    assert response.headers["X-Execution-Id"] == started["execution_id"]
    path = f"{session.path}/executions/{started['execution_id']}"
    with session.http.stream("GET", f"{path}/stream") as reader:
        events = parse_sse(reader.iter_lines())
        assert next(events).data == {"type": "stdout", "content": "a\n"}
        session.http.post(f"{path}/interrupt").raise_for_status()
        assert [event.event for event in events] == ["done"]
    check(session.http.get(path).json(), status="finished", exit_code=130, stdout="a\n")


def test_time_in_the_background(small: Client) -> None:
    """Without a timeout it may take max_background_timeout, which is the most there is."""
    session = small.session("python")
    check_error(exec_response(session, "true", background=True, timeout=2), 400, "INVALID_REQUEST")
    started = exec_response(session, "sleep 60", background=True).json()
    path = f"{session.path}/executions/{started['execution_id']}"
    check(session.http.get(f"{path}?wait=20").json(), exit_code=124, cause="timeout")


def test_stream(session: SessionClient) -> None:
    """As a stream it sends its events as they come; the execution is one like any other."""
    body = {"command": "echo a; echo b >&2; read line; echo $line > made; exit 3", "stdin": "in\n"}
    with session.http.stream("POST", f"{session.path}/exec/stream", json=body) as answer:
        assert answer.status_code == 200
        execution = f"{session.path}/executions/{answer.headers['X-Execution-Id']}"
        events = list(parse_sse(answer.iter_lines()))
    assert {event.event for event in events[:-1]} == {"stdout", "stderr"}
    done = events[-1]
    check(done.data, type="done", exit_code=3, files_modified=1)
    with session.http.stream("GET", f"{execution}/stream") as again:
        assert list(parse_sse(again.iter_lines())) == events
    assert session.http.get(f"{execution}/stdout").text == "a\n"
    assert session.http.get(f"{execution}/stderr").text == "b\n"
    body = {"command": "sleep 60", "timeout": 0.3}
    timed_out = session.http.post(f"{session.path}/exec/stream", json=body)
    failure, done = parse_sse(timed_out.iter_lines())
    assert (failure.data["code"], done.data["exit_code"]) == ("EXECUTION_TIMEOUT", 124)


def test_stream_that_its_caller_leaves(session: SessionClient) -> None:
    """The program goes on; its events can be had again."""
    body = {"command": "echo a; sleep 1; echo b"}
    with session.http.stream("POST", f"{session.path}/exec/stream", json=body) as answer:
        next(answer.iter_lines())
        path = f"{session.path}/executions/{answer.headers['X-Execution-Id']}"
    check(session.http.get(f"{path}?wait=20").json(), exit_code=0, stdout="a\nb\n")


@pytest.mark.parametrize(
    ("body", "message"),
    [({"command": "true", "background": True}, "background"), ({}, "command"),
     ({"command": "true", "cwd": ".."}, "directory")],
)  # fmt: skip
def test_refused_streams(shared: SessionClient, body: dict[str, Any], message: str) -> None:
    """What is wrong is told before there is an execution."""
    before = len(shared.executions())
    answer = shared.http.post(f"{shared.path}/exec/stream", json=body)
    assert answer.status_code == 400
    assert message in answer.json()["message"]
    assert len(shared.executions()) == before


@pytest.fixture(scope="module")
def with_directories(client: Client) -> Iterator[SessionClient]:
    """A session with directories, and links that lead somewhere."""
    session = client.session("python")
    code = """
import os
os.makedirs("sub/deep é"); open("file", "w").close(); os.mkdir("shut", 0)
for name, target in {
    "to_sub": "sub", "up": "..", "out": "/", "etc": "/etc", "loop": "loop", "to_file": "file",
    "sub/back": "../sub", "sub/over": "../..", "dangling": "nothing", "proc": "/proc/self/cwd",
}.items():
    os.symlink(target, name)
"""
    check(session.run(code), exit_code=0)
    yield session
    session.delete()


@pytest.mark.parametrize(
    ("cwd", "expected"),
    [
        (None, ""),
        (".", ""),
        ("sub", "/sub"),
        ("./sub/", "/sub"),
        ("sub/deep é", "/sub/deep é"),
        ("sub/..", ""),
        ("to_sub", "/sub"),
        ("sub/back/back", "/sub"),
    ],
)
def test_cwd(with_directories: SessionClient, cwd: str | None, expected: str) -> None:
    """A program begins in the directory that is named, over links within the session's own too."""
    home = execute(with_directories, argv=["pwd", "-P"])["stdout"].removesuffix("\n")
    for body in ({"argv": ["pwd", "-P"]}, {"command": "pwd -P"}):
        answer = execute(with_directories, **body, cwd=cwd)
        check(answer, stdout=f"{home}{expected}\n", stderr="", exit_code=0)


@pytest.mark.parametrize(
    ("cwd", "words"),
    [
        ("..", "leads out"),
        ("sub/../..", "leads out"),
        ("/", "leads out"),
        ("/etc", "leads out"),
        ("up", "leads out"),
        ("out", "leads out"),
        ("etc", "leads out"),
        ("sub/over", "leads out"),
        ("nothing", "does not exist"),
        ("sub/nothing", "does not exist"),
        ("dangling", "does not exist"),
        ("", "does not exist"),
        ("file", "is no directory"),
        ("to_file", "is no directory"),
        ("file/x", "is no directory"),
        ("loop", "is a link"),
        ("x" * 300, "too long"),
    ],
)
@pytest.mark.parametrize("background", [False, True])
def test_bad_cwd(with_directories: SessionClient, cwd: str, words: str, background: bool) -> None:
    """One that leads out, is no directory or not there is 400, and nothing is run."""
    before = len(with_directories.executions())
    answer = exec_response(with_directories, "pwd", cwd=cwd, background=background)
    assert words in check_error(answer, 400, "INVALID_PATH")["message"]
    assert len(with_directories.executions()) == before


@pytest.mark.parametrize("cwd", [1, ["sub"], {"a": 1}, True, "a\0b"])
def test_cwd_of_a_wrong_type(shared: SessionClient, cwd: Any) -> None:
    """What is no text, or holds NUL, is refused by its name."""
    error = check_error(exec_response(shared, "pwd", cwd=cwd), 400, "INVALID_REQUEST")
    assert error["details"][0]["field"] == "cwd"


def test_cwd_that_is_exchanged(session: SessionClient) -> None:
    """Code that puts a link in the directory's place never leads a program out."""
    session.run("import os; os.mkdir('a'); os.symlink('/', 'b')")
    swap = "while :; do mv -T a c; mv -T b a; mv -T a b; mv -T c a; done"
    with background_commands(session) as start:
        swapping = start(swap, timeout=30)
        swapper = wait_until_running(session)
        home = execute(session, "pwd -P")["stdout"].removesuffix("\n")
        for _ in range(20):
            answer = exec_response(session, argv=["pwd", "-P"], cwd="a").json()
            assert answer.get("stdout", "") in ("", f"{home}/a\n", f"{home}/b\n", f"{home}/c\n")
        session.http.post(f"{session.path}/executions/{swapper}/interrupt").raise_for_status()
        swapping.result()
