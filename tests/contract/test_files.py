"""Files: list, read, put and delete, as the contract's section says; `files` of execute."""

from __future__ import annotations

import http.client
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.client import Client, SessionClient
from tests.contract.checks import TIME, background_runs, check, check_error, wait_for_file
from tests.server_process import Server
from tests.waiting import wait_until

POLICY = "sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads"
GONE = "/api/sessions/gone/files"


def put(session: SessionClient, path: str, data: Any = b"x", **headers: str) -> httpx.Response:
    shown = {name.replace("_", "-"): value for name, value in headers.items()}
    return session.http.put(f"{session.path}/files/{path}", content=data, headers=shown)


def get(session: SessionClient, path: str, **headers: str) -> httpx.Response:
    shown = {name.replace("_", "-"): value for name, value in headers.items()}
    return session.http.get(f"{session.path}/files/{path}", headers=shown)


def names(session: SessionClient) -> list[str]:
    listed = session.http.get(f"{session.path}/files").json()["files"]
    return [file["path"] for file in listed]


# ---------------------------------------------------------------- list


def test_list(session: SessionClient) -> None:
    """Paths, sizes and times, each under both of its names, sorted by the bytes of the path."""
    for path in ("b", "a/z", "%C3%A9", "B", "a.txt"):
        assert put(session, path, b"12").json()["size"] == 2
    shown = session.http.get(f"{session.path}/files").json()
    assert [file["path"] for file in shown["files"]] == ["B", "a.txt", "a/z", "b", "é"]
    check(shown, total_count=5, count=5, total_size_bytes=10)
    assert set(shown) == {"files", "total_count", "count", "total_size_bytes"}
    for file in shown["files"]:
        assert set(file) == {"path", "size", "modified_at", "uploaded"}
        assert TIME.fullmatch(file["modified_at"])
        assert file["uploaded"] == file["modified_at"]


def test_list_of_none(session: SessionClient) -> None:
    """A new session has no files."""
    check(
        session.http.get(f"{session.path}/files").json(),
        files=[],
        total_count=0,
        count=0,
        total_size_bytes=0,
    )


# ---------------------------------------------------------------- put and get


@pytest.mark.parametrize("data", [b"", b"\x00\xff", b"text\r\n", bytes(range(256)) * 9000])
def test_round_trip(session: SessionClient, data: bytes) -> None:
    """What was put is got, byte for byte; a put is answered 200, zero bytes are a file."""
    for _ in range(2):  # also when it is replaced
        answer = put(session, "some/where/data", data)
        assert (answer.status_code, answer.json()) == (
            200,
            {"path": "some/where/data", "size": len(data)},
        )
    got = get(session, "some/where/data")
    assert (got.status_code, got.content) == (200, data)
    assert got.headers["Content-Length"] == str(len(data))


def test_code_and_callers_share_files(session: SessionClient) -> None:
    """Code reads what was put, callers read what code wrote, at once, also while it runs."""
    put(session, "in.txt", b"from outside")
    ran = session.run("print(open('in.txt').read()); open('out.txt', 'w').write('from inside')")
    check(ran, stdout="from outside\n", files_modified=1)
    assert get(session, "out.txt").content == b"from inside"
    with background_runs(session) as start:
        waiting = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
        answer = start("open('ready', 'w').write('1')\n" + waiting)
        wait_for_file(session)
        assert get(session, "ready").content == b"1"
        put(session, "go")
        check(answer.result().json(), exit_code=0, files_modified=1)


def test_an_upload_is_no_modification_by_a_run(session: SessionClient) -> None:
    """files_modified counts only what the run did.

    Files that were put before or during the run do not count, also through a link.
    """
    put(session, "before")
    check(session.run("import os; os.mkdir('d'); os.symlink('d', 'l')"), files_modified=0)
    put(session, "between")
    put(session, "l/through")
    check(session.run("pass"), files_modified=0)
    session.http.delete(f"{session.path}/files/between")
    check(session.run("open('mine', 'w').close()"), files_modified=1)
    assert names(session) == ["before", "d/through", "mine"]


