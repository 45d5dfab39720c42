"""Sessions: create, list, show, change, delete, restart, and what survives."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.client import Client, SessionClient
from tests.contract.checks import TIME, Start, check, check_error, open_client
from tests.server_process import PRINT_PID, Launcher, Server, host_pid
from tests.waiting import wait_until

DATA_FILE = ".session_data.json"
FIELDS = {
    "id", "session_id", "created_at", "last_run_at", "language", "persistent", "file_count",
    "total_size_bytes", "metadata", "data", "allowInternetAccess", "allowPublicAccess", "status",
    "kernel_generation", "isolation",
}  # fmt: skip


# ---------------------------------------------------------------- create


def test_create(client: Client) -> None:
    """A session is made by its language alone; the answer is the session object."""
    answer = client.http.post("/api/sessions", json={"language": "python"})
    assert answer.status_code == 201
    shown = answer.json()
    assert set(shown) == FIELDS
    check(
        shown, session_id=shown["id"], last_run_at="", language="python", persistent=True,
        file_count=0, total_size_bytes=0, metadata={}, data={}, allowInternetAccess=False,
        allowPublicAccess=True, status="stopped", kernel_generation=0,
    )  # fmt: skip
    assert shown["isolation"] == client.http.get("/health").json()["isolation"]
    client.http.delete(f"/api/sessions/{shown['id']}")


def test_create_with_everything(client: Client) -> None:
    """What was asked for is what the session has."""
    fields = {
        "session_id": "mine",
        "persistent": False,
        "data": {"user": "developer"},
        "metadata": {"team": "é"},
        "default_timeout": 120,
        "ttl": 900,
        "allowInternetAccess": session_tier(client) != 3,
        "allowPublicAccess": False,
    }
    answer = client.http.post("/api/sessions", json={"language": "PY", **fields})
    assert answer.status_code == 201, answer.text
    check(answer.json(), **fields, id="mine", language="python")
    assert '"default_timeout":120' in answer.text
    assert client.http.get("/api/sessions/mine").json() == {**answer.json(), "files": []}
    client.http.delete("/api/sessions/mine")


def test_internet_that_isolation_cannot_give(client: Client) -> None:
    """Asked for at creation it is 409 without a network namespace, and nothing was made.

    Without isolation it is stored.
    """
    fields = {"language": "python", "session_id": "outward", "allowInternetAccess": True}
    answer = client.http.post("/api/sessions", json=fields)
    if session_tier(client) != 3:
        check(answer.json(), allowInternetAccess=True)
        client.http.delete("/api/sessions/outward")
    else:
        check_error(answer, 409, "NOT_ENFORCEABLE")
        check_error(client.http.get("/api/sessions/outward"), 404, "SESSION_NOT_FOUND")


def test_nulls(client: Client) -> None:
    """Null is the default."""
    names = [
        "persistent", "session_id", "id", "data", "metadata", "default_timeout", "ttl",
        "allowInternetAccess", "allowPublicAccess", "limits", "mounts",
    ]  # fmt: skip
    answer = client.http.post("/api/sessions", json={"language": "python", **dict.fromkeys(names)})
    assert set(answer.json()) == FIELDS
    check(answer.json(), persistent=True, data={}, metadata={})
    client.http.delete(f"/api/sessions/{answer.json()['id']}")


def test_taken_id(client: Client, session: SessionClient) -> None:
    """A taken id is 409 SESSION_EXISTS with the id, and nothing changes."""
    session.run("x = 1", update_data={"a": 1})
    before = session.get()
    fields = {
        "language": "python",
        "session_id": session.id,
        "data": {"b": 2},
        "metadata": {"c": 3},
    }
    shown = check_error(client.http.post("/api/sessions", json=fields), 409, "SESSION_EXISTS")
    assert shown["id"] == session.id
    assert session.get() == before
    check(session.run("print(x)"), stdout="1\n", started_from="live")


def test_same_id_at_once(client: Client) -> None:
    """Of many that want one id at once exactly one gets it."""
    fields = {"language": "python", "id": "wanted"}
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: client.http.post("/api/sessions", json=fields), range(16))
        )
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 15
    client.http.delete("/api/sessions/wanted")


@pytest.mark.parametrize(
    ("body", "expected"),
    [({"session_id": "a", "id": "b"}, "a"), ({"session_id": None, "id": "b"}, "b")],
)
def test_both_names_of_the_id(client: Client, body: dict[str, Any], expected: str) -> None:
    """Of an id under both names `session_id` wins."""
    answer = client.http.post("/api/sessions", json={"language": "python", **body})
    assert answer.json()["id"] == expected
    client.http.delete(f"/api/sessions/{expected}")


@pytest.mark.parametrize("language", ["latin", "", "python2", "PY THON", "../../etc"])
def test_unknown_language(client: Client, language: str) -> None:
    """An unknown language is UNSUPPORTED_LANGUAGE listing the known ones."""
    answer = client.http.post("/api/sessions", json={"language": language})
    error = check_error(answer, 400, "UNSUPPORTED_LANGUAGE")
    assert "python" in error["message"]
    assert "python" in error["details"]["supported"]


@pytest.mark.parametrize("name", ["data", "metadata"])
def test_too_big(client: Client, session: SessionClient, name: str) -> None:
    """Data and metadata take a mebibyte each, at creation and later."""
    fits, too_big = {"a": "x" * 1_048_560}, {"a": "x" * 1_048_570}
    fields = {"language": "python", "id": "big"}
    answer = client.http.post("/api/sessions", json={**fields, name: too_big})
    check_error(answer, 413, "TOO_LARGE")
    check_error(client.http.get("/api/sessions/big"), 404, "SESSION_NOT_FOUND")
    assert client.http.post("/api/sessions", json={**fields, name: fits}).status_code == 201
    client.http.delete("/api/sessions/big")
    assert client.http.patch(session.path, json={name: fits}).status_code == 200
    check_error(client.http.patch(session.path, json={name: too_big}), 413, "TOO_LARGE")
    assert session.get()[name] == fits


def test_long_metadata_in_lists(client: Client, session: SessionClient) -> None:
    """Lists show them as the session does, whatever their text is."""
    metadata = {"a": ["é\U0001f600\x00\u2028", 1e300, 12345678901234567890] * 9000, "b": {}}
    session.http.patch(session.path, content=json.dumps({"metadata": metadata})).raise_for_status()
    listed = client.http.get("/api/sessions", params={"prefix": session.id}).json()["sessions"]
    assert listed[0]["metadata"] == session.get()["metadata"] == metadata
    query = {"prefix": session.id, "metadata.b": "{}"}
    assert client.http.get("/api/sessions", params=query).json()["count"] == 1


# ---------------------------------------------------------------- list, show


@pytest.fixture
def listed(client: Client) -> Iterator[Client]:
    """Five sessions, in the order of their names, and no others."""
    for name in "abcde":
        client.session("python", session_id=name, data={"secret": name})
    yield client
    for name in "abcde":
        client.http.delete(f"/api/sessions/{name}")


def test_list(listed: Client) -> None:
    """Sessions are listed oldest first, without their data."""
    answer = listed.http.get("/api/sessions").json()
    assert set(answer) == {"sessions", "count", "total"}
    check(answer, count=5, total=5)
    assert [one["id"] for one in answer["sessions"]] == list("abcde")
    assert all(set(one) == FIELDS - {"data"} for one in answer["sessions"])


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("limit=2", "ab"),
        ("limit=2&offset=1", "bc"),
        ("offset=3", "de"),
        ("limit=0", ""),
        ("offset=99", ""),
        ("limit=9999999999999", "abcde"),
        ("offset=9999999999999999999999", ""),
        ("language=python", "abcde"),
        ("language=Py&limit=1&offset=4", "e"),
    ],
)
def test_pages(listed: Client, query: str, expected: str) -> None:
    """`count` is what is listed, `total` what there is."""
    answer = listed.http.get(f"/api/sessions?{query}").json()
    assert [one["id"] for one in answer["sessions"]] == list(expected)
    check(answer, count=len(expected), total=5)


@pytest.fixture(scope="module")
def labelled() -> Iterator[Client]:
    """Sessions with labels of every kind, on a server of their own."""
    with open_client() as client:
        make_labelled(client)
        yield client


def make_labelled(client: Client) -> None:
    for name, metadata in {
        "team-a.1": {"owner": "ada", "n": 3, "on": True},
        "team-a.2": {"owner": "ada", "n": "3", "on": "true", "a.b": "x", "é": "ü"},
        "team-b.1": {"owner": "eve", "n": 3.5, "on": None, "empty": ""},
        "team_c": {"owner": {"name": "ada"}, 'quo"te': "'", "many": [1, 2]},
        "TEAM-a": {"nothing": "ada"},
    }.items():
        client.session("python", session_id=name, metadata=metadata)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"prefix": "team-"}, "team-a.1 team-a.2 team-b.1"),
        ({"prefix": "team-a."}, "team-a.1 team-a.2"),
        ({"prefix": "team"}, "team-a.1 team-a.2 team-b.1 team_c"),
        ({"prefix": ""}, "team-a.1 team-a.2 team-b.1 team_c TEAM-a"),
        ({"prefix": "team-a.1"}, "team-a.1"),
        ({"prefix": "team-a.11"}, ""),
        ({"prefix": "team%"}, ""),
        ({"prefix": "*"}, ""),
        ({"prefix": "\U0010ffff"}, ""),
        ({"metadata.owner": "ada"}, "team-a.1 team-a.2"),
        ({"metadata.owner": "ad"}, ""),
        ({"metadata.owner": "ADA"}, ""),
        ({"metadata.n": "3"}, "team-a.1 team-a.2"),
        ({"metadata.n": "3.5"}, "team-b.1"),
        ({"metadata.on": "true"}, "team-a.1 team-a.2"),
        ({"metadata.on": "null"}, "team-b.1"),
        ({"metadata.empty": ""}, "team-b.1"),
        ({"metadata.a.b": "x"}, "team-a.2"),
        ({"metadata.é": "ü"}, "team-a.2"),
        ({'metadata.quo"te': "'"}, "team_c"),
        ({"metadata.many": "[1,2]"}, "team_c"),
        ({"metadata.nobody": "x"}, ""),
        ({"metadata.owner": "ada", "metadata.n": "3", "prefix": "team-a.2"}, "team-a.2"),
        ({"metadata.owner": "ada", "metadata.n": "4"}, ""),
        ({"metadata.owner": "ada", "language": "py"}, "team-a.1 team-a.2"),
    ],
)
def test_selected(labelled: Client, query: dict[str, str], expected: str) -> None:
    """By the beginning of the id and by labels, all of which must fit; `total` counts these."""
    names = expected.split()
    answer = labelled.http.get("/api/sessions", params=query).json()
    assert [one["id"] for one in answer["sessions"]] == names
    check(answer, count=len(names), total=len(names))
    assert "warnings" not in answer
    page = labelled.http.get("/api/sessions", params={**query, "limit": 1, "offset": 1}).json()
    assert [one["id"] for one in page["sessions"]] == names[1:2]
    check(page, count=len(names[1:2]), total=len(names))


def test_too_many_labels(labelled: Client) -> None:
    """The number of labels is bounded; a label without a name of its own is none."""
    for query in ({f"metadata.{n}": "x" for n in range(21)}, {"metadata": "ada"}):
        check_error(labelled.http.get("/api/sessions", params=query), 400, "INVALID_REQUEST")


def test_exist_ok(client: Client, session: SessionClient) -> None:
    """A session that is there already, in that language, is returned with 200, unchanged."""
    session.run("x = 1", update_data={"a": 1})
    body = {"language": "PY", "session_id": session.id, "data": {"b": 2}, "exist_ok": True}
    answer = client.http.post("/api/sessions", json=body)
    assert answer.status_code == 200
    check(answer.json(), id=session.id, language="python", data={"a": 1}, status="idle")
    check(session.run("print(x)"), stdout="1\n", data={"a": 1})
    for other in ({**body, "exist_ok": False}, {**body, "exist_ok": None}):
        error = check_error(client.http.post("/api/sessions", json=other), 409, "SESSION_EXISTS")
        assert error["id"] == session.id
    wrong = client.http.post("/api/sessions", json={**body, "exist_ok": "yes"})
    check_error(wrong, 400, "INVALID_REQUEST")


def test_exist_ok_creates(client: Client) -> None:
    """Where there is none it is created; of many at once one creates it."""
    body = {"language": "python", "id": "made-once", "exist_ok": True}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.http.post("/api/sessions", json=body), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert len({answer.text for answer in answers}) == 1
    client.http.delete("/api/sessions/made-once").raise_for_status()
    assert client.http.post("/api/sessions", json=body).status_code == 201
    client.http.delete("/api/sessions/made-once").raise_for_status()
    nameless = client.http.post("/api/sessions", json={"language": "python", "exist_ok": True})
    assert nameless.status_code == 201
    client.http.delete(f"/api/sessions/{nameless.json()['id']}").raise_for_status()


def test_list_of_an_unknown_language(listed: Client) -> None:
    """An unknown language is refused, as everywhere."""
    answer = listed.http.get("/api/sessions?language=latin")
    check_error(answer, 400, "UNSUPPORTED_LANGUAGE")


def test_show(session: SessionClient) -> None:
    """A session is shown with its files, and counts that are right."""
    session.run("import os; os.mkdir('d'); open('d/b é', 'w').write('12'); open('a', 'w').close()")
    shown = session.get()
    assert set(shown) == FIELDS | {"files"}
    assert [(one["path"], one["size"]) for one in shown["files"]] == [("a", 0), ("d/b é", 2)]
    assert all(set(one) == {"path", "size", "modified_at"} for one in shown["files"])
    assert all(TIME.fullmatch(one["modified_at"]) for one in shown["files"])
    check(shown, file_count=2, total_size_bytes=2, kernel_generation=1)


def test_odd_file_names(session: SessionClient) -> None:
    """Whatever code names its files, the answer is JSON and counts what is there.

    Links are not followed.
    """
    code = """
