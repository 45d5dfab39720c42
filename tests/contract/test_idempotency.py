"""`Idempotency-Key`: a request that is safe to repeat, whatever happens in between."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.client import SessionClient, parse_sse
from tests.contract.checks import Start, check, check_error, wait_for_file
from tests.server_process import Launcher

COUNTS = "n = globals().get('n', 0) + 1\nprint(n)"


def post(
    session: SessionClient, code: str = COUNTS, key: str = "k", call: str = "run", **body: Any
) -> httpx.Response:
    return session.http.post(
        f"{session.path}/{call}", json={"code": code, **body}, headers={"Idempotency-Key": key}
    )


def test_same_answer(session: SessionClient) -> None:
    """The second request gets the first one's answer, under the first one's id; nothing runs."""
    first, second = post(session), post(session)
    assert first.status_code == second.status_code == 200
    assert second.content == first.content
    assert second.headers["X-Execution-Id"] == first.headers["X-Execution-Id"]
    assert session.http.get(f"{session.path}/executions").json()["total"] == 1
    check(post(session, key="other").json(), stdout="2\n")


def test_same_outcome_of_every_kind(session: SessionClient) -> None:
    """Errors of the program, timeouts and lost kernels are answers like any other."""
    for number, (code, body) in enumerate(
        [
            ("1/0", {}),
            ("import time; time.sleep(9)", {"timeout": 0.3}),
            ("import os; os._exit(7)", {}),
        ]
    ):
        first = post(session, code, f"k{number}", **body)
        second = post(session, code, f"k{number}", **body)
        assert (second.status_code, second.json()) == (first.status_code, first.json())


def test_streams_and_runs_share_it(session: SessionClient) -> None:
    """A stream replays from the start what a run has begun, and the other way round."""
    answer = post(session).json()
    events = list(parse_sse(post(session, call="stream").iter_lines()))
    assert [event.id for event in events] == [n + 1 for n in range(len(events))]
    assert events[0].data["content"] == "1\n"
    assert events[-1].data["execution_id"] == answer["execution_id"]
    streamed = list(parse_sse(post(session, key="l", call="stream").iter_lines()))
    answer = post(session, key="l").json()
    check(answer, stdout="2\n", execution_id=streamed[-1].data["execution_id"])


def test_attached_while_it_runs(session: SessionClient) -> None:
    """Whoever asks meanwhile waits for the same end; in the background the id comes at once."""
    code = f"{COUNTS}\nopen('ready', 'w').close()\nimport time; time.sleep(0.7)"
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(post, session, code) for _ in range(2)]
        wait_for_file(session)
        runs.append(pool.submit(post, session, code, call="stream"))
        answers = [run.result() for run in runs]
    assert len({one.headers["X-Execution-Id"] for one in answers}) == 1
    assert answers[0].json() == answers[1].json()
    started = [post(session, "1", "b", background=True) for _ in range(2)]
    assert [one.status_code for one in started] == [202, 202]
    assert started[0].json() == started[1].json()


def test_many_at_once(session: SessionClient) -> None:
    """However many come at once, it runs once."""
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: post(session), range(12)))
    assert {one.json()["stdout"] for one in answers} == {"1\n"}


@pytest.mark.parametrize(
    "body",
    [
        {"code": "print(2)"},
        {"env": {"SECRET": "other"}},
        {"env": None},
        {"timeout": 9},
        {"update_data": {"a": 1}},
        {"background": True},
    ],
)
def test_another_body(shared: SessionClient, body: dict[str, Any]) -> None:
    """The same key with another body is a mistake of the caller."""
    given = {"code": "print(1)", "env": {"SECRET": "s3cret"}}
    first = post(shared, key="conflict", **given)
    shown = check_error(
        post(shared, key="conflict", **{**given, **body}), 409, "IDEMPOTENCY_CONFLICT"
    )
    assert shown["id"] == first.headers["X-Execution-Id"]


def test_same_request_written_differently(session: SessionClient) -> None:
    """Order, defaults, spaces and unknown fields make no other body."""
    post(session, env={"A": "1", "B": 2})
    texts = [
        '{"env":{"B":2,"A":"1"},"code":%s}',
        '{"code": %s, "timeout": null, "unknown": 5, "env": {"A": "1", "B": 2}}',
    ]
    code = "\"n = globals().get('n', 0) + 1\\nprint(n)\""
    for text in texts:
        answer = session.http.post(
            f"{session.path}/run", content=text % code, headers={"Idempotency-Key": "k"}
        )
        check(answer.json(), stdout="1\n")


@pytest.mark.parametrize("key", ["", "a b", "k" * 256, "ümlaut", "tab\tbed"])
def test_bad_keys(shared: SessionClient, key: str) -> None:
    """A key is visible ASCII of at most 255 characters."""
    answer = shared.http.post(
        f"{shared.path}/run", json={"code": "1"}, headers=[(b"Idempotency-Key", key.encode())]
    )
    check_error(answer, 400, "INVALID_REQUEST")


def test_longest_key(session: SessionClient) -> None:
    """Every visible character is fine."""
    key = "".join(chr(one) for one in range(33, 127)) * 2 + "k" * 67
    assert len(key) == 255
    assert post(session, key=key).content == post(session, key=key).content


# ---------------------------------------------------------------- over restarts


def test_killed_at_any_moment(start: Start, launcher: Launcher) -> None:
    """However early the server dies: the code has run at most once in the end.

    Each time runs begin in many sessions, one moment after the other, the last just before the end.
    """
    code = "open('ran', 'a').write('x'); print('ok')"
    client, sessions = start(), 12
    for kill in range(3):
        names = [f"s{kill}-{number}" for number in range(sessions)]
        for name in names:
            client.session("python", session_id=name).run("1")
        with ThreadPoolExecutor(sessions) as pool:
            asked = []
            for name in names:
                asked.append(pool.submit(post, SessionClient(client.http, name), code))
                time.sleep(0.001 * (kill + 1))
            launcher.servers[-1].kill()
            for one in asked:
                with contextlib.suppress(httpx.HTTPError):
                    one.result()
        client = start()
        for name in names:
            check_at_most_once(SessionClient(client.http, name), code)


def check_at_most_once(session: SessionClient, code: str) -> None:
    """The same request has one answer from then on, which is true."""
    answer = post(session, code).json()
    assert answer["exit_code"] in (0, 137)
    assert post(session, code).json() == answer
    ran = session.http.get(f"{session.path}/files/ran")
    # The end may come between `open` and the write, which leaves an empty file.
    assert ran.status_code == 404 or ran.content in (b"", b"x")
    assert answer["exit_code"] == 137 or ran.content == b"x"
