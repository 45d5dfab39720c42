"""What code serves inside its session is reached from outside: programs, kernels, streams."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from tornado.websocket import WebSocketClosedError, websocket_connect

from tests.client import Client, SessionClient
from tests.contract.checks import check_error, open_client
from tests.server_process import Server
from tests.waiting import wait_until

PORT = 8080
TOKEN = "a-token-for-the-proxy"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
POLICY = "sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads"

# A server in a thread of the kernel, which outlives the run that started it.
SERVE = """
import http.server, threading, time, hashlib, socket

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/count":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for number in range(1000):
                self.wfile.write(b"data: %d\\n\\n" % number)
                self.wfile.flush()
                time.sleep(0.05)
            return
        if self.path.startswith("/zeros/"):
            size = int(self.path.rpartition("/")[2])
            self.send_response(200)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            block = bytes(1 << 20)
            while size > 0:
                self.wfile.write(block[:size])
                size -= len(block)
            return
        if self.path == "/go":
            self.send_response(302)
            self.send_header("Location", "/there?x=1")
            self.send_header("Set-Cookie", "a=b; Path=/")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.answer(f"{self.command} {self.path} {x}".encode())

    do_HEAD = do_DELETE = do_OPTIONS = do_GET

    def do_POST(self):
        left, digest = int(self.headers["Content-Length"]), hashlib.sha256()
        while left:
            data = self.rfile.read(min(left, 1 << 16))
            left -= len(data)
            digest.update(data)
        self.answer(digest.hexdigest().encode())

    do_PUT = do_POST

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        pass

class Server(http.server.ThreadingHTTPServer):
    address_family = FAMILY
    request_queue_size = 100

