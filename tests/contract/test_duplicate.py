"""Duplicate: files, packages, data and code of a session, under another id."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.client import Client, SessionClient
from tests.contract.checks import TIME, Start, background_runs, check, check_error, wait_for_file
from tests.server_process import Server
from tests.waiting import wait_until

MANY_FILES = """
import os, random
random.seed(7)
for n in range(300):
    os.makedirs(f"d{n % 10}/e", exist_ok=True)
    with open(f"d{n % 10}/e/{n}", "wb") as file:
        file.write(random.randbytes(n * 100))
os.chmod("d1/e/1", 0o750)
os.symlink("d1/e/1", "link"); os.mkfifo("pipe")
"""
DIGEST = """
import hashlib, os
found = hashlib.sha256()
for folder, folders, files in sorted(os.walk(".")):
    for name in sorted(files):
        path = os.path.join(folder, name)
        if name != "pipe":
            content = b"" if name == ".session_data.json" else open(path, "rb").read()
            found.update(path.encode() + content)
print(found.hexdigest())
"""


def ask(session: SessionClient, **body: Any) -> httpx.Response:
    return session.http.post(f"{session.path}/duplicate", json=body)


@pytest.fixture(autouse=True)
def nothing_left(client: Client) -> Iterator[None]:
    yield
    client.http.delete("/api/sessions")


def duplicate(session: SessionClient, **body: Any) -> SessionClient:
    answer = ask(session, **body)
    assert answer.status_code == 201, answer.text
    return SessionClient(session.http, answer.json()["id"])


def test_answer(session: SessionClient) -> None:
    """201 with the new session's object, its source, and what of the interpreter was copied."""
    session.run("x = 1; open('file', 'w').write('1234')", update_data={"a": 1})
    answer = ask(session, new_id="copy")
    assert answer.status_code == 201
    shown = answer.json()
    assert shown.pop("source_session_id") == session.id
    told = shown.pop("copy")
    assert (told["mode"], told["copied"]) == ("files", [])
    assert [one["name"] for one in told["lost"]] == ["x"] and "not copied" in told["lost"][0][
        "reason"
    ]
    check(
        shown, id="copy", session_id="copy", last_run_at="", file_count=1, total_size_bytes=4,
        data={"a": 1}, status="stopped", kernel_generation=0,
    )  # fmt: skip
    assert TIME.fullmatch(shown["created_at"])
    made = SessionClient(session.http, "copy").get()
    assert [file["path"] for file in made.pop("files")] == ["file"]
    assert shown == made
    assert "error" not in answer.text


def test_both_names_of_the_id(session: SessionClient) -> None:
    """`new_id` or `id`, else one that nobody can guess; an empty body is a valid request."""
    assert duplicate(session, new_id="one").id == "one"
    assert duplicate(session, id="two").id == "two"
    assert duplicate(session).id.startswith("sess-")
    answer = session.http.post(f"{session.path}/duplicate")
    assert answer.status_code == 201
    assert len(answer.json()["id"]) > 30


def test_labels_and_flags(client: Client) -> None:
    """Labels and flags are those of the source."""
    fields: dict[str, Any] = {
        "persistent": False, "metadata": {"team": "é"}, "default_timeout": 77, "ttl": 1000,
        "allowPublicAccess": False,
    }  # fmt: skip
    source = client.session("python", **fields)
    check(duplicate(source).get(), language="python", **fields)


def test_files(session: SessionClient) -> None:
    """Every file is there, byte for byte, with its mode and time; links are links."""
    session.run(MANY_FILES)
    digest = session.run(DIGEST)["stdout"]
    before = session.get()
    copy = duplicate(session)
    assert copy.run(DIGEST)["stdout"] == digest
    assert copy.get()["files"] == before["files"]
    check(copy.get(), file_count=before["file_count"], total_size_bytes=before["total_size_bytes"])
    look = "import os; print(oct(os.stat('d1/e/1').st_mode), os.readlink('link'), "
    check(copy.run(look + "os.path.lexists('pipe'))"), stdout="0o100750 d1/e/1 False\n")


def test_hidden_files_and_uploads(client: Client, session: SessionClient) -> None:
    """What lists hide is copied, too, and what was said of an upload."""
    session.run("import os; os.makedirs('node_modules/m'); open('node_modules/m/i', 'w').close()")
    headers = {"Content-Type": "text/x-mine"}
    client.http.put(f"{session.path}/files/up", content=b"1", headers=headers).raise_for_status()
    copy = duplicate(session)
    check(copy.run("import os; print(os.listdir('node_modules/m'))"), stdout="['i']\n")
    original = client.http.get(f"{session.path}/files/up").headers["Content-Type"]
    assert client.http.get(f"{copy.path}/files/up").headers["Content-Type"] == original


