"""The SDK for Python, against a real server: what it sends, what it returns, what it raises."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from datetime import time as clock_time
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from era_kernels.kernels.kernelspecs import builtin_dir
from era_kernels.models import StorageScope
from tests.kernelspecs.python.sdk_server import MAX_BODY, SdkServer, server

__all__ = ["server"]

SDK = builtin_dir() / "python" / "sdk"
VARIABLES = ("ERA_STORAGE_URL", "ERA_STORAGE_TOKEN", "ERA_API_TOKEN")


@pytest.fixture(params=["tcp", "unix"])
def sdk(
    request: pytest.FixtureRequest, server: SdkServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """The package, with the address of the server."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(VARIABLES[0], getattr(server, f"{request.param}_url"))
    monkeypatch.syspath_prepend(str(SDK))
    server.clear()
    yield imported()
    for name in [name for name in sys.modules if name.partition(".")[0] == "era_storage"]:
        del sys.modules[name]


def imported() -> ModuleType:
    import era_storage  # type: ignore[import-not-found]  # its folder is put into sys.path

    module: ModuleType = era_storage
    return module


# ---------------------------------------------------------------- keys and values

KEYS = (
    "a", "a/b", "../../x", ".", "..", "/", "//", "a b", "a+b", "a%2Fb", "%", "ä/漢/😀",
    "?x=1&key=2", "#", "a\nb", "\0", "x" * 512, "key", "=",
)  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_any_key(sdk: Any, key: str) -> None:
    """A key arrives as it is, whatever its characters."""
    assert sdk.kv.get("app", key) is None
    assert sdk.kv.set("app", key, "v") is True
    assert sdk.kv.get("app", key) == "v"
    assert [one["name"] for one in sdk.kv.list("app")] == [key]
    assert sdk.r2.put("app", key, b"v") is True
    assert (sdk.r2.get("app", key), sdk.r2.list("app")[0]["key"]) == (b"v", key)
    assert sdk.kv.delete("app", key) is True and sdk.r2.delete("app", key) is True
    assert (sdk.kv.get("app", key), sdk.r2.get("app", key)) == (None, None)


@pytest.mark.parametrize("value", ["", "x", "ä漢😀", '{"json": 1}', "a\0b\r\n", "x" * 1_000_000])
def test_any_value(sdk: Any, value: str) -> None:
    """Values come back as they were set; an empty one is a value."""
    sdk.kv.set("app", "k", value)
    assert sdk.kv.get("app", "k") == value


def test_metadata_and_expiration(sdk: Any, server: SdkServer) -> None:
    """What is not given is not sent; metadata comes with the value on request."""
    sdk.kv.set("app", "k", "v")
    sdk.kv.set("app", "k", "v", {"a": [1, None]}, expiration_ttl=60)
    assert [body for _, _, body in server.memory.calls] == [
        {"value": "v"},
        {"value": "v", "metadata": {"a": [1, None]}, "expiration_ttl": 60},
    ]
    assert sdk.kv.get_with_metadata("app", "k") == ("v", {"a": [1, None]})
    assert sdk.kv.get_with_metadata("app", "missing") is None
    sdk.kv.set("app", "k", "v", metadata={})
    assert sdk.kv.get_with_metadata("app", "k") == ("v", {})


@pytest.mark.parametrize("limit", [0, 1, 99, 100, 999, 1000, 1001, 2500, 5000])
def test_lists_of_any_length(sdk: Any, server: SdkServer, limit: int) -> None:
    """Pages are put together, up to the limit and no further."""
    names = [f"k{number:04}" for number in range(2600)]
    server.memory.values |= {("app", name): {"value": "", "metadata": {}} for name in names}
    server.memory.values["app", "other"] = {"value": "", "metadata": {"a": 1}}
    found = sdk.kv.list("app", prefix="k", limit=limit)
    assert [one["name"] for one in found] == names[:limit]
    assert sdk.kv.list("app", "o") == [{"name": "other", "metadata": {"a": 1}}]
    assert len(sdk.kv.list("app")) == 100
    assert sdk.kv.list("nothing") == []


# ---------------------------------------------------------------- SQL


