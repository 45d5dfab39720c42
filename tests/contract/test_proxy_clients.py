"""Clients and servers as people use them meet through the server: ASGI, WebSockets, files."""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections.abc import Iterator

import httpx
import pytest

from tests.client import Client, SessionClient
from tests.waiting import wait_until

pytest.importorskip("uvicorn")
websockets = pytest.importorskip("websockets")

PORT = 8001
PART_BYTES = 1 << 20

# `/parts` tells how many parts of a body have come; `/next` lets the next part of `/stream` go.
APP = """
import asyncio, hashlib, json

parts, gates, closed = [0], asyncio.Semaphore(0), []

async def app(scope, receive, send):
    if scope["type"] == "http":
        await serve(scope, receive, send)
    elif scope["type"] == "websocket":
        await talk(scope, receive, send)

async def serve(scope, receive, send):
    path, digest = scope["path"], hashlib.sha256()
    while True:
        event = await receive()
        digest.update(event.get("body", b""))
        if path == "/upload":
            parts[0] += len(event.get("body", b"")) / (1 << 20)
        if not event.get("more_body"):
            break
    headers = [(b"content-type", b"text/plain"), (b"x-mark", b"a"), (b"x-mark", b"b")]
    await send({"type": "http.response.start", "status": 207, "headers": headers})
    if path == "/stream":
        for number in range(5):
            await gates.acquire()
            part = {"type": "http.response.body", "body": b"%d" % number, "more_body": True}
            await send(part)
    if path == "/next":
        gates.release()
    told = {"/upload": digest.hexdigest(), "/parts": int(parts[0]), "/closed": closed}
    body = json.dumps(told.get(path)).encode()
    await send({"type": "http.response.body", "body": body if path in told else b""})

async def talk(scope, receive, send):
    assert (await receive())["type"] == "websocket.connect"
    if scope["path"] == "/refuse":
        await send({"type": "websocket.close"})
        return
    headers = dict(scope["headers"])
    told = [(b"x-told", headers.get(b"x-own", b"")), (b"x-query", scope["query_string"])]
    chosen = "chat" if "chat" in scope["subprotocols"] else None
    await send({"type": "websocket.accept", "subprotocol": chosen, "headers": told})
    while (event := await receive())["type"] == "websocket.receive":
        if event.get("text") == "close":
            await send({"type": "websocket.close", "code": 4321, "reason": "as asked"})
            return
        answer = {name: event[name] for name in ("text", "bytes") if event.get(name) is not None}
        await send({"type": "websocket.send"} | answer)
    closed.append([event["code"], event.get("reason")])
"""


@pytest.fixture(scope="module")
def session(client: Client) -> Iterator[SessionClient]:
    """A session in which Uvicorn serves the app."""
    session = client.session("python")
    session.http.put(f"{session.path}/files/app.py", content=APP.encode()).raise_for_status()
    command = f"exec python3 -m uvicorn app:app --port {PORT} --ws-max-size 33554432"
    body = {"command": f"{command} --ws-ping-interval 0.1", "background": True}
    session.http.post(f"{session.path}/exec", json=body).raise_for_status()
    parts = f"/proxy/{session.id}/{PORT}/parts"
    assert wait_until(lambda: client.http.get(parts).status_code == 207, 60)
    yield session
    session.delete()


@pytest.fixture
def url(client: Client, session: SessionClient) -> str:
    return f"{client.base_url}/proxy/{session.id}/{PORT}"


@pytest.fixture
def websocket_url(url: str) -> str:
    return url.replace("http", "ws", 1)


def test_streams(url: str) -> None:
    """Each part of a body is with the other side before the next one is made, both ways."""
    with httpx.Client(timeout=60) as http, httpx.Client(timeout=60) as other:
        digest, part = hashlib.sha256(), b"x" * PART_BYTES

        def parts() -> Iterator[bytes]:
            for number in range(1, 5):
                digest.update(part)
                yield part
                assert wait_until(lambda n=number: other.get(f"{url}/parts").json() == n, 30)  # type: ignore[misc]

        answer = http.post(f"{url}/upload", content=parts())
        assert (answer.status_code, answer.json()) == (207, digest.hexdigest())
        assert answer.headers.get_list("X-Mark") == ["a", "b"]
        got = b""
        with http.stream("GET", f"{url}/stream") as stream:
            other.get(f"{url}/next")
            for data in stream.iter_raw():
                got += data
                other.get(f"{url}/next")
        assert got == b"01234"


