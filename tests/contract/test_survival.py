"""What outlives the server: it is stopped in order, or killed, and another starts on its data.

A check is a generator: it prepares, yields when the server is to end, and is sent the next one.
"""

from __future__ import annotations

import base64
import contextlib
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.client import Client, SessionClient, SseEvent, parse_sse
from tests.contract import test_internet as internet
from tests.contract.checks import (
    SLEEPING_CODE,
    check,
    check_error,
    wait_for_executions,
    wait_for_file,
)
from tests.contract.test_code import get as get_code
from tests.contract.test_code import put as put_code
from tests.contract.test_d1 import worker_pids
from tests.contract.test_duplicate import DIGEST, MANY_FILES, duplicate
from tests.contract.test_executions import follow
from tests.contract.test_idempotency import post
from tests.contract.test_kv import delete, get, listed, put
from tests.contract.test_links import make, secret_of
from tests.contract.test_log import TICKER, following, logged
from tests.server_process import Server, temporary_launcher
from tests.waiting import wait_until

FLAGS = ("--shutdown-grace", "0", "--egress-allow-cidrs", internet.WORLD)
STOPPED = "[era] server stopped before the run ended; variables are lost"


@dataclass
class Started:
    """A server, a client of it, and how the server before it ended."""

    server: Server
    client: Client
    end: str = ""

    @property
    def line(self) -> str:
        """What the runs are told that the server before it ended."""
        return f"{STOPPED}{', files are kept' * (self.end == 'stop')}\n"

    @property
    def http(self) -> httpx.Client:
        return self.client.http

    def session(self, session_id: str) -> SessionClient:
        return SessionClient(self.http, session_id)

    def holds(self, secret: str) -> bool:
        """Tells whether a file of the server holds it."""
        files = [path for path in self.server.data_dir.rglob("*") if path.is_file()]
        assert files
        return any(secret.encode() in path.read_bytes() for path in files)


Check = Generator[None, Started, None]


def check_keys(started: Started) -> Check:
    """A put, a deletion and the moment of an expiry."""
    put(started.client, "n", "k", "v", metadata={"a": 1}).raise_for_status()
    put(started.client, "n", "gone", "v").raise_for_status()
    put(started.client, "n", "dies", "v", expiration_ttl=0.1).raise_for_status()
    delete(started.client, "n", "gone").raise_for_status()
    started = yield
    assert get(started.client, "n", "k").json() == {"value": "v", "metadata": {"a": 1}}
    assert listed(started.client, "n") == ["k"]


def check_objects(started: Started) -> Check:
    """An object with its metadata, and the deletion of another."""
    path, body = "/api/storage/r2/n", {"content": base64.b64encode(b"\0kept").decode()}
    started.http.put(f"{path}/o", json={**body, "metadata": {"a": "1"}}).raise_for_status()
    started.http.put(f"{path}/gone", json=body).raise_for_status()
    started.http.delete(f"{path}/gone").raise_for_status()
    before = started.http.get(f"{path}/o").raise_for_status().json()
    started = yield
    assert started.http.get(f"{path}/o").json() == before
    assert [one["key"] for one in started.http.get(path).json()["objects"]] == ["o"]


def check_sql(started: Started) -> Check:
    """Every statement that was answered; the processes that ran them end with the server."""
    path = "/api/storage/d1/n"
    started.http.post(f"{path}/exec", json={"sql": "CREATE TABLE t (a)"}).raise_for_status()
    for number in range(20):
        sql = {"sql": "INSERT INTO t VALUES (?)", "params": [number]}
        started.http.post(f"{path}/exec", json=sql).raise_for_status()
    pids = worker_pids(started.server)
    assert pids
    started = yield
    assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    answer = started.http.post(f"{path}/query", json={"sql": "SELECT count(*) AS n FROM t"})
    assert answer.json()["results"] == [{"n": 20}]


