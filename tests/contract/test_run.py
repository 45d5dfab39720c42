"""Run: the run answer, exit codes, results, environment, data, files, timeouts, deaths."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

from tests.client import Client, SessionClient
from tests.contract.checks import (
    DURATION,
    SLEEPING_CODE,
    background_runs,
    check,
    check_error,
    open_client,
    wait_for_executions,
    wait_for_file,
)
from tests.server_process import Server

DATA_FILE = ".session_data.json"


@pytest.fixture(scope="module")
def small() -> Iterator[Client]:
    """A server with small bounds."""
    flags = ("--max-answer-output", "1000", "--max-execution-output", "64K", "--max-queue", "2")
    with open_client(*flags) as client:
        yield client


# ---------------------------------------------------------------- the answer


def test_answer(session: SessionClient) -> None:
    """The run answer holds what the contract names, and no more."""
    answer = session.run("print('hello')", update_data={"k": 1})
    assert set(answer) == {
        "execution_id", "session_id", "stdout", "stderr", "exit_code", "execution_time_ms",
        "duration", "files_modified", "files_changed", "data", "results", "exception", "state",
        "started_from",
        "kernel_generation", "queued_ms", "start_ms",
    }  # fmt: skip
    check(
        answer, session_id=session.id, stdout="hello\n", stderr="", exit_code=0, files_modified=0,
        data={"k": 1}, results=[], exception=None, state="preserved", started_from="fresh",
        kernel_generation=1,
    )  # fmt: skip
    assert DURATION.fullmatch(answer["duration"])


def test_no_code(client: Client, session: SessionClient) -> None:
    """Without code, and nothing stored to fall back to, the error says what is missing."""
    answer = client.http.post(f"{session.path}/run", json={"timeout": 1})
    assert "code" in check_error(answer, 400, "INVALID_REQUEST")["message"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("", {"exit_code": 0, "stdout": "", "stderr": ""}),
        ("# nothing", {"exit_code": 0}),
        ("raise SystemExit", {"exit_code": 0}),
        ("exit()", {"exit_code": 0}),
        ("exit(3)", {"exit_code": 3, "stderr": "", "exception": None}),
        ("import sys; sys.exit(300)", {"exit_code": 44}),
        ("import sys; sys.exit('words')", {"exit_code": 1, "stderr": "words\n"}),
        ("raise KeyboardInterrupt", {"exit_code": 130}),
        ("1/0", {"exit_code": 1, "stdout": ""}),
        ("print(1", {"exit_code": 1, "stdout": ""}),
        ("print('a\\tb\\x00c\\u2028é')", {"exit_code": 0, "stdout": "a\tb\x00c\u2028é\n"}),
        ("import os; _ = os.write(1, b'a\\xffb')", {"exit_code": 0, "stdout": "a\ufffdb"}),
    ],
)
def test_exit_codes(shared: SessionClient, code: str, expected: dict[str, Any]) -> None:
    """A program ends as the plain interpreter would end it, at HTTP 200, and state stays."""
    check(shared.run(code), state="preserved", **expected)


def test_exception(shared: SessionClient) -> None:
    """An uncaught error is on stderr with the user's lines, and reported in its parts."""
    answer = shared.run("def f():\n    raise ValueError('boom')\n\nf()")
    check(answer, exit_code=1, stdout="", results=[])
    check(answer["exception"], name="ValueError", value="boom")
    assert isinstance(answer["exception"]["traceback"], list)
    assert "line 4" in answer["stderr"]
    assert "line 2" in answer["stderr"]
    assert answer["stderr"].endswith("ValueError: boom\n")
    for inside in ("\x1b", "ipykernel", "IPython", "site-packages", "era_"):
        assert inside not in json.dumps([answer["stderr"], answer["exception"]])


def test_warnings_do_not_fail(shared: SessionClient) -> None:
    """What a program writes to stderr does not make it fail."""
    check(shared.run("import sys; sys.stderr.write('w')"), exit_code=0, stderr="w", exception=None)


