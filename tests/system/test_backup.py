"""A backup of a running server holds every write that was answered before it began."""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.client import Client
from tests.contract.checks import check
from tests.server_process import Launcher, run_command
from tests.waiting import wait_until

SPACE = "/api/storage/r2/space"
RAW = {"Accept": "application/octet-stream", "Content-Type": "application/octet-stream"}
KEYS = 30


def command(*words: object, data_dir: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command on that data directory, in a process of its own."""
    return run_command(*words, "--data-dir", data_dir)


@contextmanager
def restored(backup: Path, data_dir: Path) -> Iterator[Client]:
    """A client of a server on the data to which a backup is restored."""
    done = command("restore", backup, data_dir=data_dir)
    assert done.returncode == 0, done.stderr
    launcher = Launcher(data_dir)
    try:
        yield launcher.start().connect()
    finally:
        launcher.stop_all()


def put(client: Client, key: str, data: bytes) -> None:
    client.http.put(f"{SPACE}/{key}", content=data, headers=RAW).raise_for_status()


def digests(client: Client) -> dict[str, str]:
    """Every object, read whole: its MD5 by its key."""
    listed = client.http.get(f"{SPACE}?limit=1000").json()["objects"]
    found = {}
    for one in listed:
        data = client.http.get(f"{SPACE}/{one['key']}", headers=RAW).raise_for_status().content
        found[one["key"]] = hashlib.md5(data).hexdigest()
        assert found[one["key"]] == one["etag"]
    return found


class Writers:
    """Threads that replace and delete objects all the time, and count what was answered."""

    def __init__(self, client: Client) -> None:
        self._client = client
        # Of each key, the states in order: digests, None for deleted; the last may be unanswered.
        self.states: dict[str, list[str | None]] = {f"k{n}": [None] for n in range(KEYS)}
        self.answered: dict[str, int] = dict.fromkeys(self.states, 0)  # indexes into `states`
        self._stop = threading.Event()

    @contextmanager
    def running(self, count: int = 3) -> Iterator[None]:
        threads = [threading.Thread(target=self._run, args=(n, count)) for n in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _run(self, number: int, count: int) -> None:
        chance, keys = random.Random(number), [*self.states][number::count]
        while not self._stop.is_set():
            key = chance.choice(keys)
            if chance.randrange(4):
                data = os.urandom(chance.choice([0, 100, 5_000, 400_000]))
                self.states[key].append(hashlib.md5(data).hexdigest())
                put(self._client, key, data)
            else:
                self.states[key].append(None)
                self._client.http.delete(f"{SPACE}/{key}").raise_for_status()
            self.answered[key] = len(self.states[key]) - 1


def test_backup_under_load(launcher: Launcher, tmp_path: Path) -> None:
    """What was answered before a backup is in it, whole, whatever is replaced meanwhile."""
    server = launcher.start()
    client = server.connect()
    session = client.session("python", session_id="s1", data={"kept": True})
    session.http.put(f"{session.path}/files/d/f", content=b"file").raise_for_status()
    session.run("import os; os.symlink('d/f', 'link'); print('logged')")
    put(client, "still", b"x" * 100_000)
    databases = server.data_dir / "d1"
    databases.mkdir(exist_ok=True)
    writers = Writers(client)
    with (
        closing(sqlite3.connect(databases / "bench.db", isolation_level=None)) as database,
        writers.running(),
    ):
        database.execute("PRAGMA journal_mode = wal")
        database.execute("CREATE TABLE t (n)")
        database.execute("INSERT INTO t VALUES (42)")
        copies: list[tuple[Path, dict[str, int], dict[str, int]]] = []
        for number in range(3):
            time.sleep(0.7)
            before, target = dict(writers.answered), tmp_path / f"backup{number}"
            done = command("backup", target, data_dir=server.data_dir)
            assert done.returncode == 0, done.stderr
            assert done.stdout == ""
            assert "backed up: objects " in done.stderr
            after = {key: len(states) - 1 for key, states in writers.states.items()}
            copies.append((target, before, after))
    assert wait_until(
        lambda: len(list((server.data_dir / "r2").glob("??/*"))) == len(digests(client))
    )
    server.stop()
    for number, (target, before, after) in enumerate(copies):
        data_dir = tmp_path / f"restored{number}" / "data"
        with restored(target, data_dir) as copy:
            check_restored(copy, writers, before, after)
        with closing(sqlite3.connect(data_dir / "d1" / "bench.db")) as database:
            assert database.execute("SELECT n FROM t").fetchall() == [(42,)]


def check_restored(
    client: Client, writers: Writers, before: dict[str, int], after: dict[str, int]
) -> None:
    found = digests(client)
    assert found.pop("still") == hashlib.md5(b"x" * 100_000).hexdigest()
    for key, states in writers.states.items():
        assert found.get(key) in states[before[key] : after[key] + 1], key
    assert "problems" not in client.http.get("/health").json()
    session = client.http.get("/api/sessions/s1").json()
    check(session, data={"kept": True}, file_count=1)
    assert client.http.get("/api/sessions/s1/files/link").content == b"file"
    [run] = client.http.get("/api/sessions/s1/executions").json()["executions"]
    path = f"/api/sessions/s1/executions/{run['execution_id']}/stdout"
    assert client.http.get(path).text == "logged\n"
    ran = client.http.post("/api/sessions/s1/run", json={"code": "print(open('d/f').read())"})
    check(ran.json(), stdout="file\n", exit_code=0)


def test_backup_of_a_stopped_server(launcher: Launcher, tmp_path: Path) -> None:
    """A server that was killed, or stopped, is backed up as well, and starts again afterwards."""
    for end in ("kill", "stop"):
        server = launcher.start()
        client = server.connect()
        put(client, end, b"x" * 1000)
        getattr(server, end)()
        target = tmp_path / end
        assert command("backup", target, data_dir=server.data_dir).returncode == 0
        assert (target.stat().st_mode & 0o777, (target / "era.db").stat().st_mode & 0o777) == (
            0o700, 0o600
        )  # fmt: skip
        with restored(target, tmp_path / f"copy-of-{end}" / "data") as copy:
            assert end in digests(copy)


def test_restored_data_is_apart(launcher: Launcher, tmp_path: Path) -> None:
    """What a restored server deletes or replaces stays in the backup, and in the first server."""
    server = launcher.start()
    client = server.connect()
    put(client, "k", b"original")
    target = tmp_path / "backup"
    assert command("backup", target, data_dir=server.data_dir).returncode == 0
    for number in range(2):
        with restored(target, tmp_path / f"copy{number}" / "data") as copy:
            assert copy.http.get(f"{SPACE}/k", headers=RAW).content == b"original"
            put(copy, "k", b"changed")
            copy.http.delete(f"{SPACE}/k").raise_for_status()
    assert client.http.get(f"{SPACE}/k", headers=RAW).content == b"original"


def test_refusals(launcher: Launcher, tmp_path: Path) -> None:
    """What is not empty is never written to, and what is no backup or data is not copied."""
    server = launcher.start()
    target, full = tmp_path / "backup", tmp_path / "full"
    assert command("backup", target, data_dir=server.data_dir).returncode == 0
    full.mkdir()
    (full / "mine").write_text("mine")
    for done, words in [
        (command("backup", full, data_dir=server.data_dir), "is not empty"),
        (command("backup", target, data_dir=server.data_dir), "is not empty"),
        (command("backup", server.data_dir / "b", data_dir=server.data_dir), "cannot lie in"),
        (command("backup", tmp_path / "new", data_dir=tmp_path / "none"), "no data directory"),
        (command("restore", target, data_dir=full), "is not empty"),
        (command("restore", target, data_dir=server.data_dir), "is not empty"),
        (command("restore", full, data_dir=tmp_path / "new2"), "no whole backup"),
        (command("restore", tmp_path / "none", data_dir=tmp_path / "new2"), "no whole backup"),
    ]:
        assert done.returncode == 1
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    assert [file.name for file in full.iterdir()] == ["mine"]
    (target / "backup.json").write_text('{"format": 99}')
    done = command("restore", target, data_dir=tmp_path / "new2")
    assert "newer version" in done.stderr
