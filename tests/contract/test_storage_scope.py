"""The scope of a session: which namespaces its code may use."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.client import Client, SessionClient
from tests.contract.checks import Start, background_runs, check, check_error, wait_for_file

SCOPES: list[Any] = [
    "all", "none", [], ["app"], ["app", "tmp-*"], ["*"], ["a" * 64], ["a" * 63 + "*"], ["A.b_c-9"],
]  # fmt: skip
NO_SCOPES: list[Any] = [
    "", "ALL", "app", "*", 1, True, {}, {"all": True}, [""], ["a b"], ["a/b"], ["../x"], [".x"],
    ["a*b"], ["a**"], ["**"], ["*a"], ["a", 1], ["a", None], [["a"]], ["a" * 65], ["a" * 64 + "*"],
    ["ä"], ["a\n"], ["x"] * 257,
]  # fmt: skip
ASK = """
import http.client, json, os, socket, sys, urllib.parse
def ask(method, path, body=None):
    url = urllib.parse.urlsplit(os.environ["ERA_STORAGE_URL"])
    if url.scheme == "http":
        connection = http.client.HTTPConnection(url.netloc)
    else:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(urllib.parse.unquote(url.netloc))
    connection.request(method, path, body)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text)["code"] if answer.status > 399 else ""
"""


@pytest.mark.parametrize("scope", SCOPES, ids=str)
def test_scopes(client: Client, session: SessionClient, scope: Any) -> None:
    """A scope is shown as it was given, at creation and after a change."""
    scoped = client.session("python", storage=scope)
    check(scoped.get(), storage=scope)
    client.http.delete(scoped.path)
    answer = client.http.patch(session.path, json={"storage": scope})
    assert answer.status_code == 200, answer.text
    assert answer.json()["metadata"]["storage"] == scope
    check(session.get(), storage=scope)


@pytest.mark.parametrize("scope", NO_SCOPES, ids=lambda scope: repr(scope)[:30])
def test_what_is_no_scope(client: Client, shared: SessionClient, scope: Any) -> None:
    """Anything else is 400 naming the field, and changes nothing."""
    body = {"language": "python", "storage": scope}
    answers = [
        client.http.post("/api/sessions", json=body),
        client.http.patch(shared.path, json={"storage": scope}),
    ]
    for answer in answers:
        check_error(answer, 400, "INVALID_REQUEST")
        assert "`storage`" in answer.json()["message"]
    assert "storage" not in shared.get()


def test_it_is_shown_only_when_set(client: Client, session: SessionClient) -> None:
    """Without a scope of its own a session has the server's, and shows none."""
    assert "storage" not in session.get()
    null = client.session("python", storage=None)
    assert "storage" not in null.get()
    client.http.delete(null.path)
    check_error(client.http.patch(session.path, json={"storage": None}), 400, "INVALID_REQUEST")


def test_lists_show_it_and_duplicates_have_it(client: Client) -> None:
    """The scope is in lists, and a duplicate has its source's."""
    session = client.session("python", storage=["app"])
    listed = client.http.get("/api/sessions").json()["sessions"]
    assert [one["storage"] for one in listed if one["id"] == session.id] == [["app"]]
    answer = client.http.post(f"{session.path}/duplicate", json={"variables": False})
    assert answer.json()["storage"] == ["app"]
    for path in (session.path, f"/api/sessions/{answer.json()['id']}"):
        client.http.delete(path)


def test_code_is_held_to_it_at_once(session: SessionClient) -> None:
    """A change takes effect in the running kernel, with the next request."""
    refused = (403, "STORAGE_SCOPE")
    ask = "print(ask('GET', '/api/storage/kv/app?key=nothing'))"
    session.run(ASK)
    assert session.run(ask)["stdout"] != f"{refused}\n"
    for scope, is_refused in (("none", True), (["ap*"], False), (["other"], True), ("all", False)):
        session.http.patch(session.path, json={"storage": scope})
        assert (session.run(ask)["stdout"] == f"{refused}\n") == is_refused, scope


def test_programs_and_children_have_it(client: Client) -> None:
    """Programs beside the kernel, and their children, are held to the same scope."""
    session = client.session("python", storage="none")
    code = f"{ASK}\nprint(ask('GET', '/api/storage/kv/app?key=a'))"
    argv = ["python", "-c", code]
    for body in ({"argv": argv}, {"argv": ["sh", "-c", 'python -c "$0"', code]}):
        answer = client.http.post(f"{session.path}/exec", json=body).json()
        assert answer["stdout"] == "(403, 'STORAGE_SCOPE')\n", answer
    session.run("import subprocess, sys")
    answer = session.run(f"subprocess.run([sys.executable, '-c', {code!r}])")
    assert answer["stdout"] == "(403, 'STORAGE_SCOPE')\n"
    client.http.delete(session.path)


def test_the_servers_default(start: Start) -> None:
    """Sessions that say nothing have `default_storage`, and so have throw-away sessions."""
    client = start("--default-storage", "shared,tmp-*")
    code = f"{ASK}\nprint([ask('GET', f'/api/storage/kv/{{n}}?key=a')[1] for n in "
    code += "('shared', 'tmp-1', 'app')])"
    answer = client.http.post("/api/execute", json={"language": "python", "code": code}).json()
    session = client.session("python")
    for one in (answer, session.run(code)):
        *allowed, refused = eval(one["stdout"])
        assert refused == "STORAGE_SCOPE" not in allowed, one
    session.http.patch(session.path, json={"storage": "all"})
    assert "STORAGE_SCOPE" not in session.run(code)["stdout"]


