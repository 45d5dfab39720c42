"""Requests to what sessions serve are counted, and ids find their way into names of hosts."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, ExitStack
from functools import partial

import pytest

from era_kernels.errors import AtCapacity, Forbidden, SessionNotFound
from era_kernels.services.port_proxies import PortProxies, host_label
from tests.services.service_fixture import Services


def hold(proxies: PortProxies, session_id: str) -> AbstractContextManager[None]:
    return proxies.hold(session_id, lambda: None, has_token=False)


async def test_capacity(services: Services) -> None:
    """One session has half of all requests; a place is free again at the end of its request."""
    proxies = PortProxies(services.sessions, services.public_cutoff, 4)
    with ExitStack() as stack:
        for name in ("a", "a", "b"):
            stack.enter_context(hold(proxies, name))
        with pytest.raises(AtCapacity), hold(proxies, "a"):
            pass
        stack.enter_context(hold(proxies, "b"))
        with pytest.raises(AtCapacity), hold(proxies, "c"):
            pass
    with hold(proxies, "a"), hold(proxies, "a"), hold(proxies, "c"):
        pass


async def test_access(services: Services) -> None:
    """Who has no token is refused where the session is not public, whatever listens."""
    await services.create(allow_public=False)
    proxies = PortProxies(services.sessions, services.public_cutoff)
    with pytest.raises(Forbidden):
        await proxies.dial("s1", 80, has_token=False)
    assert await proxies.dial("s1", 80, has_token=True) is None
    with pytest.raises(SessionNotFound):
        await proxies.dial("none", 80, has_token=True)
    assert await proxies.listening("s1") == []


async def test_close_to_the_public(services: Services) -> None:
    """A session that is public no more ends the requests without a token that are under way."""
    closed: list[str] = []
    proxies = PortProxies(services.sessions, services.public_cutoff)
    for name in ("s1", "s2"):
        await services.create(name, allow_public=True)
    with ExitStack() as stack:
        for session_id, name, has_token in (
            ("s1", "a", False), ("s1", "b", True), ("s1", "c", False), ("s2", "d", False),
        ):  # fmt: skip
            one = proxies.hold(session_id, partial(closed.append, name), has_token=has_token)
            stack.enter_context(one)
        await services.sessions.update("s1", metadata={"a": "b"})
        assert closed == []
        await services.sessions.update("s1", allow_public=False)
        assert closed == ["a", "c"]
    await services.sessions.update("s2", allow_public=False)
    assert closed == ["a", "c"]


@pytest.mark.parametrize("session_id", ["a-1", "x" * 50])
def test_ids_in_names(session_id: str) -> None:
    """An id that can be part of a host's name is."""
    assert host_label(session_id) == session_id


@pytest.mark.parametrize("session_id", ["A", "a.b", "a_b", "x" * 51])
def test_digests_in_names(session_id: str) -> None:
    """Of other ids there are 26 characters of a digest, which names of hosts may have."""
    assert re.fullmatch("[a-z2-7]{26}", host_label(session_id))
    assert host_label(session_id) != host_label(session_id + "x")


async def test_find_id(services: Services) -> None:
    """A session is found by its label, also one that was made after the last search."""
    proxies = PortProxies(services.sessions, services.public_cutoff)
    await services.create()
    assert await proxies.find_id("s1") == "s1"
    for name in ("One.1", "Two.2"):
        await services.create(name)
        assert await proxies.find_id(host_label(name)) == name
    await services.sessions.delete("One.1")
    with pytest.raises(SessionNotFound):
        await proxies.find_id(host_label("One.1"))
