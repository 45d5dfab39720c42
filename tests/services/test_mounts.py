"""Mounts of sessions: which may be asked for, and what becomes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from era_kernels.errors import InvalidRequest, NotEnforceable, Unavailable
from era_kernels.models import Isolation
from era_kernels.services.duplicates import Wish
from tests.services.conftest import OpenHouse
from tests.services.house import House

OFFERED = {"data": Path("/srv/data"), "models": Path("/srv/models")}


def enclosed(house: House, tier: int) -> House:
    """Behind walls of that tier."""
    house.host.isolation = Isolation(tier, ())
    house.host.enforceable = frozenset({"mounts"}) if tier < 3 else frozenset()
    return house


@pytest.fixture
def house(open_house: OpenHouse) -> House:
    return enclosed(open_house(offered=OFFERED), 1)


@pytest.fixture
def bare_house(open_house: OpenHouse) -> House:
    """Its operator offers nothing."""
    return enclosed(open_house(), 1)


@pytest.mark.gen_test
async def test_the_machine_gets_them(house: House) -> None:
    """Those that were asked for, each once and in order; none without a wish."""
    session = await house.create("s1", mounts=("models", "data", "models"))
    assert session.mounts == ("models", "data")
    await house.create("s2")
    await house.run("", "s1")
    await house.run("", "s2")
    assert [place.mounts for place in house.host.places] == [
        (("models", OFFERED["models"]), ("data", OFFERED["data"])),
        (),
    ]


@pytest.mark.gen_test
async def test_unknown(house: House) -> None:
    """Who asks for what is not offered is told what is, and nothing was made."""
    with pytest.raises(InvalidRequest, match="offers data, models") as caught:
        await house.create(mounts=("data", "other"))
    assert caught.value.details == {"known": ["data", "models"]}
    assert (house.directories, house.sessions.count) == ([], 0)


@pytest.mark.gen_test
async def test_unknown_where_there_is_none(bare_house: House) -> None:
    """A server that offers none says so."""
    with pytest.raises(InvalidRequest, match="offers none"):
        await bare_house.create(mounts=("x" * 1000,))


@pytest.mark.gen_test
@pytest.mark.parametrize("tier", [3, 4])
async def test_without_namespaces(house: House, tier: int) -> None:
    """Where nothing can be mounted a wish is refused; sessions without one are not."""
    enclosed(house, tier)
    with pytest.raises(NotEnforceable):
        await house.create(mounts=("data",))
    await house.create(mounts=())


@pytest.mark.gen_test
async def test_duplicates_have_them(house: House) -> None:
    """A duplicate sees what its source sees."""
    await house.create("s1", mounts=("data",))
    await house.sessions.duplicate("s1", Wish("s2"))
    assert (await house.store.get("s2")).mounts == ("data",)


@pytest.mark.gen_test
async def test_not_offered_any_more(house: House) -> None:
    """After a start without it no kernel starts, which is told; with it again, all is well."""
    await house.create("s1", mounts=("data",), data={"a": 1})
    await house.aclose()
    async with house.again() as without:
        running = await without.submit("")
        await running.finished.wait()
        assert isinstance(running.problem, Unavailable)
        assert "mount data" in running.problem.message
        assert without.host.machines == []
    async with house.again(offered=OFFERED) as again:
        assert (await again.run("out hi")).stdout == "hi\n"
        assert (await again.session()).data == {"a": 1}


@pytest.mark.gen_test
async def test_weaker_walls_since(house: House) -> None:
    """A session with mounts does not start without them, when a host has lost its namespaces."""
    await house.create("s1", mounts=("data",))
    enclosed(house, 3)
    running = await house.submit("")
    await running.finished.wait()
    assert isinstance(running.problem, NotEnforceable)
