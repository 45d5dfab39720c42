"""Measures for how long each kind of a large body, and of a large head, stops all other requests.

`python -m benchmarks.stops [WORD …]` prints the longest stop of each, as processor time of the
server; with words only the rows that hold one of them.
"""

from __future__ import annotations

import http.client
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from benchmarks.api_caller import Caller
from benchmarks.table import Row, ms
from tests.watched_server import Watch, watched_server

MAX_STOP = 0.1  # seconds
ATTEMPTS = 3
BODY_BYTES = 31 << 20
VALUES = 990_000
HEAD_BYTES = 60 << 10
HEAD_REPEATS = 5
SESSION = "/api/sessions/stopped"

TEXTS: dict[str, Callable[[], bytes]] = {
    "a long text": lambda: b'"%b"' % (b"x" * BODY_BYTES),
    "a text with one emoji": lambda: b'"%b"' % (b"x" * BODY_BYTES + "😀".encode()),
    "escapes": lambda: b'"%b"' % (rb"\u00e9\n" * (BODY_BYTES // 8)),
}
LISTS: dict[str, Callable[[], bytes]] = {
    "deep lists": lambda: b"[%b1]" % ((b"[" * 190 + b"1" + b"]" * 190 + b",") * 5000),
    "lists": lambda: b"[%b1]" % (b"[]," * VALUES),
    "texts": lambda: b'[%b""]' % (b'"abcdefgh",' * VALUES),
}
NAMES: dict[str, Callable[[], bytes]] = {
    "names": lambda: b"{%b}" % b",".join(b'"name%d":"a"' % n for n in range(VALUES)),
}
NUMBERS: dict[str, Callable[[], bytes]] = {
    "numbers": lambda: b"[%b1]" % (b"1.2345678901234567e-10," * VALUES),
    "huge integers": lambda: b"[%b1]" % ((b"9" * 4000 + b",") * 7900),
}
ALL = {**TEXTS, **LISTS, **NAMES, **NUMBERS}
TEXT_FIELD = {**TEXTS, **LISTS, **NAMES}
OTHER_FIELD = {name: ALL[name] for name in ("a long text", "deep lists", "lists", "texts", "names")}


@dataclass(frozen=True)
class Field:
    """A field of a body, and what is put in its place, which is %b."""

    method: str
    path: str
    body: bytes
    values: dict[str, Callable[[], bytes]]


FIELDS = {
    "run, update_data": Field("POST", f"{SESSION}/run", b'{"code":"","update_data":{"a":%b}}', ALL),
    "run, no known field": Field("POST", f"{SESSION}/run", b'{"code":"","a":%b}', OTHER_FIELD),
    "run, code": Field("POST", f"{SESSION}/run", b'{"code":%b}', TEXT_FIELD),
    "run, env": Field("POST", f"{SESSION}/run", b'{"code":"","env":%b}', OTHER_FIELD),
    "run, one of env": Field("POST", f"{SESSION}/run", b'{"code":"","env":{"A":%b}}', TEXT_FIELD),
    "run, timeout": Field("POST", f"{SESSION}/run", b'{"code":"","timeout":%b}', OTHER_FIELD),
    "stream, code": Field("POST", f"{SESSION}/stream", b'{"code":%b}', TEXT_FIELD),
    "exec, argv": Field("POST", f"{SESSION}/exec", b'{"argv":["true",%b]}', TEXT_FIELD),
    "exec, all of argv": Field("POST", f"{SESSION}/exec", b'{"argv":%b}', OTHER_FIELD),
    "exec, command": Field("POST", f"{SESSION}/exec", b'{"command":%b}', TEXT_FIELD),
    "exec, stdin": Field("POST", f"{SESSION}/exec", b'{"command":":","stdin":%b}', TEXT_FIELD),
    "exec, cwd": Field("POST", f"{SESSION}/exec", b'{"command":":","cwd":%b}', TEXT_FIELD),
    "execute, code": Field("POST", "/api/execute", b'{"language":"python","code":%b}', TEXT_FIELD),
    "execute, language": Field("POST", "/api/execute", b'{"language":%b,"code":""}', OTHER_FIELD),
    "execute, files": Field(
        "POST", "/api/execute", b'{"language":"python","code":"","files":%b}', OTHER_FIELD
    ),
    "execute, one of files": Field(
        "POST", "/api/execute", b'{"language":"python","code":"","files":{"a":%b}}', TEXT_FIELD
    ),
    "create, id": Field("POST", "/api/sessions", b'{"language":"python","id":%b}', OTHER_FIELD),
    "create, metadata": Field(
        "POST", "/api/sessions", b'{"language":"python","id":"b","metadata":{"a":%b}}', OTHER_FIELD
    ),
    "create, limits": Field(
        "POST", "/api/sessions", b'{"language":"python","limits":%b}', OTHER_FIELD
    ),
    "create, mounts": Field(
        "POST", "/api/sessions", b'{"language":"python","mounts":%b}', OTHER_FIELD
    ),
    "create, storage": Field(
        "POST", "/api/sessions", b'{"language":"python","storage":%b}', OTHER_FIELD
    ),
    "create, allow_hosts": Field(
        "POST", "/api/sessions", b'{"language":"python","allow_hosts":%b}', OTHER_FIELD
    ),
    "change, metadata": Field("PATCH", SESSION, b'{"metadata":{"a":%b}}', OTHER_FIELD),
    "change, storage": Field("PATCH", SESSION, b'{"storage":%b}', OTHER_FIELD),
    "duplicate, data": Field("POST", f"{SESSION}/duplicate", b'{"data":{"a":%b}}', OTHER_FIELD),
    "stored code": Field("PUT", f"{SESSION}/code", b'{"code":%b}', TEXT_FIELD),
    "KV, value": Field("PUT", "/api/storage/kv/n/k", b'{"value":%b}', TEXT_FIELD),
    "KV, metadata": Field(
        "PUT", "/api/storage/kv/n/k", b'{"value":"a","metadata":{"a":%b}}', OTHER_FIELD
    ),
    "D1, sql": Field("POST", "/api/storage/d1/n/query", b'{"sql":%b}', TEXT_FIELD),
    "D1, params": Field("POST", "/api/storage/d1/n/query", b'{"sql":"SELECT 1","params":%b}', ALL),
    "D1, one of params": Field(
        "POST", "/api/storage/d1/n/query", b'{"sql":"SELECT length(?)","params":[%b]}', TEXT_FIELD
    ),
    "D1, batch": Field("POST", "/api/storage/d1/n/batch", b"%b", OTHER_FIELD),
    "R2, content": Field("PUT", "/api/storage/r2/n/k", b'{"content":%b}', TEXT_FIELD),
    "R2, metadata": Field(
        "PUT", "/api/storage/r2/n/k", b'{"content":"","metadata":%b}', OTHER_FIELD
    ),
    "R2, httpMetadata": Field(
        "PUT", "/api/storage/r2/n/k", b'{"content":"","httpMetadata":%b}', OTHER_FIELD
    ),
    "input, value": Field("POST", f"{SESSION}/executions/e/input", b'{"value":%b}', TEXT_FIELD),
    "a method without a body": Field("DELETE", f"{SESSION}/files/none", b'{"a":%b}', OTHER_FIELD),
    "a file": Field("PUT", f"{SESSION}/files/a.txt", b"%b", {"a long text": TEXTS["a long text"]}),
}


def _many(form: str, separator: str = "") -> str:
    """Repeats a form, in which {} is a number, until the head is full."""
    parts, size = [], 0
    while size < HEAD_BYTES:
        parts.append(form.format(len(parts)))
        size += len(parts[-1]) + len(separator)
    return separator.join(parts)


def _fields(form: str, count: int = 120) -> str:
    size = HEAD_BYTES // count - 16
    return "".join(form.format(n) + "x" * (size - len(form)) + "\r\n" for n in range(count))


# What fills the head of a request: its line, and fields.
_FILE = f"GET {SESSION}/files/a"
_RUN = f"POST {SESSION}/run"
_OBJECT = "PUT /api/storage/r2/n/k"
_LIMITS = "GET /api/limits"
_PROXY = "GET /proxy/stopped/80/"
_EMPTY = "Content-Length: 0\r\n"
HEADS: dict[str, tuple[str, str]] = {
    "unknown parameters": (f"GET /api/sessions?{_many('n{}', '&')}", ""),
    "long unknown parameters": (f"GET /api/sessions?{_many('n{}' + 'a' * 70, '&')}", ""),
    "short parameters": (f"GET /api/sessions?{'a&' * (HEAD_BYTES // 2)}", ""),
    "labels": (f"GET /api/sessions?{_many('metadata.{}=1', '&')}", ""),
    "percents": (f"GET /api/sessions?prefix={'%C3%A9' * (HEAD_BYTES // 6)}", ""),
    "parameters of run": (f"{_RUN}?raw=true&{_many('cod{}=', '&')}", _EMPTY),
    "a long path": (f"GET /api/sessions/{'a/' * (HEAD_BYTES // 2)}", ""),
    "dots in a path": (f"GET {SESSION}/files/{'../' * (HEAD_BYTES // 3)}", ""),
    "percents in a path": (f"GET {SESSION}/files/{'%2e' * (HEAD_BYTES // 3)}", ""),
    "a path of the proxy": (f"{_PROXY}{'a/' * (HEAD_BYTES // 2)}", ""),
    "header fields": (_LIMITS, _fields("X-{}: ")),
    "the same header field": (_LIMITS, _fields("X-A: {}")),
    "header fields of the proxy": (_PROXY, _fields("X-{}: ")),
    "too many header fields": (_LIMITS, _many("a:{}\r\n")),
    "cookies": (_LIMITS, f"Cookie: {_many('n{}=1', '; ')}\r\n"),
    "cookies of the proxy": (_PROXY, f"Cookie: {_many('{}=', ';')}\r\n"),
    "quotes in cookies": (_PROXY, 'Cookie: a="' + '\\"' * 30000 + "\r\n"),
    "ranges": (_FILE, f"Range: bytes={_many('{}-', ',')}\r\n"),
    "spaces in a range": (_FILE, f"Range: bytes={' ' * 60000}0-1\r\n"),
    "ETags": (_FILE, "If-None-Match: " + _many('"{}"', ",") + "\r\n"),
    "quotes for ETags": (_FILE, 'If-Match: W/"' + '"' * 60000 + "\r\n"),
    "an open ETag": (_FILE, 'If-Match: "' + "x" * 60000 + "\r\n"),
    "a long date": (_FILE, f"If-Modified-Since: {'Mon, ' * 12000}\r\n"),
    "a date in brackets": (_FILE, f"If-Range: {'(' * 60000}\r\n"),
    "Accept": (_FILE, f"Accept: {_many('a/{};q=0.1', ',')}\r\n"),
    "Accept-Encoding": ("GET /docs", f"Accept-Encoding: {_many('a{};q=0', ',')}\r\n"),
    "Content-Type": (_OBJECT, f"Content-Type: a/b{_many(';a{}=1')}\r\n{_EMPTY}"),
    "a form": (_RUN, f"Content-Type: multipart/form-data; boundary={'a' * 60000}\r\n{_EMPTY}"),
    "Last-Event-ID": (f"GET {SESSION}/executions/e/stream", f"Last-Event-ID: {'9' * 60000}\r\n"),
    "Idempotency-Key": (_RUN, f"Idempotency-Key: {'a' * 60000}\r\n"),
    "Authorization": (_LIMITS, f"Authorization: Bearer {'a' * 60000}\r\n"),
    "X-Forwarded-For": (_LIMITS, f"X-Forwarded-For: {_many('1.1.1.{}', ', ')}\r\n"),
    "X-Forwarded-Proto": (_LIMITS, f"X-Forwarded-Proto: {'https,' * 10000}\r\n"),
    "X-Request-Id": (_LIMITS, f"X-Request-Id: {'a' * 60000}\r\n"),
    "Connection": (_PROXY, f"Connection: {_many('a{}', ',')}\r\n"),
    "metadata of an object": (_OBJECT, f"{_EMPTY}Content-Type: a\r\n{_fields('X-Amz-Meta-{}: ')}"),
    "Content-Length": (_RUN, f"Content-Length: {'0' * 60000}1\r\n"),
}  # fmt: skip


def rows(words: list[str] | None = None) -> Iterator[Row]:
    """Sends each body and each head, and tells for how long it stopped a server."""
    with watched_server() as watch, closing(Caller(watch.server.base_url)) as caller:
        caller.call("POST", "/api/sessions", {"language": "python", "session_id": "stopped"})
        caller.call("POST", f"{SESSION}/run", {"code": "open('a', 'w').write('a')"})
        host = caller.host
        for name, body in _bodies():
            yield from _row(watch, name, lambda body=body: _send_body(host, *body()), words)
        for name, head in HEADS.items():
            yield from _row(watch, name, lambda head=head: _send_head(host, *head), words)
        caller.call("DELETE", SESSION)


def _bodies() -> Iterator[tuple[str, Callable[[], Any]]]:
    for name, field in FIELDS.items():
        for kind, make in field.values.items():
            yield (
                f"{name}: {kind}",
                lambda field=field, make=make: (field.method, field.path, field.body % make()),
            )


def _row(
    watch: Watch, name: str, work: Callable[[], object], words: list[str] | None
) -> Iterator[Row]:
    label = f"longest stop by {name}"
    if words and not any(word in label for word in words):
        return
    stop = watch.longest_stop(work)
    for _ in range(ATTEMPTS - 1):
        if stop > MAX_STOP:  # a busy machine takes more of everything, but not each time
            stop = min(stop, watch.longest_stop(work))
    yield Row(label, ms(stop), "≤ 100 ms", stop <= MAX_STOP)


def _send_body(host: str, method: str, path: str, body: bytes) -> None:
    connection = http.client.HTTPConnection(host, timeout=300)
    # It may be refused before its end.
    with closing(connection), suppress(OSError, http.client.HTTPException):
        connection.request(method, path, body)
        connection.getresponse().read()


def _send_head(host: str, line: str, rest: str) -> None:
    name, _, port = host.partition(":")
    head = f"{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{rest}\r\n".encode()
    for _ in range(HEAD_REPEATS):
        connection = socket.create_connection((name, int(port)), timeout=60)
        with closing(connection), suppress(OSError):
            connection.sendall(head)
            while connection.recv(1 << 16):
                pass


def main() -> None:
    """Prints the rows."""
    for row in rows(sys.argv[1:]):
        print(row, flush=True)


if __name__ == "__main__":
    main()
