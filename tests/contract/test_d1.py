"""D1 over HTTP: answers and errors, hostile SQL, deaths, and what survives the server."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.client import Client
from tests.contract.checks import check_error
from tests.contract.sql_attacks import ATTACKS, ENDLESS, HARMLESS, SETUP, VAIN_ATTACKS, Attack
from tests.server_process import Launcher, Server, command_line

TIMEOUT = 1.5
MIB = 1024 * 1024

# A server whose SQL has little time and room.
SERVER_FLAGS = (
    "--sql-timeout", str(TIMEOUT), "--sql-max-database", "64M", "--sql-max-result", "8M",
)  # fmt: skip

Post = Callable[..., httpx.Response]


@pytest.fixture
def post(client: Client) -> Post:
    """Posts to a database of the module's server."""

    def post(mode: str, sql: Any, params: Any = None, namespace: str = "n") -> httpx.Response:
        body = sql if mode == "batch" else {"sql": sql}
        if params is not None:
            body["params"] = params
        return client.http.post(f"/api/storage/d1/{namespace}/{mode}", json=body)

    return post


def worker_pids(server: Server) -> list[int]:
    """The processes that run SQL."""
    return [
        child.pid
        for child in psutil.Process(server.process.pid).children()
        if "era_kernels.storage.d1.worker" in " ".join(command_line(child))
    ]


# ---------------------------------------------------------------- answers


def test_the_page(client: Client) -> None:
    """The requests of the reference page work, and are answered as it shows."""
    path = "/api/storage/d1/myapp"
    made = client.http.post(
        f"{path}/exec", json={"sql": "CREATE TABLE users (id INTEGER PRIMARY KEY, name)"}
    )
    assert made.status_code == 200
    added = client.http.post(
        f"{path}/exec", json={"sql": "INSERT INTO users (name) VALUES (?)", "params": ["Bob"]}
    ).json()
    assert added["success"] is True
    assert (added["meta"]["changes"], added["meta"]["last_row_id"]) == (1, 1)
    assert "results" not in added
    found = client.http.post(f"{path}/query", json={"sql": "SELECT * FROM users", "params": []})
    assert found.json()["results"] == [{"id": 1, "name": "Bob"}]
    assert found.json()["meta"]["duration"] >= 0
    assert found.headers["Content-Type"].startswith("application/json")
    assert found.text.startswith('{"success":true,"results":[{"id":1,"name":"Bob"}],"meta":{')


def test_batch(post: Post) -> None:
    """A batch is an array; each entry has its answer, and all are one transaction."""
    answer = post(
        "batch",
        [
            {"sql": "CREATE TABLE IF NOT EXISTS b (a UNIQUE)"},
            {"sql": "INSERT INTO b VALUES (?)", "params": [1]},
            {"sql": "SELECT * FROM b"},
        ],
    ).json()
    assert [one["results"] for one in answer["results"]] == [[], [], [{"a": 1}]]
    failed = post("batch", [{"sql": "DELETE FROM b"}, {"sql": "INSERT INTO c VALUES (1)"}])
    assert check_error(failed, 400, "SQL_ERROR")["details"] == "no such table: c"
    assert post("query", "SELECT * FROM b").json()["results"] == [{"a": 1}]
    assert post("batch", []).json() == {"success": True, "results": []}


def test_sql_error(post: Post) -> None:
    """A mistake in SQL is told in the words of SQLite."""
    shown = check_error(post("query", "SELECT * FORM t"), 400, "SQL_ERROR")
    assert shown["error"] == "D1 query failed"
    assert "syntax error" in shown["details"]


@pytest.mark.parametrize("mode", ["query", "exec"])
@pytest.mark.parametrize(
    "sql", ["SELECT * FORM t", "SELECT ?", "SELECT 1; SELECT ?1", "ATTACH 'a' AS b"]
)
def test_errors_are_sentences(post: Post, mode: str, sql: str) -> None:
    """Whoever found the mistake, SQLite, Python or the server: there is one full stop behind it."""
    answer = post(mode, sql, [1, 2])
    message = answer.json()["message"]
    assert answer.status_code == 400
    assert message.endswith(".") and not message.endswith("..")


BAD_BODIES = [
    ("query", {}, "sql"),
    ("query", {"sql": 1}, "sql"),
    ("query", {"sql": None}, "sql"),
    ("exec", {"sql": ["x"]}, "sql"),
    *[
        ("query", {"sql": "SELECT ?", "params": params}, "params")
        for params in (
            "x", 1, True, [[]], [{}], [{"base64": 1}], [{"base64": "", "x": 1}], {"a": []},
            {"a": {"b": "c"}}, [2**63], [-(2**63) - 1], {"a": 10**400}, [{"base64": "?"}],
        )
    ],
    ("batch", {}, "array"),
    ("batch", {"sql": "SELECT 1"}, "array"),
    ("batch", [1], "0"),
    ("batch", [{"sql": "SELECT 1"}, {"sql": 1}], "1.sql"),
    ("query", [{"sql": "SELECT 1"}], "object"),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "body", "named"), BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_bad_bodies(client: Client, mode: str, body: Any, named: str) -> None:
    """A body that is wrong is told by the name of what is wrong."""
    answer = client.http.post(f"/api/storage/d1/n/{mode}", json=body)
    assert named in check_error(answer, 400, "INVALID_REQUEST")["message"]


