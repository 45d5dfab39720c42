"""Sandboxes without walls that the tests of a module share, and one of them for a test.

A module that asks for them has a loop of its own, which lives as long.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from tornado.ioloop import IOLoop

from era_kernels.sandbox.server.sandbox import Sandbox
from era_kernels.sandbox.server.sandboxes import Sandboxes
from tests.conftest import entered
from tests.sandbox.sandboxes import new_sandbox, open_sandboxes


@pytest.fixture(scope="module")
def sandboxes(io_loop: IOLoop) -> Iterator[Sandboxes]:
    with entered(io_loop, open_sandboxes()) as sandboxes:
        yield sandboxes


@asynccontextmanager
async def _open_one(sandboxes: Sandboxes) -> AsyncIterator[Sandbox]:
    sandbox = await new_sandbox(sandboxes)
    try:
        yield sandbox
    finally:
        await sandbox.aclose()


@pytest.fixture
def sandbox(io_loop: IOLoop, sandboxes: Sandboxes) -> Iterator[Sandbox]:
    """A sandbox that is closed after the test."""
    with entered(io_loop, _open_one(sandboxes)) as sandbox:
        yield sandbox
