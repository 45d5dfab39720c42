"""A server that is killed in the middle of copying and deleting leaves whole sessions only."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.client import Client, SessionClient
from tests.server_process import Launcher, Server
from tests.system.rounds import rounds_of_kills
from tests.waiting import wait_until

FILES = 300
FILL = f"""
import os, random
random.seed(5)
for n in range({FILES}):
    os.makedirs(f"d{{n % 10}}", exist_ok=True)
    with open(f"d{{n % 10}}/{{n}}", "wb") as file:
        file.write(random.randbytes(n * 200))
"""
CODE = "print('stored')"


def contents(workspace: Path) -> dict[str, bytes]:
    """Returns the files of a workspace with their contents."""
    return {
        str(path.relative_to(workspace)): path.read_bytes()
        for path in workspace.rglob("*")
        if path.is_file() and path.name != ".session_data.json"
    }


def directories(server: Server) -> set[Path]:
    return set((server.data_dir / "sessions").iterdir())


@contextmanager
def busy_clients(*works: Callable[[int], object]) -> Iterator[None]:
    """Runs clients that work until their server is gone."""
    stop = threading.Event()

    def work_on(work: Callable[[int], object]) -> None:
        number = 0
        while not stop.is_set():
            try:
                work(number)
            except httpx.HTTPError:
                return
            number += 1

    threads = [threading.Thread(target=work_on, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


class Crash:
    """Kills a server in rounds; `made` and `deleted` are the answered changes of the last one."""

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher
        self.made: set[str] = set()
        self.deleted: set[str] = set()
        self.asked: set[str] = set()
        server, client = self.start()
        self.source = client.session("python", session_id="source", data={"code": CODE})
        self.source.run(FILL, update_data={"kept": True})
        [directory] = directories(server)
        self.expected = contents(directory / "workspace")
        assert len(self.expected) == FILES
        self.known = {directory}
        client.http.get("/api/sessions")  # lists wait for the counts, which runs do not
        server.kill()

    def start(self) -> tuple[Server, Client]:
        server = self.launcher.start()
        return server, server.connect()

    def round(self, number: int) -> None:
        """Copies and deletes sessions until the server is killed, at some moment."""
        server, client = self.start()
        self.check(server, client)

        def copy(name: str) -> Callable[[int], object]:
            def work(n: int) -> None:
                new = f"r{number}-{name}{n}"
                self.asked.add(new)
                body = {"id": new, "variables": n % 2 == 0}
                answer = client.http.post("/api/sessions/source/duplicate", json=body)
                assert answer.status_code == 201, answer.text
                self.made.add(new)

            return work

        def delete(n: int) -> None:
            there = sorted(self.made - self.deleted)
            if there:
                self.deleted.add(there[0])
                assert client.http.delete(f"/api/sessions/{there[0]}").status_code == 200
            time.sleep(0.01)

        with busy_clients(copy("a"), copy("b"), delete):
            time.sleep(0.2 + random.random() * 0.8)
            server.kill()

    def check(self, server: Server, client: Client) -> None:
        """Checks that the answered sessions are there, whole, and nothing else."""
        listed = {one["id"]: one for one in client.http.get("/api/sessions").json()["sessions"]}
        assert "source" in listed
        assert self.made - self.deleted <= set(listed)
        assert set(listed) <= self.asked | {"source"}
        # What takes long to remove goes while the server runs.
        assert wait_until(lambda: len(directories(server)) == len(listed), 60)
        found = directories(server)
        for directory in found:
            assert contents(directory / "workspace") == self.expected
        for name, one in listed.items():
            assert one["file_count"] == FILES
            session = SessionClient(client.http, name)
            assert session.get()["data"] == {"code": CODE, "kept": True}
            assert client.http.get(f"{session.path}/code").json()["code"] == CODE
            if name != "source":
                session.delete()
        assert wait_until(lambda: directories(server) == self.known, 60)
        self.made.clear()
        self.deleted.clear()
        self.asked.clear()


@rounds_of_kills(900)
def test_kill_while_copying_and_deleting(launcher: Launcher, rounds: int) -> None:
    """Whenever the server is killed, every session is whole or absent, and no directory is left."""
    crash = Crash(launcher)
    for number in range(rounds):
        crash.round(number)
    server, client = crash.start()
    crash.check(server, client)
    assert crash.source.id == "source"
