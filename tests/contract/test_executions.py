"""Executions: a run belongs to the server; it is listed, shown, followed and read again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.client import Client, SessionClient, SseEvent, parse_sse
from tests.contract.checks import (
    TIME,
    Start,
    background_runs,
    check,
    check_error,
    wait_for_executions,
    wait_for_file,
)
from tests.waiting import wait_until

SLOW = """
import time
print("first", flush=True)
time.sleep(0.8)
print("last")
"""


def follow(session: SessionClient, execution: str, **headers: str) -> list[SseEvent]:
    """The frames of an execution that is there already; `execution` may hold a query."""
    path = f"{session.path}/executions/{execution}"
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    with session.http.stream("GET", path, headers=names) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        return list(parse_sse(answer.iter_lines()))


# ---------------------------------------------------------------- the client leaves


def test_client_that_leaves_a_stream(session: SessionClient) -> None:
    """When the reader of a stream goes away the run goes on, and can be read again."""
    with session.open_stream(SLOW) as events:
        assert next(events).data["content"] == "first\n"
    [listed] = session.executions()
    check(listed, status="running", exit_code=None)
    answer = session.http.get(f"{session.path}/executions/{listed['execution_id']}?wait=30").json()
    check(answer, status="finished", exit_code=0, stdout="first\nlast\n")


def test_client_that_leaves_a_run(client: Client, session: SessionClient) -> None:
    """When the client of a run goes away the run goes on."""
    impatient = Client(client.base_url)
    impatient.http.timeout = 0.6  # type: ignore[assignment]
    with pytest.raises(Exception, match="timed out"):
        impatient.http.post(f"{session.path}/run", json={"code": SLOW + "x = 7"})
    impatient.close()
    check(session.run("print(x)"), stdout="7\n", started_from="live")


# ---------------------------------------------------------------- list


def test_list(session: SessionClient) -> None:
    """Executions are listed oldest first, with code, times and outcome."""
    codes = ["print(1)", "1/0", "import os; os._exit(3)"]
    ids = [session.run(code)["execution_id"] for code in codes]
    answer = session.http.get(f"{session.path}/executions").json()
    check(answer, count=3, total=3)
    listed = answer["executions"]
    assert [one["execution_id"] for one in listed] == ids
    assert [one["code"] for one in listed] == codes
    assert [one["exit_code"] for one in listed] == [0, 1, 3]
    assert [one["cause"] for one in listed] == [None, None, "exit 3"]
    for one in listed:
        assert set(one) == {
            "execution_id", "status", "code", "code_truncated", "created_at", "started_at",
            "finished_at", "exit_code", "cause",
        }  # fmt: skip
        assert one["status"] == "finished"
        times = [one["created_at"], one["started_at"], one["finished_at"]]
        assert all(map(TIME.fullmatch, times))
        assert times == sorted(times)


@pytest.fixture(scope="module")
def five(client: Client) -> Iterator[SessionClient]:
    """A session with five executions that printed their numbers."""
    session = client.session("python")
    for number in range(5):
        session.run(f"print({number})")
    yield session
    session.delete()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [0, 1, 2, 3, 4]),
        ("?limit=2", [0, 1]),
        ("?limit=2&offset=3", [3, 4]),
        ("?offset=4", [4]),
        ("?limit=0", []),
        ("?offset=9", []),
        ("?limit=9999999999", [0, 1, 2, 3, 4]),
    ],
)
def test_pages(five: SessionClient, query: str, expected: list[int]) -> None:
    """A page has the count of listed executions and the total."""
    answer = five.http.get(f"{five.path}/executions{query}").json()
    assert [one["code"] for one in answer["executions"]] == [f"print({n})" for n in expected]
    check(answer, count=len(expected), total=5)


def test_states(session: SessionClient) -> None:
    """An execution is queued with its position, then running, then finished."""
    with background_runs(session) as start:
        start("open('ready', 'w').close(); import time; time.sleep(0.8)")
        wait_for_file(session)
        for number in (2, 3):
            start("pass")
            wait_for_executions(session, number)
        listed = session.executions()
        assert [(one["status"], one.get("position")) for one in listed] == [
            ("running", None), ("queued", 1), ("queued", 2),
        ]  # fmt: skip
        assert [one["finished_at"] for one in listed] == ["", "", ""]
        queued = session.http.get(f"{session.path}/executions/{listed[2]['execution_id']}").json()
        check(queued, status="queued", position=2, stdout="", exit_code=None)
        last = session.http.get(f"{session.path}/executions/{listed[2]['execution_id']}?wait=20")
        check(last.json(), status="finished", exit_code=0)
        assert "position" not in last.json()


# ---------------------------------------------------------------- show


def test_same_as_the_run_answer(session: SessionClient) -> None:
    """A finished execution shows its run answer, its status and its code."""
    code = "print('a')\nopen('f', 'w').close()\n6 * 7"
    answer = session.run(code, update_data={"k": 1})
    shown = session.http.get(f"{session.path}/executions/{answer['execution_id']}").json()
    assert shown == {**answer, "status": "finished", "code": code}


def test_timed_out_execution(session: SessionClient) -> None:
    """An execution that timed out is shown at status 200: the request did not fail."""
    answer = session.run("print('a', flush=True)\nimport time; time.sleep(60)", timeout=0.5)
    shown = session.http.get(f"{session.path}/executions/{answer['execution_id']}")
    assert shown.status_code == 200
    check(shown.json(), status="finished", exit_code=124, cause="timeout", stdout="a\n")


def test_wait(session: SessionClient) -> None:
    """With `wait` it answers when the run ends, or after that time with what there is."""
    with session.open_stream(SLOW) as events:
        next(events)
        path = session.execution_path()
        check(session.http.get(f"{path}?wait=0.1").json(), status="running", stdout="first\n")
        began = time.monotonic()
        check(session.http.get(f"{path}?wait=60").json(), status="finished", exit_code=0)
        assert time.monotonic() - began < 30


# ---------------------------------------------------------------- follow


def check_no_events(session: SessionClient, path: str, **headers: str) -> None:
    """Nothing comes any more: 204, without a body."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = session.http.get(f"{session.path}/executions/{path}", headers=names)
    assert (answer.status_code, answer.content) == (204, b"")


