"""Rows about what others see of a program while it runs, and may tell it."""

from __future__ import annotations

import time

import httpx

from tests.client import SessionClient
from tests.languages.rows.table_rows import check, row
from tests.waiting import wait_until

PAUSE = 0.3  # seconds from a program's beginning to its sleep, and more


def start(session: SessionClient, code: str) -> str:
    """Starts code in the background; returns the path of its execution."""
    body = {"code": code, "background": True}
    started = session.http.post(f"{session.path}/run", json=body).raise_for_status().json()
    return f"{session.path}/executions/{started['execution_id']}"


@row("interrupt")
def interrupt(session: SessionClient, write_file: str, sleep: str, hello: str) -> None:
    """An interrupt ends the run with 130, and the kernel lives on."""
    session.run(hello)
    execution = start(session, f"{write_file}\n{sleep}")
    assert wait_until(lambda: session.http.get(f"{session.path}/files").json()["total_count"] > 0)
    time.sleep(PAUSE)
    stopped = session.http.post(f"{execution}/interrupt").json()
    check(stopped, success=True, state="preserved")
    check(session.http.get(execution).json(), exit_code=130)
    check(session.run(hello), stdout="hello\n", started_from="live", kernel_generation=1)


@row("input", leaves_nothing=True)
def answered_input(session: SessionClient, ask: str) -> None:
    """A program that asks for input gets what is answered while its stream is followed."""
    with session.open_stream(ask) as events:
        question = next(event for event in events if event.event == "input_request")
        check(question.data, prompt="name? ")
        listed = session.http.get(f"{session.path}/executions").json()["executions"]
        path = f"{session.path}/executions/{listed[-1]['execution_id']}/input"
        session.http.post(path, json={"value": "Ada"}).raise_for_status()
        assert "hello Ada" in "".join(e.data["content"] for e in events if e.event == "stdout")


@row("stack")
def stack(session: SessionClient, sleep: str, sleeping_line: int) -> None:
    """The stack of a running program tells the line that it is in."""
    session.run("")
    execution = start(session, sleep)

    def sleeps() -> bool:
        frames = session.http.get(f"{execution}/stack").raise_for_status().json()["frames"]
        return sleeping_line in [frame["line"] for frame in frames]

    assert wait_until(sleeps)


@row("variables")
def variables(session: SessionClient, set_state: str) -> None:
    """The variables of a session are listed with their values."""
    session.run(set_state)
    answer: httpx.Response = session.http.get(f"{session.path}/variables").raise_for_status()
    assert {one["name"]: one.get("value") for one in answer.json()["variables"]} == {"x": 41}
