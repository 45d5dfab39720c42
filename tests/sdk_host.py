"""Real kernels whose code reaches a storage that is kept in memory, in any tier of this host."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop

from era_kernels.errors import StartError
from era_kernels.kernels.languages import Languages
from era_kernels.kernels.machine import Machine
from era_kernels.kernels.machines import Machines
from era_kernels.kernels.services_in_machine import Permissions
from era_kernels.models import (
    ALL_STORAGE,
    UNSANDBOXED_TIER,
    ExecutionEnd,
    KernelRequest,
    Limits,
    SessionPaths,
    Stderr,
    Stdout,
    StorageScope,
)
from era_kernels.sandbox.server.sandboxes import Sandboxes
from era_kernels.sandbox.server.tiers import IsolationPolicy
from era_kernels.web.access import Access
from era_kernels.web.base_handler import HandlerContext
from era_kernels.web.storage_listener import StorageListener
from tests.storage_fakes import Memory, memory_routes

LANGUAGE = "python"
MAX_BODY = 4 * 1024 * 1024


@dataclass
class SdkHost:
    """A host of kernels, the storage that they reach, and the scope that they have now."""

    kernels: Machines
    sandboxes: Sandboxes
    listener: StorageListener
    memory: Memory
    directory: Path
    scope: StorageScope = ALL_STORAGE
    count: int = 0

    def new_paths(self) -> SessionPaths:
        self.count += 1
        base = self.directory / str(self.count)
        paths = SessionPaths(base / "workspace", base / "packages", base / "cache")
        for path in (paths.workspace, paths.packages, paths.cache):
            path.mkdir(parents=True)
        return paths

    async def open(self, language: str = LANGUAGE, *, kernel: bool = True) -> Machine:
        """A machine of its own."""
        return await self.kernels.open(
            language,
            self.new_paths(),
            Limits(),
            {"ERA_SESSION": "true"},
            kernel=kernel,
            permissions=Permissions(lambda: self.scope),
        )


@asynccontextmanager
async def open_sdk_host(tier: int) -> AsyncIterator[SdkHost]:
    """Opens a host with exactly this tier of isolation. Raises StartError where there is none."""
    async with AsyncExitStack() as stack:
        runtime = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="era-", dir="/tmp")))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="era-test-")))
        directory.chmod(0o755)
        memory = Memory()
        context = HandlerContext(Access(), MAX_BODY, 8 * MAX_BODY)
        listener = StorageListener(memory_routes(memory), context, check_interval=0.2)
        stack.push_async_callback(listener.aclose)
        languages = Languages.load()
        policy = IsolationPolicy(
            strongest_tier=tier,
            weakest_tier=tier,
            allow_weak_tier3=True,
            readable_paths=languages.readable_paths,
        )
        sandboxes = await Sandboxes.open(
            runtime,
            languages.preload,
            languages.entry_paths,
            None if tier == UNSANDBOXED_TIER else policy,
        )
        stack.push_async_callback(sandboxes.aclose)
        kernels = Machines(languages, sandboxes, listener.attach)
        stack.push_async_callback(kernels.aclose)
        yield SdkHost(kernels, sandboxes, listener, memory, directory)


@contextmanager
def sdk_host_in(io_loop: IOLoop, tier: int) -> Iterator[SdkHost]:
    """Opens a host on a loop, for fixtures. Skips the test where this host has no such tier."""
    manager = open_sdk_host(tier)
    try:
        host = io_loop.run_sync(manager.__aenter__)
    except StartError as error:
        pytest.skip(f"this host has no tier {tier}: {error}")
    yield host
    io_loop.run_sync(lambda: manager.__aexit__(None, None, None))


async def run(
    machine: Machine, code: str, env: dict[str, str] | None = None, timeout: float = 60
) -> str:
    """What a run on the kernel wrote, its errors at the end."""
    request = KernelRequest(code, env or {}, timeout, 1)
    items = [item async for batch in machine.kernel.execute(request) for item in batch]
    assert isinstance(items[-1], ExecutionEnd), items
    out = "".join(item.content for item in items if isinstance(item, Stdout))
    return out + "".join(item.content for item in items if isinstance(item, Stderr))


async def execute(machine: Machine, *argv: str, timeout: float = 60) -> str:
    """What a program beside the kernel wrote."""
    process = await machine.start_command(argv, {"ERA_SESSION": "true"})
    items = [item async for batch in process.events(timeout) for item in batch]
    return "".join(item.content for item in items if isinstance(item, Stdout | Stderr))


__all__ = ["SdkHost", "StartError", "execute", "open_sdk_host", "run", "sdk_host_in"]
