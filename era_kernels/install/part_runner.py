"""Runs the commands that make one toolchain, and turns their failures into sentences."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from era_kernels.install.failures import FILE_LIMIT, InstallFailed, find_cause, write_log
from era_kernels.install.processes import CommandRunner, Completed
from era_kernels.toolchains.layout import Toolchain


class PartRunner:
    """Runs commands in a toolchain's directory while its lock is held."""

    def __init__(self, toolchain: Toolchain, commands: CommandRunner, lock: int) -> None:
        self._toolchain = toolchain
        self._commands = commands
        self._lock = lock

    @property
    def home(self) -> Path:
        """The private home of commands, which keeps what they have downloaded."""
        return self._toolchain.home / "home"

    @property
    def temporary(self) -> Path:
        """Their directory for temporary files, on the same disk."""
        return self.home / "tmp"

    def try_run(self, command: Sequence[str], env: Mapping[str, str], timeout: float) -> Completed:
        """Runs a command (blocking), and returns how it ended."""
        self.home.mkdir(mode=0o700, exist_ok=True)
        self.temporary.mkdir(exist_ok=True)
        return self._commands.run(
            command,
            directory=self._toolchain.directory,
            env=env,
            timeout=timeout,
            lock=self._lock,
        )

    def run(
        self, part: str, command: Sequence[str], env: Mapping[str, str], timeout: float
    ) -> None:
        """Runs the command of a part (blocking). Raises InstallFailed, which tells the log."""
        self.check(part, self.try_run(command, env, timeout), timeout)

    def check(self, part: str, done: Completed, timeout: float) -> None:
        """Raises InstallFailed unless the command of a part has ended well."""
        if done.code == 0:
            return
        if self._commands.is_stopped:
            raise InstallFailed("it was stopped; the next call goes on from here")
        lines = done.stderr or done.stdout
        what = f"took more than {timeout:g} seconds" if done.code is None else "failed"
        cause = FILE_LIMIT if done.code == 128 + signal.SIGXFSZ else find_cause(lines)
        log = write_log(self._toolchain.log_file, f"{part}: exit code {done.code}", lines)
        raise InstallFailed(
            f"{part} {what}{f': {cause}' if cause else ''}{f' (see {log})' if log else ''}"
        )
