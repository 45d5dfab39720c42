"""The listener inside sessions: only storage, only in scope, in turns, and nobody waits for it."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from era_kernels.concurrency.accepting import MAX_CONNECTIONS_EACH
from era_kernels.models import ALL_STORAGE, SessionListener, StorageScope
from era_kernels.web import storage_session
from era_kernels.web.access import Access
from era_kernels.web.base_handler import HandlerContext
from era_kernels.web.storage_listener import StorageListener
from tests.storage_fakes import Memory, memory_routes
from tests.waiting import until

MAX_BODY = 1024 * 1024
KEY = "/api/storage/kv/app?key=a"


@dataclass
class Served:
    """A listener with one session, whose storage is kept in memory."""

    listener: StorageListener
    memory: Memory
    port: int
    scope: StorageScope = ALL_STORAGE

    async def ask(
        self, path: str = KEY, method: str = "GET", body: bytes = b"", **headers: str
    ) -> tuple[int, dict[str, Any]]:
        """The status and the JSON of one answer, over a connection of its own."""
        fields = {"Host": "localhost", **{k.replace("_", "-"): v for k, v in headers.items()}}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        text = f"{method} {path} HTTP/1.1\r\n{head}{length}Connection: close\r\n\r\n"
        return parse(await self.send(text.encode() + body))

    async def send(self, data: bytes) -> bytes:
        """All that comes back until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        try:
            return await asyncio.wait_for(reader.read(), 20)
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


def parse(raw: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body) if body else {}


def listening_socket() -> socket.socket:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    return listening


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Served]:
    memory = Memory(values={("app", "a"): {"value": "x", "metadata": {}}})
    context = HandlerContext(Access(tokens=["t" * 16]), MAX_BODY)
    listener = StorageListener(memory_routes(memory), context, **options)
    listening = listening_socket()
    served = Served(listener, memory, listening.getsockname()[1])
    listener.attach(SessionListener(listening, "http://x"), lambda: served.scope)
    try:
        yield served
    finally:
        await listener.aclose()


async def test_no_token_is_needed() -> None:
    """The socket tells who asks, also on a server whose API needs a token."""
    async with serving() as served:
        assert await served.ask() == (200, {"value": "x", "metadata": {}})


@pytest.mark.parametrize(
    "path",
    [
        "/", "/api/sessions", "/api/execute", "/health", "/api/health", "/openapi.json", "/docs",
        "/metrics", "/api/limits", "/api/resources/list", "/api/storage", "/api/storage/",
        "/api/storage/kv", "/api/storage/kv/", "/api/storage/nothing/app", "//api/storage/kv/app",
        "/API/STORAGE/kv/app", "/api/storage/../sessions",
        "http://localhost/api/sessions", "*",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_there_is_no_other_route(path: str, method: str) -> None:
    """Every other path is 404, whatever the method."""
    async with serving() as served:
        status, answer = await served.ask(path, method)
        assert (status, answer.get("code")) == (404, "NOT_FOUND")


# ---------------------------------------------------------------- the scope


async def test_scope_is_that_of_the_moment() -> None:
    """What lies outside is 403 with a sentence; a change takes effect with the next request."""
    async with serving() as served:
        served.scope = StorageScope.parse(["other", "tmp-*"])
        status, answer = await served.ask()
        assert (status, answer["code"]) == (403, "STORAGE_SCOPE")
        assert "namespace app" in answer["message"]
        served.scope = StorageScope.parse(["ap*"])
        assert (await served.ask())[0] == 200
        served.scope = StorageScope.parse("none")
        assert (await served.ask())[0] == 403


@pytest.mark.parametrize("route", memory_routes(Memory()), ids=lambda route: route.path)
async def test_every_route_is_within_the_scope(route: Any) -> None:
    """Every method of every path of storage is refused outside the scope."""
    async with serving() as served:
        served.scope = StorageScope.parse(["app"])
        for method in route.handler.operations:
            for outside in ("other", "app2", "ap", "APP", "%61pp2", "app%2F..%2Fother"):
                path = route.path.replace("{namespace}", outside).replace("{path}", "k")
                status, answer = await served.ask(path, method, b"{}")
                assert (status, answer["code"]) == (403, "STORAGE_SCOPE"), path
        assert served.memory.calls == []


async def test_an_escaped_name_is_the_same_namespace() -> None:
    """A scope is compared with the name that the handler uses: decoded once."""
    async with serving() as served:
        served.scope = StorageScope.parse(["app"])
        assert (await served.ask("/api/storage/kv/%61p%70?key=a"))[0] == 200
        assert (await served.ask("/api/storage/kv/%2561pp?key=a"))[0] == 403


# ---------------------------------------------------------------- tricks with headers


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "localhost", "Origin": "http://evil.example"},
        {"Host": "localhost", "Origin": "null"},
    ],
)
async def test_foreign_hosts_and_origins(headers: dict[str, str]) -> None:
    """Host and Origin are checked as on the main port of a server without tokens."""
    async with serving() as served:
        status, answer = await served.ask(**headers)
        assert (status, answer["code"]) == (403, "FORBIDDEN")


