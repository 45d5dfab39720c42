"""Servers with the flags that a module or a test wants, and Python sessions in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.client import Client, SessionClient
from tests.contract.checks import Start
from tests.server_process import Launcher, Server, temporary_launcher


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One server for the module, with the flags that the module names in SERVER_FLAGS."""
    with temporary_launcher() as launcher:
        yield launcher.start(*getattr(request.module, "SERVER_FLAGS", ()))


@pytest.fixture
def start(launcher: Launcher) -> Iterator[Start]:
    """Starts servers on one data directory, one after the other; gives a client of each."""
    with ExitStack() as clients:

        def start(*flags: str) -> Client:
            client = Client(launcher.start(*flags).base_url)
            clients.callback(client.close)
            return client

        yield start


@pytest.fixture
def session(client: Client) -> Iterator[SessionClient]:
    """A session of its own; deleted afterwards, also when the test deleted it."""
    session = client.session("python")
    yield session
    client.http.delete(session.path)


@pytest.fixture(scope="module")
def shared(client: Client) -> Iterator[SessionClient]:
    """One session for tests that leave nothing behind; its kernel is warm."""
    session = client.session("python")
    session.run("pass")
    yield session
    client.http.delete(session.path)