def check_sessions(started: Started) -> Check:
    """Sessions, with data of any kind; their kernels start again at the next run."""
    values = {"big": 10**400 + 1, "text": "é\x00☃", "deep": [[[{"a": None}]]]}
    kept = started.client.session(
        "python", session_id="kept", data=values, metadata=values, default_timeout=7
    )
    kept.run("x = 1; open('file', 'w').write('1234')")
    fleeting = started.client.session("python", session_id="fleeting", persistent=False)
    fleeting.run("open('file', 'w').close()", update_data={"a": 1})
    started.client.session("python", session_id="gone").delete()
    before = kept.get()
    started = yield
    kept, fleeting = started.session("kept"), started.session("fleeting")
    assert kept.get() == {**before, "status": "stopped"}
    assert kept.get()["data"] == values
    found = {one["id"] for one in started.http.get("/api/sessions").json()["sessions"]}
    assert found & {"kept", "fleeting", "gone"} == {"kept", "fleeting"}
    check(
        kept.run("print('x' in globals(), open('file').read())"),
        stdout="False 1234\n", started_from="fresh", kernel_generation=2, data=values,
    )  # fmt: skip
    check(fleeting.run("import os; print(os.path.exists('file'))"), stdout="False\n", data={"a": 1})


def check_scopes(started: Started) -> Check:
    """The scope of a session's storage."""
    started.client.session("python", session_id="scoped", storage=["app"])
    started = yield
    check(started.session("scoped").get(), storage=["app"])


def check_internet(started: Started) -> Check:
    """What was allowed is allowed, and to the same hosts."""
    hosts = [internet.WORLD, "*.x.org"]
    if started.http.get("/health").json()["isolation"]["tier"] <= 2:
        started.client.session(
            "python", session_id="out", allowInternetAccess=True, allow_hosts=hosts
        )
    started = yield
    internet.skip_without_network(started.client)
    session = started.session("out")
    check(session.get(), allowInternetAccess=True, allow_hosts=hosts)
    with internet.serve_world() as world:
        code = f"{internet.ASK}\nprint(*ask('http://{world}/'))\nprint(*ask('http://y.org/'))"
        reached, refused = internet.lines(session.run(code))[:2]
    assert reached == "200 world"
    assert refused.startswith("403 y.org is not among the hosts")


def check_stored_code(started: Started) -> Check:
    """Code that was stored."""
    put_code(
        started.client.session("python", session_id="coded"), "print('kept')", description="why"
    )
    started = yield
    session = started.session("coded")
    check(get_code(session), code="print('kept')", description="why")
    check(started.http.post(f"{session.path}/run", json={}).json(), stdout="kept\n")


def check_duplicates(started: Started) -> Check:
    """A duplicate that was answered is whole."""
    source = started.client.session("python", data={"code": "print('stored')"})
    source.run(MANY_FILES)
    digest = source.run(DIGEST)["stdout"]
    duplicate(source, id="copy")
    started = yield
    copy = started.session("copy")
    assert copy.run(DIGEST)["stdout"] == digest
    check(started.http.post(f"{copy.path}/run", json={}).json(), stdout="stored\n")


def check_links(started: Started) -> Check:
    """Links last, and those that were revoked do not come back; no file tells their secret."""
    session = started.client.session("python", session_id="linked")
    started.http.put(f"{session.path}/files/f", content=b"lasts").raise_for_status()
    kept, gone = (make(started.client, session, path="f") for _ in range(2))
    started.http.delete(f"{session.path}/links/{gone['id']}").raise_for_status()
    started = yield
    assert not started.holds(secret_of(kept["url"])[1:])
    assert started.http.get(urlsplit(kept["url"]).path).text == "lasts"
    check_error(started.http.get(urlsplit(gone["url"]).path), 404, "LINK_NOT_FOUND")