async def test_forwarding_headers_are_ignored() -> None:
    """What a proxy might say changes nothing: there is none."""
    async with serving() as served:
        served.scope = StorageScope.parse("none")
        forwarded = {
            "X_Forwarded_Host": "localhost",
            "X_Forwarded_For": "10.0.0.1",
            "X_Real_IP": "10.0.0.1",
            "X_Original_URL": "/api/storage/kv/other",
            "X_HTTP_Method_Override": "DELETE",
            "Authorization": f"Bearer {'t' * 16}",
        }
        assert (await served.ask(**forwarded))[0] == 403


SMUGGLED = b"GET /api/storage/kv/app?key=a HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Content-Length: +5\r\n",
        b"X: a\nTransfer-Encoding: chunked\r\n",
        b"X: a\rContent-Length: 5\r\n",
        b"".join(b"X-%d: y\r\n" % number for number in range(200)),
        b"X: " + b"y" * 2 * storage_session.MAX_HEAD + b"\r\n",
    ],
)
async def test_ambiguous_requests(fields: bytes) -> None:
    """What two programs could read differently is 400, and the connection is closed."""
    async with serving() as served:
        head = b"PUT " + KEY.encode() + b" HTTP/1.1\r\nHost: localhost\r\n"
        raw = await served.send(head + fields + b"\r\n0\r\n\r\n" + SMUGGLED)
        assert raw.startswith(b"HTTP/1.1 400 "), raw
        assert raw.count(b"HTTP/1.1") == 1
        assert served.memory.calls == []


# ---------------------------------------------------------------- bounds


async def test_requests_take_turns() -> None:
    """Of many requests at once a few are in work, and all are answered."""
    async with serving() as served:
        served.memory.seconds = 0.01
        answers = await asyncio.gather(*(served.ask() for _ in range(100)))
        assert {status for status, _ in answers} == {200}
        assert 1 < served.memory.most_in_work <= storage_session.MAX_REQUESTS_IN_WORK