def test_counts(session: SessionClient) -> None:
    """The session's own counts are as of the last upload."""
    put(session, "a", b"123")
    check(session.get(), file_count=1, total_size_bytes=3)
    put(session, "a", b"1")
    put(session, "d/b", b"22")
    put(session, "node_modules/hidden", b"22")
    [listed] = [
        one
        for one in session.http.get("/api/sessions").json()["sessions"]
        if one["id"] == session.id
    ]
    check(listed, file_count=2, total_size_bytes=3)
    session.http.delete(f"{session.path}/files/a")
    check(session.get(), file_count=1, total_size_bytes=2)


@pytest.mark.parametrize(
    ("path", "said", "expected"),
    [
        ("a.bin", "image/png", "image/png"),
        ("a.txt", "text/plain; charset=latin1", "text/plain; charset=latin1"),
        ("a.json", "", "application/json"),
        ("a.png", "application/x-www-form-urlencoded", "image/png"),
        ("a.tar.gz", "", "application/octet-stream"),
        ("noname", "", "application/octet-stream"),
        ("a.html", "nonsense", "text/html"),
        ("a.html", 'text/plain; a="\t"', "text/html"),
        ("parts", "multipart/related; boundary=x", "multipart/related; boundary=x"),
    ],
)
def test_content_type(session: SessionClient, path: str, said: str, expected: str) -> None:
    """The type is the upload's, else guessed from the name, else octet-stream.

    A form is no type: clients declare it for anything.
    """
    put(session, path, b"a=b&c", Content_Type=said)
    got = get(session, path)
    assert (got.headers["Content-Type"], got.content) == (expected, b"a=b&c")


def test_bodies_are_opaque(session: SessionClient) -> None:
    """A body is what it is, whatever its Content-Type and encoding say."""
    for kind in ("application/json", "application/x-www-form-urlencoded", "multipart/mixed"):
        put(session, "f", b"{broken&%", Content_Type=kind, Content_Encoding="gzip")
        got = get(session, "f")
        assert (got.content, "Content-Encoding" in got.headers) == (b"{broken&%", False)


@pytest.mark.parametrize("kind", ["multipart/form-data", "Multipart/Form-Data; boundary=x"])
def test_form_with_parts(session: SessionClient, kind: str) -> None:
    """A form of a browser or of `curl -F` is refused with a hint, and nothing is put."""
    answer = put(session, "f", b'--x\r\nContent-Disposition: form-data; name="f"\r\n\r\na\r\n',
                 Content_Type=kind)  # fmt: skip
    assert "curl -T" in check_error(answer, 415, "UNSUPPORTED_MEDIA_TYPE")["hint"]
    assert names(session) == []


def test_etag_of_what_was_put(session: SessionClient) -> None:
    """The answer to a put names the state that it made, for the next conditional request."""
    first = put(session, "f", b"1")
    assert first.headers["ETag"] == get(session, "f").headers["ETag"]
    second = put(session, "f", b"2", If_Match=first.headers["ETag"])
    assert second.headers["ETag"] == get(session, "f").headers["ETag"] != first.headers["ETag"]
    check_error(put(session, "f", b"3", If_Match=first.headers["ETag"]), 412, "PRECONDITION_FAILED")
    assert get(session, "f").content == b"2"


def test_chunked(session: SessionClient) -> None:
    """A body without a length is taken as it comes."""
    answer = put(session, "f", iter([b"one", b"two" * 100_000, b"end"]))
    assert answer.json() == {"path": "f", "size": 300_006}
    assert get(session, "f").content == b"one" + b"two" * 100_000 + b"end"


def test_put_replaces(session: SessionClient) -> None:
    """What is put takes the place of what was there: a link, a FIFO or a socket itself, too."""
    session.run(
        "import os, socket; os.symlink('/etc/passwd', 'link'); os.mkfifo('fifo'); "
        "s = socket.socket(socket.AF_UNIX); s.bind('socket'); "
        "os.symlink('nowhere', 'dangling')"
    )
    for path in ("link", "fifo", "socket", "dangling"):
        assert put(session, path, b"new").status_code == 200
        assert get(session, path).content == b"new"
    check(session.run("print(os.path.islink('link'))"), stdout="False\n")


