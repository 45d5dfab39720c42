"""A database that is lost, empty, another's or older never costs a workspace or an object."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx

from tests.server_process import Launcher, Server, failed_start, run_command

DATABASE = ("era.db", "era.db-wal", "era.db-shm")


def fill(server: Server, name: str) -> None:
    """Makes a session with a file, and an object, both of that name."""
    client = server.connect()
    client.session("python", session_id=name).run(f"open('kept', 'w').write('{name}')")
    headers = {"Content-Type": "application/octet-stream"}
    stored = client.http.put(f"/api/storage/r2/n/{name}", content=name.encode(), headers=headers)
    assert stored.status_code in (200, 201)


def files(data_dir: Path) -> dict[str, bytes]:
    """All that is stored beside the database, by the ends of the paths."""
    return {
        str(path.relative_to(data_dir)): path.read_bytes()
        for part in ("sessions", "r2", "d1", "lost+found")
        for path in (data_dir / part).rglob("*")
        if path.is_file()
    }


def texts(server: Server, *names: str) -> list[str]:
    """What the sessions' files and the objects of these names hold."""
    client = server.connect()
    found = [client.http.get(f"/api/sessions/{name}/files/kept").text for name in names]
    headers = {"Accept": "application/octet-stream"}
    found += [client.http.get(f"/api/storage/r2/n/{one}", headers=headers).text for one in names]
    return found


def lose(data_dir: Path) -> None:
    for name in DATABASE:
        (data_dir / name).unlink(missing_ok=True)


def test_a_lost_database(launcher: Launcher) -> None:
    """The server refuses to start and changes nothing; the database back, all is as before.

    Without it, what is there is set aside on demand, and a database that comes back even then
    knows it again.
    """
    server = launcher.start()
    data_dir = launcher.data_dir
    fill(server, "a")
    server.stop()
    kept = data_dir.parent / "kept"
    shutil.copytree(data_dir, kept)
    lose(data_dir)
    before = files(data_dir)
    told = failed_start(data_dir)
    for part in (f"{data_dir / 'era.db'}", "1 directories of sessions", "1 objects", "set-aside"):
        assert part in told
    assert files(data_dir) == before
    shutil.copy(kept / "era.db", data_dir)
    server = launcher.start()
    assert texts(server, "a") == ["a", "a"]
    server.stop()
    assert not (data_dir / "lost+found").exists()
    lose(data_dir)
    done = run_command("set-aside", "--data-dir", data_dir)
    assert done.returncode == 0
    assert "directories of sessions 1, objects 1" in done.stderr
    server = launcher.start()
    assert httpx.get(f"{server.base_url}/api/sessions").json()["sessions"] == []
    assert len(list((data_dir / "lost+found").iterdir())) == 2
    server.stop()
    lose(data_dir)
    shutil.copy(kept / "era.db", data_dir)
    assert texts(launcher.start(), "a") == ["a", "a"]


def test_an_older_database(launcher: Launcher) -> None:
    """What it does not know is moved, with one warning each; what it knows is served."""
    server = launcher.start()
    fill(server, "a")
    server.stop()
    older = launcher.data_dir.parent / "older.db"
    shutil.copy(launcher.data_dir / "era.db", older)
    server = launcher.start()
    fill(server, "b")
    fill(server, "c")
    server.stop()
    names = {path.name for path in (launcher.data_dir / "sessions").iterdir()}
    count = len(files(launcher.data_dir))
    shutil.copy(older, launcher.data_dir / "era.db")
    server = launcher.start()
    assert texts(server, "a") == ["a", "a"]
    moved = [path.name for path in (launcher.data_dir / "lost+found").iterdir()]
    left = {path.name for path in (launcher.data_dir / "sessions").iterdir()}
    assert {name.partition(".")[0] for name in moved} >= names - left
    assert (len(left), len(moved)) == (1, 4)
    assert len(files(launcher.data_dir)) == count
    warnings = [line for line in server.log_text.splitlines() if "set aside" in line]
    assert len(warnings) == 2
    assert all("lost+found" in line and '"count": 2' in line for line in warnings)
    server.stop()
    server = launcher.start()
    assert "set aside" not in server.log_text
    assert len(list((launcher.data_dir / "lost+found").iterdir())) == 4


def test_what_a_killed_server_was_doing_is_tidied_up(launcher: Launcher) -> None:
    """What was being made or removed at a SIGKILL is removed, also when nothing else is there."""
    server = launcher.start()
    fill(server, "a")
    server.stop()
    sessions = launcher.data_dir / "sessions"
    [directory] = sessions.iterdir()
    [blob] = (path for path in (launcher.data_dir / "r2").glob("??/*"))
    with closing(sqlite3.connect(launcher.data_dir / "era.db")) as database, database:
        database.execute("DELETE FROM sessions")
        database.execute("DELETE FROM r2_objects")
        database.execute("INSERT INTO deletions VALUES ('session', ?)", (directory.name,))
    (launcher.data_dir / "r2" / "unfinished" / blob.name).touch()
    made = sessions / ("0" * 16)
    for half in (made, sessions / f"new-{'1' * 16}", sessions / f"removed-{'2' * 16}"):
        (half / "workspace").mkdir(parents=True)
        (half / "workspace" / "file").touch()
    (made / "unfinished").touch()
    launcher.start().stop()
    assert list(sessions.iterdir()) == []
    assert not blob.exists()
    assert not (launcher.data_dir / "lost+found").exists()