def test_replay(session: SessionClient) -> None:
    """The events of an execution can be had again, from any of them on."""
    whole = session.stream("for n in range(5): print(n, flush=True); import time; time.sleep(0.05)")
    execution = whole[-1].data["execution_id"]
    assert len(whole) == 6
    assert follow(session, f"{execution}/stream") == whole
    for after in range(6):
        assert follow(session, f"{execution}/stream", Last_Event_ID=str(after)) == whole[after:]
        assert follow(session, f"{execution}/stream?last_event_id={after}") == whole[after:]
    for after in (6, 7, 10**14):
        check_no_events(session, f"{execution}/stream", Last_Event_ID=str(after))
        check_no_events(session, f"{execution}/stream?last_event_id={after}")


def test_reader_that_has_the_end(session: SessionClient) -> None:
    """Who has `done` gets 204 at once, also in the moment in which the run ends.

    An earlier number never gets 204, nor does any number while the run goes on.
    """
    session.run("pass")
    for _ in range(20):
        with session.open_stream("print(1)") as events:
            done = list(events)[-1]
            path = f"{done.data['execution_id']}/stream"
            check_no_events(session, path, Last_Event_ID=str(done.id))
            assert follow(session, path, Last_Event_ID=str(done.id - 1)) == [done]
    with session.open_stream(SLOW) as events:
        next(events)
        listed = session.executions()[-1]
        ahead = follow(session, f"{listed['execution_id']}/stream", Last_Event_ID="999")
        assert ahead[-1].event == "done"


def test_head_at_once(session: SessionClient) -> None:
    """The head of a stream is there before the first event, of a run and of each reader."""
    code = "import time; time.sleep(60)"
    body = {"code": code}
    with session.http.stream("POST", f"{session.path}/stream", json=body, timeout=20) as first:
        assert first.status_code == 200
        path = f"{session.path}/executions/{first.headers['X-Execution-Id']}"
        for after in ("0", "7"):
            headers = {"Last-Event-ID": after}
            with session.http.stream("GET", f"{path}/stream", headers=headers) as reader:
                assert reader.status_code == 200
        assert session.http.get(path).json()["status"] == "running"
        assert session.http.post(f"{path}/interrupt").status_code == 200
        assert list(parse_sse(first.iter_lines()))[-1].data["exit_code"] == 130


