"""Runs that nobody waits for, and what becomes of a run when its caller goes away."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.client import Client, SessionClient, parse_sse
from tests.contract.checks import SLEEPING_CODE, Start, check, check_error, wait_for_file
from tests.waiting import wait_until


def begin(session: SessionClient, code: str, **body: Any) -> dict[str, Any]:
    answer = session.http.post(
        f"{session.path}/run", json={"code": code, "background": True, **body}
    )
    assert answer.status_code == 202, answer.text
    started: dict[str, Any] = answer.json()
    assert started == {"execution_id": answer.headers["X-Execution-Id"], "session_id": session.id}
    return started


def show(session: SessionClient, execution: str, wait: float = 0) -> dict[str, Any]:
    answer = session.http.get(f"{session.path}/executions/{execution}?wait={wait}")
    shown: dict[str, Any] = answer.raise_for_status().json()
    return shown


# ---------------------------------------------------------------- background


@pytest.mark.alone  # it measures
def test_run_in_the_background(session: SessionClient) -> None:
    """It is answered at once; the session is busy, and later runs wait behind it."""
    began = time.monotonic()
    started = begin(session, "import time; time.sleep(1); x = 7; print('done')")
    assert time.monotonic() - began < 0.9
    wait = wait_until(lambda: session.get()["status"] == "busy")
    assert wait
    check(session.run("print(x)"), stdout="7\n")
    check(show(session, started["execution_id"]), status="finished", exit_code=0, stdout="done\n")


def test_timeout_in_the_background(session: SessionClient) -> None:
    """A requested timeout holds as ever, and is the cause."""
    started = begin(session, "import time; time.sleep(60)", timeout=0.3)
    shown = show(session, started["execution_id"], 20)
    check(shown, status="finished", exit_code=124, cause="timeout", state="preserved")


def test_longest_time_in_the_background(start: Start) -> None:
    """Without a timeout it may take `max_background_timeout`, which is also the most."""
    client = start("--max-background-timeout", "1", "--default-timeout", "0.3")
    assert client.http.get("/api/limits").json()["max_background_timeout"] == 1
    session = client.session("python", default_timeout=0.5)
    for body in ({}, {"timeout": 0}, {"timeout_ms": None}):
        started = begin(session, "import time; time.sleep(60)", **body)
        shown = show(session, started["execution_id"], 20)
        check(shown, exit_code=124, cause="timeout")
        assert 900 < shown["execution_time_ms"] < 3000
    body = {"code": "1", "background": True, "timeout": 1.5}
    refused = session.http.post(f"{session.path}/run", json=body)
    assert "background" in check_error(refused, 400, "INVALID_REQUEST")["message"]


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("stream", {"background": True}),
        ("run", {"background": "yes"}),
        ("run", {"background": 1}),
        ("run", {"background": True, "on_disconnect": "interrupt"}),
        ("run", {"on_disconnect": "stop"}),
        ("run", {"on_disconnect": True}),
        ("stream", {"on_disconnect": "Interrupt"}),
    ],
)
def test_refused(shared: SessionClient, call: str, body: dict[str, Any]) -> None:
    """What makes no sense, or is spelt otherwise, is refused and runs nothing."""
    count = len(shared.executions())
    answer = shared.http.post(f"{shared.path}/{call}", json={"code": "1", **body})
    check_error(answer, 400, "INVALID_REQUEST")
    assert len(shared.executions()) == count


@pytest.mark.parametrize("body", [{"background": False, "on_disconnect": "continue"}, {
    "background": None, "on_disconnect": None,
}])  # fmt: skip
def test_defaults(shared: SessionClient, body: dict[str, Any]) -> None:
    """They may be written down, too."""
    check(shared.run("print(1)", **body), stdout="1\n")
    assert shared.stream("print(1)", **body)[-1].data["exit_code"] == 0


# ---------------------------------------------------------------- callers that leave


def leave_run(client: Client, session: SessionClient, **body: Any) -> None:
    """Ask for a run, and close the connection when it has begun."""
    timed_out = pytest.raises(httpx.ReadTimeout)
    with httpx.Client(base_url=client.base_url, timeout=1.0) as impatient, timed_out:
        impatient.post(f"{session.path}/run", json={"code": SLEEPING_CODE, **body})
    wait_for_file(session)


def leave_stream(session: SessionClient, **body: Any) -> None:
    with session.open_stream(f"print(1, flush=True)\n{SLEEPING_CODE}", **body) as events:
        next(events)
        wait_for_file(session)


@pytest.mark.parametrize("call", ["run", "stream"])
def test_interrupted_when_the_caller_leaves(
    client: Client, session: SessionClient, call: str
) -> None:
    """With `interrupt`, the run ends with 130 soon after its caller has gone."""
    if call == "run":
        leave_run(client, session, on_disconnect="interrupt")
    else:
        leave_stream(session, on_disconnect="interrupt")
    shown = show(session, session.executions()[0]["execution_id"], 10)
    check(shown, status="finished", exit_code=130, state="preserved")


def test_goes_on_when_the_caller_leaves(client: Client, session: SessionClient) -> None:
    """With `continue`, it goes on."""
    leave_run(client, session, on_disconnect="continue")
    check(show(session, session.executions()[0]["execution_id"], 0.5), status="running")


def test_queued_run_whose_caller_leaves(client: Client, session: SessionClient) -> None:
    """It is cancelled before it ever runs."""
    first = begin(session, SLEEPING_CODE)
    wait_for_file(session)
    timed_out = pytest.raises(httpx.ReadTimeout)
    with httpx.Client(base_url=client.base_url, timeout=0.5) as impatient, timed_out:
        impatient.post(f"{session.path}/run", json={"code": "1", "on_disconnect": "interrupt"})
    shown = show(session, session.executions()[1]["execution_id"], 10)
    check(shown, status="finished", exit_code=130, cause="cancelled")
    check(show(session, first["execution_id"]), status="running")


def test_readers_do_not_hold_it(session: SessionClient) -> None:
    """It follows those who asked for the run: another reader gets its end."""
    code = f"print(1, flush=True)\n{SLEEPING_CODE}"
    with ExitStack() as reader:
        with session.open_stream(code, on_disconnect="interrupt") as asked:
            next(asked)
            path = f"{session.path}/executions/{session.executions()[0]['execution_id']}/stream"
            answer = reader.enter_context(session.http.stream("GET", path))
            events = parse_sse(answer.iter_lines())
            next(events)
        check(list(events)[-1].data, type="done", exit_code=130)