def test_the_address_can_be_another_for_one_run(session: SessionClient) -> None:
    """`ERA_STORAGE_URL` is set for every run, and a caller may give it another value."""
    read = "import os; print(os.environ['ERA_STORAGE_URL'])"
    own = session.run(read)["stdout"]
    assert own.startswith(("http://127.0.0.1:", "http+unix://%2F"))
    other = {"ERA_STORAGE_URL": "http://other"}
    assert session.run(read, env=other)["stdout"] == "http://other\n"
    assert session.run(read)["stdout"] == own
    for env, expected in ((other, "http://other\n"), ({}, own)):
        body = {"argv": ["python", "-c", read], "env": env}
        assert session.http.post(f"{session.path}/exec", json=body).json()["stdout"] == expected
    body = {"language": "python", "code": read}
    assert session.http.post("/api/execute", json=body).json()["stdout"][:4] == "http"
    assert session.http.post("/api/execute", json={**body, "env": other}).json()["stdout"] == (
        "http://other\n"
    )


def test_no_other_route_is_reached(client: Client, tmp_path: Path) -> None:
    """Code finds nothing but storage at its address: no session, no run, no document."""
    session = client.session("python")
    session.run(ASK)
    for method, path in (
        ("GET", "/api/sessions"), ("POST", "/api/execute"), ("DELETE", "/api/sessions"),
        ("GET", "/health"), ("GET", "/openapi.json"), ("GET", "/metrics"), ("GET", "/api/limits"),
        ("GET", f"{session.path}/files"), ("GET", "/api/resources/list"), ("GET", "/"),
    ):  # fmt: skip
        answer = session.run(f"print(ask({method!r}, {path!r}, '{{}}'))")
        assert answer["stdout"] == "(404, 'NOT_FOUND')\n", (path, answer)
    assert session.get()["id"] == session.id
    client.http.delete(session.path)


def test_every_path_of_storage_is_within_the_scope(client: Client) -> None:
    """Whatever the document lists below /api/storage is refused outside the scope, and works in."""
    session = client.session("python", storage=["inside"])
    session.run(ASK)
    paths = client.http.get("/openapi.json").json()["paths"]
    asked = 0
    for path, item in paths.items():
        if path.startswith("/api/storage/"):
            for method in {"get", "put", "post", "delete"} & set(item):
                for namespace in ("outside", "inside2", "insid", "%6futside"):
                    real = path.replace("{namespace}", namespace).replace("{key}", "k")
                    code = f"print(ask({method.upper()!r}, {real!r}, '{{}}'))"
                    assert session.run(code)["stdout"] == "(403, 'STORAGE_SCOPE')\n", (method, path)
                    asked += 1
    assert asked >= 40
    for kind in ("kv", "d1", "r2"):
        listed = client.http.get(f"/api/resources/list?type={kind}&namespace=outside").json()
        assert listed["total"] == 0
    code = "print(ask('PUT', '/api/storage/kv/inside?key=a', '{\"value\": \"v\"}'))"
    assert session.run(code)["stdout"] == "(200, '')\n"
    client.http.delete(session.path)


# One process may have 1 024 files open.
HALF_OF_THE_CALLS = """
import asyncio, os
from urllib.parse import urlsplit
url = urlsplit(os.environ["ERA_STORAGE_URL"])
lines = ["GET /api/storage/kv/app?key=k HTTP/1.1", "Host: localhost", "Connection: close", "", ""]
async def ask():
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write("\\r\\n".join(lines).encode())
    answer = await reader.read()
    writer.close()
    return answer.split(b"\\r\\n")[0].decode()
async def main():
    print(*await asyncio.gather(*[ask() for _ in range(500)]), sep="\\n")
asyncio.run(main())
"""
ALL_CALLS = """
import subprocess, sys
callers = [subprocess.Popen([sys.executable, "calls.py"], stdout=subprocess.PIPE) for _ in "12"]
open("ready", "w").close()
lines = [line for one in callers for line in one.communicate()[0].decode().splitlines()]
print({line: lines.count(line) for line in lines})
"""


def test_a_thousand_calls_at_once(client: Client) -> None:
    """All calls of a session are answered, and those of others meanwhile at their pace."""
    client.http.put("/api/storage/kv/app/k", json={"value": "v"}).raise_for_status()
    busy, other = client.session("python"), client.session("python")
    other.run("import era_storage")
    busy.http.put(f"{busy.path}/files/calls.py", content=HALF_OF_THE_CALLS).raise_for_status()
    with background_runs(busy) as start:
        answer = start(ALL_CALLS, timeout=60)
        wait_for_file(busy)
        longest = 0.0
        while not answer.done():
            began = time.monotonic()
            found = other.run("print(era_storage.kv.get('app', 'k'))")
            assert found["stdout"] == "v\n"
            assert client.http.get("/api/storage/kv/app/k").status_code == 200
            longest = max(longest, time.monotonic() - began)
        assert answer.result().json()["stdout"] == "{'HTTP/1.1 200 OK': 1000}\n"
    assert longest < 3
    for session in (busy, other):
        session.delete()
