"""The forms of runs: code as the body itself, runs that do not wait, the run on the kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.client import Client, SessionClient, parse_sse
from tests.contract.checks import (
    SLEEPING_CODE,
    background_runs,
    check,
    check_error,
    wait_for_executions,
    wait_for_file,
)

Body = bytes | str


def post_raw(session: SessionClient, code: Body, call: str = "run", **query: Any) -> httpx.Response:
    """A run whose body is the code."""
    headers = query.pop("headers", {})
    path = f"{session.path}/{call}"
    return session.http.post(path, params={"raw": "true", **query}, content=code, headers=headers)


# ---------------------------------------------------------------- raw


@pytest.mark.parametrize(
    "code",
    [
        "print('hello')",
        "print('quo\"te', 'back\\\\slash', 'é\U0001f600')\n",
        '{"code": "print(1)"}',
        "print(1)\r\nprint(2)",
    ],
)
@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/json", "application/x-www-form-urlencoded"]
)
def test_code_is_the_body(shared: SessionClient, code: str, content_type: str | None) -> None:
    """Whatever it holds and whatever its type is said to be: it runs as the same code in JSON."""
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = post_raw(shared, code, headers=headers).json()
    expected = shared.run(code)
    same = ("stdout", "stderr", "exit_code", "results")
    assert {name: answer[name] for name in same} == {name: expected[name] for name in same}
    execution = shared.http.get(f"{shared.path}/executions/{answer['execution_id']}").json()
    assert execution["code"] == code


def test_raw_stream(shared: SessionClient) -> None:
    """So does a stream."""
    answer = post_raw(shared, "print('é')", "stream")
    events = list(parse_sse(answer.iter_lines()))
    assert [event.event for event in events] == ["stdout", "done"]
    assert events[0].data["content"] == "é\n"


def test_stored_code(session: SessionClient) -> None:
    """An empty body is the stored code."""
    check_error(post_raw(session, b""), 400, "INVALID_REQUEST")
    session.http.put(f"{session.path}/code", json={"code": "print('stored')"}).raise_for_status()
    check(post_raw(session, b"").json(), stdout="stored\n")


@pytest.mark.parametrize("query", [{"timeout": "0.5"}, {"timeout_ms": "500", "timeout": "60"}])
def test_timeout_in_the_query(session: SessionClient, query: dict[str, str]) -> None:
    """The time of a raw run is in its query, in either unit."""
    answer = post_raw(session, "import time; time.sleep(60)", **query)
    check(answer.json(), code="EXECUTION_TIMEOUT", exit_code=124)
    assert answer.status_code == 408


def test_background_in_the_query(session: SessionClient) -> None:
    """A raw run may be one in the background."""
    answer = post_raw(session, "print(1)", background="true")
    assert answer.status_code == 202
    path = f"{session.path}/executions/{answer.json()['execution_id']}"
    check(session.http.get(f"{path}?wait=20").json(), status="finished", stdout="1\n")


@pytest.mark.parametrize(
    ("code", "call", "query", "field"),
    [
        (b"print('\xff')", "run", {}, "UTF-8"),
        (b"\xed\xa0\x80", "run", {}, "UTF-8"),
        (b"print('\xc3", "stream", {}, "UTF-8"),
        (b"1", "run", {"timeout": "-1"}, "timeout"),
        (b"1", "run", {"timeout": "inf"}, "timeout"),
        (b"1", "run", {"timeout": "nan"}, "timeout"),
        (b"1", "run", {"timeout": "soon"}, "timeout"),
        (b"1", "run", {"timeout": "1e9"}, "timeout"),
        (b"1", "run", {"timeout_ms": "x"}, "timeout_ms"),
        (b"1", "run", {"background": "perhaps"}, "background"),
        (b"1", "run", {"if_busy": "wait"}, "if_busy"),
        (b"1", "run", {"on_disconnect": "stop"}, "on_disconnect"),
        (b"1", "run", {"on_disconnect": "interrupt", "background": "true"}, "on_disconnect"),
        (b"1", "stream", {"background": "true"}, "background"),
        (b"{}", "run", {"raw": "perhaps"}, "raw"),
    ],
)
def test_refused(
    shared: SessionClient, code: bytes, call: str, query: dict[str, str], field: str
) -> None:
    """What is wrong with it is 400 and names what; nothing is run."""
    path = f"{shared.path}/executions"
    before = shared.http.get(path).json()["total"]
    error = check_error(post_raw(shared, code, call, **query), 400, "INVALID_REQUEST")
    assert field in error["message"]
    assert shared.http.get(path).json()["total"] == before


def test_query_without_raw(shared: SessionClient) -> None:
    """Where the body is JSON, the query holds nothing of the run: it is warned of."""
    answer = shared.http.post(f"{shared.path}/run?timeout=5&raw=false", json={"code": "print(1)"})
    check(answer.json(), stdout="1\n", warnings=["timeout is not known"])


def test_repeated(session: SessionClient) -> None:
    """With an Idempotency-Key body and query are compared."""
    headers = {"Idempotency-Key": "k"}
    code = "n = globals().get('n', 0) + 1; print(n)"
    first = post_raw(session, code, headers=headers, timeout="9")
    again = post_raw(session, code, headers=headers, timeout="9")
    assert (again.json(), again.json()["stdout"]) == (first.json(), "1\n")
    for other, query in [(code, {}), (code, {"timeout": "8"}), (code + " ", {"timeout": "9"})]:
        answer = post_raw(session, other, headers=headers, **query)
        check_error(answer, 409, "IDEMPOTENCY_CONFLICT")
    check_error(
        post_raw(session, code, headers=headers, timeout="9", if_busy="refuse"),
        409,
        "IDEMPOTENCY_CONFLICT",
    )


# ---------------------------------------------------------------- if_busy


def run_json(session: SessionClient, call: str, if_busy: str | None) -> httpx.Response:
    body = {"code": "print(1)", "if_busy": if_busy}
    return session.http.post(f"{session.path}/{call}", json=body)


def run_raw(session: SessionClient, call: str, if_busy: str | None) -> httpx.Response:
    query = {} if if_busy is None else {"if_busy": if_busy}
    return post_raw(session, "print(1)", call, **query)


@pytest.mark.parametrize("ask", [run_json, run_raw])
@pytest.mark.parametrize("call", ["run", "stream"])
def test_refuse_if_busy(session: SessionClient, ask: Callable[..., Any], call: str) -> None:
    """While a run goes on or waits another is refused at once, or waits as it would anyway."""
    with background_runs(session) as start:
        running = start("open('ready', 'w').close(); import time; time.sleep(2)")
        wait_for_file(session)
        error = check_error(ask(session, call, "refuse"), 409, "SESSION_BUSY")
        assert error["id"] == session.id
        assert ask(session, call, "queue").status_code == 200
        assert running.result().status_code == 200
    assert session.http.get(f"{session.path}/executions").json()["total"] == 2
    for if_busy in ("refuse", "queue", None):
        assert ask(session, call, if_busy).status_code == 200


def test_free_when_the_answer_came(session: SessionClient) -> None:
    """Who has the answer of a run finds the session free; programs beside it do not count."""
    for _ in range(30):
        assert run_json(session, "run", "refuse").status_code == 200
    with session.http.stream(
        "POST", f"{session.path}/exec/stream", json={"command": "sleep 60"}
    ) as program:
        assert run_json(session, "run", "refuse").status_code == 200
        path = f"{session.path}/executions/{program.headers['X-Execution-Id']}/interrupt"
        session.http.post(path).raise_for_status()


def test_refused_runs_keep_no_key(session: SessionClient) -> None:
    """A run that was refused may be sent again; a repeated one is found, busy or not."""
    body = {"code": "print(1)", "if_busy": "refuse"}
    headers = {"Idempotency-Key": "k"}

    def ask() -> httpx.Response:
        return session.http.post(f"{session.path}/run", json=body, headers=headers)

    with background_runs(session) as start:
        start(SLEEPING_CODE)
        wait_for_file(session)
        check_error(ask(), 409, "SESSION_BUSY")
        session.http.post(f"{session.path}/interrupt").raise_for_status()
    first = ask()
    check(first.json(), stdout="1\n")
    session.http.delete(f"{session.path}/files/ready").raise_for_status()
    with background_runs(session) as start:
        start(SLEEPING_CODE)
        wait_for_file(session)
        assert ask().json() == first.json()
        session.http.post(f"{session.path}/interrupt").raise_for_status()


# ---------------------------------------------------------------- the run on the kernel


def test_interrupt_what_runs(session: SessionClient) -> None:
    """The run on the kernel ends, whichever it is; those that wait go on, so do programs."""
    with background_runs(session) as start:
        running = start(SLEEPING_CODE)
        wait_for_file(session)
        waiting = start("print('next')")
        wait_for_executions(session, 2)
        started = session.http.post(
            f"{session.path}/exec", json={"command": "sleep 2; echo on", "background": True}
        )
        answer = session.http.post(f"{session.path}/interrupt").json()
        ended = running.result().json()
        check(answer, success=True, execution_id=ended["execution_id"], state="preserved")
        assert [step["action"] for step in answer["steps"]] == ["interrupt", "ended"]
        check(ended, exit_code=130)
        check(waiting.result().json(), stdout="next\n", exit_code=0)
    path = f"{session.path}/executions/{started.json()['execution_id']}"
    check(session.http.get(f"{path}?wait=20").json(), exit_code=0, stdout="on\n")


def test_nothing_runs(client: Client, session: SessionClient) -> None:
    """Without a run on the kernel it is 409, before the first run and after the last."""
    path = f"{session.path}/interrupt"
    check_error(session.http.post(path), 409, "NOT_RUNNING")
    for _ in range(10):
        session.run("pass")
        check_error(session.http.post(path), 409, "NOT_RUNNING")
    started = session.http.post(
        f"{session.path}/exec", json={"command": "sleep 60", "background": True}
    )
    check_error(session.http.post(path), 409, "NOT_RUNNING")
    program = f"{session.path}/executions/{started.json()['execution_id']}"
    session.http.post(f"{program}/interrupt").raise_for_status()
    check_error(client.http.post("/api/sessions/nobody/interrupt"), 404, "SESSION_NOT_FOUND")


# ---------------------------------------------------------------- executions in lists


def listed(session: SessionClient, **query: Any) -> tuple[list[dict[str, Any]], int]:
    answer = session.http.get(f"{session.path}/executions", params=query).json()
    assert answer["count"] == len(answer["executions"])
    return answer["executions"], answer["total"]


def test_order_and_status(session: SessionClient) -> None:
    """Oldest or newest first; of one status, with the right total over all pages."""
    for number in range(3):
        session.run(f"print({number})")
    with background_runs(session) as start:
        running = start(SLEEPING_CODE)
        wait_for_file(session)
        waiting = [start("print('waits')") for _ in range(2)]
        wait_for_executions(session, 6)
        everything = [one["execution_id"] for one in listed(session)[0]]
        newest = [one["execution_id"] for one in listed(session, order="desc")[0]]
        assert newest == everything[::-1]
        page, total = listed(session, order="desc", limit=2, offset=1)
        assert ([one["execution_id"] for one in page], total) == (newest[1:3], 6)
        for status, number in (("finished", 3), ("running", 1), ("queued", 2)):
            found, total = listed(session, status=status)
            assert (len(found), total) == (number, number)
            assert {one["status"] for one in found} == {status}
            assert listed(session, status=status, limit=1, offset=1)[1] == number
        session.http.post(f"{session.path}/interrupt").raise_for_status()
        assert running.result().json()["exit_code"] == 130
        for one in waiting:
            one.result()
    assert listed(session, status="finished")[1] == 6
    assert listed(session, status="running") == ([], 0)


def test_status_at_once(session: SessionClient) -> None:
    """Who has the answer of a run finds it finished in the list."""
    for number in range(1, 11):
        session.run("pass")
        wait_for_executions(session, number)
        assert listed(session, status="running")[1] == 0


@pytest.mark.parametrize("query", [{"order": "up"}, {"status": "done"}, {"limit": "-1"}])
def test_bad_lists(shared: SessionClient, query: dict[str, str]) -> None:
    """What selects nothing that there is is refused."""
    check_error(shared.http.get(f"{shared.path}/executions", params=query), 400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    ("code", "beginning"),
    [
        ("#" + "x" * 1023, None),
        ("#" + "x" * 1024, "#" + "x" * 1023),
        ("#" + "é" * 511, None),
        ("#" + "é" * 512, "#" + "é" * 511),
        ("##" + "é" * 512, "##" + "é" * 511),
        ("#" + "\U0001f600" * 50_000, "#" + "\U0001f600" * 255),
    ],
)
def test_code_in_lists(session: SessionClient, code: str, beginning: str | None) -> None:
    """Lists tell the first KiB of the code, whole characters; an execution tells all of it."""
    answer = session.run(code)
    [found], _ = listed(session)
    check(found, code=beginning or code, code_truncated=beginning is not None)
    execution = session.http.get(f"{session.path}/executions/{answer['execution_id']}").json()
    assert execution["code"] == code
