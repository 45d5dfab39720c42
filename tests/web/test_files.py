"""The file endpoints' edge: bodies as streams, refusals before, in and after them, slow clients."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from era_kernels.web import file_transfers
from tests.waiting import wait_until
from tests.web.fakes import LANGUAGE, FakeFileService
from tests.web.serving import ServerUnderTest, parse_response, read_all, run_server

FILES = "/api/sessions/s1/files"
HEAD = f"PUT {FILES}/%s HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n"
MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def clean(server: ServerUnderTest, session: str) -> Iterator[None]:
    """Each test sees its own files only."""
    yield
    server.files.files.clear()
    server.files.uploads.clear()


def put(server: ServerUnderTest, path: str, data: Any = b"x", **headers: str) -> httpx.Response:
    shown = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.http.put(f"{FILES}/{path}", content=data, headers=shown)


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def head(path: str, *headers: str) -> bytes:
    return (HEAD % (path, "\r\n".join(headers))).encode()


# ---------------------------------------------------------------- put


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 3 * MIB])
def test_put(server: ServerUnderTest, size: int) -> None:
    """A body reaches the service as it is, and its answer has path and size."""
    data = bytes(range(256)) * (size // 256 + 1)
    answer = put(server, "a/b%20c", data[:size], Content_Type="image/png")
    assert (answer.status_code, answer.json()) == (200, {"path": "a/b c", "size": size})
    file = server.files.files["a/b c"]
    assert (file.data, file.status.content_type) == (data[:size], "image/png")
    assert wait_until(lambda: server.files.uploads[0].is_discarded)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("text/html", "text/html"),
        ("application/x-www-form-urlencoded", ""),
        ("APPLICATION/X-WWW-Form-Urlencoded; charset=x", ""),
        ("", ""),
    ],
)
def test_content_type_of_an_upload(server: ServerUnderTest, said: str, kept: str) -> None:
    """What the uploader says is kept; a form is what clients call anything."""
    put(server, "f", Content_Type=said)
    assert server.files.files["f"].status.content_type == kept


@pytest.mark.parametrize("path", ["a%2F..%2Fb", "%2e%2e/x", "a//b", "a%00b", "", "/etc/passwd"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_invalid_path(server: ServerUnderTest, method: str, path: str) -> None:
    """A path that is none is refused before anybody is asked, and the connection goes on."""
    request = f"{method} {FILES}/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nab"
    after = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    raw = server.send_raw((request + after).encode())
    assert raw.startswith(b"HTTP/1.1 400 ") and raw.count(b"HTTP/1.1 200") == 1
    assert b"INVALID_PATH" in raw
    assert server.files.uploads == []


def test_refused_before_the_body(server: ServerUnderTest) -> None:
    """Some uploads are refused without taking the body.

    They have an unknown session, an unmet condition, a size over quota or limit, or a range.
    """
    server.files.add("f", b"old")
    assert code_of(server.http.put("/api/sessions/no/files/f", content=b"x")) == (
        404,
        "SESSION_NOT_FOUND",
    )
    assert code_of(put(server, "f", If_None_Match="*")) == (412, "PRECONDITION_FAILED")
    assert code_of(put(server, "f", If_Match='"x"')) == (412, "PRECONDITION_FAILED")
    assert code_of(put(server, "f", b"x" * 4 * MIB)) == (413, "QUOTA_EXCEEDED")
    assert code_of(put(server, "f", b"x" * 9 * MIB)) == (413, "TOO_LARGE")
    assert code_of(put(server, "f", Content_Range="bytes 0-0/1")) == (400, "INVALID_REQUEST")
    assert server.files.uploads == []
    for expect in ("", "Expect: 100-continue"):
        reply = server.send_and_parse(head("f", "Content-Length: 999999999999", expect or "X: y"))
        assert (reply.status, reply.headers["connection"]) == (413, "close")


def test_refused_in_the_body(server: ServerUnderTest) -> None:
    """An upload of unknown length that meets quota, limit or a full disk is discarded at once.

    The answer arrives.
    """

    def endless(size: int) -> Iterator[bytes]:
        yield from (b"x" * 65536 for _ in range(size // 65536))

    assert code_of(put(server, "f", endless(5 * MIB))) == (413, "QUOTA_EXCEEDED")
    assert code_of(put(server, "full", endless(MIB))) == (507, "INSUFFICIENT_STORAGE")
    assert wait_until(lambda: all(upload.is_discarded for upload in server.files.uploads))
    assert server.files.files == {}


def test_refused_beyond_the_cap(session: str) -> None:
    """A body that grows beyond the limit is refused and discarded."""
    with run_server(max_upload=MIB) as server:
        server.http.post("/api/sessions", json={"language": LANGUAGE, "session_id": "s1"})
        answer = put(server, "f", iter([b"x" * 65536] * 20))
        assert code_of(answer) == (413, "TOO_LARGE")
        # The answer may be here a moment before its request is over there.
        assert wait_until(lambda: [one.is_discarded for one in server.files.uploads] == [True])


def test_client_that_leaves_in_the_body(server: ServerUnderTest) -> None:
    """What is half is forgotten."""
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(head("f", "Content-Length: 1000") + b"x" * 500)
        assert wait_until(lambda: bool(server.files.uploads and server.files.uploads[0].data))
    assert wait_until(lambda: server.files.uploads[0].is_discarded)
    assert server.files.files == {}


def test_client_that_leaves_before_the_answer(server: ServerUnderTest) -> None:
    """What is whole is put, whether or not its client waits."""
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(head("late", "Content-Length: 3") + b"abc")
        assert wait_until(lambda: bool(server.files.uploads))
    assert wait_until(lambda: "late" in server.files.files)
    assert server.files.files["late"].data == b"abc"
    assert wait_until(lambda: server.files.uploads[0].is_discarded)


def test_many_clients_that_leave_at_once(server: ServerUnderTest) -> None:
    """However early a client leaves, nothing of its upload remains."""
    for number in range(50):
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.sendall(head(f"f{number}", "Content-Length: 10"))
    assert server.http.get("/health").status_code == 200
    assert wait_until(lambda: all(upload.is_discarded for upload in server.files.uploads))
    assert server.files.files == {}


def test_idle_upload(server: ServerUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who stops sending is hung up on; the server's own slowness is not held against anybody."""
    monkeypatch.setattr(file_transfers, "UPLOAD_IDLE_TIMEOUT", 0.4)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(head("f", "Content-Length: 1000") + b"x")
        began = time.monotonic()
        assert sock.recv(1000) == b""
        assert 0.3 < time.monotonic() - began < 5
    assert wait_until(lambda: server.files.uploads[0].is_discarded)
    for path in ("slow", "late"):
        assert put(server, path, b"x" * 1000).status_code == 200


