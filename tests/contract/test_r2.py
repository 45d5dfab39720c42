"""R2: objects as JSON and as bytes, by any key, with ranges, conditions, metadata and lists."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.client import Client
from tests.contract.checks import TIME, check, check_error, send_and_parse, send_pipelined
from tests.server_process import Server
from tests.waiting import wait_until
from tests.web.serving import RawResponse

R2 = "/api/storage/r2"
RAW = {"Accept": "application/octet-stream"}
POLICY = "sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads"
BYTES = bytes(range(256)) * 4099  # more than two chunks, and no multiple of three


@pytest.fixture
def space() -> str:
    """The path of a namespace of its own."""
    return f"{R2}/s{time.monotonic_ns()}"


def delete(client: Client, path: str, key: str) -> httpx.Response:
    return client.http.delete(path, params={"key": key})


def put_json(client: Client, path: str, data: bytes, **body: Any) -> httpx.Response:
    return client.http.put(path, json={"content": base64.b64encode(data).decode(), **body})


def put_raw(client: Client, path: str, data: Any, **headers: str) -> httpx.Response:
    shown = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.http.put(
        path, content=data, headers={"Content-Type": "application/octet-stream", **shown}
    )


def get_raw(client: Client, path: str, **headers: str) -> httpx.Response:
    shown = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.http.get(path, headers={**RAW, **shown})


def ask(port: int, method: str, path: str, body: str = "") -> RawResponse:
    """Asks for a path exactly as it is written here."""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    return send_and_parse(port, f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())


def check_path_error(answer: httpx.Response) -> None:
    """A bad path is answered with how it should look."""
    assert answer.status_code == 400, answer.text
    shown = answer.json()
    assert shown["code"] == "INVALID_PATH"
    assert shown["format"] == "/api/storage/r2/{namespace}/{key}"


# ---------------------------------------------------------------- the two forms


@pytest.mark.parametrize("data", [b"", b"\0", b"ab", b"abc", b"\xff" * 4, BYTES])
@pytest.mark.parametrize("put", [put_json, put_raw])
def test_round_trip(client: Client, space: str, data: bytes, put: Any) -> None:
    """What was put by either form is got by both, byte for byte, and described alike."""
    answer = put(client, f"{space}/a/b.bin", data)
    assert (answer.status_code, answer.json()) == (200, {"success": True, "size": len(data)})
    etag = hashlib.md5(data).hexdigest()
    assert answer.headers["ETag"] == f'"{etag}"'
    shown = client.http.get(f"{space}/a/b.bin")
    assert shown.headers["Content-Type"] == "application/json; charset=utf-8"
    assert shown.headers["Content-Length"] == str(len(shown.content))
    described = shown.json()
    assert set(described) == {
        "content", "size", "httpMetadata", "customMetadata", "etag", "uploaded"
    }  # fmt: skip
    assert base64.b64decode(described["content"], validate=True) == data
    check(described, size=len(data), etag=etag, customMetadata={})
    assert TIME.fullmatch(described["uploaded"])
    raw = get_raw(client, f"{space}/a/b.bin")
    assert (raw.status_code, raw.content) == (200, data)
    assert raw.headers["Content-Type"] == "application/octet-stream"
    assert raw.headers["Content-Length"] == str(len(data))
    assert raw.headers["ETag"] == f'"{etag}"'
    assert all(one.headers["Vary"] == "Accept" for one in (shown, raw))
    assert shown.text.startswith('{"content":"')


def test_overwrite(client: Client, space: str) -> None:
    """An object is replaced whole: bytes, type and metadata."""
    put_raw(client, f"{space}/k", b"long old", Content_Type="text/plain", X_Era_Meta_A="b")
    put_json(client, f"{space}/k", b"new")
    check(client.http.get(f"{space}/k").json(), content="bmV3", httpMetadata={}, customMetadata={})


@pytest.mark.parametrize(
    "content_type",
    ["", "application/json", "Application/JSON; charset=utf-8",
     "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"],
)  # fmt: skip
def test_bodies_that_are_json(client: Client, space: str, content_type: str) -> None:
    """JSON is what a body is taken for where its type is JSON, a form or absent."""
    headers = {"Content-Type": content_type} if content_type else {}
    answer = client.http.put(f"{space}/k", content=b'{"content":"YQ=="}', headers=headers)
    assert answer.json() == {"success": True, "size": 1}
    check(client.http.get(f"{space}/k").json(), content="YQ==", httpMetadata={})
    bad = client.http.put(f"{space}/k", content=b"\x89PNG", headers=headers)
    check_error(bad, 400, "INVALID_JSON")


@pytest.mark.parametrize(
    "content_type", ["image/png", "text/plain; charset=utf-8", "application/geo+json", "text/html"]
)
def test_bodies_that_are_bytes(client: Client, space: str, content_type: str) -> None:
    """A body of any other type is the object, and the type is kept."""
    put_raw(client, f"{space}/k", b'{"content":"YQ=="}', Content_Type=content_type)
    check(client.http.get(f"{space}/k").json(), size=18, httpMetadata={"contentType": content_type})
    assert get_raw(client, f"{space}/k").headers["Content-Type"] == content_type


def test_content_type_in_json(client: Client, space: str) -> None:
    """`httpMetadata.contentType` names the type in a JSON body; a wrong one is 400."""
    put_json(client, f"{space}/k", b"{}", httpMetadata={"contentType": "application/json"})
    assert get_raw(client, f"{space}/k").headers["Content-Type"] == "application/json"
    answer = put_json(client, f"{space}/k", b"", httpMetadata={"contentType": "a\r\nX: y"})
    check_error(answer, 400, "INVALID_REQUEST")
    check(client.http.get(f"{space}/k").json(), size=2)


@pytest.mark.parametrize(
    ("accept", "raw"),
    [
        ("application/octet-stream", True),
        ("APPLICATION/Octet-Stream;q=0.5", True),
        ("text/html, application/octet-stream", True),
        ("application/octet-stream;q=0", False),
        ("application/json, application/octet-stream;q=0.5", False),
        ("*/*", False),
        ("image/png", False),
        ("application/json", False),
        ("", False),
    ],
)
def test_accept(client: Client, space: str, accept: str, raw: bool) -> None:
    """Bytes are for who accepts `application/octet-stream`; all others get JSON."""
    put_raw(client, f"{space}/k", b"abc")
    answer = client.http.get(f"{space}/k", headers={"Accept": accept})
    assert (answer.content == b"abc") == raw
    assert ("content" in answer.text) != raw


@pytest.mark.parametrize(
    "body",
    [
        {}, {"content": None}, {"content": 1}, {"content": ["YQ=="]}, {"content": "Y"},
        {"content": "YQ"}, {"content": "Y=Q="}, {"content": "é"}, {"content": "____"},
        {"content": "YQ==YQ=="}, {"content": "YQ==", "metadata": {"a": 1}},
        {"content": "YQ==", "metadata": ["a"]}, {"content": "YQ==", "httpMetadata": 1},
    ],
)  # fmt: skip
def test_bad_bodies(client: Client, space: str, body: dict[str, Any]) -> None:
    """A wrong field, and what is no base64, is 400 and stores nothing."""
    check_error(client.http.put(f"{space}/k", json=body), 400, "INVALID_REQUEST")
    check_error(client.http.get(f"{space}/k"), 404, "OBJECT_NOT_FOUND")


def test_base64_with_line_breaks(client: Client, space: str) -> None:
    """base64(1) breaks its lines; they are no part of the content."""
    content = base64.encodebytes(BYTES[:1000]).decode()
    client.http.put(f"{space}/k", json={"content": content}).raise_for_status()
    assert get_raw(client, f"{space}/k").content == BYTES[:1000]


# ---------------------------------------------------------------- keys and paths

KEYS = [
    "..", ".", "../..", "a/../b", "./a", "//", "/", "a//b", "a/", " ", "%", "%2e%2e", "é", "☃/😀",
    "\0", "a\nb", "?", "#", "a?key=b", "+", "a&b=c", "C:\\x", "\u202e", "x" * 1024, "é" * 512,
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_any_key(client: Client, port: int, space: str, key: str) -> None:
    """Any text is a key, by `?key=` and in the path, where it is decoded once."""
    put = client.http.put(space, params={"key": key}, json={"content": "YQ=="})
    assert put.json() == {"success": True, "size": 1}
    assert client.http.get(space, params={"key": key}).json()["content"] == "YQ=="
    answer = ask(port, "GET", f"{space}/{quote(key, safe='')}")
    assert answer.json()["content"] == "YQ=="
    assert [one["key"] for one in client.http.get(space).json()["objects"]] == [key]
    assert client.http.delete(space, params={"key": key}).json() == {"success": True}
    check_error(client.http.get(space, params={"key": key}), 404, "OBJECT_NOT_FOUND")


@pytest.fixture(scope="module")
def port(server: Server) -> int:
    return int(server.base_url.rpartition(":")[2])


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a/../b", "a/../b"), ("..", ".."), ("/", "/"), ("%2F", "/"), ("a%252F", "a%2F"),
        ("é", "é"), ("a%00", "a\0"), ("./", "./"), ("x;y=z", "x;y=z"), ("a+b", "a+b"),
    ],
)  # fmt: skip
def test_keys_in_paths(client: Client, port: int, space: str, path: str, key: str) -> None:
    """What stands after the namespace is the key as it stands, decoded once, never normalised."""
    assert ask(port, "PUT", f"{space}/{path}", '{"content":"YQ=="}').status == 200
    assert [one["key"] for one in client.http.get(space).json()["objects"]] == [key]


def test_key_bounds(client: Client, space: str) -> None:
    """A key has 1 to 1024 bytes; an empty one is a wrong path, and so is none for a change."""
    for key in ("x" * 1025, "é" * 513):
        for method in ("GET", "PUT", "DELETE"):
            answer = client.http.request(method, space, params={"key": key}, json={"content": ""})
            check_error(answer, 413, "TOO_LARGE")
    for path in (space, f"{space}/", f"{space}?key="):
        for method in ("PUT", "DELETE"):
            check_path_error(client.http.request(method, path, json={"content": ""}))
    check_path_error(client.http.get(f"{space}?key="))
    check_path_error(client.http.get(f"{space}/%ff"))
    check(client.http.get(f"{space}/").json(), objects=[], truncated=False, cursor="")


@pytest.mark.parametrize("name", ["-a", ".a", "a%20b", "é", "x" * 65, "a%2Fb", "..", "%00", "a:b"])
def test_bad_namespaces(port: int, name: str) -> None:
    """A namespace has letters, digits, dots, underscores and hyphens, at most 64."""
    for method, path in (("GET", ""), ("GET", "/k"), ("PUT", "/k"), ("DELETE", "/k")):
        head = (
            f"{method} {R2}/{name}{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        answer = send_and_parse(port, head.encode())
        assert (answer.status, answer.json()["code"]) == (400, "INVALID_PATH")
        assert answer.json()["format"] == "/api/storage/r2/{namespace}/{key}"


def test_namespaces_are_apart(client: Client, space: str) -> None:
    """One key in two namespaces is two objects."""
    other = f"{space}x"
    put_raw(client, f"{space}/k", b"1")
    put_raw(client, f"{other}/k", b"22")
    assert get_raw(client, f"{space}/k").content == b"1"
    client.http.delete(f"{space}/k")
    assert get_raw(client, f"{other}/k").content == b"22"
    client.http.delete(f"{other}/k")


def test_delete(client: Client, space: str) -> None:
    """A deletion succeeds also where there is nothing."""
    put_raw(client, f"{space}/k", b"1")
    for _ in range(2):
        assert client.http.delete(f"{space}/k").json() == {"success": True}
    check_error(client.http.get(f"{space}/k"), 404, "OBJECT_NOT_FOUND")
    check_error(get_raw(client, f"{space}/k"), 404, "OBJECT_NOT_FOUND")


@pytest.mark.parametrize("path", ["", "/k"])
def test_methods(client: Client, space: str, path: str) -> None:
    """A wrong method is 405 with `Allow`; OPTIONS lists the same."""
    wrong = client.http.post(f"{space}{path}", content=b"x")
    check_error(wrong, 405, "METHOD_NOT_ALLOWED")
    options = client.http.options(f"{space}{path}")
    assert options.headers["Allow"] == wrong.headers["Allow"] == "GET, HEAD, PUT, DELETE, OPTIONS"


# ---------------------------------------------------------------- lists


def test_list(client: Client, space: str) -> None:
    """A list has key, size, time and etag, sorted by the bytes of the keys."""
    for key in ("b", "é", "a/z", "B", "\U0001f600", "a.txt", "\uffff"):
        put_raw(client, f"{space}/{quote(key)}", key.encode())
    shown = client.http.get(space).json()
    assert set(shown) == {"objects", "truncated", "cursor"}
    keys = ["B", "a.txt", "a/z", "b", "é", "\uffff", "\U0001f600"]
    assert [one["key"] for one in shown["objects"]] == keys
    for one in shown["objects"]:
        assert set(one) == {"key", "size", "uploaded", "etag"}
        assert one["size"] == len(one["key"].encode())
        assert one["etag"] == hashlib.md5(one["key"].encode()).hexdigest()
        assert TIME.fullmatch(one["uploaded"])
    for prefix, wanted in (("a", ["a.txt", "a/z"]), ("é", ["é"]), ("a/", ["a/z"]), ("zz", [])):
        listed = client.http.get(space, params={"prefix": prefix}).json()
        assert [one["key"] for one in listed["objects"]] == wanted
        check(listed, truncated=False, cursor="")


def test_pages(client: Client, space: str) -> None:
    """Pages follow each other by the cursor; 100 is the default, 1000 the most."""
    requests = [f'PUT {space}/k{n:04}\n{{"content":""}}' for n in range(1005)]
    assert send_pipelined(client.base_url, requests) == [200] * 1005
    first = client.http.get(space).json()
    assert (len(first["objects"]), first["truncated"]) == (100, True)
    second = client.http.get(space, params={"cursor": first["cursor"], "limit": 5000}).json()
    assert [one["key"] for one in second["objects"]] == [f"k{n:04}" for n in range(100, 1005)]
    check(second, truncated=False, cursor="")
    most = client.http.get(space, params={"limit": 10**30}).json()
    assert (len(most["objects"]), most["truncated"]) == (1000, True)
    client.http.delete(f"{space}/k0999")
    rest = client.http.get(space, params={"cursor": most["cursor"], "prefix": "k"}).json()
    assert [one["key"] for one in rest["objects"]] == [f"k{n:04}" for n in range(1000, 1005)]
    exact = client.http.get(space, params={"prefix": "k100", "limit": 5}).json()
    check(exact, truncated=False, cursor="")


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=-1", "limit=x", "limit=1.5", "cursor=%FF", "cursor=!", "cursor=_w"]
)
def test_bad_queries(client: Client, space: str, query: str) -> None:
    """A limit that is no positive integer, and a cursor that no list gave, are 400."""
    check_error(client.http.get(f"{space}?{query}"), 400, "INVALID_REQUEST")


# ---------------------------------------------------------------- metadata


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"type": "image/jpeg", "a.b_c-d": "x"},
        {"Author": "Zoe", "author": "Zoë"},
        {"ключ": "значение ☃", "a b": " x ", "%": "100%", "": "", "é%41": "%41"},
        {"line": "a\r\nSet-Cookie: b", "nul": "\0", "quote": '"\\,;='},
    ],
)
def test_metadata_both_ways(client: Client, space: str, metadata: dict[str, str]) -> None:
    """Metadata of a JSON body comes back in JSON, and in headers, which put it again."""
    put_json(client, f"{space}/k", b"x", metadata=metadata).raise_for_status()
    check(client.http.get(f"{space}/k").json(), customMetadata=metadata)
    raw = get_raw(client, f"{space}/k")
    assert "Set-Cookie" not in raw.headers
    again = {k: v for k, v in raw.headers.items() if k.startswith("x-era-meta-")}
    assert len(again) == len(metadata)
    headers = {"Content-Type": "image/png", **again}
    client.http.put(f"{space}/again", content=b"x", headers=headers).raise_for_status()
    check(client.http.get(f"{space}/again").json(), customMetadata=metadata)


def test_metadata_of_headers(client: Client, space: str) -> None:
    """Names of headers become lower case; values may be UTF-8 as it is."""
    headers = {"X-Era-Meta-Author": "Zoë".encode(), "X-ERA-META-n": b"%E2%98%83", "X-Other": b"y"}
    client.http.put(
        f"{space}/k", content=b"", headers={"Content-Type": "image/png", **headers}
    ).raise_for_status()
    check(client.http.get(f"{space}/k").json(), customMetadata={"author": "Zoë", "n": "☃"})
    for bad in (b"\xff", b"%ff"):
        answer = client.http.put(
            f"{space}/k", content=b"", headers={"Content-Type": "a/b", "X-Era-Meta-a": bad}
        )
        check_error(answer, 400, "INVALID_REQUEST")
    check(put_json(client, f"{space}/k", b"", metadata=None).json(), success=True)
    check(client.http.get(f"{space}/k").json(), customMetadata={})


@pytest.mark.parametrize("prefix", ["%ff", "a%c3", "%ed%a0%80"])
def test_prefix_that_is_no_text(client: Client, space: str, prefix: str) -> None:
    """A prefix that is no UTF-8 is refused, as it is for KV, and does not begin other keys."""
    check_error(client.http.get(f"{space}?prefix={prefix}"), 400, "INVALID_REQUEST")


def test_metadata_bound(client: Client, space: str) -> None:
    """Names and values may have 8 KiB together, in 64 pairs."""
    for count, status in ((64, 200), (65, 413)):
        metadata = {f"n{number}": "v" for number in range(count)}
        headers = {f"X-Era-Meta-{name}": "v" for name in metadata}
        answer = put_json(client, f"{space}/k", b"", metadata=metadata)
        assert answer.status_code == status
        raw = {"Content-Type": "image/png", **headers}
        assert client.http.put(f"{space}/k", content=b"", headers=raw).status_code == status
    for size, status in ((8191, 200), (8192, 413)):
        assert put_json(
            client, f"{space}/k", b"", metadata={"é": "x" * (size - 1)}
        ).status_code == (status)
        answer = put_raw(client, f"{space}/k", b"", X_Era_Meta_a="x" * size)
        assert answer.status_code == status
    check_error(answer, 413, "TOO_LARGE")


# ---------------------------------------------------------------- ranges and conditions


def test_ranges(client: Client, space: str) -> None:
    """Bytes are served by ranges; JSON is not."""
    put_raw(client, f"{space}/k", b"0123456789")
    etag = hashlib.md5(b"0123456789").hexdigest()
    for asked, got, shown in (
        ("bytes=2-4", b"234", "bytes 2-4/10"),
        ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=-1", b"9", "bytes 9-9/10"),
        ("bytes=0-99", b"0123456789", "bytes 0-9/10"),
    ):
        answer = get_raw(client, f"{space}/k", Range=asked)
        assert (answer.status_code, answer.content) == (206, got)
        assert answer.headers["Content-Range"] == shown
        assert answer.headers["Content-Length"] == str(len(got))
    for condition, status in ((f'"{etag}"', 206), ('"other"', 200), (f'W/"{etag}"', 200)):
        answer = get_raw(client, f"{space}/k", Range="bytes=2-4", If_Range=condition)
        assert answer.status_code == status
    answer = get_raw(client, f"{space}/k", Range="bytes=10-")
    check_error(answer, 416, "RANGE_NOT_SATISFIABLE")
    assert answer.headers["Content-Range"] == "bytes */10"
    answer = client.http.get(f"{space}/k", headers={"Range": "bytes=2-4"})
    assert (answer.status_code, answer.json()["size"]) == (200, 10)


def test_ranges_of_a_large_object(client: Client, space: str) -> None:
    """Ranges across chunks are exact."""
    put_raw(client, f"{space}/k", BYTES)
    for start, stop in ((0, 1), (524_287, 524_290), (100, 1_000_000), (1_048_576, len(BYTES))):
        answer = get_raw(client, f"{space}/k", Range=f"bytes={start}-{stop - 1}")
        assert answer.content == BYTES[start:stop]


@pytest.mark.parametrize("accept", [RAW, {}])
def test_head(client: Client, space: str, accept: dict[str, str]) -> None:
    """HEAD tells what GET would, in either form."""
    put_raw(client, f"{space}/k", BYTES, Content_Type="image/png", X_Era_Meta_a="b")
    got = client.http.get(f"{space}/k", headers=accept)
    head = client.http.head(f"{space}/k", headers=accept)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("Content-Length", "Content-Type", "ETag", "Last-Modified", "X-Era-Meta-a"):
        assert head.headers.get(name) == got.headers.get(name)
    assert client.http.head(f"{space}/none", headers=accept).status_code == 404
    assert client.http.head(space).status_code == 200


@pytest.mark.parametrize("accept", [RAW, {}])
def test_not_modified(client: Client, space: str, accept: dict[str, str]) -> None:
    """Who has the object already gets 304 without a body."""
    put_raw(client, f"{space}/k", b"abc")
    etag = f'"{hashlib.md5(b"abc").hexdigest()}"'
    got = client.http.get(f"{space}/k", headers=accept)
    for name, value in (
        ("If-None-Match", etag), ("If-None-Match", f'"x", {etag}'), ("If-None-Match", "*"),
        ("If-None-Match", got.headers["ETag"]), ("If-Modified-Since", got.headers["Last-Modified"]),
    ):  # fmt: skip
        answer = client.http.get(f"{space}/k", headers={**accept, name: value})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["ETag"] == got.headers["ETag"]
    answer = client.http.get(f"{space}/k", headers={**accept, "If-None-Match": '"other"'})
    assert answer.status_code == 200
    answer = client.http.get(f"{space}/k", headers={**accept, "If-Match": '"other"'})
    check_error(answer, 412, "PRECONDITION_FAILED")


def test_conditional_changes(client: Client, space: str) -> None:
    """A change is made only to the state that it is meant for, whichever form it has."""
    path, etag = f"{space}/k", f'"{hashlib.md5(b"1").hexdigest()}"'
    assert put_raw(client, path, b"1", If_None_Match="*").status_code == 200
    headers = [{"If-None-Match": "*"}, {"If-Match": '"other"'}, {"If-None-Match": etag},
               {"If-Unmodified-Since": formatdate(0, usegmt=True)}]  # fmt: skip
    for condition in headers:
        raw = {"Content-Type": "text/plain", **condition}
        check_error(client.http.put(path, content=b"2", headers=raw), 412, "PRECONDITION_FAILED")
        answer = client.http.put(path, json={"content": "Mg=="}, headers=condition)
        check_error(answer, 412, "PRECONDITION_FAILED")
        check_error(client.http.delete(path, headers=condition), 412, "PRECONDITION_FAILED")
    assert get_raw(client, path).content == b"1"
    assert put_raw(client, path, b"2", If_Match=etag).status_code == 200
    check_error(client.http.delete(path, headers={"If-Match": etag}), 412, "PRECONDITION_FAILED")
    check_error(put_raw(client, f"{space}/no", b"", If_Match="*"), 412, "PRECONDITION_FAILED")
    answer = put_raw(client, path, b"x", Content_Range="bytes 0-0/1")
    check_error(answer, 400, "INVALID_REQUEST")


def test_only_one_creates(client: Client, space: str) -> None:
    """Of many that create one object at once, one succeeds."""
    with ThreadPoolExecutor(8) as pool:
        puts = pool.map(
            lambda n: put_raw(client, f"{space}/k", b"x" * n, If_None_Match="*"), range(16)
        )
    assert sorted(one.status_code for one in puts) == [200, *[412] * 15]


# ---------------------------------------------------------------- safety


@pytest.mark.parametrize("content_type", ["text/html", "image/svg+xml", "application/xhtml+xml"])
def test_pages_are_sandboxed(client: Client, space: str, content_type: str) -> None:
    """A stored page does not act as the API's own; no answer about objects does."""
    put_raw(client, f"{space}/k", b"<script>", Content_Type=content_type)
    for path, accept in (("k", RAW), ("k", {}), ("none", RAW), ("", {})):
        answer = client.http.get(f"{space}/{path}", headers=accept)
        assert answer.headers["Content-Security-Policy"] == POLICY
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_json_body_bound(client: Client, space: str) -> None:
    """A JSON body that is too large is 413, which names the raw form; that takes as much."""
    data = b"x" * 26 * 1024 * 1024
    shown = check_error(put_json(client, f"{space}/k", data), 413, "TOO_LARGE")
    assert "application/octet-stream" in shown["hint"]
    assert put_raw(client, f"{space}/k", data).json()["size"] == len(data)
    answer = client.http.get(f"{space}/k")
    assert base64.b64decode(json.loads(answer.content)["content"]) == data


