"""Builds a toolchain part by part, and goes on where an earlier installation ended."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from era_kernels.install.durable_files import remove_tree, sync_file_system, write_durably
from era_kernels.install.environment_variables import step_environment
from era_kernels.install.failures import InstallFailed
from era_kernels.install.part_runner import PartRunner
from era_kernels.install.processes import CommandRunner
from era_kernels.install.progress import Progress
from era_kernels.install.tool_sources import find_own_tool, find_system_tool, install_wheel
from era_kernels.toolchains.layout import (
    INSTALLED_NAME,
    Installed,
    Toolchain,
    hold_unused,
    is_toolchain_name,
)
from era_kernels.toolchains.manifest import Step, Tool, input_files

LOCK_INTERVAL = 0.1  # seconds between two looks at the lock of another installer


class ToolchainBuilder:
    """Builds one toolchain; those that it requires are complete before."""

    def __init__(
        self,
        toolchain: Toolchain,
        commands: CommandRunner,
        progress: Progress,
        *,
        prefers_system: bool = False,
    ) -> None:
        self._toolchain = toolchain
        self._commands = commands
        self._progress = progress
        self._prefers_system = prefers_system
        self._directory = toolchain.directory

    def build(self) -> None:
        """Makes the toolchain complete (blocking). Raises InstallFailed, OSError."""
        if self._is_complete():
            self._tidy_if_possible()
            return
        self._toolchain.home.mkdir(parents=True, exist_ok=True)
        with self._wait_for_lock() as lock:
            if self._is_complete():
                return
            self._make(PartRunner(self._toolchain, self._commands, lock))
            self._tidy()
            self._note("installed")

    def _is_complete(self) -> bool:
        outputs = (path for step in self._toolchain.manifest.step for path in step.outputs)
        return self._toolchain.read_installed() is not None and all(
            (self._directory / path).exists() for path in outputs
        )

    @contextmanager
    def _wait_for_lock(self) -> Iterator[int]:
        """Waits until no other installer works on this toolchain; yields the lock's descriptor."""
        lock = self._open_lock()
        try:
            # A server that asks whether somebody installs holds the lock for a moment.
            if not _try_lock(lock) and not _try_lock(lock, after=LOCK_INTERVAL):
                self._note("another installation is at work; waiting for it")
                while not _try_lock(lock):
                    if self._commands.is_stopped:
                        raise InstallFailed("it was stopped")
                    time.sleep(LOCK_INTERVAL)
            yield lock
        finally:
            os.close(lock)

    def _open_lock(self) -> int:
        # Code in sessions may read what is here, yet must not hold this lock: it is write-only.
        return os.open(self._toolchain.lock_file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o200)

    def _make(self, runner: PartRunner) -> None:
        manifest = self._toolchain.manifest
        self._progress.add(self._toolchain.name, len(manifest.tool) + len(manifest.step))
        (self._directory / INSTALLED_NAME).unlink(missing_ok=True)
        remove_tree(runner.temporary)
        self._toolchain.bin.mkdir(parents=True, exist_ok=True)
        (self._directory / ".parts").mkdir(exist_ok=True)
        for required in self._toolchain.requires:
            for program in required.bin.iterdir():
                if not os.path.lexists(self._toolchain.bin / program.name):  # steps may replace it
                    self._link(program.name, program)
        tools = [self._make_tool(tool, runner) for tool in manifest.tool]
        for number, step in enumerate(manifest.step):
            self._make_step(f"step-{number}", step, runner)
        self._toolchain.log_file.unlink(missing_ok=True)
        self._write_installed(tools, runner)

    def _make_tool(self, tool: Tool, runner: PartRunner) -> tuple[str, str, str]:
        """Returns the program, its path and its version."""
        name = f"tool-{tool.program}"
        done = self._read_mark(name)
        if done is None or not os.access(done.get("path", ""), os.X_OK):
            directory = self._directory / "tools" / tool.program
            self._progress.begin(self._toolchain.name, tool.wheel)
            found = find_system_tool(tool, runner) if self._prefers_system else None
            found = found or find_own_tool(tool, runner) or install_wheel(tool, directory, runner)
            for program, path in found.programs.items():
                self._link(program, path)
            done = {"path": str(found.programs[tool.program]), "version": found.version}
            self._mark(name, done)
        self._progress.finish(self._toolchain.name)
        return tool.program, done["path"], done["version"]

    def _make_step(self, name: str, step: Step, runner: PartRunner) -> None:
        outputs = [self._directory / path for path in step.outputs]
        if self._read_mark(name) is None or not all(path.exists() for path in outputs):
            self._progress.begin(self._toolchain.name, step.name)
            for output in outputs:  # only what this run makes counts
                remove_tree(output)
            self._copy_inputs(step)
            env = step_environment(runner.home, self._toolchain.bin)
            env.update({key: self._fill(text, runner) for key, text in step.env.items()})
            command = [self._fill(part, runner) for part in step.argv]
            runner.run(step.name, command, env, step.timeout)
            missing = [path for path in step.outputs if not (self._directory / path).exists()]
            if missing:
                raise InstallFailed(f"{step.name} ended well but made no {', '.join(missing)}")
            self._mark(name, {})
        self._progress.finish(self._toolchain.name)

    def _copy_inputs(self, step: Step) -> None:
        for path in step.inputs:
            for file in input_files(self._toolchain.folder, path):
                target = self._directory / file.relative_to(self._toolchain.folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
                target.chmod(0o755 if os.access(file, os.X_OK) else 0o644)

    def _fill(self, text: str, runner: PartRunner) -> str:
        values = {
            "{toolchain}": str(self._directory),
            "{bin}": str(self._toolchain.bin),
            "{python}": sys.executable,
            "{home}": str(runner.home),
            "{user_home}": os.environ.get("HOME", "/"),
        }
        for placeholder, value in values.items():
            text = text.replace(placeholder, value)
        return text

    def _link(self, name: str, target: Path) -> None:
        link = self._toolchain.bin / name
        link.unlink(missing_ok=True)
        link.symlink_to(target)

    def _write_installed(self, tools: list[tuple[str, str, str]], runner: PartRunner) -> None:
        installed = Installed(
            version=self._read_version([version for *_, version in tools], runner),
            tools={program: path for program, path, _ in tools},
        )
        sync_file_system(self._directory)
        write_durably(self._directory / INSTALLED_NAME, installed.model_dump_json() + "\n")

    def _read_version(self, tools: Sequence[str], runner: PartRunner) -> str | None:
        """Returns what `version_argv` tells, else the first tool's version, also a required one."""
        argv = self._toolchain.manifest.version_argv
        if argv is None:
            required = [one.read_installed() for one in self._toolchain.requires]
            versions = [*tools, *(one.version for one in required if one is not None)]
            return next(iter(versions), None)
        command = [self._fill(part, runner) for part in argv]
        done = runner.try_run(command, step_environment(runner.home, self._toolchain.bin), 60)
        if done.code != 0 or not done.stdout:
            raise InstallFailed(f"{command[0]} does not tell the version")
        return done.stdout[-1].strip()

    def _read_mark(self, part: str) -> dict[str, str] | None:
        try:
            mark = json.loads((self._directory / ".parts" / part).read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return mark if isinstance(mark, dict) else None

    def _mark(self, part: str, content: dict[str, str]) -> None:
        """Notes that a part is done, once it is on the disk."""
        sync_file_system(self._directory)
        write_durably(self._directory / ".parts" / part, json.dumps(content))

    def _tidy(self) -> None:
        """Removes what no step needs any more, and older versions that nobody uses."""
        remove_tree(self._toolchain.home / "home")
        for old in self._old_versions():
            with hold_unused(old) as is_unused:
                if is_unused:
                    remove_tree(old)
                else:
                    self._note(f"{old} stays, for a server uses it")

    def _tidy_if_possible(self) -> None:
        """Removes older versions that were still used when this one was installed."""
        if not self._old_versions():
            return
        with suppress(OSError):  # what another user has installed is left to them
            lock = self._open_lock()
            try:
                if _try_lock(lock):
                    self._tidy()
            finally:
                os.close(lock)

    def _old_versions(self) -> list[Path]:
        return [
            path
            for path in sorted(self._toolchain.home.iterdir())
            if path != self._directory and is_toolchain_name(path.name)
        ]

    def _note(self, text: str) -> None:
        self._progress.note(self._toolchain.name, text)


def _try_lock(lock: int, after: float = 0.0) -> bool:
    """Takes a lock, `after` seconds from now; returns whether it was free."""
    time.sleep(after)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
