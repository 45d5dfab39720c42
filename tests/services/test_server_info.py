"""The server reports its health, languages and limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest

from era_kernels.errors import StorageFailed, Unavailable
from era_kernels.kernels.languages import Languages
from era_kernels.kernels.machines import Machines
from era_kernels.services.server_info import ServerInfo
from era_kernels.storage.r2 import R2Store
from tests.fakes import UNSANDBOXED, make_kernelspec
from tests.services.service_fixture import Services


def make_server_info(services: Services, lost: int = 0) -> ServerInfo:
    host, objects = cast(Machines, services.host), cast(R2Store, FakeObjects(lost))
    return ServerInfo(host, services.database, objects, {"max_queue": 100})


@dataclass
class FakeObjects:
    """Objects of R2, some of which may have lost their bytes."""

    lost_count: int


async def test_healthy(services: Services) -> None:
    """A server whose parts are well has no problems."""
    assert await make_server_info(services).failures() == {}


async def test_parts_that_are_down_are_named(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part that is down is reported with its own message."""
    services.host.check_error = Unavailable("The zygote is gone.")
    assert await make_server_info(services).failures() == {"kernels": "The zygote is gone."}

    async def check() -> None:
        raise StorageFailed("The store is gone.")

    monkeypatch.setattr(services.database, "check", check)
    assert await make_server_info(services).failures() == {
        "store": "The store is gone.",
        "kernels": "The zygote is gone.",
    }


async def test_lost_objects(services: Services) -> None:
    """Objects that have lost their bytes are told with their number, and no part is down."""
    info = make_server_info(services, lost=3)
    assert await info.failures() == {}
    assert list(info.damages()) == ["r2"]
    assert "bytes: 3." in info.damages()["r2"]
    assert make_server_info(services).damages() == {}


def test_languages(services: Services) -> None:
    """Every language is listed, with whether it runs on this host."""
    services.host.languages = Languages(
        [make_kernelspec("one"), make_kernelspec("two", reason="no two")]
    )
    status = make_server_info(services)
    assert status.availability() == {"one": True, "two": False}
    assert [language["name"] for language in status.languages()] == ["one", "two"]
    assert status.isolation == UNSANDBOXED


def test_limits_are_a_copy(services: Services) -> None:
    """A caller that changes the returned limits does not change them for others."""
    status = make_server_info(services)
    status.limits()["max_queue"] = 1
    assert status.limits() == {"max_queue": 100}