# ---------------------------------------------------------------- results


def rich(session: SessionClient, code: str) -> list[tuple[str, dict[str, Any]]]:
    """The results of a run that prints nothing."""
    answer = session.run(f"from IPython.display import *\n{textwrap.dedent(code)}")
    check(answer, stdout="", stderr="", exit_code=0)
    return [(one["type"], one["data"]) for one in answer["results"]]


def test_last_expression(shared: SessionClient) -> None:
    """The last expression is a result, never part of stdout; None is none."""
    [(kind, data)] = rich(shared, "6 * 7")
    assert (kind, data["text/plain"]) == ("execute_result", "42")
    assert rich(shared, "None") == []
    assert rich(shared, "x = 1") == []
    assert rich(shared, "6 * 7;") == []


def test_displays(shared: SessionClient) -> None:
    """Rich outputs come in order, as MIME bundles."""
    found = rich(shared, "display(HTML('<b>x</b>')); display(JSON({'a': [1]})); 'last'")
    assert [kind for kind, _ in found] == ["display_data", "display_data", "execute_result"]
    assert found[0][1]["text/html"] == "<b>x</b>"
    assert found[1][1]["application/json"] == {"a": [1]}


def test_updated_display(shared: SessionClient) -> None:
    """An update of a display replaces it in its place."""
    found = rich(
        shared,
        """
        handle = display("one", display_id="d")
        display("two")
        handle.update("three")
        """,
    )
    assert [data["text/plain"] for _, data in found] == ["'three'", "'two'"]


def test_cleared_output(shared: SessionClient) -> None:
    """`clear_output` empties the results, at once or when the next one comes."""
    assert rich(shared, "display(1); clear_output()") == []
    found = rich(shared, "display(1); clear_output(wait=True); display(2)")
    assert [data["text/plain"] for _, data in found] == ["2"]
    assert len(rich(shared, "display(1); clear_output(wait=True)")) == 1


def test_picture(shared: SessionClient) -> None:
    """Binary results are base64 text in the bundle."""
    found = rich(shared, "display(Image(data=b'\\x89PNG\\r\\n\\x1a\\n' + bytes(20), format='png'))")
    assert found[0][1]["image/png"].startswith("iVBORw0KGgo")


# ---------------------------------------------------------------- state


def test_state(session: SessionClient) -> None:
    """Variables live from run to run, also past a failing one."""
    check(session.run("x = 41"), started_from="fresh", state="preserved", kernel_generation=1)
    check(session.run("1/0"), started_from="live", state="preserved")
    check(session.run("print(x + 1)"), stdout="42\n", started_from="live", kernel_generation=1)


def test_timeout(client: Client, session: SessionClient) -> None:
    """A timeout is 408 with the error triple and the whole run answer, with the true state."""
    session.run("x = 41")
    code = "import sys\nprint('out')\nprint('err', file=sys.stderr)\nimport time; time.sleep(60)"
    answer = client.http.post(f"{session.path}/run", json={"code": code, "timeout": 0.5})
    assert answer.status_code == 408
    shown = answer.json()
    check(shown, code="EXECUTION_TIMEOUT", exit_code=124, cause="timeout", stdout="out\n")
    assert shown["message"].endswith(".")
    assert shown["stderr"].startswith("err\n")
    assert {"error", "execution_id", "data", "results", "kernel_generation"} <= set(shown)
    assert shown["state"] in ("preserved", "lost")
    after = session.run("print('x' in globals())")
    check(after, stdout=f"{shown['state'] == 'preserved'}\n", exit_code=0)


