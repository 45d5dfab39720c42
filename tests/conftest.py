"""A real server for each module that asks for one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.client import Client
from tests.server_process import Launcher, Server, temporary_launcher


@pytest.fixture(scope="session", autouse=True)
def no_loop_but_ours() -> None:
    """pytest-tornado asks for the current loop; asyncio would make one that nobody closes."""
    asyncio.set_event_loop(None)


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    """For tests that start, end and start servers."""
    with temporary_launcher() as launcher:
        yield launcher


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server without tokens for the module."""
    with temporary_launcher() as launcher:
        yield launcher.start()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    """A client of the module's server."""
    client = Client(server.base_url)
    yield client
    client.close()
