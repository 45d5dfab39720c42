"""Rows about how programs end, by themselves and by others."""

from __future__ import annotations

import time

from tests.client import SessionClient
from tests.languages.rows.table_rows import check, open_sibling, row

FAST = 8.0  # seconds within which a run is ended and the next may start, if need be a kernel


@row(leaves_nothing=True)
def uncaught_error(session: SessionClient, fail: str, fail_code: int, failing_line: str) -> None:
    """An uncaught error shows the user's own line, no colours and nothing of the kernel."""
    answer = session.run(fail)
    check(answer, exit_code=fail_code)
    assert failing_line in answer["stderr"], answer
    assert "boom" in answer["stderr"], answer
    for inside in ("\x1b[", "ipykernel", "IPython", "era_", "site-packages"):
        assert inside not in answer["stderr"], answer


@row(leaves_nothing=True)
def exception(session: SessionClient, fail: str, exception_value: str) -> None:
    """The answer tells the exception that ended the program."""
    assert (session.run(fail)["exception"] or {}).get("value") == exception_value


@row(leaves_nothing=True)
def syntax_error(
    session: SessionClient, syntax_error: str, syntax_error_code: int, syntax_error_text: str
) -> None:
    """A syntax error is told with its position, and the exit code is the language's."""
    answer = session.run(syntax_error)
    check(answer, exit_code=syntax_error_code, stdout="")
    assert syntax_error_text in answer["stderr"], answer


@row(leaves_nothing=True)
def exit_code(session: SessionClient, exit_with: str) -> None:
    """The exit code is what the program asked for."""
    for code in (0, 1, 3):
        check(session.run(exit_with.format(code=code)), exit_code=code, stderr="")


@row(leaves_nothing=True)
def exit_nested(session: SessionClient, exit_nested: str) -> None:
    """An exit deep inside calls ends the program."""
    check(session.run(exit_nested), exit_code=3, stderr="")


def check_timeout(session: SessionClient, program: str, hello: str) -> None:
    """Runs a program past its timeout; the session must be usable soon afterwards."""
    session.run(hello)
    began = time.monotonic()
    answer = session.run(program, timeout=0.5)
    check(answer, exit_code=124, code="EXECUTION_TIMEOUT", cause="timeout")
    after = session.run(hello)
    assert time.monotonic() - began - after["start_ms"] / 1000 < FAST
    started_from = "live" if answer["state"] == "preserved" else "fresh"
    check(after, stdout="hello\n", started_from=started_from)


@row(leaves_nothing=True)
def timeout_of_a_sleep(session: SessionClient, sleep: str, hello: str) -> None:
    """A sleep past its timeout ends with 124, and the session is usable within seconds."""
    check_timeout(session, sleep, hello)


@row(leaves_nothing=True)
def timeout_of_a_loop(session: SessionClient, busy_loop: str, hello: str) -> None:
    """The same holds for a loop that only computes."""
    check_timeout(session, busy_loop, hello)


@row(leaves_nothing=True)
def timeout_of_a_pending_await(session: SessionClient, pending_await: str, hello: str) -> None:
    """The same holds for a program that waits for what never comes."""
    check_timeout(session, pending_await, hello)


@row(leaves_nothing=True)
def timeout_of_native_code(session: SessionClient, c_call: str, hello: str) -> None:
    """The same holds for native code that looks at no signal."""
    check_timeout(session, c_call, hello)


def check_death(session: SessionClient, program: str, hello: str, code: int, cause: str) -> None:
    """Runs a program that ends its kernel; the next run must get a new one."""
    generation = session.run(hello)["kernel_generation"]
    check(session.run(program), exit_code=code, state="lost", cause=cause)
    after = session.run(hello)
    check(after, stdout="hello\n", started_from="fresh", kernel_generation=generation + 1)


@row(leaves_nothing=True)
def killed(session: SessionClient, kill_self: str, hello: str) -> None:
    """A kernel that is killed in a run is told with 137 and the cause, and the next run works."""
    check_death(session, kill_self, hello, 137, "signal 9 (SIGKILL)")


@row(leaves_nothing=True)
def segfault(session: SessionClient, segfault: str, hello: str) -> None:
    """A kernel that crashes in a run is told with 139 and the cause, and the next run works."""
    check_death(session, segfault, hello, 139, "signal 11 (SIGSEGV)")


@row(leaves_nothing=True)
def out_of_memory(session: SessionClient, take_memory: str, memory_mb: int, hello: str) -> None:
    """A program that takes too much memory fails and is told why, and the next run works."""
    small = open_sibling(session, limits={"memory_mb": memory_mb})
    answer = small.run(take_memory, timeout=60)
    assert answer["exit_code"] not in (0, 124), answer
    assert "memory" in f"{answer['stderr']} {answer.get('cause')}".lower(), answer
    check(small.run(hello), stdout="hello\n", exit_code=0)
    small.delete()
