"""What the server tells of itself."""

from __future__ import annotations

from typing import cast

import pytest

from era_kernels.errors import StorageFailed, Unavailable
from era_kernels.kernels.languages import Languages
from era_kernels.kernels.machine import KernelHost
from era_kernels.services.status import Status
from tests.fakes import NO_WALLS, a_language
from tests.services.service_fixture import Services


def status_of(services: Services) -> Status:
    return Status(cast(KernelHost, services.host), services.database, {"max_queue": 100})


@pytest.mark.gen_test
async def test_healthy(services: Services) -> None:
    """A server whose parts are well has no problems."""
    assert await status_of(services).problems() == {}


@pytest.mark.gen_test
async def test_parts_that_are_down_are_named(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part that is down is told with its own sentence."""
    services.host.broken = Unavailable("The zygote is gone.")
    assert await status_of(services).problems() == {"kernels": "The zygote is gone."}

    async def check() -> None:
        raise StorageFailed("The store is gone.")

    monkeypatch.setattr(services.database, "check", check)
    assert await status_of(services).problems() == {
        "store": "The store is gone.",
        "kernels": "The zygote is gone.",
    }


def test_languages(services: Services) -> None:
    """Every language is told, with whether it runs here."""
    services.host.languages = Languages([a_language("one"), a_language("two", reason="no two")])
    status = status_of(services)
    assert status.availability() == {"one": True, "two": False}
    assert [language["name"] for language in status.languages()] == ["one", "two"]
    assert status.isolation == NO_WALLS


def test_limits_are_a_copy(services: Services) -> None:
    """Who gets the limits cannot change them for others."""
    status = status_of(services)
    status.limits()["max_queue"] = 1
    assert status.limits() == {"max_queue": 100}
