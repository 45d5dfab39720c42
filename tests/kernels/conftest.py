"""A real host of kernels for a module, and the loop that it lives in."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop

from era_kernels.kernels.languages import Languages
from era_kernels.kernels.machine import Machine
from era_kernels.kernels.machines import Machines
from era_kernels.models import Limits, SessionPaths
from era_kernels.sandbox.server.sandboxes import Sandboxes
from tests.conftest import entered, loop
from tests.kernels.scripted_kernel import OpenHarness, open_harness

LANGUAGE = "python"


@asynccontextmanager
async def open_host(languages: Languages) -> AsyncIterator[Machines]:
    """Opens a host with a zygote of its own; nothing is left of both afterwards."""
    async with AsyncExitStack() as stack:
        runtime = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="era-")))
        sandboxes = await Sandboxes.open(runtime, languages.preload, languages.entry_paths)
        stack.push_async_callback(sandboxes.aclose)
        host = Machines(languages, sandboxes)
        stack.push_async_callback(host.aclose)
        yield host


def make_paths(directory: Path) -> SessionPaths:
    paths = SessionPaths(directory / "workspace", directory / "packages", directory / "cache")
    for path in (paths.workspace, paths.packages, paths.cache):
        path.mkdir(parents=True)
    return paths


io_loop = pytest.fixture(loop, scope="module")


@pytest.fixture(scope="module")
def host(io_loop: IOLoop) -> Iterator[Machines]:
    languages = Languages.load()
    reason = languages.resolve(LANGUAGE).default.unavailable_reason
    if reason is not None:
        pytest.skip(reason)
    with entered(io_loop, open_host(languages)) as host:
        yield host


@pytest.fixture(scope="module")
def machine(
    io_loop: IOLoop, host: Machines, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """One machine for all tests that leave it as it was."""
    paths = make_paths(tmp_path_factory.mktemp("place"))
    environment = {"ERA_SESSION": "true"}
    machine = io_loop.run_sync(lambda: host.open(LANGUAGE, paths, Limits(), environment))
    yield machine
    io_loop.run_sync(machine.aclose)


@pytest.fixture
def run_in_harness(tmp_path: Path) -> OpenHarness:
    """Opens a kernel that does what a script says, in the directory of the test."""
    return partial(open_harness, tmp_path)
