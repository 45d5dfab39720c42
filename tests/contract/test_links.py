"""Links: one file or one port without a token, for a while, and nothing else by any way."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from tornado.websocket import websocket_connect

from tests.client import Client, SessionClient
from tests.contract.checks import check_error, check_error_object, send_and_parse
from tests.contract.test_proxy import ECHO, POLICY, PORT, serve
from tests.server_process import Server
from tests.waiting import wait_until

TOKEN = "a-token-for-the-links"
SECRET = re.compile(r"/link/([fp][A-Za-z0-9_-]{43})/")
MIB = 1024 * 1024

# A server with a token, whose sessions are not public.
SERVER_FLAGS = ("--api-tokens", TOKEN, "--max-upload", str(8 * MIB))


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    client = Client(server.base_url, {"Authorization": f"Bearer {TOKEN}"})
    yield client
    client.close()


@pytest.fixture(scope="module")
def served(client: Client) -> Iterator[SessionClient]:
    """A session whose kernel serves, and that has a file."""
    session = client.session("python")
    serve(session)
    put(client, session, "d/a b.html", b"<p>0123456789")
    yield session
    session.delete()


def put(client: Client, session: SessionClient, path: str, data: bytes) -> None:
    client.http.put(f"{session.path}/files/{path}", content=data).raise_for_status()


def make(client: Client, session: SessionClient, **target: Any) -> dict[str, Any]:
    """A new link."""
    answer = client.http.post(f"{session.path}/links", json=target)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def secret_of(url: str) -> str:
    found = SECRET.search(url)
    assert found is not None, url
    return found[1]


def send(url: str, head: str) -> Any:
    """What a raw request gets, whose path nobody has tidied."""
    request = f"{head} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    return send_and_parse(urlsplit(url).port or 80, request.encode())


# ---------------------------------------------------------------- making, listing, revoking


def test_answers(client: Client, session: SessionClient) -> None:
    """A link tells its address once; lists tell what it opens, and when it was made and ends."""
    made = make(client, session, path="d/a☃", method="PUT", ttl=60)
    assert set(made) == {"id", "url", "expires_at"}
    assert made["url"].endswith("/a%E2%98%83")
    port = make(client, session, port=PORT)
    assert port["url"] == f"{client.base_url}/link/{secret_of(port['url'])}/"
    answer = client.http.get(f"{session.path}/links")
    first, second = answer.json()["links"]
    assert answer.json()["count"] == 2
    assert {first[name] for name in ("id", "path", "method")} == {made["id"], "d/a☃", "PUT"}
    assert first["expires_at"] == made["expires_at"] > first["created_at"]
    assert (second["id"], second["port"]) == (port["id"], PORT)
    assert "link/" not in answer.text and secret_of(made["url"]) not in answer.text
    gone = client.http.delete(f"{session.path}/links/{made['id']}").json()
    assert (gone["success"], gone["id"]) == (True, made["id"])
    again = client.http.delete(f"{session.path}/links/{made['id']}")
    check_error(again, 404, "LINK_NOT_FOUND")
    assert client.http.get(f"{session.path}/links").json()["count"] == 1


def seconds_left(expires_at: str) -> float:
    return datetime.fromisoformat(expires_at).timestamp() - time.time()


@pytest.mark.parametrize(("given", "seconds"), [({}, 3600), ({"ttl": 604800}, 604800)])
def test_ttl(client: Client, shared: SessionClient, given: dict[str, Any], seconds: int) -> None:
    """A link lasts an hour, or as long as is said, at most a week."""
    made = make(client, shared, path="a", **given)
    assert abs(seconds_left(made["expires_at"]) - seconds) < 30


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "INVALID_REQUEST"),
        ({"path": "a", "port": 1}, "INVALID_REQUEST"),
        ({"port": 1, "method": "GET"}, "INVALID_REQUEST"),
        ({"path": "a", "method": "POST"}, "INVALID_REQUEST"),
        ({"path": "a", "method": "get"}, "INVALID_REQUEST"),
        ({"path": 1}, "INVALID_REQUEST"),
        ({"port": "80"}, "INVALID_REQUEST"),
        ({"port": 0}, "INVALID_REQUEST"),
        ({"port": 65536}, "INVALID_REQUEST"),
        ({"path": "a", "ttl": 0}, "INVALID_REQUEST"),
        ({"path": "a", "ttl": -1}, "INVALID_REQUEST"),
        ({"path": "a", "ttl": 604801}, "INVALID_REQUEST"),
        ({"path": "a", "ttl": "60"}, "INVALID_REQUEST"),
        ({"path": "a", "ttl": None}, "INVALID_REQUEST"),
        ({"path": ""}, "INVALID_PATH"),
        ({"path": "../a"}, "INVALID_PATH"),
        ({"path": "/etc/passwd"}, "INVALID_PATH"),
        ({"path": "a\0b"}, "INVALID_PATH"),
        ({"path": "a//b"}, "INVALID_PATH"),
    ],
)
def test_wrong_requests(
    client: Client, shared: SessionClient, body: dict[str, Any], code: str
) -> None:
    """What is no link is refused when it is asked for."""
    check_error(client.http.post(f"{shared.path}/links", json=body), 400, code)


def test_refusals(client: Client, shared: SessionClient) -> None:
    """Only with a token, only of a session; the data's file is nobody's to write."""
    check_error(httpx.get(f"{client.base_url}{shared.path}/links"), 401, "UNAUTHORIZED")
    body = {"path": "a"}
    check_error(httpx.post(f"{client.base_url}{shared.path}/links", json=body), 401, "UNAUTHORIZED")
    none = client.http.post("/api/sessions/none/links", json=body)
    check_error(none, 404, "SESSION_NOT_FOUND")
    data = {"path": ".session_data.json", "method": "PUT"}
    check_error(client.http.post(f"{shared.path}/links", json=data), 409, "CONFLICT")


# ---------------------------------------------------------------- files


def test_reading(client: Client, served: SessionClient) -> None:
    """A file is read as by the API: ranges, ETag, HEAD, and the policy for pages."""
    url = make(client, served, path="d/a b.html")["url"]
    whole = httpx.get(url)
    assert (whole.status_code, whole.text) == (200, "<p>0123456789")
    assert whole.headers["Content-Security-Policy"] == POLICY
    assert whole.headers["Referrer-Policy"] == "no-referrer"
    assert whole.headers["X-Content-Type-Options"] == "nosniff"
    part = httpx.get(url, headers={"Range": "bytes=3-5"})
    assert (part.status_code, part.text) == (206, "012")
    assert part.headers["Content-Range"] == "bytes 3-5/13"
    same = httpx.get(url, headers={"If-None-Match": whole.headers["ETag"]})
    assert (same.status_code, same.content) == (304, b"")
    head = httpx.head(url)
    assert (head.status_code, head.headers["Content-Length"], head.content) == (200, "13", b"")
    beyond = httpx.get(url, headers={"Range": "bytes=99-"})
    check_error(beyond, 416, "RANGE_NOT_SATISFIABLE")
    assert beyond.headers["Referrer-Policy"] == "no-referrer"
    missing = make(client, served, path="d/none")["url"]
    check_error(httpx.get(missing), 404, "FILE_NOT_FOUND")


def test_writing(client: Client, session: SessionClient) -> None:
    """A file is written as by the API, within the same bounds, as often as one likes."""
    url = make(client, session, path="new/in.bin", method="PUT")["url"]
    data = bytes(range(256)) * 8192
    for body in (b"", b"x", data):
        answer = httpx.put(url, content=body, headers={"Content-Type": "image/png"})
        assert answer.json() == {"path": "new/in.bin", "size": len(body)}
    read = client.http.get(f"{session.path}/files/new/in.bin")
    assert (read.content, read.headers["Content-Type"]) == (data, "image/png")
    too_large = httpx.put(url, content=bytes(8 * MIB + 1), timeout=60)
    check_error(too_large, 413, "TOO_LARGE")
    met = httpx.put(url, content=b"y", headers={"If-None-Match": "*"})
    check_error(met, 412, "PRECONDITION_FAILED")
    assert client.http.get(f"{session.path}/files/new/in.bin").content == data


def test_quota(client: Client) -> None:
    """What would pass the quota of the session is 413, declared or not."""
    session = client.session("python", limits={"workspace_mb": 1})
    url = make(client, session, path="in.bin", method="PUT")["url"]
    body = bytes(MIB + 1)
    check_error(httpx.put(url, content=body), 413, "QUOTA_EXCEEDED")
    check_error(httpx.put(url, content=iter([body, b"x"])), 413, "QUOTA_EXCEEDED")
    assert session.get()["files"] == []
    session.delete()


def test_the_end_while_a_file_comes(client: Client, session: SessionClient) -> None:
    """An upload that has begun goes on when the link expires, and ends when it is revoked."""
    place = f"{session.path}/files"
    short = make(client, session, path="in", method="PUT", ttl=1)

    def slowly(act: Callable[[], object]) -> Iterator[bytes]:
        yield b"x" * 300_000
        act()
        yield b"y"

    def wait() -> None:
        time.sleep(1)
        assert wait_until(lambda: httpx.get(short["url"]).status_code == 410)

    assert httpx.put(short["url"], content=slowly(wait)).json() == {"path": "in", "size": 300_001}
    made = make(client, session, path="revoked", method="PUT")

    def revoke() -> None:
        time.sleep(0.5)  # the server has the head of the request: else it answers 404
        client.http.delete(f"{session.path}/links/{made['id']}").raise_for_status()

    with pytest.raises(httpx.TransportError):
        httpx.put(made["url"], content=slowly(revoke))
    assert client.http.get(f"{place}/revoked").status_code == 404


@pytest.mark.parametrize(
    ("method", "allow"), [("GET", "GET, HEAD, OPTIONS"), ("PUT", "PUT, OPTIONS")]
)
def test_other_methods(client: Client, served: SessionClient, method: str, allow: str) -> None:
    """A link to read writes nothing, and one to write reads nothing."""
    url = make(client, served, path="d/kept", method=method)["url"]
    for other in ("GET", "HEAD", "PUT", "POST", "DELETE", "PATCH"):
        if other in allow:
            continue
        answer = httpx.request(other, url, content=b"x" if other == "PUT" else None)
        assert answer.status_code == 405, other
        if other in ("GET", "PUT"):
            assert answer.headers["Allow"] == allow
    assert client.http.get(f"{served.path}/files/d/kept").status_code == 404


@pytest.mark.parametrize(
    "tail",
    ["", "/", "/other", "/a%20b.html/", "/a%20b.html/x", "/d/a%20b.html", "/d%2Fa%20b.html",
     "/../a%20b.html", "/..%2Fa%20b.html", "/%2e%2e/a%20b.html", "/./a%20b.html", "//a%20b.html",
     "/a%20b.html%00", "/a%2520b.html", "/A%20B.HTML", "/a%20b.html;x", "/a%20b.html%0a"],
)  # fmt: skip
def test_other_paths(client: Client, served: SessionClient, tail: str) -> None:
    """A link to a file works with its own name and no other path, however that is written."""
    url = make(client, served, path="d/a b.html")["url"]
    for method in ("GET", "HEAD", "PUT"):
        answer = send(url, f"{method} /link/{secret_of(url)}{tail}")
        assert answer.status == 404, (method, tail)
        if method != "HEAD":
            check_error_object(answer.json(), "LINK_NOT_FOUND")
    assert send(url, f"GET /link/{secret_of(url)}/%61%20b.html").status == 200


# ---------------------------------------------------------------- ports


def test_requests_to_a_port(client: Client, served: SessionClient) -> None:
    """A port is reached with any method and path, below the link, though it is not public."""
    url = make(client, served, port=PORT)["url"]
    check_error(httpx.get(f"{client.base_url}/proxy/{served.id}/{PORT}/"), 403, "FORBIDDEN")
    assert httpx.get(f"{url}a/b%20c?x=1&y").text == "GET /a/b%20c?x=1&y 1"
    assert httpx.delete(f"{url}a").text == "DELETE /a 1"
    page = httpx.post(f"{url}a", content=b"x" * 3_000_000)
    assert len(page.text) == 64
    assert page.headers["Content-Security-Policy"] == POLICY
    assert page.headers["Referrer-Policy"] == "no-referrer"
    away = httpx.get(f"{url}go")
    prefix = urlsplit(url).path.rstrip("/")
    assert away.headers["Location"] == f"{prefix}/there?x=1"
    assert away.headers["Set-Cookie"] == f"a=b; Path={prefix}"
    null = httpx.get(url, headers={"Origin": "null"})
    assert null.headers["Access-Control-Allow-Origin"] == "null"
    with httpx.stream("GET", f"{url}count") as answer:
        assert next(answer.iter_lines()) == "data: 0"


def test_stored_code(client: Client, session: SessionClient) -> None:
    """Where nothing listens the stored code answers, else the link leads to nothing."""
    url = make(client, session, port=9000)["url"]
    check_error(httpx.get(url), 502, "NOTHING_LISTENING")
    code = "import os; print(os.environ['ERA_HTTP_PATH'])"
    client.http.put(f"{session.path}/code", json={"code": code})
    assert httpx.get(f"{url}a/b").text == "/a/b\n"


def test_the_slash_behind(client: Client, served: SessionClient) -> None:
    """A browser is sent to the path below which relative links lead; others get the page."""
    url = make(client, served, port=PORT)["url"].rstrip("/")
    opens = {"Sec-Fetch-Mode": "navigate"}
    away = httpx.get(f"{url}?a=b", headers=opens)
    assert away.status_code == 308
    assert away.headers["Location"] == f"{urlsplit(url).path}/?a=b"
    assert httpx.get(url).text == "GET / 1"


def test_other_ports(client: Client, served: SessionClient, session: SessionClient) -> None:
    """A link leads to its port and its session, and to nothing else by any path."""
    url = make(client, served, port=PORT)["url"]
    secret = secret_of(url)
    for tail in ("/../../proxy/x/80/", "/..%2f..%2fapi/sessions", "/a//api/sessions", "/9/x"):
        assert send(url, f"GET /link/{secret}{tail}").body.decode() == f"GET {tail} 1"
    other = make(client, session, port=PORT)["url"]
    check_error(httpx.get(other), 502, "NOTHING_LISTENING")


async def test_websocket(client: Client) -> None:
    """WebSockets go through a link, until it is revoked or has expired."""
    session = client.session("python")
    assert session.run(ECHO)["exit_code"] == 0
    revoked, short = make(client, session, port=PORT), make(client, session, port=PORT, ttl=5)
    sockets = [
        await websocket_connect(f"{made['url'].replace('http', 'ws', 1)}ws")
        for made in (revoked, short)
    ]
    for socket in sockets:
        await socket.write_message("hello")
        assert await socket.read_message() == "hello"
    client.http.delete(f"{session.path}/links/{revoked['id']}").raise_for_status()
    async with asyncio.timeout(20):
        assert await sockets[0].read_message() is None
        assert await sockets[1].read_message() is None
    for socket in sockets:
        socket.close()
    check_error(httpx.get(short["url"]), 410, "LINK_EXPIRED")
    session.delete()


def test_revoked_while_under_way(client: Client, served: SessionClient) -> None:
    """A revocation ends what is read by the link, and nothing else."""
    first, second = make(client, served, port=PORT), make(client, served, port=PORT)
    with (
        httpx.stream("GET", f"{first['url']}count") as ended,
        httpx.stream("GET", f"{second['url']}count") as kept,
    ):
        lines, others = ended.iter_lines(), kept.iter_lines()
        assert (next(lines), next(others)) == ("data: 0", "data: 0")
        client.http.delete(f"{served.path}/links/{first['id']}").raise_for_status()
        with pytest.raises(httpx.RemoteProtocolError):
            for _ in lines:
                pass
        seen = [line for line, _ in zip(others, range(40), strict=False)]
        assert len(seen) == 40


# ---------------------------------------------------------------- what links do not open


@pytest.mark.parametrize("target", [{"path": "d/a b.html"}, {"port": PORT}])
def test_the_end(client: Client, served: SessionClient, target: dict[str, Any]) -> None:
    """An expired link is 410, one that was revoked 404, as one that never was."""
    made = make(client, served, ttl=0.3, **target)
    time.sleep(0.3)  # a request that is under way at the end would get no answer
    assert wait_until(lambda: httpx.get(made["url"]).status_code == 410)
    answer = httpx.get(made["url"])
    check_error(answer, 410, "LINK_EXPIRED")
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert made["id"] not in client.http.get(f"{served.path}/links").text
    made = make(client, served, **target)
    assert httpx.get(made["url"]).status_code == 200
    client.http.delete(f"{served.path}/links/{made['id']}").raise_for_status()
    revoked = check_error(httpx.get(made["url"]), 404, "LINK_NOT_FOUND")
    secret = secret_of(made["url"])
    guessed = made["url"].replace(secret, secret[:-1] + ("A" if secret[-1] != "A" else "B"))
    assert check_error(httpx.get(guessed), 404, "LINK_NOT_FOUND") == revoked


@pytest.mark.parametrize(
    "secret",
    ["", "f", "p", "f" * 43, "p" * 45, "x" * 44, "f" + "A" * 43, "p" + "A" * 43, "%66" + "A" * 43,
     "%2e%2e", "'", "f" + "%41" * 43, "f" + "é" * 43, "f" * 4000],
)  # fmt: skip
def test_guesses(client: Client, secret: str) -> None:
    """What is no secret of a link opens nothing, and is told nothing of why."""
    for tail in ("", "/", "/a", "/a/b"):
        answer = client.http.get(f"/link/{secret}{tail}")
        assert answer.status_code == 404
        assert answer.json()["code"] in ("LINK_NOT_FOUND", "NOT_FOUND")


def test_kinds_are_not_swapped(client: Client, served: SessionClient) -> None:
    """The first letter tells the kind: another one makes it another secret."""
    for target, other in (({"path": "d/a b.html"}, "p"), ({"port": PORT}, "f")):
        secret = secret_of(make(client, served, **target)["url"])
        for tail in ("/", "/a%20b.html"):
            answer = client.http.get(f"/link/{other}{secret[1:]}{tail}")
            check_error(answer, 404, "LINK_NOT_FOUND")


def test_another_session_of_the_id(client: Client) -> None:
    """A link is gone with its session: the next one of the id has none of it."""
    session = client.session("python", session_id="again")
    put(client, session, "f", b"old")
    urls = [make(client, session, **target)["url"] for target in TARGETS]
    session.delete()
    for url in urls:
        check_error(httpx.put(url, content=b"x"), 404, "LINK_NOT_FOUND")
    session = client.session("python", session_id="again")
    serve(session)
    put(client, session, "f", b"new")
    for url in urls:
        for method in ("GET", "PUT"):
            check_error(httpx.request(method, url), 404, "LINK_NOT_FOUND")
    assert client.http.get(f"{session.path}/links").json()["count"] == 0
    assert client.http.get(f"{session.path}/files/f").content == b"new"
    session.delete()


TARGETS: list[dict[str, Any]] = [{"path": "f"}, {"path": "f", "method": "PUT"}, {"port": PORT}]


def test_duplicate(client: Client, session: SessionClient) -> None:
    """A duplicate has no links, and those of its source stay with the source."""
    put(client, session, "f", b"source")
    url = make(client, session, path="f")["url"]
    body = {"new_id": "dup-of-links"}
    client.http.post(f"{session.path}/duplicate", json=body).raise_for_status()
    assert client.http.get("/api/sessions/dup-of-links/links").json()["count"] == 0
    client.http.put("/api/sessions/dup-of-links/files/f", content=b"other").raise_for_status()
    assert httpx.get(url).text == "source"
    client.http.delete("/api/sessions/dup-of-links").raise_for_status()


def test_the_api(client: Client, served: SessionClient) -> None:
    """A link is no token: not for the API, and not for the port's other address."""
    secret = secret_of(make(client, served, port=PORT)["url"])
    for headers in ({"Authorization": f"Bearer {secret}"}, {"X-API-Key": secret}):
        check_error(
            httpx.get(f"{client.base_url}/api/sessions", headers=headers), 401, "UNAUTHORIZED"
        )
        place = f"{client.base_url}/proxy/{served.id}/{PORT}/"
        check_error(httpx.get(place, headers=headers), 403, "FORBIDDEN")
    cookie = {"Cookie": f"era_link={secret}"}
    check_error(httpx.get(place, headers=cookie), 403, "FORBIDDEN")