@pytest.mark.parametrize("body", [b"", b"  "])
def test_empty_body(client: Client, body: bytes) -> None:
    """An empty body is an empty object, which has no SQL and is no batch."""
    for mode in ("query", "exec", "batch"):
        answer = client.http.post(f"/api/storage/d1/n/{mode}", content=body)
        check_error(answer, 400, "INVALID_REQUEST")
    answer = client.http.post("/api/storage/d1/n/batch", content=b'[{"sql":"SELECT 1"},]')
    check_error(answer, 400, "INVALID_JSON")


@pytest.mark.parametrize("namespace", ["-a", ".hidden", "a%2Fb", "a" * 65, "%C3%A9", "a%00"])
def test_bad_namespace(client: Client, namespace: str) -> None:
    """A namespace that is none is told with the form of the path."""
    request = client.http.build_request("POST", "/", json={"sql": "SELECT 1"})
    request.url = request.url.copy_with(raw_path=f"/api/storage/d1/{namespace}/query".encode())
    answer = client.http.send(request)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_PATH")
    assert answer.json()["format"].startswith("/api/storage/d1/{namespace}")


def test_paths(client: Client) -> None:
    """Other paths below a database are not there, and other methods are not taken."""
    check_error(client.http.post("/api/storage/d1/n", json={}), 404, "NOT_FOUND")
    check_error(client.http.post("/api/storage/d1/n/drop", json={}), 404, "NOT_FOUND")
    refused = check_error(client.http.delete("/api/storage/d1/n"), 404, "NOT_FOUND")
    assert "DROP TABLE" in refused["hint"]
    for kind in ("kv", "r2"):
        refused = check_error(client.http.delete(f"/api/storage/{kind}/n"), 400, "INVALID_PATH")
        assert "DELETE removes each" in refused["hint"]
    check_error(client.http.get("/api/storage/d1/n/query"), 405, "METHOD_NOT_ALLOWED")


def test_large_body(client: Client) -> None:
    """A statement of 100 MB is refused by its length, and a long parameter is taken."""
    long = client.http.post("/api/storage/d1/n/query", content=b"x" * (100 * MIB))
    check_error(long, 413, "TOO_LARGE")
    body = {"sql": "SELECT length(?) AS n", "params": ["é" * 5_000_000]}
    answer = client.http.post("/api/storage/d1/n/query", json=body)
    assert answer.json()["results"] == [{"n": 5_000_000}]


def test_large_result(post: Post) -> None:
    """Millions of bytes come back whole."""
    answer = post("query", "SELECT hex(zeroblob(1000000)) AS a").json()
    assert answer.get("results") == [{"a": "00" * 1_000_000}], str(answer)[:300]


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary().map(lambda data: {"base64": __import__("base64").b64encode(data).decode()}),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(VALUES, min_size=1, max_size=20))
def test_values_survive(post: Post, values: list[Any]) -> None:
    """Every value comes back as it was stored, exactly."""
    stored = post(
        "batch",
        [
            {"sql": "CREATE TABLE IF NOT EXISTS vals (n INTEGER PRIMARY KEY, v)"},
            {"sql": "DELETE FROM vals"},
            *[{"sql": "INSERT INTO vals (v) VALUES (?)", "params": [value]} for value in values],
        ],
        namespace="values",
    )
    assert stored.status_code == 200, stored.text
    rows = post("query", "SELECT v FROM vals ORDER BY n", namespace="values").json()["results"]
    expected = [int(value) if isinstance(value, bool) else value for value in values]
    found = [row["v"] for row in rows]
    assert found == expected
    assert [type(value) for value in found] == [type(value) for value in expected]


# ---------------------------------------------------------------- hostile SQL


def attempt(post: Post, namespace: str, attack: Attack) -> httpx.Response:
    """Returns the answer to an attack, which is one of those that are right."""
    answer = post(attack.mode, attack.sql, namespace=namespace)
    got = (answer.status_code, "" if answer.is_success else answer.json()["code"])
    assert got in attack.expected, f"{attack}: {answer.text[:500]}"
    if not answer.is_success:
        check_error(answer, *got)
    return answer


def check_others(server: Server, client: Client, post: Post) -> None:
    """Others get their answer, and no database is where none should be."""
    began = time.monotonic()
    other = post("query", "SELECT 42 AS a", namespace="others")
    assert other.json()["results"] == [{"a": 42}]
    assert time.monotonic() - began < 5
    names = {path.name.partition(".db")[0] for path in (server.data_dir / "d1").iterdir()}
    assert all(name.startswith(("attack-", "n", "others", "values", "myapp")) for name in names)
    assert client.http.get("/health").status_code == 200


