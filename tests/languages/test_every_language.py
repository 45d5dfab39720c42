"""The rows that every language must satisfy; a language joins by adding a column."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.client import Client, SessionClient
from tests.languages.column import Column
from tests.languages.columns import COLUMNS


@pytest.fixture(params=COLUMNS, ids=lambda column: column.language, scope="module")
def column(request: pytest.FixtureRequest) -> Column:
    chosen: Column = request.param
    return chosen


@pytest.fixture
def session(client: Client, column: Column) -> Iterator[SessionClient]:
    session = client.session(column.language)
    yield session
    session.delete()


def check(answer: dict, **expected: object) -> None:
    """Compare the fields named, showing the whole answer when one differs."""
    assert {name: answer[name] for name in expected} == expected, answer


def test_hello(session: SessionClient, column: Column) -> None:
    """What a program prints is in stdout and nowhere else."""
    check(session.run(column.hello), stdout="hello\n", stderr="", exit_code=0, results=[])


def test_stderr(session: SessionClient, column: Column) -> None:
    """What a program writes to stderr stays out of stdout."""
    check(session.run(column.to_stderr), stdout="", stderr="problem\n", exit_code=0)


def test_alternating(session: SessionClient, column: Column) -> None:
    """Events keep the order in which the program wrote to the two streams."""
    events = session.stream(column.alternating)
    text = "".join(e.data["content"] for e in events if e.event in {"stdout", "stderr"})
    assert text == "".join(f"out {n}\nerr {n}\n" for n in range(20))


def test_one_big_write(session: SessionClient, column: Column) -> None:
    """A megabyte in one write arrives whole."""
    assert session.run(column.one_big_write)["stdout"] == "x" * 1_000_000


def test_many_lines(session: SessionClient, column: Column) -> None:
    """10 MB in 100 000 lines arrive byte for byte, in the stream and in the stored text."""
    expected = "".join(f"{n:08d}{'.' * 91}\n" for n in range(100_000))
    events = session.stream(column.many_lines)
    streamed = "".join(e.data["content"] for e in events if e.event == "stdout")
    assert streamed == expected
    execution = events[-1].data["execution_id"]
    stored = session.http.get(f"{session.path}/executions/{execution}/stdout")
    assert stored.text == expected


def test_state(session: SessionClient, column: Column) -> None:
    """Variables of one run are there in the next."""
    check(session.run(column.set_state), exit_code=0, state="preserved", started_from="fresh")
    check(session.run(column.use_state), stdout="42\n", started_from="live")


def test_failure_keeps_state(session: SessionClient, column: Column) -> None:
    """A failing run keeps earlier state, and the next run works at once."""
    session.run(column.set_state)
    failed = session.run(column.fail)
    check(failed, exit_code=1, state="preserved")
    check(session.run(column.use_state), stdout="42\n", exit_code=0)


def test_uncaught_error(session: SessionClient, column: Column) -> None:
    """An uncaught error shows the user's own line, no colours and nothing of the kernel."""
    answer = session.run(column.fail)
    assert column.failing_line in answer["stderr"]
    assert "boom" in answer["stderr"]
    assert answer["exception"]["value"] == "boom"
    for inside in ("\x1b[", "ipykernel", "IPython", "era_", "site-packages"):
        assert inside not in answer["stderr"]


def test_syntax_error(session: SessionClient, column: Column) -> None:
    """A syntax error ends with 1 and tells the position."""
    answer = session.run(column.syntax_error)
    check(answer, exit_code=1, stdout="")
    assert column.syntax_error_text in answer["stderr"]


@pytest.mark.parametrize("code", [0, 1, 3])
def test_exit_code(session: SessionClient, column: Column, code: int) -> None:
    """The exit code is what the program asked for, and the state stays."""
    session.run(column.set_state)
    check(session.run(column.exit_with.format(code=code)), exit_code=code, state="preserved")
    check(session.run(column.use_state), stdout="42\n")


def test_exit_nested(session: SessionClient, column: Column) -> None:
    """An exit deep inside calls ends the program."""
    check(session.run(column.exit_nested), exit_code=3, stderr="")


@pytest.mark.parametrize("where", ["read_env", "read_env_in_child"])
def test_env(session: SessionClient, column: Column, where: str) -> None:
    """Variables of a run are seen by the code and its children, and are gone afterwards."""
    program = getattr(column, where).format(name="FLAVOUR")
    check(session.run(program), stdout="absent\n")
    check(session.run(program, env={"FLAVOUR": "lemon"}), stdout="lemon\n")
    check(session.run(program), stdout="absent\n")


@pytest.mark.parametrize("name", ["HOME", "PATH"])
def test_env_previous_value(session: SessionClient, column: Column, name: str) -> None:
    """A variable that a run overrides has its previous value back, also after a failure."""
    program = column.read_env.format(name=name)
    before = session.run(program)["stdout"]
    session.run(column.fail, env={name: "/elsewhere"})
    check(session.run(program), stdout=before)