def check_logs(started: Started) -> Check:
    """The log goes on where it was, and so do its readers."""
    session = started.client.session("python", session_id="logged")
    session.run(TICKER.format(count=1, pause=0.05))
    assert logged(session, "tick 0\n")
    started = yield
    session = started.session("logged")
    assert logged(session, "tick 0\n")
    session.run(TICKER.format(count=1, pause=0.05))
    assert logged(session, "tick 0\ntick 0\n")
    with following(session, after=1) as events:
        assert next(events).id == 2


def check_runs(started: Started) -> Check:
    """Executions can be read again; one that was cut off is not running for ever."""
    session = started.client.session("python", session_id="ran")
    whole = session.stream("print('kept')")
    cut_off = begin(session, "run", code=f"print('begun', flush=True)\n{SLEEPING_CODE}")
    wait_for_file(session)
    started = yield
    session = started.session("ran")
    first, second = session.executions()
    assert follow(session, f"{first['execution_id']}/stream") == whole
    assert started.http.get(f"{session.execution_path(0)}/stdout").text == "kept\n"
    check(second, execution_id=cut_off, status="finished", exit_code=137)
    shown = started.http.get(session.execution_path())
    assert shown.status_code == 200
    check(shown.json(), status="finished", stdout="begun\n", stderr=started.line)
    frames = follow(session, f"{cut_off}/stream")
    assert [one.event for one in frames] == ["stdout", "stderr", "error", "done"]


def begin(session: SessionClient, call: str, **body: Any) -> str:
    """Starts something in the background; returns the id of its execution."""
    answer = session.http.post(f"{session.path}/{call}", json={**body, "background": True})
    return str(answer.raise_for_status().json()["execution_id"])


def check_notices(started: Started) -> Check:
    """The run that the server ended has the line; the next run of each session has the notice."""
    session, quiet = (
        started.client.session("python", session_id=name) for name in ("loud", "quiet")
    )
    check(session.run("x = 1"), notices=None)
    quiet.run("x = 1")
    code = f"import sys\nprint('unfinished', end='', file=sys.stderr, flush=True)\n{SLEEPING_CODE}"
    path = f"{session.path}/executions/{begin(session, 'run', code=code)}"
    wait_for_file(session)
    # What was seen is written.
    assert wait_until(lambda: started.http.get(path).json()["stderr"] == "unfinished")
    started = yield
    answer = started.http.get(path).json()
    check(answer, exit_code=137, cause="server stopped", state="lost")
    assert answer["stderr"] == f"unfinished\n{started.line}"
    notices = ["variables were lost: the server was restarted"]
    for one in (started.session("loud"), started.session("quiet")):
        check(one.run("print('x' in globals())"), stdout="False\n", notices=notices)
        check(one.run("pass"), notices=None)


def check_programs(started: Started) -> Check:
    """A program beside the kernel has an honest end, and no process is left."""
    session = started.client.session("python", session_id="program")
    path = f"{session.path}/executions/"
    path += begin(session, "exec", command="echo before; touch ready; sleep 600.125")
    wait_for_file(session)
    assert wait_until(lambda: started.http.get(path).json()["stdout"] == "before\n")
    started = yield
    search = [shutil.which("pgrep") or "pgrep", "-f", "^sleep 600.125"]
    assert wait_until(lambda: subprocess.run(search, check=False).returncode == 1, 5)
    check(started.http.get(path).json(), status="finished", exit_code=137, stdout="before\n")
    assert '"code":"SERVER_STOPPED"' in started.http.get(f"{path}/stream").text
    body = {"command": "cat ready; echo on"}
    check(started.http.post("/api/sessions/program/exec", json=body).json(), stdout="on\n")