def check_kept(post: Post, namespace: str) -> None:
    """The database is what it was before."""
    kept = "SELECT (SELECT a FROM t) || (SELECT a FROM f) || (SELECT b FROM r) AS a"
    rows = post("query", f"{kept}, (SELECT count(*) FROM u) AS n", namespace=namespace)
    assert rows.json()["results"] == [{"a": "keptsome words3.0", "n": 0}]


def check_whole(post: Post, namespace: str) -> None:
    """Nothing in the database is damaged."""
    for sql in ("PRAGMA integrity_check", "INSERT INTO f (f) VALUES ('integrity-check')"):
        whole = post("exec", sql, namespace=namespace)
        if whole.is_success and "PRAGMA" in sql:
            assert whole.json()["results"] == [{"integrity_check": "ok"}]


@pytest.mark.parametrize("first", range(0, len(VAIN_ATTACKS), 20))
def test_vain_attacks(server: Server, client: Client, post: Post, first: int) -> None:
    """What is refused at once, or does no harm, leaves the database as it was for the next one."""
    namespace = f"attack-{first}"
    assert post("exec", SETUP, namespace=namespace).status_code == 200
    for attack in VAIN_ATTACKS[first : first + 20]:
        attempt(post, namespace, attack)
        check_kept(post, namespace)
    check_whole(post, namespace)
    check_others(server, client, post)


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_attack(server: Server, client: Client, post: Post, attack: Attack) -> None:
    """An attack gets its answer; others get theirs, and the database is what it was before."""
    namespace = f"attack-{os.urandom(4).hex()}"
    assert post("exec", SETUP, namespace=namespace).status_code == 200
    attempt(post, namespace, attack)
    check_others(server, client, post)
    if attack.expected.isdisjoint(HARMLESS):
        check_kept(post, namespace)
    check_whole(post, namespace)


def test_others_under_attack(post: Post) -> None:
    """While many slow statements run, others are answered soon."""
    stop = threading.Event()

    def attack(number: int) -> None:
        while not stop.is_set():
            post("query", f"{ENDLESS}SELECT count(*) FROM c", namespace=f"slow{number % 3}")

    with ThreadPoolExecutor(12) as pool:
        for number in range(12):
            pool.submit(attack, number)
        try:
            time.sleep(0.5)
            for _ in range(30):
                began = time.monotonic()
                answer = post("query", "SELECT 1 AS a", namespace="others")
                assert answer.json()["results"] == [{"a": 1}]
                assert time.monotonic() - began < 5
        finally:
            stop.set()


# ---------------------------------------------------------------- deaths


def test_killed_workers(server: Server, post: Post) -> None:
    """A worker that is killed costs its statement alone, and is replaced."""
    post("exec", "CREATE TABLE IF NOT EXISTS k (a)", namespace="killed")
    with ThreadPoolExecutor(1) as pool:
        doomed = pool.submit(
            post, "exec", f"{ENDLESS}INSERT INTO k SELECT x FROM c", None, "killed"
        )
        time.sleep(0.4)
        for pid in worker_pids(server):
            os.kill(pid, signal.SIGKILL)
        check_error(doomed.result(), 500, "STORAGE_FAILED")
    answer = post("query", "SELECT count(*) AS n FROM k", namespace="killed")
    assert answer.json()["results"] == [{"n": 0}]
    assert post("exec", "INSERT INTO k VALUES (1)", namespace="killed").status_code == 200


def test_no_worker_outlives_the_server(launcher: Launcher) -> None:
    """They end with it in order, too, and leave the database alone behind."""
    server = launcher.start()
    sql = {"sql": "CREATE TABLE t (a)"}
    httpx.post(f"{server.base_url}/api/storage/d1/n/exec", json=sql).raise_for_status()
    pids = worker_pids(server)
    assert pids
    assert server.stop() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert [path.name for path in (server.data_dir / "d1").iterdir()] == ["n.db"]


def test_worker_shows_nothing(server: Server, post: Post) -> None:
    """A worker has nothing of the server in its environment, and a group of its own."""
    post("query", "SELECT 1")
    for pid in worker_pids(server):
        assert Path(f"/proc/{pid}/environ").read_bytes() == b"LANG=C.UTF-8\0"
        assert os.getpgid(pid) == pid
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert f"Max data size             {512 * MIB}" in limits
        assert "Max core file size        0 " in limits


def test_client_that_leaves(server: Server, post: Post) -> None:
    """A query whose client left is stopped, so that its worker is free again."""
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{server.base_url}/api/storage/d1/left/query",
            json={"sql": f"{ENDLESS}SELECT count(*) FROM c"},
            timeout=0.3,
        )
    assert post("query", "SELECT 1 AS a", namespace="left").json()["results"] == [{"a": 1}]


def test_nothing_is_logged(server: Server, post: Post) -> None:
    """Neither SQL nor its values come into the log."""
    post("query", "SELECT 'secret' || ?", ["value"])
    post("exec", "SELECT secret FROM secret")
    assert "secret" not in server.log_text
    assert json.dumps("value") not in server.log_text