def test_rows_and_parameters(sdk: Any) -> None:
    """Parameters are a list or a dict; bytes are blobs, both ways; integers are exact."""
    values = [1, 2**62, -1.5, "ä", None, True, b"", b"\x00\xff", bytearray(b"x"), memoryview(b"y")]
    (row,) = sdk.d1.query("app", "SELECT ?", values)
    assert list(row.values()) == [bytes(v) if isinstance(v, memoryview) else v for v in values]
    assert sdk.d1.query("app", "SELECT :a", {"a": b"z"}) == [{"ca": b"z"}]
    assert sdk.d1.query("app", "SELECT 1") == [{}]
    assert sdk.d1.query("app", "SELECT ?", (1,)) == [{"c0": 1}]


def test_values_of_a_data_frame(sdk: Any) -> None:
    """Rows of pandas are parameters as they are: its numbers, times and missing values."""
    numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    values = {
        numpy.int64(7): 7,
        numpy.float32(0.5): 0.5,
        numpy.bool_(True): True,
        numpy.str_("a"): "a",
        float("inf"): None,
        float("nan"): None,
        pandas.NA: None,
        pandas.NaT: None,
        pandas.Timestamp("2026-01-02 03:04"): "2026-01-02T03:04:00",
        date(2026, 1, 2): "2026-01-02",
        clock_time(3, 4): "03:04:00",
        Decimal("1.10"): "1.10",
        numpy.datetime64("2026-01-02T03:04"): "2026-01-02T03:04:00",
    }
    (row,) = sdk.d1.query("app", "SELECT ?", list(values))
    assert list(row.values()) == list(values.values())


def test_what_is_no_parameter(sdk: Any) -> None:
    """A wrong parameter is named by its place and its type; one value is no list of them."""
    for wrong in (object(), [1], {"a": 1}, 1j, {1}):
        with pytest.raises(TypeError, match=f"parameter 2 is of type {type(wrong).__name__}"):
            sdk.d1.query("app", "?", [1, wrong])
        with pytest.raises(TypeError, match="parameter a is of type"):
            sdk.d1.batch("app", [("?", {"a": wrong})])
    for params in ("abc", b"a", 5):
        with pytest.raises(TypeError):
            sdk.d1.exec("app", "?", params)


def test_exec_returns_the_whole_answer(sdk: Any) -> None:
    """`exec` has what changed, and rows where there are some."""
    answer = sdk.d1.exec("app", "INSERT … RETURNING ?", [b"b"])
    assert answer == {"success": True, "meta": {"changes": 1}, "results": [{"c0": b"b"}]}


def test_batch(sdk: Any, server: SdkServer) -> None:
    """A statement is a text, a pair or a dict; each has an answer."""
    statements = ["A", ("B", [1, b"x"]), {"sql": "C", "params": {"n": b"y"}}, ["D", ()]]
    answers = sdk.d1.batch("app", statements)
    assert [set(one) for one in answers] == [{"success", "meta", "results"}, {"success", "meta"}]
    sent = server.memory.calls[-1][2].replace(" ", "")
    assert sent == (
        '[{"sql":"A"},{"sql":"B","params":[1,{"base64":"eA=="}]},'
        '{"sql":"C","params":{"n":{"base64":"eQ=="}}},{"sql":"D","params":[]}]'
    )


# ---------------------------------------------------------------- objects


class Pieces(io.RawIOBase):
    """A file whose size nobody knows."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""


def test_any_content(sdk: Any, tmp_path: Path) -> None:
    """Bytes of every kind, and files with and without a size, arrive whole."""
    big = os.urandom(3_000_000)
    (tmp_path / "f").write_bytes(big)
    with (tmp_path / "f").open("rb") as file, (tmp_path / "f").open("rb") as half:
        half.seek(1_000_000)
        for content, expected in (
            (b"", b""), (bytearray(b"a"), b"a"), (memoryview(b"b"), b"b"), (big, big),
            (io.BytesIO(b"in memory"), b"in memory"), (file, big), (half, big[1_000_000:]),
            (Pieces([b"a" * 10, b"b", big]), b"a" * 10 + b"b" + big),
        ):  # fmt: skip
            assert sdk.r2.put("app", "k", content) is True
            assert sdk.r2.get("app", "k") == expected


def test_text_is_no_content(sdk: Any) -> None:
    """A text has no bytes until it is encoded: nothing is guessed."""
    with Path(__file__).open() as file:
        for content in ("text", io.StringIO("text"), file):
            with pytest.raises(TypeError, match="bytes"):
                sdk.r2.put("app", "k", content)
    for content in (5, True, [1, 2], None, {}, object()):
        with pytest.raises(TypeError, match=f"not {type(content).__name__}"):
            sdk.r2.put("app", "k", content)


def test_path_of_a_file(sdk: Any, tmp_path: Path) -> None:
    """A path stands for the file's content."""
    (tmp_path / "file").write_bytes(b"content")
    assert sdk.r2.put("app", "k", tmp_path / "file") is True
    assert sdk.r2.get("app", "k") == b"content"