def test_drops(server: ServerUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends by drops for long is hung up on, too."""
    monkeypatch.setattr(file_transfers, "UPLOAD_IDLE_TIMEOUT", 0.1)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(head("f", "Content-Length: 100000"))
        with pytest.raises(OSError):  # broken pipe or reset
            for _ in range(200):
                sock.sendall(b"x")
                time.sleep(0.04)


def test_slow_but_steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload may take longer than any other body."""
    with run_server(body_timeout=0.5) as server:
        server.http.post("/api/sessions", json={"language": LANGUAGE, "session_id": "s1"})

        def body() -> Iterator[bytes]:
            for _ in range(10):
                time.sleep(0.15)
                yield b"x" * 1000

        assert put(server, "f", body()).json()["size"] == 10_000


# ---------------------------------------------------------------- get


def test_file_that_is_cut_while_it_is_read(server: ServerUnderTest) -> None:
    """The connection ends, a client sees that bytes are missing; no other answer is mixed in."""
    server.files.add("f", b"x" * 200_000).cut_bytes = 100_000
    with pytest.raises(httpx.RemoteProtocolError):
        server.http.get(f"{FILES}/f")
    assert wait_until(lambda: server.files.files["f"].closed)
    assert server.http.get("/health").status_code == 200


def test_client_that_leaves_while_it_reads(server: ServerUnderTest) -> None:
    """The file is closed soon."""
    file = server.files.add("f", b"x" * 50 * MIB)
    with server.http.stream("GET", f"{FILES}/f") as answer:
        next(answer.iter_bytes())
    assert wait_until(lambda: file.closed)


# ---------------------------------------------------------------- the rest


@pytest.mark.parametrize("count", [0, 3, 1000])
def test_list(server: ServerUnderTest, count: int) -> None:
    """Each file under every name of its fields; many are encoded in a thread."""
    for number in range(count):
        server.files.add(f"{number:04d}", b"ab")
    shown = server.http.get(FILES).json()
    assert [file["path"] for file in shown["files"]] == [f"{n:04d}" for n in range(count)]
    assert shown["total_count"] == shown["count"] == count
    assert shown["total_size_bytes"] == 2 * count
    assert all(file["uploaded"] == file["modified_at"] for file in shown["files"])


def test_pipelined_after_an_upload(server: ServerUnderTest) -> None:
    """A request behind an upload on one connection has the ordinary bounds again."""
    request = head("f", "Content-Length: 3") + b"abc"
    request += b"GET %s/f HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % FILES.encode()
    with socket.create_connection(("127.0.0.1", server.port)) as end:
        end.sendall(request)
        raw = read_all(end)
    assert raw.count(b"HTTP/1.1 200") == 2
    assert parse_response(raw).headers["content-type"].startswith("application/json")
    assert raw.endswith(b"abc")
    assert FakeFileService.ROOM == 3 * MIB