x = 1
server = Server((ADDRESS, 8080), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
"""


def serve(
    session: SessionClient, family: str = "socket.AF_INET", address: str = "127.0.0.1"
) -> None:
    code = SERVE.replace("FAMILY", family).replace("ADDRESS", repr(address))
    assert session.run(code)["exit_code"] == 0


@pytest.fixture(scope="module")
def served(client: Client) -> Iterator[SessionClient]:
    """A session whose kernel serves."""
    session = client.session("python")
    serve(session)
    yield session
    session.delete()


@pytest.fixture
def url(client: Client, served: SessionClient) -> str:
    answer = client.http.get(f"{served.path}/host", params={"port": PORT})
    found: str = answer.json()["url"]
    return found


def test_requests(url: str) -> None:
    """Methods, paths and bodies come through, by the address that the session tells."""
    assert httpx.get(f"{url}/a/b%20c?x=1&y").text == "GET /a/b%20c?x=1&y 1"
    assert httpx.get(url).text == "GET / 1"
    assert httpx.delete(f"{url}/a").text == "DELETE /a 1"
    assert httpx.options(f"{url}/a").text == "OPTIONS /a 1"
    head = httpx.head(f"{url}/a")
    assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", "9")
    body = b"x" * 5_000_000
    for method in ("POST", "PUT"):
        answer = httpx.request(method, f"{url}/", content=body, timeout=60)
        assert answer.text == hashlib.sha256(body).hexdigest()


def test_pages_are_sandboxed(url: str) -> None:
    """A page of a session is none of the API's, and its redirects and cookies stay where it is."""
    page = httpx.get(f"{url}/")
    assert page.headers["Content-Security-Policy"] == POLICY
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    away = httpx.get(f"{url}/go")
    place = url[url.index("/proxy/") :]
    assert away.headers["Location"] == f"{place}/there?x=1"
    assert away.headers["Set-Cookie"] == f"a=b; Path={place}"
    assert httpx.get(f"{url}/go", follow_redirects=True).text == "GET /there?x=1 1"
    null = httpx.get(f"{url}/", headers={"Origin": "null"})
    assert null.headers["Access-Control-Allow-Origin"] == "null"


def test_a_busy_session(client: Client, url: str, served: SessionClient) -> None:
    """Requests are answered while a run is under way, and tell of its values."""
    with served.open_stream(
        "import time\nx = 2\nprint(1, flush=True)\ntime.sleep(3)\nx = 1"
    ) as events:
        assert next(events).event == "stdout"
        started = time.monotonic()
        assert httpx.get(f"{url}/busy").text == "GET /busy 2"
        assert time.monotonic() - started < 2
        assert served.get()["status"] == "busy"


def test_a_stream(url: str) -> None:
    """Parts of an answer come when they are made."""
    with httpx.stream("GET", f"{url}/count") as answer:
        lines = answer.iter_lines()
        assert [next(lines) for _ in range(6)] == ["data: 0", "", "data: 1", "", "data: 2", ""]


def test_many_at_once(url: str) -> None:
    """Requests do not wait for each other, and each gets its own answer."""
    wrong: list[str] = []

    def ask(number: int) -> None:
        with httpx.Client(timeout=60) as http:
            for part in range(10):
                text = http.get(f"{url}/{number}/{part}").text
                if not text.startswith(f"GET /{number}/{part} "):
                    wrong.append(text)

    with httpx.stream("GET", f"{url}/count"):
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_large_answer(client: Client, url: str) -> None:
    """All of a large answer comes."""
    size = 100_000_000
    with httpx.stream("GET", f"{url}/zeros/{size}", timeout=120) as answer:
        assert sum(map(len, answer.iter_raw())) == size


def test_nothing_listens(client: Client, session: SessionClient) -> None:
    """A session that serves nothing is told as such, with and without a kernel."""
    for _ in range(2):
        shown = check_error(client.http.get(f"/proxy/{session.id}/9/"), 502, "NOTHING_LISTENING")
        assert "hint" in shown
        session.run("pass")
    check_error(client.http.get("/proxy/none/9/"), 404, "SESSION_NOT_FOUND")
    shown = check_error(client.http.get(f"/proxy/{session.id}/x/"), 400, "INVALID_PATH")
    assert shown["format"] == "/proxy/{id}/{port}/{path}"


@pytest.mark.parametrize(
    ("family", "address"),
    [("socket.AF_INET", "0.0.0.0"), ("socket.AF_INET6", "::1"), ("socket.AF_INET6", "::")],
)
def test_addresses(client: Client, session: SessionClient, family: str, address: str) -> None:
    """A server that listens on all addresses, or on ::1 only, is found."""
    serve(session, family, address)
    assert client.http.get(f"/proxy/{session.id}/{PORT}/").text == "GET / 1"


def test_a_program_beside_the_kernel(client: Client, session: SessionClient) -> None:
    """So is what a command started, where there is no kernel at all."""
    client.http.put(f"{session.path}/files/index.html", content=b"<p>hello")
    command = {"command": "exec python3 -m http.server -b 127.0.0.1 8080", "background": True}
    assert client.http.post(f"{session.path}/exec", json=command).status_code == 202
    place = f"/proxy/{session.id}/{PORT}/"
    assert wait_until(lambda: client.http.get(place).status_code == 200)
    assert client.http.get(place).text == "<p>hello"
    assert client.http.get(f"{place}none").status_code == 404


def test_the_end_of_a_session(client: Client) -> None:
    """With the session ends what is read from it."""
    session = client.session("python")
    serve(session)
    with client.http.stream("GET", f"/proxy/{session.id}/{PORT}/count") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "data: 0"
        session.delete()
        for _ in lines:
            pass
    check_error(client.http.get(f"/proxy/{session.id}/{PORT}/"), 404, "SESSION_NOT_FOUND")


# ---------------------------------------------------------------- WebSockets

ECHO = """
import threading, asyncio
import tornado.web, tornado.websocket

class Echo(tornado.websocket.WebSocketHandler):
    def check_origin(self, origin):
        return True
    def on_message(self, message):
        if message == "bye":
            self.close(4000, "bye")
        else:
            self.write_message(message, binary=isinstance(message, bytes))

def run():
    async def main():
        app = tornado.web.Application([("/ws", Echo)], websocket_max_message_size=1 << 26)
        app.listen(8080, "127.0.0.1")
        started.set()
        await asyncio.Event().wait()
    asyncio.run(main())

started = threading.Event()
threading.Thread(target=run, daemon=True).start()
started.wait()
"""


@pytest.fixture(scope="module")
def echo(client: Client) -> Iterator[str]:
    session = client.session("python")
    assert session.run(ECHO)["exit_code"] == 0
    yield f"{client.base_url.replace('http', 'ws', 1)}/proxy/{session.id}/{PORT}/ws"
    session.delete()


async def test_messages(echo: str) -> None:
    """A thousand messages come back in order, while the other thousand are on their way."""
    connection = await websocket_connect(echo)
    for number in range(1000):
        await connection.write_message(f"message {number}")
    for number in range(1000):
        assert await connection.read_message() == f"message {number}"
    connection.close()
    assert await connection.read_message() is None


async def test_large_messages(echo: str) -> None:
    """A large message comes whole, text and bytes."""
    connection = await websocket_connect(echo, max_message_size=1 << 26)
    data = bytes(range(256)) * 20_000
    await connection.write_message(data, binary=True)
    assert await connection.read_message() == data
    connection.close()
    assert await connection.read_message() is None


async def test_who_closes(echo: str) -> None:
    """The code and the reason of an end come through; a client's end is that of the program."""
    connection = await websocket_connect(echo)
    await connection.write_message("bye")
    assert await connection.read_message() is None
    assert (connection.close_code, connection.close_reason) == (4000, "bye")
    with pytest.raises(WebSocketClosedError):
        await connection.write_message("more")
    connection.close()
    other = await websocket_connect(echo)
    other.close(4001)
    async with asyncio.timeout(10):
        assert await other.read_message() is None


# ---------------------------------------------------------------- access


@pytest.fixture(scope="module")
def closed() -> Iterator[Client]:
    """A client that shows the token of its server."""
    with open_client("--api-tokens", TOKEN, **BEARER) as client:
        yield client


def test_who_may_look(closed: Client) -> None:
    """A session is served to bearers of a token only, until PATCH makes it public, at once."""
    session = closed.session("python")
    serve(session)
    url = f"{closed.base_url}/proxy/{session.id}/{PORT}/"
    check_error(httpx.get(url), 403, "FORBIDDEN")
    check_error(httpx.get(url, headers={"X-API-Key": "wrong"}), 403, "FORBIDDEN")
    assert closed.http.get(url).text == "GET / 1"
    closed.http.patch(session.path, json={"allowPublicAccess": True})
    assert httpx.get(url).text == "GET / 1"
    closed.http.patch(session.path, json={"allowPublicAccess": False})
    check_error(httpx.get(url), 403, "FORBIDDEN")


def test_the_end_of_public_access(closed: Client) -> None:
    """What is under way without a token ends when the session is public no more; the rest not."""
    session = closed.session("python", allowPublicAccess=True)
    serve(session)
    url = f"{closed.base_url}/proxy/{session.id}/{PORT}/count"
    with httpx.stream("GET", url) as public, httpx.stream("GET", url, headers=BEARER) as known:
        streams = public.iter_lines(), known.iter_lines()
        assert [next(lines) for lines in streams] == ["data: 0"] * 2
        closed.http.patch(session.path, json={"allowPublicAccess": False})
        with pytest.raises(httpx.RemoteProtocolError):
            for _ in streams[0]:
                pass
        assert next(streams[1]) is not None and next(streams[1]).startswith("data: ")


async def test_the_end_of_a_public_websocket(closed: Client) -> None:
    """A WebSocket without a token ends when the session is public no more."""
    session = closed.session("python", allowPublicAccess=True)
    assert session.run(ECHO)["exit_code"] == 0
    place = f"{closed.base_url.replace('http', 'ws', 1)}/proxy/{session.id}/{PORT}/ws"
    connection = await websocket_connect(place)
    await connection.write_message("a")
    assert await connection.read_message() == "a"
    closed.http.patch(session.path, json={"allowPublicAccess": False})
    async with asyncio.timeout(10):
        assert await connection.read_message() is None
    connection.close()


def test_log_and_metrics(client: Client, served: SessionClient, server: Server) -> None:
    """Requests are counted and logged as one path: theirs may hold what is secret."""
    client.http.get(f"/proxy/{served.id}/{PORT}/secret?and=more")
    assert wait_until(lambda: f"/proxy/{served.id}/{PORT}/*" in server.log_text)
    assert "secret" not in server.log_text
    metrics = client.http.get("/metrics").text
    assert "/proxy/{path}" in metrics and served.id not in metrics
