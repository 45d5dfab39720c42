"""Starts a server that notes for how long its event loop stops, for tests and benchmarks.

`python -m tests.watched_server serve …` is the console command, with a task that looks at the clock
all the time. It writes the longest stop into the file that `ERA_TEST_STOPS` names.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from era_kernels import app, cli
from era_kernels.interpreter_malloc import use_c_library
from tests.server_process import Launcher, Server, temporary_launcher

VARIABLE = "ERA_TEST_STOPS"
LOOK_INTERVAL = 0.001  # seconds
REST = 0.3  # seconds after an answer that still belong to it: what was large is let go of
_SECONDS = struct.Struct("d")


class StopFile:
    """The longest stop, in seconds of processor time, in memory that two processes share."""

    def __init__(self, path: Path) -> None:
        """The file exists, and has 8 bytes."""
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _SECONDS.size)

    @property
    def longest(self) -> float:
        """The seconds of the longest stop since this was set to 0."""
        seconds: float = _SECONDS.unpack(self._memory)[0]
        return seconds

    @longest.setter
    def longest(self, seconds: float) -> None:
        self._memory[:] = _SECONDS.pack(seconds)


class Watch:
    """Tells for how long a server stopped while it did something."""

    def __init__(self, server: Server, stops: StopFile) -> None:
        self.server = server
        self._stops = stops

    def longest_stop(self, work: Callable[[], object]) -> float:
        """Returns the seconds of processor time for which nobody was answered, at most."""
        self._stops.longest = 0
        work()
        time.sleep(REST)
        return self._stops.longest


class _WatchedLauncher(Launcher):
    """Starts this module in place of the console command."""

    def _start_process(
        self, command: list[str], environment: Mapping[str, str], log: Path
    ) -> tuple[Any, IO[str]]:
        words = [sys.executable, "-m", "tests.watched_server", *command[1:]]
        with log.open("w") as stderr:
            process = subprocess.Popen(
                words,
                stdout=subprocess.PIPE,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                text=True,
                env=environment,
                cwd=Path(__file__).parent.parent,
                start_new_session=True,
            )
        assert process.stdout is not None
        return process, process.stdout


@contextmanager
def watched_server() -> Iterator[Watch]:
    """Runs a server with a data directory of its own, and tells of its stops."""
    with temporary_launcher() as plain:
        launcher = _WatchedLauncher(plain.data_dir)
        path = plain.data_dir.parent / "stops"
        path.write_bytes(bytes(_SECONDS.size))
        try:
            yield Watch(launcher.start(env={VARIABLE: str(path)}), StopFile(path))
        finally:
            launcher.stop_all()


async def _look(stops: StopFile) -> None:
    # Processor time, for a busy machine stops everybody; of all threads, for they share a lock.
    while True:
        began, used = time.monotonic(), time.process_time()
        await asyncio.sleep(LOOK_INTERVAL)
        stop = min(time.monotonic() - began - LOOK_INTERVAL, time.process_time() - used)
        stops.longest = max(stops.longest, stop)


def main() -> None:
    """Serves as the console command does, and looks at the clock."""
    use_c_library()
    serve, stops = app.serve, StopFile(Path(os.environ.pop(VARIABLE)))

    async def serve_and_look(*args: Any) -> None:
        looking = asyncio.create_task(_look(stops))
        try:
            await serve(*args)
        finally:
            looking.cancel()

    app.serve = serve_and_look
    cli.main()


if __name__ == "__main__":
    main()