@pytest.mark.parametrize(
    ("code", "exit_code", "cause"),
    [
        ("import os; os._exit(7)", 7, "exit 7"),
        ("import os; os._exit(0)", 0, "exit 0"),
        ("import os; os.kill(os.getpid(), 9)", 137, "signal 9 (SIGKILL)"),
        ("import ctypes; ctypes.string_at(0)", 139, "signal 11 (SIGSEGV)"),
    ],
)
def test_death(
    client: Client, session: SessionClient, code: str, exit_code: int, cause: str
) -> None:
    """A kernel that dies is HTTP 200 with its exit code and cause; files and data stay."""
    session.run("x = 1; open('kept', 'w').close()", update_data={"kept": True})
    request = {"code": f"print('before', flush=True)\n{code}"}
    answer = client.http.post(f"{session.path}/run", json=request)
    assert answer.status_code == 200
    check(answer.json(), exit_code=exit_code, state="lost", cause=cause, stdout="before\n")
    assert "error" not in answer.json()
    after = session.run("import os; print(os.path.exists('kept'), 'x' in globals())")
    check(after, stdout="True False\n", started_from="fresh", data={"kept": True})
    check(after, kernel_generation=2, state="preserved")


# ---------------------------------------------------------------- environment

SHOW = "import os; print(os.environ.get({!r}, 'absent'))"


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ('"text é ☃"', "text é ☃"),
        ('""', ""),
        ('"two\\nlines"', "two\nlines"),
        ("1", "1"),
        ("1.50", "1.50"),
        ("-0", "-0"),
        ("1e5", "1e5"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("true", "true"),
        ("false", "false"),
    ],
)
def test_env(client: Client, shared: SessionClient, written: str, seen: str) -> None:
    """Strings are as given, numbers as written, booleans true and false; for this run only."""
    body = f'{{"code":{json.dumps(SHOW.format("FLAVOUR"))},"env":{{"FLAVOUR":{written}}}}}'
    answer = client.http.post(f"{shared.path}/run", content=body.encode())
    check(answer.json(), stdout=f"{seen}\n")
    check(shared.run(SHOW.format("FLAVOUR")), stdout="absent\n")


def test_env_in_children(shared: SessionClient) -> None:
    """Child processes see the variables of the run."""
    code = "import subprocess; subprocess.run('echo $FLAVOUR', shell=True)"
    check(shared.run(code, env={"FLAVOUR": "lemon"}), stdout="lemon\n")


@pytest.mark.parametrize("how", ["pass", "1/0", "import time; time.sleep(60)", "exit(1)"])
def test_env_is_restored(session: SessionClient, how: str) -> None:
    """Previous values come back, also when the run fails or times out."""
    session.run("import os; os.environ['MINE'] = 'before'")
    answer = session.run(f"print(os.environ['MINE'])\n{how}", env={"MINE": "during"}, timeout=0.5)
    assert answer["stdout"] == "during\n"
    if answer["state"] == "preserved":
        check(session.run("print(os.environ['MINE'])"), stdout="before\n")


def test_env_is_kept_nowhere(client: Client, session: SessionClient, server: Server) -> None:
    """Values are neither stored nor logged nor shown again."""
    secret = "tomato-7f3a"
    answer = session.run("1/0", env={"SECRET": secret})
    path = f"{session.path}/executions"
    shown = [
        json.dumps(answer),
        client.http.get(session.path).text,
        client.http.get(path).text,
        client.http.get(f"{path}/{answer['execution_id']}").text,
        client.http.get(f"{path}/{answer['execution_id']}/stream").text,
        server.log_text,
    ]
    assert not any(secret in text for text in shown)
    files = [file for file in server.data_dir.rglob("*") if file.is_file()]
    assert files
    assert not any(secret.encode() in file.read_bytes() for file in files)


def test_code_is_not_logged(session: SessionClient, server: Server) -> None:
    """User code and output stand in no line of the log."""
    session.run("print('potato-' + '91')")
    assert "potato" not in server.log_text


def test_own_variables(session: SessionClient, server: Server) -> None:
    """The server's variables cannot be overridden by the caller."""
    expected = {
        "ERA_SESSION": "true",
        "ERA_SESSION_ID": session.id,
        "ERA_LANGUAGE": "python",
        "ERA_BASE_URL": server.base_url,
        "ERA_PROXY_URL": f"{server.base_url}/proxy/{session.id}",
    }
    code = f"import os, json; print(json.dumps({{n: os.environ[n] for n in {list(expected)}}}))"
    for env in ({}, dict.fromkeys(expected, "forged")):
        assert json.loads(session.run(code, env=env)["stdout"]) == expected


