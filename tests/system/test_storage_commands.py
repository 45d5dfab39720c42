"""`era-kernels storage` does the same through a running server and in a directory without one."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from functools import partial
from pathlib import Path

import pytest

from tests.server_process import Launcher, run_command
from tests.system.conftest import Run

SPACE = "/api/storage/r2/space"
MEGABYTE = 1024 * 1024
KEYS = ["a", "a/b", "..", "../../etc/passwd", "//", "☃\n", "\0", "x" * 1024]


def keys(run: Run, *options: str) -> list[str]:
    return [
        json.loads(line)["key"] for line in run("list", "r2", "space", *options).stdout.splitlines()
    ]


def test_put_get_list_delete(run: Run, tmp_path: Path) -> None:
    """Objects go in from a file or stdin, and come out byte for byte."""
    data = os.urandom(3 * MEGABYTE + 1)
    (tmp_path / "image.png").write_bytes(data)
    run("put", "r2", "space", "images/one", tmp_path / "image.png")
    run("put", "r2", "space", "from stdin", data=b"typed")
    run("put", "r2", "space", "empty", data=b"")
    assert run("get", "r2", "space", "images/one").stdout == data
    run("get", "r2", "space", "from stdin", "-o", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"typed"
    assert run("get", "r2", "space", "empty").stdout == b""
    assert keys(run) == ["empty", "from stdin", "images/one"]
    [line] = run("list", "r2", "space", "--prefix", "images/").stdout.splitlines()
    etag = hashlib.md5(data).hexdigest()
    assert json.loads(line) == {"key": "images/one", "size": len(data), "etag": etag}
    for _ in range(2):
        run("delete", "r2", "space", "empty")
    assert keys(run) == ["from stdin", "images/one"]


def test_mistakes(run: Run, tmp_path: Path) -> None:
    """What cannot be done is told in a sentence."""
    for arguments, words in [
        (("get", "r2", "space", "none"), b"no object"),
        (("get", "r2", ".bad", "k"), b"A namespace must be"),
        (("put", "r2", "space", "k", tmp_path / "none"), b"No such file"),
        (("put", "r2", "space", "x" * 1025), b"1024 bytes"),
        (("import", "r2", "space", tmp_path), b"no export"),
        (("export", "r2", "space", tmp_path), b"exists already"),
    ]:
        assert words in run(*arguments, code=1).stderr


def test_server_of_the_directory(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an address, the server that uses the directory is asked, on whatever port it is."""
    monkeypatch.delenv("ERA_URL", raising=False)
    server = launcher.start()
    put = ("storage", "put", "kv", "n", "k", "--value", "v")
    assert run_command(*put, "--data-dir", server.data_dir).returncode == 0
    client = server.connect()
    assert client.http.get("/api/storage/kv/n/k").json()["value"] == "v"


@pytest.mark.parametrize("name", ["out", "out.tar"])
def test_export_and_import(launcher: Launcher, tmp_path: Path, name: str) -> None:
    """A namespace comes back with all keys, types and metadata, whichever way it went."""
    server = launcher.start()
    client = server.connect()
    metadata = {"author": "Zoë", "Type": "x", "": "%41"}
    for number, key in enumerate(KEYS):
        body = {"content": "YWJj" * number, "metadata": metadata}
        body["httpMetadata"] = {"contentType": "image/png"}  # type: ignore[assignment]
        client.http.put(SPACE, params={"key": key}, json=body).raise_for_status()
    client.http.put(f"{SPACE}/big", content=b"x" * 2 * MEGABYTE, headers={"Content-Type": "a/b"})
    target, where = tmp_path / name, ["--url", server.base_url]
    for way in (where, ["--data-dir", str(server.data_dir)]):
        if way != where:
            server.stop()
        for verb, space in (("export", "space"), ("import", "copy")):
            done = run_command("storage", verb, "r2", space, target, *way)
            assert done.returncode == 0, done.stderr
        if target.is_dir():
            names = {file.name for file in target.iterdir()}
        else:
            with tarfile.open(target) as tar:
                names = {file.partition("/")[0] for file in tar.getnames()}
        assert names == {"objects", "index.jsonl"}
        target.rename(tmp_path / f"{len(way[1])}-{name}")
    client = launcher.start().connect()
    assert len(client.http.get("/api/storage/r2/copy").json()["objects"]) == len(KEYS) + 1
    for key in [*KEYS, "big"]:
        both = [
            client.http.get(f"/api/storage/r2/{space}", params={"key": key}).json()
            for space in ("space", "copy")
        ]
        for one in both:
            del one["uploaded"]
        assert both[0] == both[1]
        assert both[0]["customMetadata"] == ({} if key == "big" else metadata)


def test_damaged_export(launcher: Launcher, tmp_path: Path) -> None:
    """An export that was changed is refused before anything is stored."""
    server = launcher.start()
    client = server.connect()
    for key in "ab":
        client.http.put(f"{SPACE}/{key}", json={"content": "YWJj"}).raise_for_status()
    target = tmp_path / "out"
    where = ["--url", server.base_url]
    done = run_command("storage", "export", "r2", "space", target, *where)
    assert done.returncode == 0, done.stderr
    index = (target / "index.jsonl").read_text()
    secret = tmp_path / "secret"
    secret.write_text("abc")
    for change in (
        lambda: (target / "objects" / "00000002").write_text("abd"),
        lambda: (target / "objects" / "00000002").unlink(),
        lambda: (target / "objects" / "00000002").symlink_to(secret),
        lambda: (target / "index.jsonl").write_text(index.replace("objects/00000002", "../secret")),
        lambda: (target / "index.jsonl").write_text("{"),
    ):
        change()  # type: ignore[no-untyped-call]
        done = run_command("storage", "import", "r2", "copy", target, *where)
        assert (done.returncode, "damaged" in done.stderr) == (1, True), done.stderr
        assert client.http.get("/api/storage/r2/copy").json()["objects"] == []


def test_tokens_and_addresses(launcher: Launcher, tmp_path: Path) -> None:
    """A token is shown to the server; one that is missing, and a server that is, are told."""
    token = "0123456789abcdef"
    server = launcher.start(env={"ERA_API_TOKENS": token})
    listed = partial(run_command, "storage", "list", "r2", "space")
    assert listed("--url", server.base_url, "--token", token).returncode == 0
    assert listed(ERA_URL=server.base_url, ERA_TOKEN=token).returncode == 0
    assert listed(ERA_URL=server.base_url, ERA_API_TOKENS=token).returncode == 0
    refused = listed("--url", server.base_url)
    assert (refused.returncode, "token" in refused.stderr) == (1, True)
    for more in (["--url", "http://127.0.0.1:9"], ["--data-dir", str(tmp_path / "none")]):
        absent = listed(*more)
        assert (absent.returncode, "--url" in absent.stderr) == (1, True), absent.stderr
    assert not (tmp_path / "none").exists()
