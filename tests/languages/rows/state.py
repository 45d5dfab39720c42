"""Rows about what one run leaves for the next."""

from __future__ import annotations

from tests.client import SessionClient
from tests.languages.rows.table_rows import check, open_sibling, row


@row("state")
def state(session: SessionClient, set_state: str, use_state: str) -> None:
    """Variables of one run are there in the next."""
    check(session.run(set_state), exit_code=0, state="preserved", started_from="fresh")
    check(session.run(use_state), stdout="42\n", started_from="live")


@row("state", leaves_nothing=True)
def failure_keeps_state(
    session: SessionClient, set_state: str, fail: str, fail_code: int, use_state: str
) -> None:
    """A failing run keeps earlier state, and the next run works at once."""
    session.run(set_state)
    check(session.run(fail), exit_code=fail_code, state="preserved")
    check(session.run(use_state), stdout="42\n", exit_code=0)


@row("state", leaves_nothing=True)
def exit_keeps_state(
    session: SessionClient, set_state: str, exit_with: str, use_state: str
) -> None:
    """A program that exits ends its run, and the state stays."""
    session.run(set_state)
    for code in (0, 3):
        check(session.run(exit_with.format(code=code)), exit_code=code, state="preserved")
        check(session.run(use_state), stdout="42\n")


@row("state", leaves_nothing=True)
def timeout_tells_state(session: SessionClient, set_state: str, sleep: str, use_state: str) -> None:
    """After a timeout the variables are there exactly when the answer says so."""
    session.run(set_state)
    answer = session.run(sleep, timeout=0.5)
    after = session.run(use_state)
    if answer["state"] == "preserved":
        check(after, stdout="42\n", started_from="live")
    else:
        assert after["exit_code"] != 0, after
        check(after, started_from="fresh")


@row("state", leaves_nothing=True)
def two_sessions_apart(
    session: SessionClient, set_state: str, write_file: str, use_state: str
) -> None:
    """Variables and files of one session are not seen by another."""
    other = open_sibling(session)
    session.run(set_state)
    session.run(write_file)
    answer = other.run(use_state)
    assert answer["exit_code"] != 0, answer
    assert other.get()["files"] == []
    other.delete()


def check_many_runs(session: SessionClient, hello: str, count: int) -> None:
    """Serves so many runs; the kernel of the last one must be that of the first."""
    generation = session.run(hello)["kernel_generation"]
    for _ in range(count - 2):
        session.run("")
    check(session.run(hello), stdout="hello\n", kernel_generation=generation)


@row(leaves_nothing=True, is_long=True)
def five_hundred_runs(session: SessionClient, hello: str) -> None:
    """A session serves 500 runs by one kernel."""
    check_many_runs(session, hello, 500)