def check_fleeting_files(started: Started) -> Check:
    """What a program wrote in a session that is not persistent goes, also without a kernel."""
    session = started.client.session("python", persistent=False, session_id="written")
    answer = started.http.post(f"{session.path}/exec", json={"command": "echo 1 > a; ls"})
    assert answer.json()["stdout"] == "a\n"
    other = started.client.session("python", persistent=False, session_id="uploaded")
    started.http.put(f"{other.path}/files/a", content=b"1").raise_for_status()
    started = yield
    assert started.session("written").get()["files"] == []
    assert len(started.session("uploaded").get()["files"]) == 1


def check_repeated_requests(started: Started) -> Check:
    """A key has its answer and its conflict; the environment of the run is in no file."""
    session = started.client.session("python", session_id="repeated")
    first = post(session, env={"TOKEN": "s3cret-value"})
    started = yield
    assert not started.holds("s3cret-value")
    session = started.session("repeated")
    assert post(session, env={"TOKEN": "s3cret-value"}).json() == first.json()
    check_error(post(session, env={"TOKEN": "other"}), 409, "IDEMPOTENCY_CONFLICT")


def check_repeated_runs(started: Started) -> Check:
    """A run was cut: a repeated request learns so, and nothing runs a second time."""
    session = started.client.session("python", session_id="cut")
    code = f"print('begun', flush=True)\n{SLEEPING_CODE}"
    pool = ThreadPoolExecutor(2)
    cut = pool.submit(post, session, code)
    wait_for_file(session)
    waiting = pool.submit(post, session, "print('never')", "l")
    wait_for_executions(session, 2)
    started = yield
    for one in (cut, waiting):
        with contextlib.suppress(httpx.HTTPError):
            one.result()
    pool.shutdown()
    session = started.session("cut")
    answer = post(session, code)
    check(answer.json(), exit_code=137, cause="server stopped", state="lost", stdout="begun\n")
    check(answer.json(), stderr=started.line)
    events = list(parse_sse(post(session, code, call="stream").iter_lines()))
    assert [event.event for event in events] == ["stdout", "stderr", "error", "done"]
    assert events[1].data["content"] == started.line
    assert events[2].data["code"] == "SERVER_STOPPED"
    assert [(one["status"], one["exit_code"]) for one in session.executions()] == [
        ("finished", 137), ("finished", 137),
    ]  # fmt: skip

    def read(after: int) -> list[SseEvent]:
        path = f"{answer.headers['X-Execution-Id']}/stream"
        return follow(session, path, Last_Event_ID=str(after))

    with ThreadPoolExecutor(4) as pool:
        for after, found in enumerate(pool.map(read, range(len(events)))):
            assert found == events[after:]


CHECKS: list[Callable[[Started], Check]] = [
    check_keys, check_objects, check_sql, check_sessions, check_scopes, check_internet,
    check_stored_code, check_duplicates, check_links, check_logs, check_runs, check_notices,
    check_programs, check_fleeting_files, check_repeated_requests, check_repeated_runs,
]  # fmt: skip


@pytest.fixture(scope="module", params=["stop", "kill"])
def prepared(request: pytest.FixtureRequest) -> Iterator[tuple[dict[Any, Check], Started]]:
    """All checks, prepared before the end of a server, and the next server."""
    with temporary_launcher() as launcher, contextlib.ExitStack() as clients:

        def start(last_end: str = "") -> Started:
            server = launcher.start(*FLAGS)
            client = Client(server.base_url)
            clients.callback(client.close)
            return Started(server, client, last_end)

        started = start()
        checks = {check: check(started) for check in CHECKS}
        for one in checks.values():
            next(one)
        if request.param == "kill":
            started.server.kill()
        else:
            assert started.server.stop() == 0
        yield checks, start(request.param)


@pytest.mark.parametrize(
    "survival", CHECKS, ids=lambda check: check.__name__.removeprefix("check_")
)
def test_survives(
    prepared: tuple[dict[Any, Check], Started], survival: Callable[[Started], Check]
) -> None:
    """What was answered is there with the next server, whatever ended the first."""
    checks, started = prepared
    with pytest.raises(StopIteration):
        checks[survival].send(started)