def test_server_environment_stays_outside(session: SessionClient) -> None:
    """A kernel's environment is built from nothing: the server's settings are not in it."""
    names = session.run("import os; print(*os.environ)")["stdout"].split()
    assert not {"ERA_LOG_FORMAT", "ERA_DATA_DIR", "ERA_API_TOKENS", "PYTEST_CURRENT_TEST"} & set(
        names
    )


def test_home(session: SessionClient) -> None:
    """Home is the working directory, and it begins empty but for the data file."""
    code = "import os; print(os.environ['HOME'] == os.getcwd() == os.path.expanduser('~'))"
    check(session.run(code), stdout="True\n")
    check(session.run(f"print(set(os.listdir()) <= {{{DATA_FILE!r}}})"), stdout="True\n")


# ---------------------------------------------------------------- data


def test_update_data(session: SessionClient) -> None:
    """`update_data` is merged, not deeply, before the run; the code sees it."""
    session.run("pass", update_data={"a": {"x": 1}, "b": 2})
    code = f"import json; print(json.load(open('{DATA_FILE}')) == {{'a': {{'y': 3}}, 'b': 2}})"
    answer = session.run(code, update_data={"a": {"y": 3}})
    check(answer, stdout="True\n", data={"a": {"y": 3}, "b": 2})
    assert session.get()["data"] == {"a": {"y": 3}, "b": 2}


def test_update_data_too_big(client: Client, session: SessionClient) -> None:
    """Data past a mebibyte is 413, and the old data stays."""
    session.run("pass", update_data={"a": "x" * 600_000})
    request = {"code": "print('ran')", "update_data": {"b": "x" * 600_000}}
    answer = client.http.post(f"{session.path}/run", json=request)
    check_error(answer, 413, "TOO_LARGE")
    assert list(session.get()["data"]) == ["a"]


WRITE = f"import json; json.dump({{}}, open('{DATA_FILE}', 'w'))"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (WRITE.format('{"new": [1]}'), {"new": [1]}),
        (WRITE.format("{}"), {}),
        (f"import os; os.remove('{DATA_FILE}')", {"old": 1}),
        (WRITE.format("[1, 2]"), {"old": 1}),
        (f"open('{DATA_FILE}', 'w').write('{{')", {"old": 1}),
        (f"open('{DATA_FILE}', 'w').close()", {"old": 1}),
        (f"open('{DATA_FILE}', 'wb').write(b'\\xff')", {"old": 1}),
        (WRITE.format("{'big': 'x' * 1_100_000}"), {"old": 1}),
        (WRITE.format("{'nan': float('nan')}"), {"old": 1}),
        (WRITE.format("{'half': chr(0xd800)}"), {"old": 1}),
        (
            f"open('{DATA_FILE}', 'w').write('{{\"a\":' + '[' * 50_000 + ']' * 50_000 + '}}')",
            {"old": 1},
        ),
        (f"import os; os.remove('{DATA_FILE}'); os.mkdir('{DATA_FILE}')", {"old": 1}),
        (
            f"import os; os.remove('{DATA_FILE}'); os.symlink('/etc/hostname', '{DATA_FILE}')",
            {"old": 1},
        ),
        (f"import os; os.remove('{DATA_FILE}'); os.mkfifo('{DATA_FILE}')", {"old": 1}),
        (WRITE.format("{'late': 1}") + "; 1/0", {"late": 1}),
        (WRITE.format("{'late': 1}") + "; import time; time.sleep(60)", {"late": 1}),
    ],
)
def test_data_file(session: SessionClient, code: str, expected: dict[str, Any]) -> None:
    """The data file replaces the data when code changed it; what is broken keeps the old value."""
    session.run("pass", update_data={"old": 1})
    check(session.run(code, timeout=0.8), data=expected)
    assert session.get()["data"] == expected
    seen = session.run(f"import json; print(json.dumps(json.load(open('{DATA_FILE}'))))")
    assert json.loads(seen["stdout"]) == expected


