"""A session that uses up what the system has, or stops others, hangs nobody; it is told in time."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.client import Client, SessionClient
from tests.server_process import Launcher
from tests.system.test_ordinary_user import USER, served
from tests.waiting import wait_until

TOLD = 20.0  # seconds within which everything is answered, on a busy host
GONE = 3.0  # seconds within which a session is deleted
OPEN_FILES = 1024  # of the server: with more it is never refused
# More descriptors in flight than a server may open files, and no more than 1300. What holds them
# is no more than 13 pairs of sockets.
FILL = """
import array, socket
pairs, count = [], 0
rights = array.array("i", [0] * 100)
try:
    while count < 1300:
        pairs.append(socket.socketpair())
        pairs[-1][0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        count += 100
except OSError as error:
    assert error.errno == 109, error  # ETOOMANYREFS
print(count)
"""
# Stops whatever it may signal, but itself, for some seconds.
STOP_ALL = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    time.sleep(1)
    end = time.monotonic() + 6
    while time.monotonic() < end:
        try:
            os.kill(-1, signal.SIGSTOP)
        except ProcessLookupError:
            pass
    os._exit(0)
print("forked")
"""


def ask(client: Client, method: str, path: str, **body: object) -> httpx.Response:
    """Asks, and checks that the answer comes in time: done, or a refusal in words."""
    began = time.monotonic()
    response = client.http.request(method, path, json=body or None)
    assert time.monotonic() - began < TOLD
    if response.is_error:
        assert response.status_code == 503, response.text
        assert response.headers["Retry-After"]
        assert response.json()["message"].endswith(".")
    return response


def delete(session: SessionClient) -> None:
    """Deletes a session, and checks that it does not take long."""
    began = time.monotonic()
    session.delete()
    assert time.monotonic() - began < GONE


@pytest.fixture(scope="module", params=[1, 3])
def of_root(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client of a server of root in that tier."""
    with served(request.param, 0, open_files=OPEN_FILES) as (url, _), closing(Client(url)) as one:
        yield one


def check_descriptors(client: Client, are_refused: bool) -> None:
    """Checks that others run beside a session with as many descriptors, and afterwards."""
    other, culprit = client.session("python"), client.session("python")
    assert other.run("x = 1")["exit_code"] == 0
    assert int(culprit.run(FILL)["stdout"]) > OPEN_FILES
    assert other.run("print(x)")["stdout"] == "1\n"
    answers = [
        ask(client, "POST", "/api/execute", language="python", code="1"),
        ask(client, "POST", f"{other.path}/exec", command="true"),
        ask(client, "GET", "/health"),
    ]
    assert [one.is_error for one in answers] == [are_refused, are_refused, False]
    delete(culprit)
    answers = [
        ask(client, "POST", "/api/execute", language="python", code="1"),
        ask(client, "POST", f"{other.path}/exec", command="true"),
    ]
    assert [one.status_code for one in answers] == [200, 200]
    assert other.run("print(x)")["stdout"] == "1\n"


def test_descriptors_in_flight(of_root: Client) -> None:
    """Others start, run and execute: root's sessions have uids, and such descriptors, apart."""
    check_descriptors(of_root, are_refused=False)


@pytest.mark.parametrize(("tier", "user"), [(1, USER + 1), (3, USER + 2)])
def test_descriptors_in_flight_of_one_uid(tier: int, user: int) -> None:
    """They are counted for the uid: others are told why not; when the session ends, all is well."""
    with (
        served(tier, user, open_files=OPEN_FILES) as (url, _),
        closing(Client(url)) as client,
    ):
        check_descriptors(client, are_refused=True)


@pytest.fixture
def session(launcher: Launcher) -> Iterator[SessionClient]:
    with closing(Client(launcher.start().base_url)) as client:
        yield client.session("python")


def test_no_descriptors_left(launcher: Launcher, session: SessionClient) -> None:
    """A server that may open no more files says so, whatever lacks one; it serves when it may."""
    assert session.run("x = 1")["exit_code"] == 0
    client = Client(str(session.http.base_url))
    client.close()
    client.http = session.http  # its connection is there already
    pid = launcher.servers[-1].process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    refused = set()
    for more in (1, 2, 3, 5, 8, 12):
        used = max(int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir())
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + more, before[1]))
        for path, body in (
            ("/api/execute", {"language": "python", "code": "1"}),
            (f"{session.path}/exec", {"command": "true"}),
            (f"{session.path}/run", {"code": "1"}),
        ):
            if ask(client, "POST", path, **body).is_error:
                refused.add(path)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    assert {"/api/execute", f"{session.path}/exec"} <= refused
    assert wait_until(lambda: ask(client, "GET", "/health").status_code == 200, TOLD)
    assert ask(client, "POST", "/api/execute", language="python", code="1").status_code == 200
    assert session.run("print(x)")["stdout"] == "1\n"


def test_all_that_is_started_is_stopped(of_root: Client) -> None:
    """A command that code stops, before or after it runs, has its time; the session ends."""
    other, culprit = of_root.session("python"), of_root.session("python")
    assert other.run("1")["exit_code"] == 0
    assert culprit.run(STOP_ALL)["stdout"] == "forked\n"

    def is_hindered() -> bool:
        began = time.monotonic()
        body = {"command": "true", "timeout": 1}
        response = of_root.http.post(f"{culprit.path}/exec", json=body)
        assert time.monotonic() - began < TOLD
        assert response.status_code in (200, 408, 503), response.text
        # Ended by its timeout, or never started.
        return response.status_code == 503 or response.json()["exit_code"] in (124, 126)

    assert wait_until(is_hindered, TOLD)
    assert other.run("print(1)")["stdout"] == "1\n"
    delete(culprit)
