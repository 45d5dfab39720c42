"""The proxy, with real sockets: tunnels, requests, and what it refuses."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import resource
import socket
import time

import pytest

from era_kernels.concurrency.accepting import MAX_CONNECTIONS_EACH
from era_kernels.egress import proxy_connection
from era_kernels.models import SessionListener
from era_kernels.models.internet import NO_INTERNET, HostPatterns, InternetAccess
from tests.egress.proxies import WORLD, echo, world


async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers one request with what it was, as JSON."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin1")
    line, *lines = head.rstrip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines)}
    body = b""
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    if headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    seen = {"line": line, "headers": headers, "body": hashlib.sha256(body).hexdigest()}
    text = json.dumps(seen).encode()
    writer.write(b"HTTP/1.1 200 Fine\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\nX-End: 2\r\n")
    writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(text), b"" if "HEAD" in line else text))
    await writer.drain()
    await asyncio.sleep(30)  # a server that keeps its connection must not keep the program waiting


async def test_tunnel() -> None:
    """CONNECT gives a tunnel both ways, with half-closed ends; it is counted."""
    async with world() as there:
        status, reader, writer = await there.tunnel(f"world.example:{there.port}")
        assert status == 200
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.write(b"last")
        writer.write_eof()
        assert await reader.read() == b"last"
        assert there.outcomes == {"connected": 1}
        writer.close()


async def test_bytes_behind_the_head() -> None:
    """What a program sends before the answer to its CONNECT is the first of the tunnel."""
    async with world() as there:
        reader, writer = await there.connect()
        head = f"CONNECT {WORLD}:{there.port} HTTP/1.1\r\nHost: x\r\n\r\n"
        writer.write(head.encode() + b"early")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert await reader.readexactly(5) == b"early"
        writer.close()


@pytest.mark.parametrize("length", [0, 5, 300_000])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
async def test_request(length: int, is_chunked: bool) -> None:
    """A request arrives with its body; what was meant for the proxy stays there."""
    body = os.urandom(length)
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (length, body) if is_chunked and length else body
    sent = b"0\r\n\r\n" if is_chunked and not length else sent
    framing = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {length}"
    async with world(origin) as there:
        head = (
            f"POST http://world.example:{there.port}/a%20b?c=d HTTP/1.1\r\nHost: elsewhere\r\n"
            f"{framing}\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: x\r\n"
            "Connection: X-Hop, close\r\nX-Hop: 1\r\nX-End: 2\r\n\r\n"
        )
        answer = await there.ask(head.encode() + sent)
    answer_head, _, text = answer.partition(b"\r\n\r\n")
    assert answer_head.split(b"\r\n")[0] == b"HTTP/1.1 200 Fine"
    assert b"x-hop" not in answer_head.lower() and b"x-end: 2" in answer_head.lower()
    seen = json.loads(text)
    assert seen["line"] == "POST /a%20b?c=d HTTP/1.1"
    assert seen["headers"]["host"] == f"world.example:{there.port}"
    assert seen["headers"]["x-end"] == "2"
    assert not {"x-hop", "proxy-connection", "proxy-authorization"} & set(seen["headers"])
    assert seen["body"] == hashlib.sha256(body).hexdigest()


async def test_head() -> None:
    """HEAD has no body, of an answer and of a refusal."""
    async with world(origin) as there:
        request = f"HEAD http://world.example:{there.port}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        answer = await there.ask(request)
        assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\n")
        there.access = NO_INTERNET
        answer = await there.ask(request)
        assert answer.startswith(b"HTTP/1.1 403 ") and answer.endswith(b"\r\n\r\n")


async def test_reason() -> None:
    """The status line says why: clients show no body of an answer to CONNECT."""
    async with world(origin) as there:
        there.access = NO_INTERNET
        request = f"CONNECT world.example:{there.port} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        line, _, rest = (await there.ask(request)).partition(b"\r\n")
        said = b"This session has no internet access (allowInternetAccess is false)"
        assert line == b"HTTP/1.1 403 " + said
        assert rest.endswith(b"\r\n\r\n" + said + b".\n")


async def test_expect_continue() -> None:
    """A server's 100 reaches the program, which sends its body then."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(4)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n%b\r\n" % body)
        writer.write(b"0\r\n\r\n")

    async with world(handler) as there:
        reader, writer = await there.connect()
        head = f"PUT http://{WORLD}:{there.port}/ HTTP/1.1\r\nHost: x\r\n"
        writer.write(f"{head}Expect: 100-continue\r\nContent-Length: 4\r\n\r\n".encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        writer.write(b"body")
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200 ") and b"\r\nbody\r\n0\r\n\r\n" in answer
        writer.close()


async def test_early_answer() -> None:
    """A server may refuse a body before it has read it: the program gets to read that."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        writer.close()

    async with world(handler) as there:
        head = f"PUT http://{WORLD}:{there.port}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000"
        reader, writer = await there.connect()
        writer.write(head.encode() + b"\r\n\r\n" + bytes(3_000_000))
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 413 ") and answer.endswith(b"\r\n\r\nno")
        writer.close()


REFUSED: list[tuple[str, int, str]] = [
    ("CONNECT 10.0.0.1:80", 403, "address"),
    ("CONNECT private.example:80", 403, "address"),
    ("CONNECT localhost:80", 403, "address"),
    ("CONNECT 127.0.0.1:{proxy}", 403, "address"),
    ("CONNECT 169.254.169.254:80", 403, "address"),
    ("CONNECT [::ffff:127.0.0.1]:80", 403, "address"),
    ("CONNECT [::1]:80", 403, "address"),
    ("GET http://2130706433/", 403, "address"),
    ("GET http://0x7f.1/", 403, "address"),
    ("GET http://017700000001/", 403, "address"),
    ("GET http://127.1/", 403, "address"),
    ("GET http://[64:ff9b::7f00:1]/", 403, "address"),
    ("GET http://metadata.example/", 403, "address"),
    ("GET http://nowhere.example/", 502, "failed"),
    ("GET http://{world}:1/", 502, "failed"),
    ("GET /", 400, "malformed"),
    ("GET https://world.example/", 400, "malformed"),
]


@pytest.mark.parametrize(("line", "status", "outcome"), REFUSED)
async def test_refusals(line: str, status: int, outcome: str) -> None:
    """What may not be reached is refused with a sentence and counted; nothing is connected."""
    async with world() as there:
        numbers = {"2130706433": "127.0.0.1", "0x7f.1": "127.0.0.1", "127.1": "127.0.0.1",
                   "017700000001": "127.0.0.1", "localhost": "127.0.0.1",
                   "private.example": "192.168.1.1",
                   "metadata.example": "169.254.169.254"}  # fmt: skip
        there.names |= {name: [address] for name, address in numbers.items()}
        text = line.format(proxy=there.proxy_port, world=WORLD)
        answer = await there.ask(f"{text} HTTP/1.1\r\nHost: world.example\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer
        assert answer.rstrip().endswith(b"."), answer
        assert there.outcomes == {outcome: 1}
        assert b"192.168" not in answer  # what names inside lead to is not told


async def test_a_name_that_changes_its_address() -> None:
    """The address that was checked is the one that is connected: names are resolved once."""
    async with world() as there:
        answers = [["93.184.216.34"], ["127.0.0.1"], [WORLD]]

        def rebinding(host: str) -> list[str]:
            there.lookups.append(host)
            return answers.pop()

        assert there.proxy is not None
        there.proxy._connector._resolver._lookup = rebinding
        status, _, writer = await there.tunnel(f"rebind.example:{there.port}")
        assert (status, len(there.lookups)) == (200, 1)
        writer.close()
        status, _, writer = await there.tunnel(f"rebind.example:{there.port}")
        assert (status, len(there.lookups)) == (403, 2)
        writer.close()


async def test_the_public_one_of_two_addresses() -> None:
    """A name with a private address beside a public one leads to the public one alone."""
    async with world() as there:
        there.names["both.example"] = ["127.0.0.1", "10.0.0.1", WORLD]
        status, reader, writer = await there.tunnel(f"both.example:{there.port}")
        assert status == 200
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        writer.close()


async def test_no_lookups_while_off() -> None:
    """Without access, and for hosts out of bounds, no name is looked up."""
    async with world() as there:
        there.access = NO_INTERNET
        status, _, writer = await there.tunnel("world.example:1")
        writer.close()
        assert (status, there.outcomes) == (403, {"off": 1})
        there.access = InternetAccess(is_on=True, hosts=(HostPatterns.parse(["*.org"]),))
        status, _, writer = await there.tunnel("secret-data.evil.example:1")
        writer.close()
        assert (status, there.outcomes) == (403, {"off": 1, "host": 1})
        assert there.lookups == []


async def test_switched_off() -> None:
    """All connections break at once, those that are busy and those that are connecting."""

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(bytes(65536))
            await writer.drain()

    async with world(flood) as there:
        there.names["slow.example"] = [WORLD]
        tunnels = [await there.tunnel(f"{WORLD}:{there.port}") for _ in range(20)]

        async def read_all(reader: asyncio.StreamReader) -> float:
            try:
                while await reader.read(65536):
                    pass
            except ConnectionError:
                return time.monotonic()
            return 0.0  # an end that looks regular

        readers = [asyncio.create_task(read_all(reader)) for _, reader, _ in tunnels]
        await asyncio.sleep(0.3)
        assert not any(task.done() for task in readers)
        began_at = time.monotonic()
        there.set_access(NO_INTERNET)
        ended = await asyncio.gather(*readers)
        assert all(one > 0 for one in ended)
        assert max(ended) - began_at < 2
        for _, _, writer in tunnels:
            writer.close()


async def test_hosts_taken_away() -> None:
    """A narrower list breaks the connections that it does not allow, and no others."""
    async with world() as there:
        there.names["other.example"] = [WORLD]
        _, kept_reader, kept = await there.tunnel(f"world.example:{there.port}")
        _, reader, writer = await there.tunnel(f"other.example:{there.port}")
        there.set_access(InternetAccess(is_on=True, hosts=(HostPatterns.parse(["world.example"]),)))
        with pytest.raises(ConnectionError):
            await reader.read()
        kept.write(b"still")
        assert await kept_reader.readexactly(5) == b"still"
        kept.close()
        writer.close()


async def test_switched_off_while_connecting() -> None:
    """A connection that is allowed when it begins, and not when it stands, gives no tunnel."""
    async with world() as there:
        assert there.proxy is not None
        connect = there.proxy._connector.connect

        async def slow(host: str, port: int) -> object:
            found = await connect(host, port)
            there.access = NO_INTERNET  # and nobody calls `recheck`
            return found

        there.proxy._connector.connect = slow  # type: ignore[method-assign,assignment]
        status, _, writer = await there.tunnel(f"{WORLD}:{there.port}")
        assert status == 403
        writer.close()


MALFORMED = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",
    b"GET http://world.example/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET http://world.example/ HTTP/1.1\r\nHost : a\r\n\r\n",
    b"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    b"POST http://world.example/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    b"PUT http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"GET http://world.example/\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://world.example/ HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
    b"GET  http://world.example/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://world.example/ HTTP/1.1 extra\r\nHost: a\r\n\r\n",
]


@pytest.mark.parametrize("request_bytes", MALFORMED, ids=range(len(MALFORMED)))
async def test_malformed(request_bytes: bytes) -> None:
    """Requests that servers would read differently reach none."""
    async with world(origin) as there:
        there.names["world.example"] = [WORLD]
        answer = await there.ask(request_bytes)
        assert answer[9:12] in (b"400", b"501"), answer
        assert there.lookups == [] and there.outcomes == {"malformed": 1}


async def test_pipelining() -> None:
    """A second request on the connection reaches nobody: it might be meant for another host."""
    seen: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        await asyncio.sleep(0.2)
        while data := await reader.read(1000):
            seen.append(data)
        writer.close()

    async with world(handler) as there:
        one = f"GET http://{WORLD}:{there.port}/1 HTTP/1.1\r\nHost: x\r\n\r\n"
        two = f"GET http://{WORLD}:{there.port}/2 HTTP/1.1\r\nHost: x\r\n\r\n"
        with pytest.raises(ConnectionError):
            await there.ask(f"{one}{two}".encode())
        await asyncio.sleep(0.3)
        assert len(seen) == 1 and b"/2" not in seen[0]


async def test_huge_head() -> None:
    """A head without an end is refused when it is too large."""
    async with world() as there:
        head = b"GET http://world.example/ HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"y" * 200_000
        answer = await there.ask(head)
        assert answer.startswith(b"HTTP/1.1 431 ")


async def test_slow_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that takes too long is refused, however busily its bytes come."""
    monkeypatch.setattr(proxy_connection, "HEAD_TIMEOUT", 0.5)
    async with world() as there:
        reader, writer = await there.connect()

        async def drip() -> None:
            while True:
                writer.write(b"C")
                await asyncio.sleep(0.05)

        task = asyncio.create_task(drip())
        began_at = time.monotonic()
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - began_at < 5
        task.cancel()
        writer.close()
        assert there.outcomes == {"slow": 1}


async def test_idle_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tunnel through which nothing passes is broken in the end; one that is used is not."""
    monkeypatch.setattr(proxy_connection, "IDLE_TIMEOUT", 0.5)
    async with world() as there:
        _, reader, writer = await there.tunnel(f"{WORLD}:{there.port}")
        for _ in range(10):
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            await asyncio.sleep(0.1)
        with pytest.raises(ConnectionError):
            await reader.read()
        writer.close()


async def test_flood_of_connections() -> None:
    """So many connections of a session are served, the others wait; each gets its turn."""
    async with world() as there:
        busy = [await there.tunnel(f"{WORLD}:{there.port}") for _ in range(MAX_CONNECTIONS_EACH)]
        waiting = [await there.connect() for _ in range(10)]
        for _, writer in waiting:
            writer.write(f"CONNECT {WORLD}:{there.port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await asyncio.sleep(0.3)
        assert there.outcomes == {"connected": MAX_CONNECTIONS_EACH}
        for _, _, writer in busy:
            writer.close()
        for reader, writer in waiting:
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            writer.close()


async def test_one_for_each_session() -> None:
    """A session has a connection although others have taken all that there are."""
    async with world(max_connections=1) as there:
        _, _, first = await there.tunnel(f"{WORLD}:{there.port}")
        assert there.proxy is not None
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        there.proxy.attach(SessionListener(listening, ""), lambda: there.access)
        reader, writer = await there.connect_to(port)
        writer.write(f"CONNECT {WORLD}:{there.port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        first.close()
        writer.close()


async def test_memory_stays_flat() -> None:
    """A reader that stops holds up its sender, not the server's memory; bytes arrive in order."""
    total, sent = 200 * 2**20, 0
    block = os.urandom(2**20)

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while sent < total:
            writer.write(block)
            await writer.drain()
            sent += len(block)
        writer.close()

    async with world(flood) as there:
        _, reader, writer = await there.tunnel(f"{WORLD}:{there.port}")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await asyncio.sleep(0.5)
        assert sent < 40 * 2**20  # what the buffers of the sockets take
        count = 0
        while data := await reader.read(2**20):
            start = count % len(block)
            first = block[start : start + len(data)]
            assert data == first + block[: len(data) - len(first)]
            count += len(data)
        assert count == total
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024  # KiB
        writer.close()


async def test_close() -> None:
    """A closed proxy breaks its connections and listens no more."""
    async with world(echo) as there:
        _, reader, writer = await there.tunnel(f"{WORLD}:{there.port}")
        assert there.proxy is not None
        await there.proxy.aclose()
        with pytest.raises(ConnectionError):
            await reader.read()
        with pytest.raises(ConnectionError):
            await there.connect()
        writer.close()
