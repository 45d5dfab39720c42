"""Starts real servers in processes of their own, by the console command that users start.

Tests have most of them forked from a template, `server_template.py`: that takes half the time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from tests.client import Client
from tests.server_template import ForkedServer, shared_template

COMMAND = Path(sys.executable).parent / "era-kernels"
START_TIMEOUT = 60.0  # seconds within which a server must be up
STOP_TIMEOUT = 30.0  # seconds until it must be gone after SIGTERM

_are_forked = False


def fork_servers(are_forked: bool) -> None:
    """Says whether servers that start from now on are forked, or started by their command."""
    global _are_forked
    _are_forked = are_forked


@dataclass
class Server:
    """A server in a process of its own, and how it was started."""

    process: subprocess.Popen[str] | ForkedServer
    base_url: str
    ready_line: str
    data_dir: Path
    log: Path
    clients: list[Client] = field(default_factory=list)

    def connect(self, headers: Mapping[str, str] | None = None) -> Client:
        """Returns a client of the server, which is closed with its launcher."""
        self.clients.append(Client(self.base_url, dict(headers or {})))
        return self.clients[-1]

    def stop(self) -> int:
        """Ends the server as a service manager would, and returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_TIMEOUT)

    def kill(self) -> None:
        """Kills the server with SIGKILL."""
        self.process.kill()
        self.process.wait(STOP_TIMEOUT)

    @property
    def log_text(self) -> str:
        """The text that the server has logged until now."""
        return self.log.read_text(errors="replace")


@dataclass
class Launcher:
    """Starts servers on one data directory, one after the other.

    They are forked from a template when `fork_servers` has said so.
    """

    data_dir: Path
    servers: list[Server] = field(default_factory=list)

    def start(self, *flags: str, env: Mapping[str, str] | None = None) -> Server:
        """Starts a server on a free port, and returns when it is up."""
        log = self.data_dir.parent / f"server-{len(self.servers)}.log"
        command = [str(COMMAND), "serve", "--port", "0", *flags, "--data-dir", str(self.data_dir)]
        environment = {**os.environ, "ERA_LOG_FORMAT": "json", **(env or {})}
        process, stdout = self._start_process(command, environment, log)
        with stdout:
            line = stdout.readline()
        if "http://" not in line:
            process.wait(START_TIMEOUT)
            raise RuntimeError(f"the server did not start: {line}{log.read_text()}")
        url = next(word for word in line.split() if word.startswith("http://"))
        server = Server(process, url, line, self.data_dir, log)
        self.servers.append(server)
        return server

    def _start_process(
        self, command: list[str], environment: Mapping[str, str], log: Path
    ) -> tuple[subprocess.Popen[str] | ForkedServer, IO[str]]:
        """Starts a process; returns it, and the pipe to which it prints."""
        with log.open("w") as stderr:
            return _start(command, environment, stderr)

    def stop_all(self) -> None:
        """Ends the servers that still run, and closes their clients."""
        for server in self.servers:
            if server.process.poll() is None:
                server.stop()
            for client in server.clients:
                client.close()


def _start(
    command: list[str], environment: Mapping[str, str], stderr: IO[str]
) -> tuple[subprocess.Popen[str] | ForkedServer, IO[str]]:
    if _are_forked and (template := shared_template()).can_start(environment):
        return template.start(command, environment, stderr)
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=stderr,
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment,
        start_new_session=True,
    )
    assert process.stdout is not None
    return process, process.stdout


def run_command(*words: object, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs the console command to its end, in a process of its own, with these variables besides.

    It is forked as servers are: a command that is started spends a second with imports.
    """
    command = [str(COMMAND), *map(str, words)]
    with tempfile.TemporaryFile("w+") as stderr:
        process, stdout = _start(command, {**os.environ, **env}, stderr)
        with stdout:
            printed = stdout.read()
        code = process.wait(START_TIMEOUT)
        stderr.seek(0)
        return subprocess.CompletedProcess(command, code, printed, stderr.read())


def failed_start(data_dir: Path, *flags: str) -> str:
    """Starts a server that cannot start, and returns the sentence that it says."""
    done = run_command("serve", "--port", "0", "--data-dir", data_dir, *flags)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    return last


@contextmanager
def temporary_launcher() -> Iterator[Launcher]:
    """Makes a launcher with a data directory of its own, and ends all its servers afterwards."""
    with tempfile.TemporaryDirectory(prefix="era-test-") as directory:
        launcher = Launcher(Path(directory) / "data")
        try:
            yield launcher
        finally:
            launcher.stop_all()
            # What code left may be deeper than `tempfile` can go.
            subprocess.run(["rm", "-rf", launcher.data_dir], check=False)


# A session's program prints its pid and pid namespace, for `host_pid`.
PRINT_PID = "import os; print(os.getpid(), os.readlink('/proc/self/ns/pid'))"


def host_pid(printed: str) -> int:
    """Returns the host's pid of a process that ran PRINT_PID, perhaps in a pid namespace."""
    pid, namespace = printed.split()
    for process in psutil.process_iter():
        with suppress(OSError):
            if str(Path(f"/proc/{process.pid}/ns/pid").readlink()) == namespace:
                status = Path(f"/proc/{process.pid}/status").read_text()
                line = next(line for line in status.splitlines() if line.startswith("NSpid"))
                if line.split()[-1] == pid:
                    return int(process.pid)
    raise LookupError(printed)


UNSANDBOXED_FLAGS = ("--allow-unsandboxed", "--strongest-tier", "4")


def command_line(process: psutil.Process) -> list[str]:
    """Returns a process's command line; an empty one when it has ended, also as a zombie."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []
