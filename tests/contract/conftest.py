"""A Python session in the module's server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client import Client, SessionClient


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