# ---------------------------------------------------------------- delete


def test_delete(session: SessionClient) -> None:
    """A deleted file is gone for callers and code."""
    put(session, "d/f")
    answer = session.http.delete(f"{session.path}/files/d/f").json()
    check(answer, success=True, path="d/f")
    assert set(answer) == {"success", "path", "deleted_at"}
    assert TIME.fullmatch(answer["deleted_at"])
    check_error(get(session, "d/f"), 404, "FILE_NOT_FOUND")
    check_error(session.http.delete(f"{session.path}/files/d/f"), 404, "FILE_NOT_FOUND")
    check(session.run("import os; print(os.listdir('d'))"), stdout="[]\n")


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_unknown(client: Client, session: SessionClient, method: str) -> None:
    """An unknown session and an unknown file are 404, each with its code."""
    answer = client.http.request(method, f"{GONE}/f", content=b"x" if method == "PUT" else b"")
    check_error(answer, 404, "SESSION_NOT_FOUND")
    if method != "PUT":
        check_error(
            client.http.request(method, f"{session.path}/files/no/f"), 404, "FILE_NOT_FOUND"
        )
    check_error(client.http.get(GONE), 404, "SESSION_NOT_FOUND")


BAD = [
    "", "a/", "a//b", ".", "a/.", "%2e/a", "%2Fetc/passwd", "%2Fetc%2Fpasswd", "a%00b", "%00",
    "%2e%2e/x", "a/%2e%2e/b", "a%2F..%2Fb", "%2e%2e%2fx", "..%2f..%2fetc%2fpasswd", "a/%2E%2e",
    "x" * 256, "%C3%A9" * 128, "a/" * 2047 + "bcd", "%2e.", ".%2E/%2e.",
]  # fmt: skip


@pytest.mark.parametrize("path", BAD, ids=range(len(BAD)))
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_invalid_path(server: Server, session: SessionClient, method: str, path: str) -> None:
    """`..`, absolute, empty and NUL are INVALID_PATH, decoded once, whatever the encoding."""
    answer = raw(server, method, f"{session.path}/files/{path}")
    assert (answer[0], b"INVALID_PATH" in answer[1]) == (400, True), answer


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("%252e%252e/x", "%2e%2e/x"),
        ("a%5C..%5Cb", "a\\..\\b"),
        ("...", "..."),
        ("..a/b..", "..a/b.."),
        ("%20/%20", " / "),
        ("a%2Fb%2Fc", "a/b/c"),
        ("a%3Fb%23c+d", "a?b#c+d"),
        ("C:/x", "C:/x"),
        ("a%0Ab", "a\nb"),
        ("%C0%AE%C0%AE/x", "\ufffd\ufffd\ufffd\ufffd/x"),
        ("%FF", "\ufffd"),
        ("%ED%A0%80", "\ufffd\ufffd\ufffd"),
        ("%zz%", "%zz%"),
        ("n" * 255, "n" * 255),
        ("%C3%A9" * 127, "é" * 127),
    ],
)
def test_odd_names(server: Server, session: SessionClient, path: str, name: str) -> None:
    """Whatever else Linux takes as a name is one: decoded once, and nothing normalised."""
    place = f"{session.path}/files/{path}"
    assert raw(server, "PUT", place, b"odd")[0] == 200
    assert raw(server, "GET", place) == (200, b"odd")
    assert names(session) == [name]
    assert raw(server, "DELETE", place)[0] == 200
    assert names(session) == []


def test_bytes_of_a_path_as_typed(server: Server, session: SessionClient) -> None:
    """curl sends a path as it was typed: bytes that are not encoded are bytes of the name."""
    place = f"{session.path}/files/naïve.txt".encode().decode("latin1")
    assert raw(server, "PUT", place, b"1")[0] == 200
    assert names(session) == ["naïve.txt"]


@pytest.mark.parametrize("name", ["files", "files.files", "executions"])
def test_session_of_any_name(client: Client, name: str) -> None:
    """A session may be called like a part of the path."""
    session = client.session("python", session_id=name)
    put(session, "files/files/f", b"x")
    assert names(session) == ["files/files/f"]
    assert get(session, "files/files/f").content == b"x"
    session.delete()