def test_chunked_upload(client: Client, space: str) -> None:
    """A body without a length is taken, too."""
    pieces = [BYTES[start : start + 70_001] for start in range(0, len(BYTES), 70_001)]
    assert put_raw(client, f"{space}/k", iter(pieces)).json()["size"] == len(BYTES)
    assert get_raw(client, f"{space}/k").content == BYTES


def test_client_that_leaves_in_the_middle(
    client: Client, server: Server, port: int, space: str
) -> None:
    """An upload that its client gives up leaves the old object and no file."""
    put_raw(client, f"{space}/k", b"old")
    incoming = server.data_dir / "r2" / "incoming"
    for framing in ("Content-Length: 1000000", "Transfer-Encoding: chunked"):
        with socket.create_connection(("127.0.0.1", port)) as sock:
            head = f"PUT {space}/k HTTP/1.1\r\nHost: localhost\r\nContent-Type: a/b\r\n{framing}"
            sock.sendall(f"{head}\r\n\r\n".encode() + b"10000\r\n" + b"x" * 65536)
            assert wait_until(lambda: any(incoming.iterdir()))
        assert wait_until(lambda: not any(incoming.iterdir()))
    assert get_raw(client, f"{space}/k").content == b"old"


def test_reader_that_leaves(client: Client, space: str) -> None:
    """A client that leaves in the middle of either form costs nothing."""
    put_raw(client, f"{space}/k", BYTES * 20)
    for accept in (RAW, {}):
        with client.http.stream("GET", f"{space}/k", headers=accept) as answer:
            next(answer.iter_raw())
    assert client.http.get("/health").json()["status"] == "healthy"