def test_many(client: Client, served: SessionClient) -> None:
    """Many use one link at once, each with an answer of its own."""
    url = make(client, served, port=PORT)["url"]
    with httpx.Client(timeout=60) as http, ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda number: http.get(f"{url}{number}").text, range(80)))
    assert texts == [f"GET /{number} 1" for number in range(80)]


# ---------------------------------------------------------------- where secrets do not appear


def test_no_secret_is_told(client: Client, served: SessionClient, server: Server) -> None:
    """Neither logs nor metrics nor errors hold one, also of a path that is mistyped."""
    secrets = []
    for target in TARGETS:
        url = make(client, served, **target)["url"]
        secret = secret_of(url)
        secrets.append(secret)
        for method in ("GET", "PUT", "POST", "OPTIONS", "BREW"):
            assert secret not in httpx.request(method, f"{url}x?{secret[5:]}=1").text.replace(
                f"GET /x?{secret[5:]}=1 1", ""
            ).replace(f"OPTIONS /x?{secret[5:]}=1 1", "")
        for head in (
            f"GET //link/{secret}/f", f"GET /LINK/{secret}/f", f"GET /link%2F{secret}/f",
            f"GET http://127.0.0.1/link/{secret}/f", f"GET /api/link/{secret}",
            f"GET /link/{secret}/f\x01", f"GET /link/{secret}\\f", f"GET /x{secret}",
        ):  # fmt: skip
            assert secret.encode() not in send(url, head).body
    client.http.get("/link/f/done")
    assert wait_until(lambda: server.log_text.count("/link/*") >= 15)
    shown = server.log_text + client.http.get("/metrics").text
    assert [secret for secret in secrets if secret[1:] in shown] == []
    assert 'route="/link/' in shown
