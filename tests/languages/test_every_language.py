"""The rows that every language must satisfy; a language joins by adding its programs."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.client import Client, SessionClient
from tests.languages.language_programs import LanguagePrograms
from tests.languages.programs import ALL_PROGRAMS


@pytest.fixture(params=ALL_PROGRAMS, ids=lambda programs: programs.language, scope="module")
def programs(request: pytest.FixtureRequest) -> LanguagePrograms:
    chosen: LanguagePrograms = request.param
    return chosen


@pytest.fixture
def session(client: Client, programs: LanguagePrograms) -> Iterator[SessionClient]:
    session = client.session(programs.language)
    yield session
    session.delete()


def check(answer: dict, **expected: object) -> None:
    """Compare the fields named, showing the whole answer when one differs."""
    assert {name: answer[name] for name in expected} == expected, answer


def test_hello(session: SessionClient, programs: LanguagePrograms) -> None:
    """What a program prints is in stdout and nowhere else."""
    check(session.run(programs.hello), stdout="hello\n", stderr="", exit_code=0, results=[])


def test_stderr(session: SessionClient, programs: LanguagePrograms) -> None:
    """What a program writes to stderr stays out of stdout."""
    check(session.run(programs.to_stderr), stdout="", stderr="problem\n", exit_code=0)


def test_alternating(session: SessionClient, programs: LanguagePrograms) -> None:
    """Events keep the order in which the program wrote to the two streams."""
    events = session.stream(programs.alternating)
    text = "".join(e.data["content"] for e in events if e.event in {"stdout", "stderr"})
    assert text == "".join(f"out {n}\nerr {n}\n" for n in range(20))


def test_one_big_write(session: SessionClient, programs: LanguagePrograms) -> None:
    """A megabyte in one write arrives whole."""
    assert session.run(programs.one_big_write)["stdout"] == "x" * 1_000_000


def test_many_lines(session: SessionClient, programs: LanguagePrograms) -> None:
    """10 MB in 100 000 lines arrive byte for byte, in the stream and in the stored text."""
    expected = "".join(f"{n:08d}{'.' * 91}\n" for n in range(100_000))
    events = session.stream(programs.many_lines)
    streamed = "".join(e.data["content"] for e in events if e.event == "stdout")
    assert streamed == expected
    execution = events[-1].data["execution_id"]
    stored = session.http.get(f"{session.path}/executions/{execution}/stdout")
    assert stored.text == expected


def test_state(session: SessionClient, programs: LanguagePrograms) -> None:
    """Variables of one run are there in the next."""
    check(session.run(programs.set_state), exit_code=0, state="preserved", started_from="fresh")
    check(session.run(programs.use_state), stdout="42\n", started_from="live")


def test_failure_keeps_state(session: SessionClient, programs: LanguagePrograms) -> None:
    """A failing run keeps earlier state, and the next run works at once."""
    session.run(programs.set_state)
    failed = session.run(programs.fail)
    check(failed, exit_code=1, state="preserved")
    check(session.run(programs.use_state), stdout="42\n", exit_code=0)


def test_uncaught_error(session: SessionClient, programs: LanguagePrograms) -> None:
    """An uncaught error shows the user's own line, no colours and nothing of the kernel."""
    answer = session.run(programs.fail)
    assert programs.failing_line in answer["stderr"]
    assert "boom" in answer["stderr"]
    assert answer["exception"]["value"] == "boom"
    for inside in ("\x1b[", "ipykernel", "IPython", "era_", "site-packages"):
        assert inside not in answer["stderr"]


def test_syntax_error(session: SessionClient, programs: LanguagePrograms) -> None:
    """A syntax error ends with 1 and tells the position."""
    answer = session.run(programs.syntax_error)
    check(answer, exit_code=1, stdout="")
    assert programs.syntax_error_text in answer["stderr"]


@pytest.mark.parametrize("code", [0, 1, 3])
def test_exit_code(session: SessionClient, programs: LanguagePrograms, code: int) -> None:
    """The exit code is what the program asked for, and the state stays."""
    session.run(programs.set_state)
    check(session.run(programs.exit_with.format(code=code)), exit_code=code, state="preserved")
    check(session.run(programs.use_state), stdout="42\n")


def test_exit_nested(session: SessionClient, programs: LanguagePrograms) -> None:
    """An exit deep inside calls ends the program."""
    check(session.run(programs.exit_nested), exit_code=3, stderr="")


@pytest.mark.parametrize("where", ["read_env", "read_env_in_child"])
def test_env(session: SessionClient, programs: LanguagePrograms, where: str) -> None:
    """Variables of a run are seen by the code and its children, and are gone afterwards."""
    program = getattr(programs, where).format(name="FLAVOUR")
    check(session.run(program), stdout="absent\n")
    check(session.run(program, env={"FLAVOUR": "lemon"}), stdout="lemon\n")
    check(session.run(program), stdout="absent\n")


@pytest.mark.parametrize("name", ["HOME", "PATH"])
def test_env_previous_value(session: SessionClient, programs: LanguagePrograms, name: str) -> None:
    """A variable that a run overrides has its previous value back, also after a failure."""
    program = programs.read_env.format(name=name)
    before = session.run(program)["stdout"]
    session.run(programs.fail, env={name: "/elsewhere"})
    check(session.run(program), stdout=before)


