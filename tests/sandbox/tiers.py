"""Opens the sandboxes of exactly one tier, and sandboxes of sessions in it."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop

from era_kernels.errors import StartError
from era_kernels.models import UNSANDBOXED_TIER, Limits, SessionPaths
from era_kernels.sandbox.server.process_spec import ProcessSpec
from era_kernels.sandbox.server.sandbox import Sandbox
from era_kernels.sandbox.server.sandboxes import Sandboxes
from era_kernels.sandbox.server.tiers import IsolationPolicy
from tests.conftest import entered
from tests.sandbox.sandboxes import ENTRIES, short_directory

MIB = 1024 * 1024
NO_LIMITS = Limits()


@dataclass(frozen=True)
class OpenTier:
    """The sandboxes of a tier, and a directory for their sessions."""

    tier: int
    sandboxes: Sandboxes
    base: Path


@asynccontextmanager
async def open_tier(tier: int) -> AsyncIterator[OpenTier]:
    """Opens sandboxes of exactly this tier, with a directory for their sessions."""
    policy = IsolationPolicy(strongest_tier=tier, weakest_tier=tier, allow_weak_tier3=True)
    with short_directory() as runtime, tempfile.TemporaryDirectory(prefix="era-test-") as base:
        Path(base).chmod(0o755)
        try:
            sandboxes = await Sandboxes.open(
                runtime / "r", (), (), None if tier == UNSANDBOXED_TIER else policy
            )
        except StartError as error:
            pytest.skip(f"this host has no tier {tier}: {error}")
        try:
            yield OpenTier(tier, sandboxes, Path(base))
        finally:
            await sandboxes.aclose()


@asynccontextmanager
async def open_sandbox(opened: OpenTier) -> AsyncIterator[Sandbox]:
    """A sandbox of a session of its own, which is closed at the end."""
    directory = Path(tempfile.mkdtemp(dir=opened.base))
    directory.chmod(0o755)
    paths = SessionPaths(directory / "w", directory / "p", directory / "c")
    for path in (paths.workspace, paths.packages, paths.cache):
        path.mkdir()
    sandbox = await opened.sandboxes.open_sandbox(paths, Limits())
    try:
        yield sandbox
    finally:
        await sandbox.aclose()


def program(sandbox: Sandbox, code: str, *args: str) -> ProcessSpec:
    env = {"PATH": os.defpath, "TMPDIR": str(sandbox.inner_paths.temporary)}
    cwd = str(sandbox.inner_paths.workspace)
    python = "/usr/bin/python3"
    return ProcessSpec(argv=(python, "-c", code, *args), env=env, cwd=cwd)


@contextmanager
def tier_on(io_loop: IOLoop, tier: int) -> Iterator[OpenTier]:
    """Opens a tier for several tests, which share a loop."""
    if not Path("/usr/bin/python3").exists():
        pytest.skip("there is no /usr/bin/python3, which uids of sessions can execute")
    with entered(io_loop, open_tier(tier)) as opened:
        yield opened


@asynccontextmanager
async def isolated_sandboxes(
    tier: int = 1, server_memory: int | None = None, *, shows_installation: bool = False
) -> AsyncIterator[tuple[Sandboxes, Callable[[str], SessionPaths]]]:
    """Sandboxes of that tier with so many bytes for all together, and a maker of places.

    They may show an installation, `local`, in which the server keeps its data, `share/data`.
    """
    with short_directory() as base:
        local = base / "local"
        for name, text in {
            "bin/tool": "tool",
            "share/other/text": "text",
            "share/data/secret": "secret",
        }.items():
            (local / name).parent.mkdir(parents=True, exist_ok=True)
            (local / name).write_text(text)

        def make_paths(name: str) -> SessionPaths:
            made = SessionPaths(
                *(base / name / part for part in ("workspace", "packages", "cache"))
            )
            for part in (made.workspace, made.packages, made.cache):
                part.mkdir(parents=True, exist_ok=True)
            return made

        try:
            wish = IsolationPolicy(
                strongest_tier=tier,
                weakest_tier=tier,
                allow_weak_tier3=True,
                readable_paths=(ENTRIES, local) if shows_installation else (ENTRIES,),
                hidden_paths=(local / "share" / "data",),
            )
            sandboxes = await Sandboxes.open(
                base / "r", (), (ENTRIES,), wish, server_memory=server_memory
            )
        except StartError as error:
            pytest.skip(str(error))
        try:
            yield sandboxes, make_paths
        finally:
            await sandboxes.aclose()


@dataclass(frozen=True)
class Isolated:
    """The isolated sandboxes of a tier, which the tests of a module share."""

    tier: int
    sandboxes: Sandboxes
    make_paths: Callable[[str], SessionPaths]
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def new_paths(self) -> SessionPaths:
        return self.make_paths(f"of-{next(self._numbers)}")

    async def open(self, limits: Limits = NO_LIMITS) -> Sandbox:
        """Opens a sandbox for a session of its own; it is closed with the others."""
        return await self.sandboxes.open_sandbox(self.new_paths(), limits)