def test_conflicts(session: SessionClient) -> None:
    """A directory in the way of a file, a file in the way of a directory: 409, nothing changes."""
    put(session, "file", b"old")
    put(session, "dir/file", b"old")
    check_error(put(session, "dir"), 409, "CONFLICT")
    check_error(put(session, "file/inside"), 409, "CONFLICT")
    check_error(put(session, "file/in/side"), 409, "CONFLICT")
    check_error(session.http.delete(f"{session.path}/files/dir"), 409, "CONFLICT")
    assert "directory" in check_error(get(session, "dir"), 409, "CONFLICT")["message"]
    assert session.http.head(f"{session.path}/files/dir").status_code == 409
    check_error(get(session, "file/inside"), 404, "FILE_NOT_FOUND")
    assert names(session) == ["dir/file", "file"]
    assert get(session, "file").content == b"old"


def test_data_file_is_the_servers(session: SessionClient) -> None:
    """`.session_data.json` is read by its path; it is changed through `data`."""
    session.run("pass", update_data={"a": 1})
    assert get(session, ".session_data.json").json() == {"a": 1}
    hint = check_error(put(session, ".session_data.json", b"{}"), 409, "CONFLICT")["hint"]
    assert "data" in hint
    check_error(session.http.delete(f"{session.path}/files/.session_data.json"), 409, "CONFLICT")


def test_hidden(session: SessionClient) -> None:
    """Caches and the data file stand in no list and no count, and are read by their exact path."""
    paths = ["node_modules/m", "d/__pycache__/c", ".cache/x", ".config/y", "d/node_modules/z"]
    for path in paths:
        put(session, path, b"hidden")
    put(session, ".env", b"shown")
    session.run("pass")
    assert names(session) == [".env"]
    check(session.get(), file_count=1, total_size_bytes=5)
    for path in paths:
        assert get(session, path).content == b"hidden"
    assert get(session, ".session_data.json").status_code == 200


def test_part_of_a_file(session: SessionClient) -> None:
    """A PUT of a range would overwrite the whole with a part: it is refused."""
    put(session, "f", b"whole")
    check_error(put(session, "f", b"le", Content_Range="bytes 3-4/5"), 400, "INVALID_REQUEST")
    assert get(session, "f").content == b"whole"


# ---------------------------------------------------------------- headers and conditions


def test_headers(session: SessionClient) -> None:
    """A file comes with its length, ETag and time; HEAD has the same headers without the bytes."""
    put(session, "f.txt", b"0123456789")
    got = get(session, "f.txt")
    head = session.http.head(f"{session.path}/files/f.txt", headers={"Range": "bytes=0-1"})
    for answer in (got, head):
        assert answer.status_code == 200
        assert answer.headers["Content-Length"] == "10"
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert answer.headers["ETag"].startswith('"')
        assert answer.headers["Last-Modified"].endswith(" GMT")
        assert answer.headers["Cache-Control"] == "no-cache"
    assert head.content == b""
    assert got.headers["ETag"] == head.headers["ETag"]


def test_ranges(session: SessionClient) -> None:
    """A range is 206 with its place, one behind the end 416."""
    put(session, "f", b"0123456789")
    for asked, content, place in [
        ("2-4", b"234", "2-4"),
        ("-3", b"789", "7-9"),
        ("8-", b"89", "8-9"),
    ]:
        got = get(session, "f", Range=f"bytes={asked}")
        assert (got.status_code, got.content) == (206, content)
        assert got.headers["Content-Range"] == f"bytes {place}/10"
    answer = get(session, "f", Range="bytes=10-")
    check_error(answer, 416, "RANGE_NOT_SATISFIABLE")
    assert answer.headers["Content-Range"] == "bytes */10"


