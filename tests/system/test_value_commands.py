"""`era-kernels storage` on KV does the same through a server and in a directory without one."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from era_kernels.errors import StartError
from era_kernels.storage_commands.value_lines import import_values
from tests.server_process import Launcher
from tests.system.conftest import Run

KEYS = ["a", "a/b", "..", "//", "☃\n", "k=&?#%20", " ", "x" * 512]


def lines(data: bytes) -> list[Any]:
    return [json.loads(line) for line in data.splitlines()]


def test_put_get_list_delete(run: Run, tmp_path: Path) -> None:
    """Values come from an argument, a file or stdin, and come out as they were."""
    text = "é\r\n\0" * 100_000
    (tmp_path / "value").write_bytes(text.encode())
    run("put", "kv", "space", "file", tmp_path / "value", "--metadata", '{"by": "Zoë"}')
    run("put", "kv", "space", "stdin", data=b"gelesen\n")
    run("put", "kv", "space", "dash", "-", data=b"dash")
    run("put", "kv", "space", "argument", "--value", "")
    assert run("get", "kv", "space", "file").stdout == text.encode()
    run("get", "kv", "space", "stdin", "-o", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"gelesen\n"
    assert run("get", "kv", "space", "dash").stdout == b"dash"
    assert run("get", "kv", "space", "argument").stdout == b""
    listed = lines(run("list", "kv", "space").stdout)
    assert [one["key"] for one in listed] == ["argument", "dash", "file", "stdin"]
    assert listed[2] == {"key": "file", "metadata": {"by": "Zoë"}}
    [found] = lines(run("list", "kv", "space", "--prefix", "f").stdout)
    assert found["key"] == "file"
    for _ in range(2):
        run("delete", "kv", "space", "dash")
    assert b"dash" not in run("list", "kv", "space").stdout


def test_expiry(run: Run) -> None:
    """A key expires, and an export tells what time it has left."""
    run("put", "kv", "space", "gone", "--value", "x", "--ttl", "0.01")
    run("put", "kv", "space", "stays", "--value", "x", "--ttl", "1000")
    [found] = lines(run("export", "kv", "space", "-").stdout)
    assert found["key"] == "stays"
    assert 900 < found["ttl"] < 1000
    run("import", "kv", "copy", "-", data=json.dumps({**found, "ttl": 500}).encode())
    [copied] = lines(run("export", "kv", "copy", "-").stdout)
    assert 400 < copied["ttl"] < 500
    assert run("get", "kv", "space", "gone", code=1).stderr


def test_mistakes(run: Run, tmp_path: Path) -> None:
    """What cannot be done is told in a sentence, and changes nothing."""
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    put = ("put", "kv", "space", "k")
    for arguments, code, words in [
        (("get", "kv", "space", "none"), 1, b"no such key"),
        (("get", "kv", "space", ""), 1, b"must not be empty"),
        (("list", "kv", "-bad"), 2, b"No such option"),
        (("list", "kv", "_bad"), 1, b"A namespace must be"),
        (("list", "xx", "space"), 2, b"'xx'"),
        ((*put, tmp_path / "none"), 1, b"No such file"),
        ((*put, tmp_path), 1, b"Is a directory"),
        ((*put, tmp_path / "bytes"), 1, b"no UTF-8"),
        ((*put, tmp_path / "bytes", "--value", "x"), 2, b"not both"),
        ((*put, "--value", "x", "--ttl", "0"), 2, b"ttl"),
        ((*put, "--value", "x", "--ttl", "nan"), 2, b"ttl"),
        ((*put, "--value", "x", "--metadata", "[1]"), 2, b"JSON object"),
        ((*put, "--value", "x", "--metadata", "{"), 2, b"JSON object"),
        ((*put, "--value", "x", "--content-type", "a/b"), 2, b"for r2 only"),
        ((*put, "--value", "x", "--metadata", json.dumps({"a": "x" * 1100})), 1, b"1024"),
        (("put", "kv", "space", "x" * 513, "--value", ""), 1, b"512"),
        (("put", "kv", "space", "", "--value", ""), 1, b"must not be empty"),
        (("put", "r2", "space", "k", "--ttl", "1"), 2, b"for kv only"),
        (("export", "kv", "space", tmp_path / "bytes"), 1, b"exists already"),
        (("export", "kv", "space", "-", "--table", "t"), 2, b"for d1 only"),
        (("import", "kv", "space", tmp_path / "none"), 1, b"No such file"),
        (("import", "kv", "space", tmp_path / "bytes"), 1, b"Line 1"),
    ]:
        assert words in run(*arguments, code=code).stderr
    assert run("list", "kv", "space").stdout == b""
    assert (tmp_path / "bytes").read_bytes() == b"\xff\xfe"


@pytest.mark.parametrize(
    "line",
    [
        b"{", b"[]", b"1", b"{}", b'{"key": "k"}', b'{"key": "", "value": "v"}',
        b'{"key": "k", "value": 1}', b'{"key": 1, "value": "v"}', b"\xff",
        b'{"key": "k", "value": "v", "metadata": []}', b'{"key": "k", "value": "v", "more": 1}',
        b'{"key": "k", "value": "v", "ttl": 0}', b'{"key": "k", "value": "v", "ttl": true}',
        b'{"key": "k", "value": "v", "ttl": 1e999}', b'{"key": "k", "value": "v", "ttl": NaN}',
        b'{"key": "k", "key": "l", "value": "v"}', b'{"key": "\\ud800", "value": "v"}',
        b"[" * 100_000,
    ],
)  # fmt: skip
def test_damaged_export(line: bytes) -> None:
    """A line that is wrong is named, before anything is stored."""
    with pytest.raises(StartError, match="Line 2 "):
        source = io.BytesIO(b'{"key": "a", "value": "v"}\n' + line)
        import_values(None, "space", source)  # type: ignore[arg-type]


def test_export_and_import(run: Run, tmp_path: Path) -> None:
    """A namespace comes back with all keys, values and metadata."""
    values = [
        {"key": key, "value": f"é\u2028{key}", "metadata": {"n": number, "deep": [{"é": None}]}}
        for number, key in enumerate(KEYS)
    ]
    data = b"".join(json.dumps(value).encode() + b"\n" for value in values)
    assert b"imported: 8" in run("import", "kv", "space", "-", data=data).stderr
    target = tmp_path / "values.jsonl"
    assert b"exported: 8" in run("export", "kv", "space", target).stderr
    run("import", "kv", "copy", target)
    for space in ("space", "copy"):
        found = lines(run("export", "kv", space, "-").stdout)
        assert sorted(found, key=lambda one: KEYS.index(one["key"])) == values
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["values.jsonl"]


def test_header_of_expiry(launcher: Launcher) -> None:
    """The answer to a GET tells the seconds that are left, and only where there are any."""
    client = launcher.start().connect()
    path = "/api/storage/kv/space/k"
    client.http.put(path, json={"value": "v", "expiration_ttl": 50}).raise_for_status()
    time.sleep(0.01)
    assert 30 < float(client.http.get(path).headers["X-Era-Expires-In"]) < 50
    client.http.put(path, json={"value": "v"}).raise_for_status()
    assert "X-Era-Expires-In" not in client.http.get(path).headers