def test_readers_of_a_live_run(session: SessionClient) -> None:
    """Any number of readers follow a run: what was before, then what comes."""
    with ThreadPoolExecutor(8) as pool, session.open_stream(SLOW) as events:
        first = next(events)
        execution = session.executions()[0]
        path = f"{execution['execution_id']}/stream"
        readers = [pool.submit(follow, session, path) for _ in range(6)]
        late = pool.submit(follow, session, path, Last_Event_ID="1")
        whole = [first, *events]
        assert [reader.result() for reader in readers] == [whole] * 6
        assert late.result() == whole[1:]


def test_big_replay(session: SessionClient) -> None:
    """A replay of megabytes is the same to the byte, from the middle too."""
    whole = session.stream("for n in range(30_000): print(n, 'x' * 100)")
    execution = whole[-1].data["execution_id"]
    assert follow(session, f"{execution}/stream") == whole
    middle = len(whole) // 2
    assert follow(session, f"{execution}/stream", Last_Event_ID=str(middle)) == whole[middle:]


# ---------------------------------------------------------------- text


def test_text(session: SessionClient) -> None:
    """What was written to each of the two is plain text, whole or by ranges."""
    code = "import sys\nprint('0123456789é')\nprint('err', file=sys.stderr)"
    place = f"{session.path}/executions/{session.run(code)['execution_id']}"
    whole = session.http.get(f"{place}/stdout")
    assert whole.content == "0123456789é\n".encode()
    assert whole.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert session.http.get(f"{place}/stderr").text == "err\n"
    for asked, content, content_range in [
        ("bytes=0-3", b"0123", "bytes 0-3/13"),
        ("bytes=8-", "89é\n".encode(), "bytes 8-12/13"),
        ("bytes=-1", b"\n", "bytes 12-12/13"),
        ("bytes=11-11", b"\xa9", "bytes 11-11/13"),
    ]:
        part = session.http.get(f"{place}/stdout", headers={"Range": asked})
        assert (part.status_code, part.content) == (206, content)
        assert part.headers["Content-Range"] == content_range
    beyond = session.http.get(f"{place}/stdout", headers={"Range": "bytes=13-"})
    check_error(beyond, 416, "RANGE_NOT_SATISFIABLE")
    assert beyond.headers["Content-Range"] == "bytes */13"


def test_text_of_a_live_run(session: SessionClient) -> None:
    """The text of a run that goes on is what there is until now."""
    with session.open_stream(SLOW) as events:
        next(events)
        [listed] = session.executions()
        text = session.http.get(f"{session.path}/executions/{listed['execution_id']}/stdout").text
        assert text == "first\n"


# ---------------------------------------------------------------- whose they are


@pytest.mark.parametrize("part", ["", "/stream", "/stdout", "/stderr"])
def test_of_another_session(client: Client, five: SessionClient, part: str) -> None:
    """An execution is found in its own session only."""
    other = client.session("python")
    execution = five.executions()[0]["execution_id"]
    answer = client.http.get(f"{other.path}/executions/{execution}{part}")
    check_error(answer, 404, "EXECUTION_NOT_FOUND")
    other.delete()


def test_deleted_with_the_session(client: Client) -> None:
    """A deleted session takes its executions along, also from one that comes after it."""
    session = client.session("python", session_id="again")
    execution = session.run("print('old')")["execution_id"]
    session.delete()
    path = f"{session.path}/executions/{execution}"
    check_error(client.http.get(path), 404, "SESSION_NOT_FOUND")
    client.session("python", session_id="again")
    check_error(client.http.get(path), 404, "EXECUTION_NOT_FOUND")
    assert client.http.get(f"{session.path}/executions").json()["total"] == 0
    session.delete()


# ---------------------------------------------------------------- what is kept


def test_oldest_are_dropped(start: Start) -> None:
    """Past what is kept the oldest go, never a running or the newest one."""
    session = start("--keep-executions", "3").session("python")
    ids = [session.run(f"print({number})")["execution_id"] for number in range(6)]
    assert wait_until(lambda: [one["execution_id"] for one in session.executions()] == ids[3:])
    path = f"{session.path}/executions"
    check_error(session.http.get(f"{path}/{ids[0]}"), 404, "EXECUTION_NOT_FOUND")
    assert session.http.get(f"{path}/{ids[5]}/stdout").text == "5\n"