def test_overwritten_while_it_is_read(client: Client, space: str) -> None:
    """Who has begun to read gets the object as it was, whatever is put or deleted meanwhile."""
    data = BYTES * 40
    put_raw(client, f"{space}/k", data)
    for change in (lambda: put_raw(client, f"{space}/k", data[::-1]),
                   lambda: client.http.delete(f"{space}/k")):  # fmt: skip
        before = hashlib.md5(get_raw(client, f"{space}/k").content).digest()
        got = hashlib.md5()
        with client.http.stream("GET", f"{space}/k", headers=RAW) as answer:
            pieces = answer.iter_raw()
            got.update(next(pieces))
            assert change().status_code == 200
            for piece in pieces:
                got.update(piece)
        assert got.digest() == before


def test_concurrent_puts(client: Client, space: str) -> None:
    """Of many puts of one key one wins, whole."""
    contents = [bytes([n]) * (300_000 + n) for n in range(16)]
    with ThreadPoolExecutor(8) as pool:
        for answer in pool.map(lambda data: put_raw(client, f"{space}/k", data), contents):
            assert answer.status_code == 200
    assert get_raw(client, f"{space}/k").content in contents


@pytest.mark.parametrize("body", [b"\x89PNG\r\n", b"text", b"[1]", b'{"a": 1}', b""])
def test_file_without_a_type(client: Client, body: bytes) -> None:
    """Who sends a file as if it were JSON is told how to send the bytes themselves."""
    answer = client.http.put("/api/storage/r2/n/file", content=body)
    assert answer.status_code == 400
    assert "application/octet-stream" in answer.json()["hint"]