def test_conditions(session: SessionClient) -> None:
    """304 for what the caller has, 412 for what is meant for another state, If-Range."""
    put(session, "f", b"one")
    first = get(session, "f").headers
    old, since = first["ETag"], first["Last-Modified"]
    for condition in ({"If_None_Match": old}, {"If_Modified_Since": since}):
        same = get(session, "f", **condition)
        assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", old)
    check_error(put(session, "f", b"x", If_None_Match="*"), 412, "PRECONDITION_FAILED")
    check_error(put(session, "f", b"x", If_Match='"other"'), 412, "PRECONDITION_FAILED")
    assert put(session, "f", b"two", If_Match=old).status_code == 200
    check_error(put(session, "f", b"x", If_Match=old), 412, "PRECONDITION_FAILED")
    check_error(
        session.http.delete(f"{session.path}/files/f", headers={"If-Match": old}),
        412,
        "PRECONDITION_FAILED",
    )
    assert get(session, "f", If_None_Match=old).content == b"two"
    whole = get(session, "f", Range="bytes=1-", If_Range=old)
    assert (whole.status_code, whole.content) == (200, b"two")
    part = get(session, "f", Range="bytes=1-", If_Range=whole.headers["ETag"])
    assert (part.status_code, part.content) == (206, b"wo")
    check_error(put(session, "new", b"x", If_Match="*"), 412, "PRECONDITION_FAILED")
    assert put(session, "new", b"x", If_None_Match="*").status_code == 200


def test_etag_changes_with_the_content(session: SessionClient) -> None:
    """Code cannot change a file and keep its ETag: the time of the inode's change is in it."""
    put(session, "f", b"one")
    old = get(session, "f").headers["ETag"]
    session.run(
        "import os; s = os.stat('f'); open('f', 'r+').write('two'); "
        "os.utime('f', ns=(s.st_atime_ns, s.st_mtime_ns))"
    )
    assert get(session, "f", If_None_Match=old).content == b"two"