def test_era_variables(session: SessionClient, column: Column) -> None:
    """The server's own variables are there and cannot be overridden."""
    expected = {
        "ERA_SESSION": "true",
        "ERA_SESSION_ID": session.id,
        "ERA_LANGUAGE": column.language,
        "ERA_BASE_URL": str(session.http.base_url).rstrip("/"),
        "ERA_PROXY_URL": f"{session.http.base_url}/proxy/{session.id}".replace("//proxy", "/proxy"),
    }
    for name, value in expected.items():
        answer = session.run(column.read_env.format(name=name), env={name: "forged"})
        check(answer, stdout=f"{value}\n")


def test_cwd(session: SessionClient, column: Column) -> None:
    """Home and working directory are the workspace."""
    lines = session.run(column.print_cwd_and_home)["stdout"].splitlines()
    assert lines[0] == lines[1]


def test_written_file_is_listed(session: SessionClient, column: Column) -> None:
    """A file that code wrote is counted as modified once, and listed."""
    check(session.run(column.hello), files_modified=0)
    check(session.run(column.write_file), files_modified=1)
    check(session.run(column.hello), files_modified=0)
    answer = session.get()
    assert [(f["path"], f["size"]) for f in answer["files"]] == [("made.txt", 4)]
    check(answer, file_count=1, total_size_bytes=4)


def test_edited_module(session: SessionClient, column: Column) -> None:
    """A module that changed on disk is new in the next run, even within the same second."""
    for value in (1, 2, 3):
        session.run(column.write_module.format(value=value))
        check(session.run(column.import_module), stdout=f"{value}\n", exit_code=0)


@pytest.mark.parametrize("program", ["sleep", "busy_loop", "pending_await", "c_call"])
def test_timeout(session: SessionClient, column: Column, program: str) -> None:
    """A run past its timeout ends with 124, and the session is usable within seconds."""
    session.run(column.set_state)
    began = time.monotonic()
    answer = session.run(getattr(column, program), timeout=0.5)
    check(answer, exit_code=124, code="EXECUTION_TIMEOUT", cause="timeout")
    after = session.run(column.use_state)
    assert time.monotonic() - began < 8
    if answer["state"] == "preserved":
        check(after, stdout="42\n", started_from="live")
    else:
        check(after, exit_code=1, started_from="fresh")


@pytest.mark.parametrize(
    ("program", "code", "cause"),
    [("kill_self", 137, "signal 9 (SIGKILL)"), ("segfault", 139, "signal 11 (SIGSEGV)")],
)
def test_death(session: SessionClient, column: Column, program: str, code: int, cause: str) -> None:
    """A kernel that dies in a run is told as what it was, and the next run works."""
    session.run(column.set_state)
    check(session.run(getattr(column, program)), exit_code=code, state="lost", cause=cause)
    check(session.run(column.hello), stdout="hello\n", started_from="fresh", kernel_generation=2)


def test_child_output(session: SessionClient, column: Column) -> None:
    """Output of children stands in order with the program's own."""
    check(session.run(column.child_output), stdout="a\nb\nc\n")


def test_stdin(session: SessionClient, column: Column) -> None:
    """Standard input is at its end."""
    check(session.run(column.read_stdin), stdout="[]\n")


def test_late_output(session: SessionClient, column: Column) -> None:
    """What a background task prints after the run's end is in no later run."""
    check(session.run(column.late_output), stdout="")
    check(session.run(column.slow_print), stdout="first\nsecond\n")
    check(session.run(column.hello), stdout="hello\n")


def test_unicode(session: SessionClient, column: Column) -> None:
    """Text of every plane, NUL and bytes that are no text arrive."""
    check(session.run(column.unicode), stdout="naïve ☃ 😀\n")
    check(session.run(column.nul), stdout="a\0b\n")
    check(session.run(column.invalid_utf8), stdout="a\ufffdb")


def test_first_event_is_early(session: SessionClient, column: Column) -> None:
    """The first print is streamed while the program still runs."""
    with session.open_stream(column.slow_print) as events:
        first = next(events)
        seen = time.monotonic()
        assert (first.event, first.data["content"]) == ("stdout", "first\n")
        assert list(events)[-1].event == "done"
    assert time.monotonic() - seen > 0.5


def test_last_expression(session: SessionClient, column: Column) -> None:
    """The value of the last expression is a result and not part of stdout."""
    answer = session.run(column.last_expression)
    check(answer, stdout="", exit_code=0)
    [result] = answer["results"]
    assert result["type"] == "execute_result"
    assert result["data"]["text/plain"] == "42"


def test_five_hundred_runs(session: SessionClient, column: Column) -> None:
    """A session serves 500 runs and still knows its state."""
    session.run(column.set_state)
    for _ in range(498):
        session.run("")
    check(session.run(column.use_state), stdout="42\n", kernel_generation=1)


def test_two_sessions_apart(client: Client, session: SessionClient, column: Column) -> None:
    """Variables and files of one session are not seen by another."""
    other = client.session(column.language)
    session.run(column.set_state)
    session.run(column.write_file)
    check(other.run(column.use_state), exit_code=1)
    assert other.get()["files"] == []
    other.delete()
