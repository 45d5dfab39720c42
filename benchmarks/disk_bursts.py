"""Measures what others notice of sessions that fill the disk, and the server on the full disk.

`python -m benchmarks.disk_bursts` prints some lines. The disk is a small tmpfs that it mounts.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from benchmarks.bystander import Bystander, seconds_of
from benchmarks.table import ms
from tests.client import Client, SessionClient
from tests.server_process import Launcher
from tests.storage.stores import small_disk
from tests.system.test_disk_reserve import BURST, fill

DISK = "1G"
RUNS = 100
# Takes no more of the disk, but what it writes has it measured again and again.
OVERWRITING = """
data = b"x" * (1 << 20)
with open("f", "wb", buffering=0) as file:
    while True:
        file.seek(0)
        for _ in range(32): file.write(data)
"""
# The first takes nothing but a processor.
PROGRAMS = {"computing": "while True: pass", "bursts": BURST, "overwriting": OVERWRITING}


def main() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name, small_disk(Path(name), DISK) as disk:
        launcher = Launcher(disk)
        try:
            _measure_bystander(launcher)
            _measure_full_disk(launcher)
        finally:
            launcher.stop_all()


def _measure_bystander(launcher: Launcher) -> None:
    server = launcher.start("--session-workspace", "128M", "--disk-reserve", "256M")
    with closing(Client(server.base_url)) as client:
        bystander = Bystander(client, RUNS)
        for what, code in PROGRAMS.items():
            with _culprits(client, code) as deletions:
                compared = bystander.beside(what)
            print(f"{compared}; slowest DELETE of {len(deletions)}: {ms(max(deletions))}")
    server.stop()


@contextmanager
def _culprits(client: Client, code: str) -> Iterator[list[float]]:
    """Runs the code in one session after the other; gives the seconds that each DELETE took."""
    deletions: list[float] = []
    is_over = threading.Event()

    def repeat() -> None:
        while not is_over.is_set():
            culprit = client.session("python")
            culprit.run(code, timeout=2)
            deletions.append(seconds_of(culprit.delete))

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield deletions
    finally:
        is_over.set()
        thread.join()


def _measure_full_disk(launcher: Launcher) -> None:
    server = launcher.start()
    with closing(Client(server.base_url)) as client:
        session: SessionClient = client.session("python")
        session.run("1")
        fill(launcher.data_dir)
        deletion = seconds_of(session.delete)
    stop = seconds_of(server.stop)
    start = seconds_of(launcher.start)
    print(f"not a byte left: DELETE {ms(deletion)}, stop {ms(stop)}, start {ms(start)}")


if __name__ == "__main__":
    main()