def test_create_once(session: SessionClient) -> None:
    """Of many that put with `If-None-Match: *` at once, one wins."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda n: put(session, "once", b"%d" % n, If_None_Match="*"), range(8))
        )
    won = [number for number, answer in enumerate(answers) if answer.status_code == 200]
    assert len(won) == 1
    assert {answer.status_code for answer in answers} == {200, 412}
    assert get(session, "once").content == b"%d" % won[0]


def test_policy(client: Client, session: SessionClient) -> None:
    """Every answer under /files/ has the policy and nosniff, also a refusal.

    A foreign page whose origin is null is refused.
    """
    put(session, "page.html", b"<script>")
    answers = [
        get(session, "page.html"),
        get(session, "page.html", Range="bytes=1-"),
        get(session, "page.html", If_None_Match="*"),
        get(session, "gone"),
        get(session, "page.html", Range="bytes=99-"),
        session.http.head(f"{session.path}/files/page.html"),
        session.http.options(f"{session.path}/files/page.html"),
        session.http.post(f"{session.path}/files/page.html"),
        put(session, "page.html"),
        put(session, "page.html/x"),
        put(session, "a%2F..%2Fb"),
        client.http.get(f"{GONE}/f"),
        session.http.delete(f"{session.path}/files/page.html"),
    ]
    for answer in answers:
        assert answer.headers["Content-Security-Policy"] == POLICY
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    check_error(answers[7], 405, "METHOD_NOT_ALLOWED")
    assert answers[7].headers["Allow"] == "GET, HEAD, PUT, DELETE, OPTIONS"
    check_error(get(session, "page.html", Origin="null"), 403, "FORBIDDEN")


# ---------------------------------------------------------------- several at once


def test_two_uploads_of_one_path(session: SessionClient) -> None:
    """Each is whole: the file is one of them, never a mix."""
    with ThreadPoolExecutor(4) as pool:
        bodies = [bytes([65 + n]) * 3_000_000 for n in range(4)]
        answers = list(pool.map(lambda body: put(session, "f", body), bodies))
    assert {answer.status_code for answer in answers} == {200}
    assert get(session, "f").content in bodies
    check(session.get(), file_count=1, total_size_bytes=3_000_000)


def test_delete_of_the_session_meanwhile(client: Client) -> None:
    """An upload to a session that is deleted is 404; who reads already, reads to the end."""
    session = client.session("python")
    put(session, "big", b"x" * 8_000_000)
    with session.http.stream("GET", f"{session.path}/files/big") as answer:
        pieces = answer.iter_bytes()
        got = len(next(pieces))
        begun, deleted = threading.Event(), threading.Event()

        def body() -> Any:
            yield b"x" * 200_000
            begun.set()
            assert deleted.wait(20)
            yield b"y"

        with ThreadPoolExecutor(1) as pool:
            upload = pool.submit(put, session, "f", body())
            assert begun.wait(20)
            session.delete()
            again = client.session("python", session_id=session.id)
            deleted.set()
            check_error(upload.result(), 404, "SESSION_NOT_FOUND")
        assert names(again) == []
        assert got + sum(len(piece) for piece in pieces) == 8_000_000
    again.delete()


def test_upload_that_stops(server: Server, session: SessionClient) -> None:
    """A client that vanishes half-way leaves the old file and nothing else."""
    put(session, "f", b"old")
    connection = http.client.HTTPConnection(server.base_url.removeprefix("http://"), timeout=20)
    connection.putrequest("PUT", f"{session.path}/files/f")
    connection.putheader("Content-Length", "10000000")
    connection.endheaders(b"x" * 2_000_000)
    incoming = server.data_dir / "incoming"
    assert wait_until(lambda: any(incoming.iterdir()))
    connection.close()
    assert wait_until(lambda: not any(incoming.iterdir()))
    assert get(session, "f").content == b"old"
    assert names(session) == ["f"]


# ---------------------------------------------------------------- execute with files


def execute(client: Client, code: str, files: Any) -> httpx.Response:
    return client.http.post(
        "/api/execute", json={"language": "python", "code": code, "files": files}
    )


def test_execute_with_files(client: Client) -> None:
    """`files` are there before the run, by path, and text is UTF-8."""
    code = "import mod; print(open('d/in é.txt', encoding='utf-8').read(), mod.x)"
    answer = execute(client, code, {"d/in é.txt": "ü\r\n", "mod.py": "x = 7", "empty": ""})
    check(answer.json(), stdout="ü\n 7\n", exit_code=0)
    for none in ({}, None):
        check(execute(client, "import os; print(os.listdir())", none).json(), exit_code=0)


@pytest.mark.parametrize(
    ("files", "status", "code"),
    [
        ({"../x": ""}, 400, "INVALID_PATH"),
        ({"/x": ""}, 400, "INVALID_PATH"),
        ({"": ""}, 400, "INVALID_PATH"),
        ({"a\0b": ""}, 400, "INVALID_PATH"),
        ({"%2e%2e": "", "ok/../no": ""}, 400, "INVALID_PATH"),
        ({"a": "", "a/b": ""}, 409, "CONFLICT"),
        ({"a/b": "", "a": ""}, 409, "CONFLICT"),
        ({".session_data.json": "{}"}, 409, "CONFLICT"),
        ({"a": 1}, 400, "INVALID_REQUEST"),
        ({"a": None}, 400, "INVALID_REQUEST"),
        (["a"], 400, "INVALID_REQUEST"),
        ("a", 400, "INVALID_REQUEST"),
    ],
)
def test_execute_with_files_refused(
    client: Client, server: Server, files: Any, status: int, code: str
) -> None:
    """The rules of paths hold, and nothing is left of what was refused."""
    check_error(execute(client, "print(1)", files), status, code)
    sessions = server.data_dir / "sessions"
    assert wait_until(lambda: not list(sessions.iterdir()), 20)
    assert not any((server.data_dir / "incoming").iterdir())


def raw(server: Server, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """A request whose path nobody normalises."""
    connection = http.client.HTTPConnection(server.base_url.removeprefix("http://"), timeout=20)
    try:
        connection.putrequest(method, "", skip_host=True, skip_accept_encoding=True)
        # http.client checks paths; what a hostile client sends is what this is about.
        connection._buffer[0] = f"{method} {path} HTTP/1.1".encode("latin1")  # type: ignore[attr-defined]
        connection.putheader("Host", connection.host)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