import os
for name in b"a\\xff", b"b\\n", "é".encode(), b"x" * 255, b"-", b" ":
    open(name, "w").close()
os.symlink(".", "loop"); os.symlink("/", "root"); os.mkfifo("pipe"); os.mkdir("empty")
"""
    check(session.run(code), exit_code=0, stderr="")
    shown = session.get()
    paths = {file["path"] for file in shown["files"]}
    assert {"a\ufffd", "b\n", "é", "x" * 255, "-", " "} <= paths
    assert not any(path.startswith(("loop/", "root/", "empty")) for path in paths)
    assert shown["file_count"] == len(shown["files"])


def test_workspace_that_code_removed(session: SessionClient) -> None:
    """Code that removes its own directory harms itself only: the session goes on."""
    session.run("import os, shutil; shutil.rmtree(os.getcwd())", update_data={"a": 1})
    check(session.run("print(1)"), stdout="1\n", exit_code=0, data={"a": 1})
    check(session.get(), files=[], file_count=0)


def test_hidden_files(client: Client, session: SessionClient) -> None:
    """The data file, caches and installed packages are in neither list nor count."""
    code = f"""
import os
for path in ".cache/x", "node_modules/m/index.js", "__pycache__/a.pyc", "d/__pycache__/b.pyc":
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, "w").write("x")
open(".hidden", "w").write("mine")
assert os.path.exists({DATA_FILE!r})
"""
    check(session.run(code, update_data={"a": 1}), exit_code=0)
    shown = session.get()
    assert [one["path"] for one in shown["files"]] == [".hidden"]
    check(shown, file_count=1, total_size_bytes=4)


def test_status(session: SessionClient) -> None:
    """The status shows what the kernel does."""
    assert session.get()["status"] == "stopped"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(session.run, "import time; time.sleep(0.6)")
        assert wait_until(lambda: session.get()["status"] == "busy")
        running.result()
    assert wait_until(lambda: session.get()["status"] == "idle")
    session.run("import os; os._exit(1)")
    assert wait_until(lambda: session.get()["status"] == "stopped")


# ---------------------------------------------------------------- change


@pytest.mark.parametrize(
    "change",
    [
        {"default_timeout": 300},
        {"default_timeout": 0.5},
        {"allowPublicAccess": False},
        {"metadata": {"b": [2]}},
        {"data": {"c": {"d": None}}},
        {"metadata": {}, "data": {}, "default_timeout": 600, "allowPublicAccess": False},
    ],
)
def test_change(client: Client, session: SessionClient, change: dict[str, Any]) -> None:
    """Only what is given changes, whole; the answer holds the whole session."""
    client.http.patch(session.path, json={"metadata": {"a": 1}, "data": {"a": 1}})
    before = session.get()
    answer = client.http.patch(session.path, json=change)
    assert answer.status_code == 200
    shown = answer.json()
    assert set(shown) == {"success", "id", "metadata", "updated_at"}
    check(shown, success=True, id=session.id)
    assert TIME.fullmatch(shown["updated_at"])
    assert {**shown["metadata"], "files": []} == {**before, **change} == session.get()


@pytest.mark.parametrize("allowed", [True, False])
def test_change_of_internet_access(client: Client, session: SessionClient, allowed: bool) -> None:
    """An option that the isolation cannot enforce is 409; without isolation it is stored."""
    answer = client.http.patch(session.path, json={"allowInternetAccess": allowed})
    if answer.status_code == 409:
        check_error(answer, 409, "NOT_ENFORCEABLE")
    else:
        assert answer.json()["metadata"]["allowInternetAccess"] is allowed
        if session.get()["isolation"]["tier"] == 4:
            assert session.get()["isolation"]["missing"]


def test_unset_timeout(client: Client, session: SessionClient) -> None:
    """`default_timeout: null` unsets it, and it is no longer shown."""
    client.http.patch(session.path, json={"default_timeout": 1})
    shown = client.http.patch(session.path, json={"default_timeout": None}).json()
    assert "default_timeout" not in shown["metadata"]
    assert "default_timeout" not in session.get()


def test_change_takes_effect_at_once(client: Client, session: SessionClient) -> None:
    """A change of a live session needs no restart."""
    session.run("x = 1")
    client.http.patch(session.path, json={"default_timeout": 0.5, "data": {"new": 1}})
    code = f"print(x, open({DATA_FILE!r}).read(), flush=True)\nimport time; time.sleep(60)"
    answer = session.run(code)
    check(answer, exit_code=124, started_from="live", kernel_generation=1)
    assert answer["stdout"] == '1 {"new":1}\n' or json.loads(answer["stdout"][2:]) == {"new": 1}


def test_change_during_a_run(client: Client, session: SessionClient) -> None:
    """A change does not wait for a run, and the run does not undo it."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(session.run, "import time; time.sleep(0.8)")
        assert wait_until(lambda: session.get()["status"] == "busy")
        change = {"metadata": {"a": 1}, "data": {"b": 2}}
        assert client.http.patch(session.path, json=change).status_code == 200
        assert not running.done()
        check(running.result(), exit_code=0, data={"b": 2})
    check(session.get(), **change)