def test_data(session: SessionClient) -> None:
    """Data that are given replace those of the source, else they are copied."""
    session.run("pass", update_data={"a": 1, "b": [2]})
    read = "import json; print(json.load(open('.session_data.json')))"
    for body, expected in (
        ({}, {"a": 1, "b": [2]}),
        ({"data": {"c": 3}}, {"c": 3}),
        ({"data": {}}, {}),
        ({"data": None}, {"a": 1, "b": [2]}),
    ):
        copy = duplicate(session, **body)
        check(copy.get(), data=expected)
        check(copy.run(read), stdout=f"{expected}\n", data=expected)
    check(session.get(), data={"a": 1, "b": [2]})


def test_code(session: SessionClient) -> None:
    """Stored code is copied, and is the copy's own from then on."""
    session.http.put(f"{session.path}/code", json={"code": "print(1)", "description": "d"})
    copy = duplicate(session)
    stored = session.http.get(f"{session.path}/code").json()
    assert copy.http.get(f"{copy.path}/code").json() == stored
    copy.http.put(f"{copy.path}/code", json={"code": "print(2)"})
    assert session.http.get(f"{session.path}/code").json() == stored


def test_variables_are_not_copied_yet(session: SessionClient) -> None:
    """`copy.mode` is `files`: the copy starts with a fresh kernel, and the source keeps its own.

    The answer names the variables that were there after the runs before, unless none are wanted.
    """
    assert ask(session).json()["copy"]["lost"] == []
    session.run("x = 1")
    assert ask(session, variables=False).json()["copy"]["lost"] == []
    with background_runs(session) as start:
        start("open('ready', 'w').close(); import time; time.sleep(0.5); y = 2")
        wait_for_file(session)
        lost = ask(session, variables=True).json()["copy"]["lost"]
    assert {"x", "y"} <= {one["name"] for one in lost}
    copy = duplicate(session)
    check(copy.run("print('x' in globals())"), stdout="False\n", started_from="fresh")
    check(session.run("print(x)"), stdout="1\n", started_from="live")


def test_they_are_two(session: SessionClient) -> None:
    """What happens to one does not happen to the other."""
    session.run("open('file', 'w').write('one')")
    copy = duplicate(session)
    session.run("open('file', 'w').write('two')")
    check(copy.run("print(open('file').read())"), stdout="one\n")
    session.delete()
    check(copy.run("print(open('file').read())"), stdout="one\n")


def test_stopped_session(session: SessionClient) -> None:
    """A session without a kernel is duplicated without starting one."""
    duplicate(session)
    check(session.get(), status="stopped", kernel_generation=0)


def test_busy_session(session: SessionClient) -> None:
    """While the source is busy the copy waits its turn, and runs that come later wait for it."""
    first = "open('ready', 'w').close(); import time; time.sleep(1.5); open('a', 'w').close()"
    with background_runs(session) as start, ThreadPoolExecutor(1) as pool:
        running = start(first)
        wait_for_file(session)
        copying = pool.submit(ask, session, new_id="copy")
        time.sleep(0.3)
        behind = start("open('b', 'w').close()")
        check_error(session.http.get("/api/sessions/copy"), 404, "SESSION_NOT_FOUND")
        assert copying.result().status_code == 201
        assert running.result().status_code == behind.result().status_code == 200
    copied = SessionClient(session.http, "copy").get()["files"]
    assert [file["path"] for file in copied] == ["a", "ready"]


@pytest.mark.alone  # it measures
def test_at_once(session: SessionClient) -> None:
    """`variables: false` copies files at once, also while the source is busy."""
    with background_runs(session) as start:
        running = start("open('ready', 'w').close(); import time; time.sleep(3)")
        wait_for_file(session)
        began = time.monotonic()
        copy = duplicate(session, variables=False)
        assert time.monotonic() - began < 2
        assert not running.done()
        assert [file["path"] for file in copy.get()["files"]] == ["ready"]
        check(session.get(), status="busy")
        check(running.result().json(), exit_code=0)


def test_source_deleted_meanwhile(session: SessionClient) -> None:
    """A copy that waits for a session that is deleted is 404, and is not made."""
    with background_runs(session) as start, ThreadPoolExecutor(1) as pool:
        start("open('ready', 'w').close(); import time; time.sleep(60)")
        wait_for_file(session)
        copying = pool.submit(ask, session, new_id="copy")
        time.sleep(0.3)
        session.delete()
        check_error(copying.result(), 404, "SESSION_NOT_FOUND")
    check_error(session.http.get("/api/sessions/copy"), 404, "SESSION_NOT_FOUND")