def test_data_file_follows_the_api(client: Client, session: SessionClient) -> None:
    """What the API changes between runs is what the next run reads."""
    session.run("pass", update_data={"a": 1})
    client.http.patch(session.path, json={"data": {"b": 2}})
    check(session.run(f"print(open('{DATA_FILE}').read())"), data={"b": 2})
    assert json.loads(session.run(f"print(open('{DATA_FILE}').read())")["stdout"]) == {"b": 2}


# ---------------------------------------------------------------- files


def test_files_modified(session: SessionClient) -> None:
    """The number of files that were created, changed or deleted since the last run."""
    for code, created, changed, deleted in [
        ("pass", "", "", ""),
        ("for n in 'abc': open(n, 'w').close()", "a b c", "", ""),
        ("pass", "", "", ""),
        ("open('a', 'w').write('x')", "", "a", ""),
        ("import os; os.remove('b'); os.remove('c')", "", "", "b c"),
        ("os.rename('a', 'd')", "d", "", "a"),
        ("open('d').read()", "", "", ""),
        ("os.makedirs('e/f'); open('e/f/g', 'w').close()", "e/f/g", "", ""),
        ("os.remove('d'); open('d', 'w').write('new')", "", "d", ""),
    ]:
        answer, names = session.run(code), (created, changed, deleted)
        paths = dict(zip(("created", "changed", "deleted"), map(str.split, names), strict=True))
        check(answer, files_modified=sum(map(len, paths.values())), files_changed=paths)


def test_files_changed_everywhere(session: SessionClient) -> None:
    """The frame `done`, the execution and a program beside the kernel tell the paths, too."""
    paths = {"created": ["a", "é\ufffd"], "changed": [], "deleted": []}
    code = "open('a', 'w').close(); open(b'\\xc3\\xa9\\xff', 'w').close()"
    done = session.stream(code)[-1].data
    check(done, files_modified=2, files_changed=paths)
    execution = f"{session.path}/executions/{done['execution_id']}"
    check(session.http.get(execution).json(), files_changed=paths)
    answer = session.http.post(f"{session.path}/exec", json={"command": "rm a"}).json()
    check(answer, files_modified=1, files_changed={"created": [], "changed": [], "deleted": ["a"]})
    assert "files_changed" not in session.stream("pass")[-1].data


def test_very_many_changed_files(session: SessionClient) -> None:
    """At most 1 000 paths are told, the first in the order of lists; the number counts all."""
    answer = session.run("for n in range(1500): open(f'{n:04}', 'w').close()")
    check(answer, files_modified=1500)
    assert answer["files_changed"]["created"] == [f"{n:04}" for n in range(1000)]


def test_files_modified_that_do_not_count(session: SessionClient) -> None:
    """Caches, bytecode and the data file do not count as files."""
    check(session.run("open('mod.py', 'w').write('x = 1')", update_data={"a": 1}), files_modified=1)
    check(session.run("import mod, json, sqlite3", update_data={"a": 2}), files_modified=0)
    assert [file["path"] for file in session.get()["files"]] == ["mod.py"]


# ---------------------------------------------------------------- queue


def test_queue(session: SessionClient) -> None:
    """Runs of a session queue in order, and the time in the queue is not their timeout's."""
    session.run("seen = []")
    with background_runs(session) as start:
        first = start("open('ready', 'w').close(); import time; time.sleep(0.8); seen.append(1)")
        wait_for_file(session)
        later = []
        for number in (2, 3, 4):
            later.append(start(f"seen.append({number})", timeout=0.5))
            wait_for_executions(session, number + 1)
        assert first.result().json()["exit_code"] == 0
        for one in later:
            check(one.result().json(), exit_code=0)
            assert one.result().json()["queued_ms"] > 100
    check(session.run("print(seen)"), stdout="[1, 2, 3, 4]\n")