@pytest.mark.parametrize("key", [None, b"k", 5])
def test_keys_are_texts(sdk: Any, key: object) -> None:
    """What is no text is no key: nothing is made of it."""
    for call in (sdk.kv.get, sdk.kv.delete, sdk.r2.get, sdk.r2.delete):
        with pytest.raises(TypeError, match="a key must be a str"):
            call("app", key)
    with pytest.raises(TypeError, match="a key must be a str"):
        sdk.kv.set("app", key, "v")


@pytest.mark.parametrize(
    "metadata",
    [{"a": "b"}, {"a-1": "x y", "b": ""}, {"Case": "x"}, {"ä": "1"}, {"a": "ä"}, {"a b": "c"},
     {"a": "x\r\nEvil: 1"}, {"a": " "}, {"": "x"}],
    ids=str,
)  # fmt: skip
def test_any_metadata(sdk: Any, server: SdkServer, metadata: dict[str, str]) -> None:
    """Metadata arrives as it is; what a header cannot carry goes another way."""
    assert sdk.r2.put("app", "k", b"\x00data", metadata) is True
    sent = server.memory.calls[-1][2]
    assert {name.lower().removeprefix("x-era-meta-"): v for name, v in sent.items()} == {
        name.lower(): value for name, value in metadata.items()
    }
    if any(name.isupper() or not name.isascii() for name in metadata):
        assert sent == metadata
    assert sdk.r2.get("app", "k") == b"\x00data"


# ---------------------------------------------------------------- failures


def test_errors_tell_what_failed(sdk: Any, server: SdkServer) -> None:
    """The text names the call and the server's words; code and status are there for programs."""
    error = sdk.StorageError
    server.scope = StorageScope.parse(["app"])
    for call, text in (
        (lambda: sdk.kv.set("other", "k", "v"), "KV set failed: Outside the storage scope: "),
        (lambda: sdk.kv.get("other", "k"), "KV get failed: "),
        (lambda: sdk.kv.delete("other", "k"), "KV delete failed: "),
        (lambda: sdk.kv.list("other"), "KV list failed: "),
        (lambda: sdk.r2.put("other", "k", b""), "R2 put failed: "),
        (lambda: sdk.r2.get("other", "k"), "R2 get failed: "),
        (lambda: sdk.r2.delete("other", "k"), "R2 delete failed: "),
        (lambda: sdk.r2.list("other"), "R2 list failed: "),
        (lambda: sdk.d1.query("other", ""), "D1 query failed: "),
        (lambda: sdk.d1.exec("other", ""), "D1 exec failed: "),
        (lambda: sdk.d1.batch("other", []), "D1 batch failed: "),
    ):
        with pytest.raises(RuntimeError, match=f"^{text}") as raised:
            call()
        assert type(raised.value) is error
        assert (raised.value.code, raised.value.status) == ("STORAGE_SCOPE", 403)
    with pytest.raises(error) as raised:
        sdk.d1.query("app", "wrong")
    assert str(raised.value) == (
        'D1 query failed: The statement is wrong. (near "wrong": syntax error)'
    )


@pytest.mark.parametrize("namespace", ["", "a b", "../x", "a/b", ".", "ä", "a?b", "x" * 65])
def test_wrong_namespaces(sdk: Any, namespace: str) -> None:
    """What is no namespace is the server's error, and reaches no other path."""
    for call in (sdk.kv.get, sdk.r2.get, sdk.kv.delete):
        with pytest.raises(sdk.StorageError) as raised:
            call(namespace, "k")
        assert raised.value.status in (400, 404)