def test_era_variables(session: SessionClient, programs: LanguagePrograms) -> None:
    """The server's own variables are there and cannot be overridden."""
    expected = {
        "ERA_SESSION": "true",
        "ERA_SESSION_ID": session.id,
        "ERA_LANGUAGE": programs.language,
        "ERA_BASE_URL": str(session.http.base_url).rstrip("/"),
        "ERA_PROXY_URL": f"{session.http.base_url}/proxy/{session.id}".replace("//proxy", "/proxy"),
    }
    for name, value in expected.items():
        answer = session.run(programs.read_env.format(name=name), env={name: "forged"})
        check(answer, stdout=f"{value}\n")


def test_cwd(session: SessionClient, programs: LanguagePrograms) -> None:
    """Home and working directory are the workspace."""
    lines = session.run(programs.print_cwd_and_home)["stdout"].splitlines()
    assert lines[0] == lines[1]


def test_written_file_is_listed(session: SessionClient, programs: LanguagePrograms) -> None:
    """A file that code wrote is counted as modified once, and listed."""
    check(session.run(programs.hello), files_modified=0)
    check(session.run(programs.write_file), files_modified=1)
    check(session.run(programs.hello), files_modified=0)
    answer = session.get()
    assert [(f["path"], f["size"]) for f in answer["files"]] == [("made.txt", 4)]
    check(answer, file_count=1, total_size_bytes=4)


def test_edited_module(session: SessionClient, programs: LanguagePrograms) -> None:
    """A module that changed on disk is new in the next run, even within the same second."""
    for value in (1, 2, 3):
        session.run(programs.write_module.format(value=value))
        check(session.run(programs.import_module), stdout=f"{value}\n", exit_code=0)


@pytest.mark.parametrize("program", ["sleep", "busy_loop", "pending_await", "c_call"])
def test_timeout(session: SessionClient, programs: LanguagePrograms, program: str) -> None:
    """A run past its timeout ends with 124, and the session is usable within seconds."""
    session.run(programs.set_state)
    began = time.monotonic()
    answer = session.run(getattr(programs, program), timeout=0.5)
    check(answer, exit_code=124, code="EXECUTION_TIMEOUT", cause="timeout")
    after = session.run(programs.use_state)
    assert time.monotonic() - began < 8
    if answer["state"] == "preserved":
        check(after, stdout="42\n", started_from="live")
    else:
        check(after, exit_code=1, started_from="fresh")


@pytest.mark.parametrize(
    ("program", "code", "cause"),
    [("kill_self", 137, "signal 9 (SIGKILL)"), ("segfault", 139, "signal 11 (SIGSEGV)")],
)
def test_death(
    session: SessionClient, programs: LanguagePrograms, program: str, code: int, cause: str
) -> None:
    """A kernel that dies in a run is reported with code and cause, and the next run works."""
    session.run(programs.set_state)
    check(session.run(getattr(programs, program)), exit_code=code, state="lost", cause=cause)
    check(session.run(programs.hello), stdout="hello\n", started_from="fresh", kernel_generation=2)


def test_child_output(session: SessionClient, programs: LanguagePrograms) -> None:
    """Output of children stands in order with the program's own."""
    check(session.run(programs.child_output), stdout="a\nb\nc\n")


def test_stdin(session: SessionClient, programs: LanguagePrograms) -> None:
    """Standard input is at its end."""
    check(session.run(programs.read_stdin), stdout="[]\n")


def test_late_output(session: SessionClient, programs: LanguagePrograms) -> None:
    """What a background task prints after the run's end is in no later run."""
    check(session.run(programs.late_output), stdout="")
    check(session.run(programs.slow_print), stdout="first\nsecond\n")
    check(session.run(programs.hello), stdout="hello\n")


def test_unicode(session: SessionClient, programs: LanguagePrograms) -> None:
    """Text of every plane, NUL and bytes that are no text arrive."""
    check(session.run(programs.unicode), stdout="naïve ☃ 😀\n")
    check(session.run(programs.nul), stdout="a\0b\n")
    check(session.run(programs.invalid_utf8), stdout="a\ufffdb")


def test_first_event_is_early(session: SessionClient, programs: LanguagePrograms) -> None:
    """The first print is streamed while the program still runs."""
    with session.open_stream(programs.slow_print) as events:
        first = next(events)
        seen = time.monotonic()
        assert (first.event, first.data["content"]) == ("stdout", "first\n")
        assert list(events)[-1].event == "done"
    assert time.monotonic() - seen > 0.5


def test_last_expression(session: SessionClient, programs: LanguagePrograms) -> None:
    """The value of the last expression is a result and not part of stdout."""
    answer = session.run(programs.last_expression)
    check(answer, stdout="", exit_code=0)
    [result] = answer["results"]
    assert result["type"] == "execute_result"
    assert result["data"]["text/plain"] == "42"


def test_five_hundred_runs(session: SessionClient, programs: LanguagePrograms) -> None:
    """A session serves 500 runs and still knows its state."""
    session.run(programs.set_state)
    for _ in range(498):
        session.run("")
    check(session.run(programs.use_state), stdout="42\n", kernel_generation=1)


def test_two_sessions_apart(
    client: Client, session: SessionClient, programs: LanguagePrograms
) -> None:
    """Variables and files of one session are not seen by another."""
    other = client.session(programs.language)
    session.run(programs.set_state)
    session.run(programs.write_file)
    check(other.run(programs.use_state), exit_code=1)
    assert other.get()["files"] == []
    other.delete()
