"""Installs toolchains beside each other, each after those that it requires."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from era_kernels.install.failures import InstallFailed, describe_os_error
from era_kernels.install.processes import CommandRunner
from era_kernels.install.progress import Progress
from era_kernels.install.toolchain_builder import ToolchainBuilder
from era_kernels.toolchains.layout import Toolchain, with_required

# The code of sessions runs under other users, and must be able to read all of it.
UMASK = 0o022


class Installer:
    """Installs toolchains; one that fails leaves the others."""

    def __init__(self, progress: Progress, *, prefers_system: bool = False) -> None:
        self._progress = progress
        self._prefers_system = prefers_system
        self._commands = CommandRunner()
        self._results: dict[Path, Future[str | None]] = {}

    def install(self, toolchains: Iterable[Toolchain]) -> dict[Path, str]:
        """Installs them and what they require (blocking).

        Returns why those that failed did, by their directories. When this is interrupted, nothing
        that was started goes on.
        """
        ordered = with_required(toolchains)
        umask = os.umask(UMASK)
        try:
            # A thread for each, since some wait for others.
            with ThreadPoolExecutor(max(1, len(ordered)), "install") as threads:
                for toolchain in ordered:
                    self._results[toolchain.directory] = threads.submit(self._install, toolchain)
                try:
                    wait(self._results.values())
                except BaseException:
                    self._commands.stop()
                    raise
        finally:
            os.umask(umask)
        failures = ((path, future.result()) for path, future in self._results.items())
        return {path: failure for path, failure in failures if failure is not None}

    def _install(self, toolchain: Toolchain) -> str | None:
        for required in toolchain.requires:
            failure = self._results[required.directory].result()
            if failure is not None:
                return f"{required.name}, which it requires, is not ready: {failure}"
        builder = ToolchainBuilder(
            toolchain, self._commands, self._progress, prefers_system=self._prefers_system
        )
        try:
            builder.build()
        except InstallFailed as error:
            return str(error)
        except OSError as error:
            return describe_os_error(error)
        return None
