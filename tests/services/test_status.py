"""What the server tells of itself."""

from __future__ import annotations

from typing import cast

import pytest

from era_kernels.errors import StorageFailed, Unavailable
from era_kernels.kernels.languages import Languages
from era_kernels.kernels.machine import KernelHost
from era_kernels.services.status import Status
from tests.fakes import NO_WALLS, a_language
from tests.services.house import House


def status_of(house: House) -> Status:
    return Status(cast(KernelHost, house.host), house.database, {"max_queue": 100})


@pytest.mark.gen_test
async def test_healthy(house: House) -> None:
    """A server whose parts are well has no problems."""
    assert await status_of(house).problems() == {}


@pytest.mark.gen_test
async def test_parts_that_are_down_are_named(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part that is down is told with its own sentence."""
    house.host.broken = Unavailable("The zygote is gone.")
    assert await status_of(house).problems() == {"kernels": "The zygote is gone."}

    async def check() -> None:
        raise StorageFailed("The store is gone.")

    monkeypatch.setattr(house.database, "check", check)
    assert await status_of(house).problems() == {
        "store": "The store is gone.",
        "kernels": "The zygote is gone.",
    }


def test_languages(house: House) -> None:
    """Every language is told, with whether it runs here."""
    house.host.languages = Languages([a_language("one"), a_language("two", reason="no two")])
    status = status_of(house)
    assert status.availability() == {"one": True, "two": False}
    assert [language["name"] for language in status.languages()] == ["one", "two"]
    assert status.isolation == NO_WALLS


def test_limits_are_a_copy(house: House) -> None:
    """Who gets the limits cannot change them for others."""
    status = status_of(house)
    status.limits()["max_queue"] = 1
    assert status.limits() == {"max_queue": 100}
