"""A server that is killed while the stores are written to loses nothing that it has answered."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import httpx

from tests.client import Client
from tests.server_process import Launcher
from tests.system.rounds import rounds_of_kills
from tests.system.storage_writers import WRITERS, StorageWriter
from tests.waiting import wait_until


class Load:
    """One client that writes until its server is gone, and what became of its writes."""

    def __init__(self, writer: StorageWriter, base_url: str, numbers: Iterator[int]) -> None:
        self.writer = writer
        self.answered: list[int] = []
        self.unanswered: list[int] = []
        self.failure: BaseException | None = None
        self._numbers = numbers
        self._client = Client(base_url)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            number = next(self._numbers)
            try:
                self.writer.write(self._client, number)
            except httpx.HTTPStatusError as error:  # the server lives and refuses: no crash
                self.failure = error
                return
            except httpx.HTTPError:
                self.unanswered.append(number)
                return
            self.answered.append(number)

    def wait_for_answer(self) -> None:
        """Returns once a write was answered, however long a busy machine takes for it."""
        assert wait_until(lambda: bool(self.answered) or not self._thread.is_alive(), 60)

    def join(self) -> None:
        self._thread.join()
        self._client.close()
        if self.failure is not None:
            raise self.failure

    def verify(self, client: Client) -> None:
        """Checks every write, the answered and the last one."""
        for number in self.answered:
            self.writer.verify(client, number)
        for number in self.unanswered:
            self.writer.verify_unanswered(client, number)


class Crashes:
    """Kills a server in rounds; each round looks at what the one before has written."""

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher
        self.answered = 0
        self._numbers = count()
        self._writers = [make() for make in WRITERS]
        self._loads: list[Load] = []

    def round(self) -> None:
        """Starts the server anew, verifies, writes, and kills it at some moment."""
        server = self.launcher.start()
        self.verify(server.base_url)
        self._loads = [Load(writer, server.base_url, self._numbers) for writer in self._writers]
        for load in self._loads:
            load.wait_for_answer()
        time.sleep(random.random() * 0.8)
        server.kill()
        for load in self._loads:
            load.join()
            self.answered += len(load.answered)

    def verify(self, base_url: str) -> None:
        """Checks the files, then the writes by HTTP."""
        for file in self._databases():
            with closing(sqlite3.connect(file)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], file
        client = Client(base_url)
        for load in self._loads:
            load.verify(client)
        check_counters(client)
        client.close()

    def _databases(self) -> list[Path]:
        directory = self.launcher.data_dir
        return [directory / "era.db", *directory.glob("d1/*.db")]


def check_counters(client: Client) -> None:
    """The counters are what the lists say, whatever the moment of the crash was.

    Sizes of D1's tables are looked at anew soon after the start, perhaps between two requests.
    """
    assert wait_until(lambda: len({*counted_and_listed(client)}) == 1), counted_and_listed(client)


def counted_and_listed(client: Client) -> tuple[tuple[int, int], tuple[int, int]]:
    """The number of resources and of their bytes: by the counters, and by the list."""
    stats = client.http.get("/api/resources/stats").raise_for_status().json()
    total, sizes = 0, 0
    while True:
        query = {"limit": 1000, "offset": total}
        page = client.http.get("/api/resources/list", params=query).raise_for_status().json()
        total += len(page["resources"])
        sizes += sum(one["size"] for one in page["resources"])
        if not page["has_more"]:
            break
    assert page["total"] == total
    return (stats["total"], stats["total_size"]), (total, sizes)


@rounds_of_kills(1800)
def test_kill_while_storing(launcher: Launcher, rounds: int) -> None:
    """Every answered write is there, whole and right, whenever the server was killed."""
    crashes = Crashes(launcher)
    for _ in range(rounds):
        crashes.round()
    server = launcher.start()
    crashes.verify(server.base_url)
    assert crashes.answered >= len(WRITERS) * rounds
