"""The queue of a session: its bound, and what other sessions notice of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.client import Client, SessionClient
from tests.contract.checks import SLEEPING_CODE, Start, check, check_error, wait_for_file

RUNS = 60  # of the session that must not starve
TRIES = 3  # on a busy machine, others disturb both


def latency(session: SessionClient) -> float:
    """The 95th percentile of short runs, in seconds."""
    times = []
    for _ in range(RUNS):
        began = time.monotonic()
        check(session.run("print(1)"), stdout="1\n", exit_code=0)
        times.append(time.monotonic() - began)
    return sorted(times)[int(RUNS * 0.95)]


@contextmanager
def flooded(base_url: str, name: str, code: str) -> Iterator[list[int]]:
    """One session's queue is kept full of runs meanwhile; the statuses of the answers."""
    statuses: list[int] = []
    stop = threading.Event()

    def flood() -> None:
        client = Client(base_url)
        body = {"code": code, "background": True}
        while not stop.is_set():
            answer = client.http.post(f"/api/sessions/{name}/run", json=body)
            statuses.append(answer.status_code)
            if answer.status_code == 429:
                stop.wait(0.02)
        client.close()

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        while 429 not in statuses:
            time.sleep(0.01)
        yield statuses
    finally:
        stop.set()
        thread.join()


def test_full_queue(start: Start) -> None:
    """One run more than may wait is refused with a time to try again; one less is taken."""
    session = start("--max-queue", "2").session("python")
    body = {"code": SLEEPING_CODE, "background": True}
    path = f"{session.path}/run"
    assert session.http.post(path, json=body).status_code == 202
    wait_for_file(session)
    waiting = [session.http.post(path, json=body) for _ in range(2)]
    assert [one.status_code for one in waiting] == [202, 202]
    refused = session.http.post(path, json=body)
    assert "2 runs wait" in check_error(refused, 429, "QUEUE_FULL")["message"]
    assert int(refused.headers["Retry-After"]) > 0
    execution = waiting[0].json()["execution_id"]
    session.http.post(f"{session.path}/executions/{execution}/interrupt").raise_for_status()
    assert session.http.post(path, json=body).status_code == 202


@pytest.mark.alone  # it compares times
@pytest.mark.parametrize("code", ["1", "print('x' * 50_000)"], ids=["short", "much"])
def test_other_sessions_do_not_starve(client: Client, code: str) -> None:
    """A full queue of short runs in one session leaves another one at its pace."""
    busy, other = client.session("python"), client.session("python")
    for session in (busy, other):
        session.run("pass")
    found = []
    for _ in range(TRIES):
        alone = latency(other)
        with flooded(client.base_url, busy.id, code) as statuses:
            beside = latency(other)
            assert 202 in statuses
        found.append((alone, beside))
        if beside < 3 * alone:
            break
    else:
        pytest.fail(f"alone and beside a full queue: {found}")
    for session in (busy, other):
        session.delete()


def test_deleted_with_a_full_queue(client: Client) -> None:
    """The run on the kernel ends with 137, those that wait with 404, all at once."""
    session = client.session("python")
    path = f"{session.path}/run"
    session.http.post(path, json={"code": SLEEPING_CODE, "background": True}).raise_for_status()
    wait_for_file(session)
    answers: list[int] = []

    def wait() -> None:
        answers.append(session.http.post(path, json={"code": "1"}).status_code)

    threads = [threading.Thread(target=wait) for _ in range(10)]
    for thread in threads:
        thread.start()
    listed = f"{session.path}/executions"
    while session.http.get(listed).json()["total"] < 11:
        time.sleep(0.01)
    began = time.monotonic()
    session.delete()
    for thread in threads:
        thread.join()
    assert answers == [404] * 10
    assert time.monotonic() - began < 5


def test_large_runs_share_memory(start: Start) -> None:
    """What waits holds its code: past the bound a run is refused, and a small one is not."""
    client = start("--memory-in-work", "16M")
    session, other, third = (client.session("python") for _ in range(3))

    def submit(to: SessionClient, code: str) -> httpx.Response:
        return to.http.post(f"{to.path}/run", json={"code": code, "background": True})

    large = "#" * 5_000_000
    assert submit(session, SLEEPING_CODE).status_code == 202
    wait_for_file(session)
    assert submit(session, large).status_code == 202
    refused = submit(session, large)
    check_error(refused, 429, "QUEUE_FULL")
    assert int(refused.headers["Retry-After"]) > 0
    command = {"command": "cat", "stdin": large}
    check_error(session.http.post(f"{session.path}/exec", json=command), 429, "QUEUE_FULL")
    assert submit(session, "print(1)").status_code == 202
    check(other.run(large), exit_code=0)
    assert submit(other, f"{SLEEPING_CODE}\n{large}").status_code == 202
    check_error(submit(third, large + large), 503, "CAPACITY")
    session.delete()
    other.delete()
    check(third.run(large + large), exit_code=0)
