"""Internet access of sessions: who may have it, and that a change reaches the running machine."""

from __future__ import annotations

import dataclasses

import pytest

from era_kernels.errors import Forbidden, NotEnforceable
from era_kernels.models import HostPatterns, InternetAccess, Isolation
from tests.services.conftest import OpenServices
from tests.services.service_fixture import Services

HOSTS = HostPatterns.parse(["*.example.org"])


@pytest.fixture
def services(open_services: OpenServices) -> Services:
    """Makes services whose host gives sessions a network of their own."""
    services = open_services()
    services.host.isolation = Isolation(1, ())
    services.host.enforceable = frozenset({"internet"})
    return services


async def test_a_change_reaches_the_machine(services: Services) -> None:
    """The machine asks for the access of the moment, and looks again after each change."""
    await services.create("s1")
    await services.run("", "s1")
    (machine,) = services.host.machines
    machine.services.rechecks.clear()
    await services.sessions.update("s1", allow_internet=True)
    await services.sessions.update("s1", allow_hosts=HOSTS)
    await services.sessions.update("s1", allow_internet=False)
    assert machine.services.rechecks == [
        InternetAccess(True),
        InternetAccess(True, (HOSTS,)),
        InternetAccess(False, (HOSTS,)),
    ]
    assert (await services.store.get("s1")).allow_hosts == HOSTS


async def test_a_change_without_a_machine(services: Services) -> None:
    """A session without a machine takes the change; its next machine has it from the start."""
    await services.create("s1")
    await services.sessions.update("s1", allow_internet=True)
    await services.run("", "s1")
    assert services.host.machines[0].services.rechecks == [InternetAccess(True)]


@pytest.mark.parametrize("changes", [{"allow_internet": True}, {"allow_hosts": HOSTS}], ids=str)
async def test_not_enforceable(services: Services, changes: dict[str, object]) -> None:
    """Where sessions have no network of their own, neither is taken, by PATCH or at creation."""
    await services.create("s1")
    services.host.isolation, services.host.enforceable = Isolation(3, ()), frozenset()
    with pytest.raises(NotEnforceable) as caught:
        await services.sessions.update("s1", **changes)
    assert "tier 1 or 2" in (caught.value.hint or "")
    with pytest.raises(NotEnforceable):
        await services.create("s2", **changes)
    assert not (await services.store.get("s1")).allow_internet


@pytest.fixture
def offline(open_services: OpenServices) -> Services:
    """Makes services whose operator gives no session internet access."""
    return open_services(allow_internet=False)


async def test_no_internet_by_the_operator(offline: Services) -> None:
    """No caller gives a session access, and what one was given before gives none."""
    services = offline
    await services.create("s1")
    with pytest.raises(Forbidden):
        await services.sessions.update("s1", allow_internet=True)
    with pytest.raises(Forbidden):
        await services.create("s2", allow_internet=True)
    await services.sessions.update("s1", allow_internet=False)
    before = dataclasses.replace(await services.store.get("s1"), allow_internet=True)
    assert services.context.internet_access_of(before) == InternetAccess(False)