def test_what_is_no_json(sdk: Any) -> None:
    """Values that JSON has not are an error of the call."""
    for call in (
        lambda: sdk.kv.set("app", "k", object()),
        lambda: sdk.kv.set("app", "k", "v", {"a": float("nan")}),
    ):
        with pytest.raises(sdk.StorageError, match="failed: "):
            call()


def test_too_large_an_object(sdk: Any) -> None:
    """The server's early refusal is read although the content was not all sent."""
    with pytest.raises(sdk.StorageError) as raised:
        sdk.kv.set("app", "k", "x" * (MAX_BODY + 10))
    assert raised.value.code == "TOO_LARGE"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (None, "ERA_STORAGE_URL is not set"),
        ("", "ERA_STORAGE_URL is not set"),
        ("ftp://x", "ERA_STORAGE_URL must begin with"),
        ("nonsense", "ERA_STORAGE_URL must begin with"),
        ("http://", "ERA_STORAGE_URL must begin with"),
        ("http://127.0.0.1:1", "refused"),
        ("http://127.0.0.1:99999", "[Pp]ort"),
        ("http+unix://%2Fnowhere%2Fs", "No such file"),
        ("http+unix://", ""),
    ],
)
def test_wrong_addresses(
    sdk: Any, monkeypatch: pytest.MonkeyPatch, url: str | None, text: str
) -> None:
    """A wrong address is a StorageError that says so; the variable is read at each call."""
    if url is None:
        monkeypatch.delenv("ERA_STORAGE_URL")
    else:
        monkeypatch.setenv("ERA_STORAGE_URL", url)
    with pytest.raises(sdk.StorageError, match=f"^KV get failed: .*{text}") as raised:
        sdk.kv.get("app", "k")
    assert (raised.value.code, raised.value.status) == (None, None)


def answer_once(*replies: bytes) -> str:
    """The address of a server that gives these bytes to connections, one after the other."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listening:
            for reply in replies:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(reply)

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize(
    "reply",
    [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
     b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nxyz",
     b"HTTP/1.1 502 Bad\r\nContent-Length: 6\r\n\r\n<html>",
     b"HTTP/1.1 404 Not\r\nContent-Length: 2\r\n\r\n{}",
     b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\n[]"],
)  # fmt: skip
def test_strange_answers(sdk: Any, monkeypatch: pytest.MonkeyPatch, reply: bytes) -> None:
    """Whatever comes back that is no answer of the server is a StorageError."""
    monkeypatch.setenv("ERA_STORAGE_URL", answer_once(reply, reply))
    with pytest.raises(sdk.StorageError, match=r"^KV get failed: ."):
        sdk.kv.get("app", "k")


def test_errors_travel_between_processes(sdk: Any) -> None:
    """A pool of processes hands an error on as it is."""
    error = pickle.loads(pickle.dumps(sdk.StorageError("text", "CODE", 403)))
    assert (str(error), error.code, error.status) == ("text", "CODE", 403)


# ---------------------------------------------------------------- connections


def test_tokens(sdk: Any, server: SdkServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of sessions a token is sent; the one for storage wins."""
    sent = []
    for name, token in ((None, ""), (VARIABLES[2], "general"), (VARIABLES[1], "special")):
        if name is not None:
            monkeypatch.setenv(name, token)
        sdk.kv.list("app")
        sent.append(server.memory.headers[-1].get("Authorization"))
    assert sent == [None, "Bearer general", "Bearer special"]