def test_client_that_leaves(server: Server, session: SessionClient) -> None:
    """Nothing is made for a client that left while it waited."""
    with background_runs(session) as start:
        running = start("open('ready', 'w').close(); import time; time.sleep(1.5)")
        wait_for_file(session)
        with pytest.raises(httpx.ReadTimeout):
            session.http.post(f"{session.path}/duplicate", json={"id": "copy"}, timeout=0.3)
        assert running.result().status_code == 200
    check(session.run("print(1)"), stdout="1\n")
    check_error(session.http.get("/api/sessions/copy"), 404, "SESSION_NOT_FOUND")
    assert len(list((server.data_dir / "sessions").iterdir())) == 1


def test_taken_id(client: Client, session: SessionClient) -> None:
    """A taken id is 409 with the id, and nothing changes."""
    other = client.session("python", session_id="other", data={"mine": 1})
    other.run("x = 1; open('file', 'w').close()")
    before = other.get()
    for name in ("other", session.id):
        shown = check_error(ask(session, new_id=name), 409, "SESSION_EXISTS")
        assert shown["id"] == name
    assert other.get() == before
    check(other.run("print(x)"), stdout="1\n")


def test_refused(client: Client, session: SessionClient) -> None:
    """An unknown source is 404, a bad request 400, data past their bound 413."""
    answer = client.http.post("/api/sessions/none/duplicate", json={})
    check_error(answer, 404, "SESSION_NOT_FOUND")
    for code, field, values in (
        ("INVALID_ID", "new_id", ("a b", "../x")),
        ("INVALID_ID", "id", ("",)),
        ("INVALID_REQUEST", "new_id", (1,)),
        ("INVALID_REQUEST", "data", ([],)),
        ("INVALID_REQUEST", "variables", (1, "no")),
    ):
        for value in values:
            assert f"`{field}`" in check_error(ask(session, **{field: value}), 400, code)["message"]
    check_error(ask(session, data={"a": "x" * 1_100_000}), 413, "TOO_LARGE")
    assert client.http.get("/api/sessions").json()["total"] == 1


def test_capacity(start: Start) -> None:
    """A duplicate is a session: it needs room for one."""
    source = start("--max-sessions", "2").session("python")
    duplicate(source, new_id="second")
    answer = ask(source, new_id="third")
    check_error(answer, 503, "CAPACITY")
    assert int(answer.headers["Retry-After"]) > 0
    source.http.delete("/api/sessions/second").raise_for_status()
    duplicate(source, new_id="third")


def test_many_at_once(session: SessionClient) -> None:
    """Many duplicates of one session are each whole."""
    session.run(MANY_FILES)
    digest = session.run(DIGEST)["stdout"]
    with ThreadPoolExecutor(6) as pool:
        option_lists = [{"id": f"c{n}", "variables": n % 2 == 0} for n in range(12)]
        answers = list(pool.map(lambda options: ask(session, **options), option_lists))
    assert [answer.status_code for answer in answers] == [201] * 12
    for number in (0, 5, 11):
        assert SessionClient(session.http, f"c{number}").run(DIGEST)["stdout"] == digest


def test_copy_of_a_copy(session: SessionClient) -> None:
    """A duplicate is a session like any other."""
    session.run("open('file', 'w').write('x' * 1000)")
    copy = duplicate(duplicate(duplicate(session)))
    check(copy.run("print(len(open('file').read()))"), stdout="1000\n")


def test_files_that_change_meanwhile(session: SessionClient) -> None:
    """Files of a program that goes on writing are copied at once, as they are then."""
    code = """
import os, time
end = time.monotonic() + 2.5
open("ready", "w").close()
while time.monotonic() < end:
    for n in range(50):
        with open(f"new{n}", "w") as file:
            file.write("x" * 10000)
        os.rename(f"new{n}", f"old{n}")
"""
    with background_runs(session) as start:
        running = start(code)
        wait_for_file(session)
        for number in range(5):
            copy = duplicate(session, id=f"at{number}", variables=False)
            sizes = {f["path"]: f["size"] for f in copy.get()["files"]}
            assert all(size == 10000 for path, size in sizes.items() if path.startswith("old"))
        check(running.result().json(), exit_code=0)


def test_the_digest_tells_differences(session: SessionClient) -> None:
    """The yardstick of these tests is one."""
    session.run("open('file', 'w').write('x')")
    one = session.run(DIGEST)["stdout"]
    session.run("open('file', 'w').write('y')")
    assert one != session.run(DIGEST)["stdout"]
    assert len(one.strip()) == len(hashlib.sha256().hexdigest())
    assert wait_until(lambda: session.get()["status"] == "idle")
