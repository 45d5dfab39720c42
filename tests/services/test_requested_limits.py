"""A session's own limits are checked, capped by the server's, and enforced."""

from __future__ import annotations

import dataclasses
from typing import cast

import pytest

from era_kernels.errors import InvalidRequest, NotEnforceable, QuotaExceeded
from era_kernels.kernels.languages import Languages
from era_kernels.kernels.machines import Machines
from era_kernels.models import Isolation, Limits
from era_kernels.services.files import FileService
from era_kernels.services.requested_limits import MIB, check_limits
from tests.fakes import FakeHost, make_kernelspec
from tests.services.conftest import OpenServices
from tests.services.service_fixture import LANGUAGE, Services

SERVER = Limits(memory=1024 * MIB, processes=256, workspace=2048 * MIB, tmp=256 * MIB, shm=1)
MINIMUMS = Limits(memory=64 * MIB, processes=8, cpu=0.05)
LANGUAGES = Languages([make_kernelspec(LANGUAGE, minimums=MINIMUMS)])
ALL = frozenset({"memory", "processes", "workspace", "cpu"})


def a_host(tier: int = 1, enforceable: frozenset[str] = ALL) -> FakeHost:
    return FakeHost(languages=LANGUAGES, isolation=Isolation(tier, ()), enforceable=enforceable)


def checked(limits: Limits, host: FakeHost | None = None) -> None:
    kernelspec = LANGUAGES.resolve(LANGUAGE).default
    check_limits(limits, SERVER, kernelspec, cast(Machines, host or a_host()))


@pytest.mark.parametrize(
    "limits",
    [
        Limits(),
        Limits(memory=1024 * MIB, processes=256, workspace=2048 * MIB),
        Limits(memory=64 * MIB, processes=8, cpu=0.05),
        Limits(cpu=1000.0),
        Limits(workspace=MIB),
    ],
)
def test_fitting(limits: Limits) -> None:
    """Limits are accepted between the kernel's minimum and the server's, if it has one."""
    checked(limits)


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        (Limits(memory=1025 * MIB), "`limits.memory_mb` must be at most 1024, session_memory"),
        (Limits(processes=257), "`limits.processes` must be at most 256, session_processes"),
        (Limits(workspace=2049 * MIB), "`limits.workspace_mb` must be at most 2048, session_wo"),
        (Limits(memory=63 * MIB), "`limits.memory_mb` must be at least 64, which alpha needs"),
        (Limits(processes=7), "`limits.processes` must be at least 8, which alpha needs"),
        (Limits(cpu=0.01), "`limits.cpu` must be at least 0.05, which alpha needs to start"),
    ],
)
def test_not_fitting(limits: Limits, sentence: str) -> None:
    """The error names the field, the limit and where the limit comes from."""
    for tier in (1, 4):
        with pytest.raises(InvalidRequest) as caught:
            checked(limits, a_host(tier))
        assert caught.value.message.startswith(sentence)
        assert caught.value.details[0]["field"] in sentence


def test_not_enforceable() -> None:
    """A limit that the sandbox cannot enforce is refused; without a sandbox it is stored."""
    few = ALL - {"cpu"}
    checked(Limits(memory=128 * MIB), a_host(3, few))
    with pytest.raises(NotEnforceable, match=r"limits\.cpu"):
        checked(Limits(memory=128 * MIB, cpu=0.5), a_host(3, few))
    checked(Limits(memory=128 * MIB, cpu=0.5), a_host(4, frozenset()))


def test_lowered() -> None:
    """The lower limit applies; tmp and shm stay below memory, file_size below workspace."""
    server = Limits(memory=10, processes=None, tmp=9, shm=5, file_size=8, workspace=8, cpu=2.0)
    assert server.capped_by(None) == server
    assert server.capped_by(Limits(memory=6, processes=3, workspace=7, cpu=1.0)) == Limits(
        memory=6, processes=3, tmp=6, shm=5, file_size=7, workspace=7, cpu=1.0
    )
    assert server.capped_by(Limits(memory=11, workspace=9)) == server


# ---------------------------------------------------------------- sessions


@pytest.fixture
def services(open_services: OpenServices) -> Services:
    services = open_services(limits=SERVER)
    services.host.isolation, services.host.enforceable = Isolation(1, ()), ALL
    return services


async def test_the_host_gets_them(services: Services) -> None:
    """A machine is opened with the session's limits, others with the server's."""
    await services.create("s1", limits=Limits(memory=100 * MIB))
    await services.create("s2")
    await services.run("", "s1")
    await services.run("", "s2")
    assert services.host.opened_limits == [
        dataclasses.replace(SERVER, memory=100 * MIB, tmp=100 * MIB),
        SERVER,
    ]


async def test_refused_leaves_nothing(services: Services) -> None:
    """A refused session leaves neither a row nor a directory."""
    with pytest.raises(InvalidRequest):
        await services.create(limits=Limits(memory=2048 * MIB))
    assert (services.directories, services.sessions.count) == ([], 0)


async def test_quota_of_uploads(services: Services) -> None:
    """Uploads are limited by the session's workspace limit, and the server's where lower."""
    for quota, most in ((2048 * MIB, MIB), (1000, 1000)):
        files = FileService(services.sessions, services.files, quota)
        session = f"s{quota}"
        await services.create(session, limits=Limits(workspace=MIB))
        incoming = await files.start_upload(session, "f", most)
        incoming.discard()
        with pytest.raises(QuotaExceeded):
            await files.start_upload(session, "f", most + 1)