async def test_messages(websocket_url: str) -> None:
    """Texts, bytes, large and fragmented messages come back, compressed and not; pings, too."""
    large = zlib.compress(bytes(100)) * 200_000 + bytes(4_000_000)
    for compression in ("deflate", None):
        connect = websockets.connect(websocket_url, compression=compression, max_size=None)
        async with connect as connection:
            names = [extension.name for extension in connection.protocol.extensions]
            assert names == (["permessage-deflate"] if compression else [])
            for message in ("naïve ☃", "", b"\x00\xff", b"", large, "y" * 3_000_000):
                await connection.send(message)
                assert await connection.recv() == message
            await connection.send(iter(["in ", "three ", "parts"]))
            assert await connection.recv() == "in three parts"
            async with asyncio.timeout(30):
                await (await connection.ping(b"data"))
                await asyncio.sleep(0.5)  # the program pings as well, and ends who does not answer
            await connection.send("still there")
            assert await connection.recv() == "still there"


async def test_handshake(websocket_url: str) -> None:
    """Subprotocols, headers and the query come through, and so does a refusal."""
    headers = {"X-Own": "mine"}
    connect = websockets.connect(
        f"{websocket_url}?a=%20b", subprotocols=["other", "chat"], additional_headers=headers
    )
    async with connect as connection:
        assert connection.subprotocol == "chat"
        told = connection.response.headers
        assert (told["X-Told"], told["X-Query"]) == ("mine", "a=%20b")
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(f"{websocket_url}/refuse")
    assert refused.value.response.status_code == 403


async def test_closes(client: Client, url: str, websocket_url: str) -> None:
    """Codes and reasons of both sides come through; a connection that breaks has none."""
    async with websockets.connect(websocket_url) as connection:
        await connection.send("close")
        with pytest.raises(websockets.ConnectionClosed) as ended:
            await connection.recv()
        assert (ended.value.rcvd.code, ended.value.rcvd.reason) == (4321, "as asked")
    closed = f"{url}/closed"
    before = len(client.http.get(closed).json())
    async with websockets.connect(websocket_url) as connection:
        await connection.close(4444, "enough")
    async with websockets.connect(websocket_url) as connection:
        connection.transport.abort()
    assert wait_until(lambda: len(client.http.get(closed).json()) == before + 2, 30)
    said, [code, reason] = client.http.get(closed).json()[before:]
    assert (said, code in (1005, 1006), reason or "") == ([4444, "enough"], True, "")


SERVE_FOREVER = """
import http.server
print("serving", flush=True)
address = ("127.0.0.1", 8002)
http.server.ThreadingHTTPServer(address, http.server.SimpleHTTPRequestHandler).serve_forever()
"""
LEAVE_BEHIND = """
import subprocess
subprocess.Popen(["python3", "-m", "http.server", "-b", "127.0.0.1", "8003"])
"""


def test_http_server(client: Client) -> None:
    """`http.server` serves from a run that is busy with it, and from a run that has ended."""
    session = client.session("python")
    client.http.put(f"{session.path}/files/a.txt", content=b"a text").raise_for_status()
    assert session.run(LEAVE_BEHIND)["exit_code"] == 0
    with session.open_stream(SERVE_FOREVER) as events:
        assert next(events).data["content"] == "serving\n"
        for port in (8002, 8003):
            place = f"/proxy/{session.id}/{port}"
            assert wait_until(lambda p=place: client.http.get(f"{p}/").status_code == 200, 30)  # type: ignore[misc]
            assert "Directory listing" in client.http.get(f"{place}/").text
            answer = client.http.get(f"{place}/a.txt")
            assert (answer.text, answer.headers["Content-Type"]) == ("a text", "text/plain")
        assert session.get()["status"] == "busy"
        client.http.post(f"{session.path}/interrupt").raise_for_status()
        assert list(events)[-1].event == "done"
    session.delete()