def test_an_address_may_have_a_path(sdk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`/api/storage` lies below the address, behind a proxy too."""
    url = os.environ["ERA_STORAGE_URL"]
    monkeypatch.setenv("ERA_STORAGE_URL", f"{url}/")
    assert sdk.kv.list("app") == []
    if url.startswith("http:"):
        monkeypatch.setenv("ERA_STORAGE_URL", f"{url}/below/")
        with pytest.raises(sdk.StorageError, match="Not found"):
            sdk.kv.get("app", "k")


def test_a_connection_is_used_again(sdk: Any, server: SdkServer) -> None:
    """One thread needs one connection, also after errors."""
    server.close_connections()
    for number in range(5):
        sdk.kv.set("app", "k", str(number))
        with pytest.raises(sdk.StorageError):
            sdk.kv.get("a b", "k")
        assert sdk.r2.get("app", "missing") is None
    assert server.connection_count == 1


def test_a_server_that_closed_is_asked_again(sdk: Any, server: SdkServer) -> None:
    """An idle connection that the server closed is no error, for any call."""
    for call in (
        lambda: sdk.kv.set("app", "k", "v"),
        lambda: sdk.kv.get("app", "k"),
        lambda: sdk.d1.exec("app", "INSERT"),
        lambda: sdk.d1.batch("app", ["INSERT"]),
        lambda: sdk.r2.put("app", "k", io.BytesIO(b"x")),
    ):
        sdk.kv.list("app")
        server.close_connections()
        call()


def test_only_what_may_be_repeated_is(sdk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that was cut is sent again once, unless that could do it twice."""
    good = b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n"
    listening = socket.create_server(("127.0.0.1", 0))
    seen: list[bytes] = []

    def serve() -> None:
        with listening:
            while True:
                connection, _ = listening.accept()
                with connection:
                    seen.append(connection.recv(65536))
                    if b"/end" in seen[-1]:
                        return
                    connection.sendall(good + b'{"success":true}')
                    seen.append(connection.recv(65536))  # the second request is not answered

    thread = threading.Thread(target=serve)
    thread.start()
    monkeypatch.setenv("ERA_STORAGE_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")
    sdk.kv.delete("app", "first")
    assert sdk.kv.delete("app", "second") is True
    assert [b"second" in one for one in seen] == [False, True, True]
    with pytest.raises(sdk.StorageError, match="the server closed the connection"):
        sdk.d1.exec("app", "INSERT INTO t VALUES (1)")
    assert sum(b"/exec" in one for one in seen) == 1
    monkeypatch.setenv("ERA_STORAGE_URL", f"{os.environ['ERA_STORAGE_URL']}/end")
    with pytest.raises(sdk.StorageError):
        sdk.kv.delete("app", "x")
    thread.join()


def test_threads(sdk: Any) -> None:
    """Threads do not disturb each other."""

    def work(number: int) -> bool:
        for turn in range(10):
            sdk.kv.set("app", f"k{number}", f"{number}-{turn}")
            if sdk.kv.get("app", f"k{number}") != f"{number}-{turn}":
                return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(16)))


def test_more_threads_than_connections(sdk: Any) -> None:
    """Who finds all connections taken waits, and is served."""
    barrier = threading.Barrier(100)

    def work(number: int) -> bool:
        barrier.wait()
        return bool(sdk.kv.set("app", f"k{number}", "v"))

    with ThreadPoolExecutor(100) as pool:
        assert all(pool.map(work, range(100)))


def test_forks(sdk: Any, server: SdkServer) -> None:
    """A fork has a connection of its own, and leaves its parent's alone."""
    sdk.kv.set("app", "k", "parent")
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            ok = False
            try:
                ok = all(sdk.kv.set("app", f"c{number}", str(turn)) for turn in range(20))
            finally:
                os._exit(0 if ok else 1)
        children.append(child)
    for _ in range(50):
        assert sdk.kv.get("app", "k") == "parent"
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert [sdk.kv.get("app", f"c{number}") for number in range(4)] == ["19"] * 4


def set_key(key: str) -> Any:
    return imported().kv.set("app", key, "spawned")