def test_queue_full(small: Client) -> None:
    """More runs than may wait are 429 with a time to come again; the others are served."""
    session = small.session("python")
    with background_runs(session) as start:
        runs = [start("open('ready', 'w').close(); import time; time.sleep(1)")]
        wait_for_file(session)
        for number in (2, 3):
            runs.append(start(f"print({number})"))
            wait_for_executions(session, number)
        refused = small.http.post(f"{session.path}/run", json={"code": "print('no')"})
        check_error(refused, 429, "QUEUE_FULL")
        assert int(refused.headers["Retry-After"]) > 0
        assert [run.result().json()["stdout"] for run in runs] == ["", "2\n", "3\n"]
    assert small.http.get(f"{session.path}/executions").json()["total"] == 3
    session.delete()


def test_delete_during_a_run(client: Client, session: SessionClient) -> None:
    """A deletion ends the running one with 137, and the queued ones with 404."""
    with background_runs(session) as start:
        running = start(SLEEPING_CODE)
        wait_for_file(session)
        queued = start("print('never')")
        wait_for_executions(session, 2)
        session.delete()
        check(running.result().json(), exit_code=137, cause="session deleted", state="lost")
        assert running.result().status_code == 200
        check_error(queued.result(), 404, "SESSION_NOT_FOUND")


def test_restart_during_a_run(client: Client, session: SessionClient) -> None:
    """A restart ends the running one with 137; queued ones go on, with a fresh kernel."""
    session.run("x = 1")
    with background_runs(session) as start:
        running = start(SLEEPING_CODE)
        wait_for_file(session)
        queued = start("print('x' in globals())")
        wait_for_executions(session, 3)
        answer = client.http.post(f"{session.path}/restart")
        check(answer.json(), success=True, id=session.id, kernel_generation=2)
        check(running.result().json(), exit_code=137, cause="restarted", state="lost")
        check(queued.result().json(), exit_code=0, stdout="False\n", kernel_generation=2)


# ---------------------------------------------------------------- bounds


def test_long_output(small: Client) -> None:
    """Past the bound the answer keeps head and tail, and says where the whole is."""
    session = small.session("python")
    code = "import sys\nprint('begin', 'x' * 5000, 'end')\nprint('y' * 5000, file=sys.stderr)"
    answer = session.run(code)
    check(answer, truncated=True, exit_code=0)
    assert answer["stdout"].startswith("begin xxx")
    assert answer["stdout"].endswith("xxx end\n")
    assert len(answer["stdout"]) + len(answer["stderr"]) < 1200
    place = f"{session.path}/executions/{answer['execution_id']}"
    assert answer["full_output"] == {"stdout": f"{place}/stdout", "stderr": f"{place}/stderr"}
    whole = small.http.get(answer["full_output"]["stdout"])
    assert whole.headers["Content-Type"].startswith("text/plain")
    assert whole.text == f"begin {'x' * 5000} end\n"
    part = small.http.get(answer["full_output"]["stderr"], headers={"Range": "bytes=4999-"})
    assert (part.status_code, part.text) == (206, "y\n")
    session.delete()


def test_short_output_is_not_truncated(small: Client) -> None:
    """Within the bound nothing is cut and nothing is said."""
    session = small.session("python")
    answer = session.run("print('x' * 999)")
    assert answer["stdout"] == "x" * 999 + "\n"
    assert "truncated" not in answer
    assert "full_output" not in answer
    session.delete()


def test_endless_output(small: Client) -> None:
    """A run that prints past its bound is ended, and says why."""
    session = small.session("python")
    answer = session.run("while True: print('x' * 1000)")
    check(answer, exit_code=137, cause="output limit 64 KiB", state="lost", truncated=True)
    check(session.run("print(1)"), stdout="1\n", kernel_generation=2)
    session.delete()
