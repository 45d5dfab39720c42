"""Sessions may ask for mounts on offer, and their machines get them."""

from __future__ import annotations

from pathlib import Path

import pytest

from era_kernels.errors import InvalidRequest, NotEnforceable, Unavailable
from era_kernels.models import Isolation
from tests.services.conftest import OpenServices
from tests.services.service_fixture import Services

OFFERED = {"data": Path("/srv/data"), "models": Path("/srv/models")}


def with_tier(services: Services, tier: int) -> Services:
    """Returns an isolation of that tier."""
    services.host.isolation = Isolation(tier, ())
    services.host.enforceable = frozenset({"mounts"}) if tier < 3 else frozenset()
    return services


@pytest.fixture
def services(open_services: OpenServices) -> Services:
    return with_tier(open_services(offered=OFFERED), 1)


@pytest.fixture
def services_without_mounts(open_services: OpenServices) -> Services:
    """Makes services whose operator offers no mounts."""
    return with_tier(open_services(), 1)


async def test_the_machine_gets_them(services: Services) -> None:
    """The machine gets the requested mounts, each once and in order; none without a request."""
    session = await services.create("s1", mounts=("models", "data", "models"))
    assert session.mounts == ("models", "data")
    await services.create("s2")
    await services.run("", "s1")
    await services.run("", "s2")
    assert [place.mounts for place in services.host.opened_paths] == [
        (("models", OFFERED["models"]), ("data", OFFERED["data"])),
        (),
    ]


async def test_unknown_where_there_is_none(services_without_mounts: Services) -> None:
    """A server that offers none says so."""
    with pytest.raises(InvalidRequest, match="offers none"):
        await services_without_mounts.create(mounts=("x" * 1000,))


async def test_not_offered_any_more(services: Services) -> None:
    """No kernel starts while the server does not offer the mount; with it again, one does."""
    await services.create("s1", mounts=("data",), data={"a": 1})
    await services.aclose()
    async with services.restarted() as without:
        running = await without.submit("")
        await running.finished.wait()
        assert isinstance(running.error, Unavailable)
        assert "mount data" in running.error.message
        assert without.host.machines == []
    async with services.restarted(offered=OFFERED) as again:
        assert (await again.run("out hi")).stdout == "hi\n"
        assert (await again.session()).data == {"a": 1}


async def test_weaker_isolation_since(services: Services) -> None:
    """A session with mounts does not start without them, when a host has lost its namespaces."""
    await services.create("s1", mounts=("data",))
    with_tier(services, 3)
    running = await services.submit("")
    await running.finished.wait()
    assert isinstance(running.error, NotEnforceable)