def test_code_never_sees_metadata(client: Client, session: SessionClient) -> None:
    """Labels are the caller's: neither file nor variable shows them to code."""
    client.http.patch(session.path, json={"metadata": {"label": "tomato"}})
    code = (
        "import os; print(os.environ, [open(f).read() for f in os.listdir() if os.path.isfile(f)])"
    )
    answer = session.run(code)
    check(answer, exit_code=0)
    assert "tomato" not in json.dumps(answer)


# ---------------------------------------------------------------- delete


def alive(pid: int) -> bool:
    """A process that is neither gone nor a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_delete(client: Client, server: Server) -> None:
    """Afterwards the session is 404, its id free, kernel and children dead, files gone."""
    before = set((server.data_dir / "sessions").iterdir())
    session = client.session("python", session_id="doomed")
    code = """
import os, subprocess
child = subprocess.Popen(["sleep", "300"], start_new_session=True)
print(os.getpid(), child.pid)
open("file", "w").close()
"""
    pids = [int(word) for word in session.run(code)["stdout"].split()]
    assert len(pids) == 2
    answer = client.http.delete(session.path).json()
    check(answer, success=True, id="doomed")
    assert TIME.fullmatch(answer["deleted_at"])
    for method in ("GET", "PATCH", "DELETE"):
        check_error(client.http.request(method, session.path), 404, "SESSION_NOT_FOUND")
    if session_tier(client) == 4:
        assert wait_until(lambda: not any(map(alive, pids)))
    assert wait_until(lambda: set((server.data_dir / "sessions").iterdir()) == before)
    again = client.session("python", session_id="doomed")
    check(again.get(), files=[], data={}, kernel_generation=0, last_run_at="")
    again.delete()


def session_tier(client: Client) -> int:
    """A session shows how strong its isolation is; below 4 a session's pids are not the host's."""
    tier: int = client.http.get("/health").json()["isolation"]["tier"]
    return tier


def test_delete_twice_at_once(client: Client) -> None:
    """Of two that delete a session one does."""
    session = client.session("python")
    session.run("pass")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: client.http.delete(session.path), range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 404, 404, 404]


def test_delete_some(client: Client, session: SessionClient) -> None:
    """Who means to delete some deletes none: what selects sessions of a list is refused here."""
    for query in ("prefix=zzz", "language=node", "metadata.owner=ada", "id=nope", "dry_run"):
        answer = client.http.delete(f"/api/sessions?{query}=")
        assert answer.status_code == 400, query
        check(answer.json(), code="INVALID_REQUEST")
    assert client.http.get(session.path).status_code == 200


def test_delete_all(client: Client) -> None:
    """All sessions go, any number of them, and are named."""
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: client.session("python"), range(100)))
    running = [session.run("import os; print(os.getpid())")["stdout"] for session in made[:5]]
    answer = client.http.delete("/api/sessions").json()
    assert set(answer) == {"success", "deleted_count", "deleted_sessions", "deleted_at"}
    check(answer, success=True, deleted_count=100)
    assert sorted(answer["deleted_sessions"]) == sorted(session.id for session in made)
    assert client.http.get("/api/sessions").json() == {"sessions": [], "count": 0, "total": 0}
    if session_tier(client) == 4:
        assert wait_until(lambda: not any(alive(int(pid)) for pid in running))
    check(client.http.delete("/api/sessions").json(), deleted_count=0, deleted_sessions=[])


# ---------------------------------------------------------------- restart


def test_restart(client: Client, session: SessionClient) -> None:
    """A restart is a fresh kernel with the same files and data."""
    session.run("x = 1; open('kept', 'w').close()", update_data={"kept": True})
    answer = client.http.post(f"{session.path}/restart")
    assert answer.json() == {"success": True, "id": session.id, "kernel_generation": 2}
    code = "import os; print(os.path.exists('kept'), 'x' in globals())"
    after = session.run(code)
    check(after, stdout="True False\n", data={"kept": True}, started_from="fresh")
    check(after, kernel_generation=2, files_modified=0)


def test_restart_before_the_first_run(client: Client, session: SessionClient) -> None:
    """A session that never ran can be restarted: it has a kernel then."""
    answer = client.http.post(f"{session.path}/restart")
    check(answer.json(), success=True, kernel_generation=1)
    check(session.run("print(1)"), stdout="1\n", kernel_generation=1)


def test_not_persistent(client: Client) -> None:
    """Files and variables of a session that is not persistent go with its kernel; data stay."""
    session = client.session("python", persistent=False)
    look = "import os; print(os.path.exists('file'), 'x' in globals())"
    for end in ("restart", "death"):
        session.run("x = 1; open('file', 'w').close()", update_data={"kept": 1})
        check(session.run(look), stdout="True True\n")
        if end == "restart":
            client.http.post(f"{session.path}/restart").raise_for_status()
        else:
            session.run("import os; os._exit(1)")
        check(session.run(look), stdout="False False\n", data={"kept": 1})
        check(session.get(), files=[], file_count=0)
    session.delete()


# ---------------------------------------------------------------- time to live


def is_listed(client: Client, session: SessionClient) -> bool:
    """Whether it is there; asking so is no request to the session."""
    listed = client.http.get("/api/sessions").json()["sessions"]
    return any(one["id"] == session.id for one in listed)


def lifetime(client: Client, session: SessionClient) -> float:
    """Seconds until it is gone."""
    began = time.monotonic()
    assert wait_until(lambda: not is_listed(client, session), 20)
    return time.monotonic() - began


def test_ttl_is_shown_when_set(client: Client, session: SessionClient) -> None:
    """`ttl` is in the session object only when it is set: at creation or by PATCH; null unsets."""
    assert "ttl" not in session.get()
    for value, text in ((60, '"ttl":60'), (0.5e6, '"ttl":500000'), (99.5, '"ttl":99.5')):
        answer = client.http.patch(session.path, json={"ttl": value})
        check(answer.json()["metadata"], ttl=value)
        assert text in answer.text
        check(session.get(), ttl=value)
    assert "ttl" not in client.http.patch(session.path, json={"ttl": None}).json()["metadata"]
    assert "ttl" not in session.get()
    other = client.session("python", ttl=77)
    check(other.get(), ttl=77)
    assert [s.get("ttl") for s in client.http.get("/api/sessions").json()["sessions"]][-1] == 77
    other.delete()


@pytest.mark.parametrize("ttl", [0, -1, "60", True, []])
def test_bad_ttl(client: Client, session: SessionClient, ttl: object) -> None:
    """It is above zero, else 400, and nothing changes."""
    answer = client.http.post("/api/sessions", json={"language": "python", "ttl": ttl, "id": "x"})
    assert "`ttl`" in check_error(answer, 400, "INVALID_REQUEST")["message"]
    check_error(client.http.get("/api/sessions/x"), 404, "SESSION_NOT_FOUND")
    check_error(client.http.patch(session.path, json={"ttl": ttl}), 400, "INVALID_REQUEST")
    assert "ttl" not in session.get()


@pytest.mark.timed
def test_ttl(client: Client, server: Server) -> None:
    """After that many seconds without a request the session is deleted, as by DELETE."""
    session = client.session("python", ttl=1.5)
    pid = host_pid(session.run(f"open('file', 'w').close()\n{PRINT_PID}")["stdout"])
    before = len(list((server.data_dir / "sessions").iterdir()))
    assert 1 < lifetime(client, session) < 3.5
    check_error(client.http.get(session.path), 404, "SESSION_NOT_FOUND")
    assert wait_until(lambda: not psutil.pid_exists(pid))
    directory = server.data_dir / "sessions"
    assert wait_until(lambda: len(list(directory.iterdir())) == before - 1)
    client.session("python", session_id=session.id).delete()


@pytest.mark.timed
def test_requests_keep_it(client: Client) -> None:
    """Any call on the session counts as a request, also one that changes nothing."""
    session = client.session("python", ttl=1)
    calls = ["", "/files", "/executions", "/code", "/executions/none", "/files/none"]
    for call in calls:
        time.sleep(0.5)
        assert is_listed(client, session), call
        client.http.get(f"{session.path}{call}")
    assert 0.5 < lifetime(client, session) < 3


@pytest.mark.timed
def test_runs_keep_it(client: Client) -> None:
    """It is never deleted in a run, nor with runs that wait; its time begins at their end."""
    session = client.session("python", ttl=0.5)
    check(session.run("import time; time.sleep(2); print('whole')"), stdout="whole\n", exit_code=0)
    with ThreadPoolExecutor(3) as pool:
        code = "import time; time.sleep(1); print('whole')"
        answers = list(pool.map(lambda _: session.run(code), range(3)))
    assert [answer["stdout"] for answer in answers] == ["whole\n"] * 3
    assert lifetime(client, session) < 2.5


@pytest.mark.timed
def test_readers_keep_it(client: Client) -> None:
    """A stream that somebody reads counts as long as it is read; without readers, a run does."""
    session = client.session("python", ttl=0.5)
    with session.open_stream("import time; time.sleep(0.3); print(1); time.sleep(1.2)") as events:
        next(events)
    time.sleep(0.8)
    assert is_listed(client, session)
    assert lifetime(client, session) < 3


@pytest.mark.timed
def test_changed_ttl(client: Client) -> None:
    """A change takes effect at once, and counts from then."""
    session = client.session("python", ttl=1)
    client.http.patch(session.path, json={"ttl": 1000}).raise_for_status()
    time.sleep(1.5)
    assert is_listed(client, session)
    client.http.patch(session.path, json={"ttl": 0.5}).raise_for_status()
    assert lifetime(client, session) < 2
    kept = client.session("python", ttl=0.7)
    client.http.patch(kept.path, json={"ttl": None}).raise_for_status()
    time.sleep(1.2)
    assert is_listed(client, kept)
    kept.delete()


@pytest.mark.timed
def test_ttl_after_a_restart_of_the_server(start: Start, launcher: Launcher) -> None:
    """It is kept over a restart of the server, and its time begins anew."""
    start().session("python", session_id="s", ttl=2)
    launcher.servers[0].kill()
    time.sleep(1.5)
    client = start()
    assert 1 < lifetime(client, SessionClient(client.http, "s")) < 4


# ---------------------------------------------------------------- survival, bounds


@pytest.fixture(scope="module")
def small() -> Iterator[Client]:
    """A server for two sessions and one kernel."""
    with open_client("--max-sessions", "2", "--max-kernels", "1") as client:
        yield client


def test_too_many_sessions(small: Client) -> None:
    """More sessions than there may be are 503 CAPACITY, until one is deleted."""
    one, two = small.session("python"), small.session("python")
    answer = small.http.post("/api/sessions", json={"language": "python", "id": "three"})
    check_error(answer, 503, "CAPACITY")
    assert int(answer.headers["Retry-After"]) > 0
    check_error(small.http.get("/api/sessions/three"), 404, "SESSION_NOT_FOUND")
    one.delete()
    three = small.session("python", id="three")
    for session in (two, three):
        session.delete()


def test_too_many_kernels(small: Client) -> None:
    """More kernels than there may be are 503 CAPACITY, until one ends."""
    one, two = small.session("python"), small.session("python")
    one.run("x = 1")
    for path in (f"{two.path}/run", f"{two.path}/stream", "/api/execute"):
        answer = small.http.post(path, json={"language": "python", "code": "print(1)"})
        check_error(answer, 503, "CAPACITY")
        assert int(answer.headers["Retry-After"]) > 0
    check(one.run("print(x)"), stdout="1\n")
    one.delete()
    check(two.run("print(2)"), stdout="2\n")
    two.delete()