def test_spawned_children(sdk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children of multiprocessing that start afresh import and use it."""
    root = Path(__file__).parents[3]
    monkeypatch.setenv("PYTHONPATH", f"{SDK}:{root}")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(set_key, ["a", "b"]) == [True, True]
    assert sdk.kv.get("app", "a") == "spawned"


def test_an_interrupted_call_does_not_spoil_the_next(sdk: Any, server: SdkServer) -> None:
    """After a KeyboardInterrupt in a call the next gets its own answer."""
    sdk.kv.set("app", "k", "v")
    server.memory.seconds = 0.5
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for _ in range(2):
            main = threading.main_thread().ident
            assert main is not None
            timer = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT))
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                sdk.kv.list("app")
            timer.join()
    finally:
        server.memory.seconds = 0.0
        signal.signal(signal.SIGINT, before)
    assert sdk.kv.get("app", "k") == "v"


def test_calls_in_calls(sdk: Any) -> None:
    """A file whose reading calls the SDK, and a signal's handler that does, get their answers."""

    class Reader(io.RawIOBase):
        done = False

        def read(self, size: int = -1) -> bytes:
            found = sdk.kv.get("app", "k").encode()
            self.done, was_done = True, self.done
            return b"" if was_done else found

    sdk.kv.set("app", "k", "v")
    assert sdk.r2.put("app", "o", Reader()) is True
    assert sdk.r2.get("app", "o") == b"v"


# ---------------------------------------------------------------- a guest in other programs

QUIET = """
import gc, os, sys, threading, warnings
before = set(sys.modules), threading.active_count(), os.environ.copy(), list(sys.path)
import era_storage
assert threading.active_count() == before[1] and os.environ == before[2] and sys.path == before[3]
era_storage.kv.set("app", "k", "v")
threading.Thread(target=lambda: era_storage.kv.get("app", "k")).start()
print(era_storage.kv.get("app", "k"))
gc.collect()
"""
SECONDS_FOR_IMPORT = 10


def run_python(python: str, code: str, url: str, *flags: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SDK), "ERA_STORAGE_URL": url}
    return subprocess.run(
        [python, *flags, "-c", code],
        env={**env, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_no_warning_and_no_trace(server: SdkServer, sdk: Any) -> None:
    """With all warnings shown nothing is said, also at the end: no thread, no open socket."""
    done = run_python(
        sys.executable, QUIET, os.environ["ERA_STORAGE_URL"], "-X", "dev", "-W", "error"
    )
    assert (done.stdout, done.stderr, done.returncode) == ("v\n", "", 0)


def test_closing_is_quiet(sdk: Any) -> None:
    """A connection that its thread leaves behind is closed without a warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        thread = threading.Thread(target=sdk.kv.list, args=("app",))
        thread.start()
        thread.join()
    assert caught == []


def pythons() -> list[str]:
    """Every other Python from 3.8 on of this host."""
    homes = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    found = [str(path) for path in sorted(homes.glob("3.*/bin/python"))]
    return [path for path in found if int(path.split("/3.")[1].split(".")[0]) >= 8]


EVERY_CALL = """
import io
from era_storage import kv, d1, r2, KVStorage, D1Storage, R2Storage, StorageError
print(kv.set("app", "k", "v", {"a": 1}, 60), kv.get("app", "k"), kv.list("app", limit=5))
print(d1.query("app", "?", [b"x"]), d1.exec("app", "?", [1])["meta"], len(d1.batch("app", ["A"])))
print(r2.put("app", "o", io.BytesIO(b"x")), r2.get("app", "o"), len(r2.list("app")))
print(kv.delete("app", "k"), kv.get("app", "k"), r2.delete("app", "o"), r2.get("app", "o"))
try:
    kv.get("a b", "k")
except StorageError as error:
    print(error.status)
"""


@pytest.mark.parametrize("python", pythons() or ["none"], ids=lambda p: str(p)[-22:])
def test_other_versions_of_python(server: SdkServer, sdk: Any, python: str) -> None:
    """Children in Python 3.8 and newer can use it."""
    if python == "none":
        pytest.skip("this host has no other Python")
    done = run_python(python, EVERY_CALL, os.environ["ERA_STORAGE_URL"], "-X", "dev")
    assert (done.stdout.splitlines(), done.stderr) == (
        [
            "True v [{'name': 'k', 'metadata': {'a': 1}}]",
            "[{'c0': b'x'}] {'changes': 1} 2",
            "True b'x' 1",
            "True None True None",
            "400",
        ],
        "",
    )


def test_names_and_types(sdk: Any) -> None:
    """The names that the contract has are there; the package says that it is typed."""
    assert sdk.kv is sdk.KVStorage and sdk.d1 is sdk.D1Storage and sdk.r2 is sdk.R2Storage
    assert (SDK / "era_storage" / "py.typed").exists()
    for name in sdk.__all__:
        assert getattr(sdk, name).__doc__, name


def test_importing_takes_no_time(sdk: Any) -> None:
    """Nothing is asked at import, also where there is no server."""
    begin = time.monotonic()
    assert run_python(sys.executable, "import era_storage", "http://192.0.2.1").returncode == 0
    assert time.monotonic() - begin < SECONDS_FOR_IMPORT