@pytest.mark.parametrize("pause", [None, 0, 0.005])
async def test_work_of_clients_that_left_counts(pause: float | None) -> None:
    """Who asks and leaves gets no further turns: the work goes on, and so does the turn."""
    async with serving() as served:
        served.memory.seconds = 1.0
        for _ in range(40):
            wire = socket.create_connection(("127.0.0.1", served.port))
            wire.sendall(f"GET {KEY} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            if pause is not None:
                await asyncio.sleep(pause)
            wire.close()
        served.memory.seconds = 0.0
        assert (await served.ask())[0] == 200
        assert served.memory.most_in_work <= storage_session.MAX_REQUESTS_IN_WORK


async def test_a_client_that_leaves_before_the_work_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The turn is kept also where a connection closes between the head and the handler."""
    read_head = storage_session.SessionStream.read_until_regex

    async def read_head_and_close(stream: Any, *args: Any, **options: Any) -> bytes:
        head = await read_head(stream, *args, **options)
        stream.close()
        return head

    monkeypatch.setattr(storage_session.SessionStream, "read_until_regex", read_head_and_close)
    async with serving() as served:
        served.memory.seconds = 0.2
        request = f"GET {KEY} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        await asyncio.gather(*(served.send(request) for _ in range(40)))
        await until(lambda: served.memory.begun >= 40)
        assert served.memory.most_in_work == storage_session.MAX_REQUESTS_IN_WORK


async def test_idle_connections_make_room() -> None:
    """When all connections of a session are taken, the longest idle is closed for a new one."""
    async with serving() as served:
        silent = [
            await asyncio.open_connection("127.0.0.1", served.port)
            for _ in range(MAX_CONNECTIONS_EACH)
        ]
        begin = time.monotonic()
        assert (await served.ask())[0] == 200
        assert time.monotonic() - begin < 10
        assert await asyncio.wait_for(silent[0][0].read(), 5) == b""
        for _, writer in silent:
            writer.close()


async def test_a_client_that_is_slow_to_ask_keeps_its_connection() -> None:
    """While others wait, a connection that is new stays for longer than one that had an answer."""
    async with serving() as served:
        slow = [
            await asyncio.open_connection("127.0.0.1", served.port)
            for _ in range(MAX_CONNECTIONS_EACH)
        ]
        waiting = asyncio.create_task(served.ask())
        await asyncio.sleep(2 * storage_session.MIN_IDLE)
        for reader, writer in slow:
            writer.write(f"GET {KEY} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        assert (await waiting)[0] == 200
        for _, writer in slow:
            writer.close()


async def test_one_session_does_not_starve_another() -> None:
    """A session that holds every connection of the server leaves one to each other session."""
    async with serving(max_connections=10) as served:
        busy = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(30)]
        for _, writer in busy:
            writer.write(b"PUT " + KEY.encode() + b" HTTP/1.1\r\nHost: localhost\r\n")
        listening = listening_socket()
        other = Served(served.listener, served.memory, listening.getsockname()[1])
        served.listener.attach(SessionListener(listening, "http://y"), lambda: ALL_STORAGE)
        assert (await asyncio.wait_for(other.ask(), 5))[0] == 200
        for _, writer in busy:
            writer.close()


@pytest.mark.parametrize(
    "data",
    [
        b"GET /api/sto",
        b"PUT /api/storage/kv/app?key=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
    ],
    ids=["head", "body"],
)
async def test_slow_clients_are_closed(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head or a body that does not come in time ends with its connection."""
    monkeypatch.setattr(storage_session, "IDLE_TIMEOUT", 0.3)
    monkeypatch.setattr(storage_session, "STALL_TIMEOUT", 0.3)
    async with serving(check_interval=0.1) as served:
        assert await asyncio.wait_for(served.send(data), 10) == b""
        assert served.memory.calls == []


async def test_a_trickling_body_is_closed() -> None:
    """A byte now and then does not keep a body open for ever."""
    async with serving(body_timeout=0.5) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(f"PUT {KEY} HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n".encode())
        for _ in range(100):
            writer.write(b" ")
            await asyncio.sleep(0.05)
            if reader.at_eof() or reader.exception() is not None:  # reset, where a byte came late
                break
        assert reader.at_eof() or reader.exception() is not None
        writer.close()


async def test_an_answer_that_nobody_reads_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of an answer is not held for a client that does not read it."""
    monkeypatch.setattr(storage_session, "STALL_TIMEOUT", 0.3)
    async with serving(check_interval=0.1) as served:
        served.memory.values["app", "a"] = {"value": "x" * 30_000_000}
        with socket.create_connection(("127.0.0.1", served.port)) as deaf:
            deaf.sendall(f"GET {KEY} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            for _ in range(100):
                await asyncio.sleep(0.05)
                if not served.listener._connections.count:
                    return
            raise AssertionError("the connection is still there")


async def test_too_large_a_body() -> None:
    """The bound of bodies is the API's."""
    async with serving() as served:
        status, answer = await served.ask(KEY, "PUT", b" " * (MAX_BODY + 1))
        assert (status, answer["code"]) == (413, "TOO_LARGE")


# ---------------------------------------------------------------- the end


async def test_closing_ends_everything() -> None:
    """With its session the socket and all connections are closed, whatever they wait for."""
    async with serving() as served:
        served.memory.seconds = 0.3
        asks = [asyncio.create_task(served.send(SMUGGLED)) for _ in range(30)]
        await asyncio.sleep(0.1)
        (session,) = served.listener._sessions
        session.close()
        session.close()
        assert await asyncio.gather(*asks) == [b""] * 30
        with pytest.raises(ConnectionRefusedError):
            await served.ask()
        assert not served.listener._sessions and not served.listener._connections.count


async def test_foreign_connections_are_closed() -> None:
    """Where others can reach the socket, whoever is not of the session gets nothing."""
    async with serving() as served:
        listening = listening_socket()
        other = Served(served.listener, served.memory, listening.getsockname()[1])
        listener = SessionListener(listening, "http://y", lambda connection: False)
        served.listener.attach(listener, lambda: ALL_STORAGE)
        assert await other.send(SMUGGLED) == b""
        assert served.memory.headers == []
