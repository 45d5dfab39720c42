"""Links of sessions: what they are found by, and what ends with them."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from era_kernels.errors import LinkExpired, LinkNotFound
from era_kernels.models import Link, LinkTarget
from era_kernels.services import links
from era_kernels.services.links import LinkService
from era_kernels.storage.links import LinkStore
from tests.services.service_fixture import Services

PORT, FILE = LinkTarget(port=80), LinkTarget(path="a", method="GET")


@pytest.fixture
def service(services: Services) -> LinkService:
    return LinkService(services.sessions, LinkStore(services.database))


async def test_secrets(service: LinkService, services: Services) -> None:
    """Each link has a secret of its own, whose first letter tells what it opens."""
    await services.create()
    made = [await service.create("s1", target, 60) for target in (PORT, FILE) * 20]
    secrets = [secret for _, secret in made]
    assert len(set(secrets)) == len(secrets)
    for link, secret in made:
        pattern = links.PORT_SECRET if link.target == PORT else links.FILE_SECRET
        assert pattern.fullmatch(secret)
        assert await service.find(secret) == link
        assert secret not in repr(link)
    for wrong in ("", secrets[0][1:], secrets[0].swapcase(), f"{secrets[0]}="):
        with pytest.raises(LinkNotFound):
            await service.find(wrong)


async def test_expiry(service: LinkService, services: Services) -> None:
    """An expired link is told from one that never was."""
    await services.create()
    _, secret = await service.create("s1", PORT, 0.001)
    await asyncio.sleep(0.01)
    with pytest.raises(LinkExpired):
        await service.find(secret)
    assert await service.list_links("s1") == []


async def test_watch(service: LinkService, services: Services) -> None:
    """What is under way ends when the link is revoked, and where it is asked for at its expiry."""
    await services.create()
    closed: list[str] = []
    link, _ = await service.create("s1", PORT, 60)
    other, _ = await service.create("s1", PORT, 0.2)
    with (
        service.watch(link, lambda: closed.append("a"), ends_at_expiry=True),
        service.watch(link, lambda: closed.append("b"), ends_at_expiry=False),
        service.watch(other, lambda: closed.append("c"), ends_at_expiry=True),
        service.watch(other, lambda: closed.append("d"), ends_at_expiry=False),
    ):
        with service.watch(link, lambda: closed.append("e"), ends_at_expiry=True):
            pass
        await asyncio.sleep(0.5)
        assert closed == ["c"]
        await service.delete("s1", link.id)
        assert closed == ["c", "a", "b"]
    await service.delete("s1", other.id)
    assert closed == ["c", "a", "b"]


async def test_revoked_while_it_is_found(
    service: LinkService, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link that is revoked after its row was read is not found."""
    await services.create()
    link, secret = await service.create("s1", PORT, 60)
    check = service.check

    async def revoke_and_check(found: Link) -> None:
        monkeypatch.setattr(service, "check", check)
        await service.delete("s1", link.id)

    monkeypatch.setattr(service, "check", revoke_and_check)
    with pytest.raises(LinkNotFound):
        await service.find(secret)


async def test_another_session_of_the_id(service: LinkService, services: Services) -> None:
    """A link that was found before its session was deleted is none of the next one's."""
    await services.create()
    link, secret = await service.create("s1", PORT, 60)
    await service.check(link)
    await services.sessions.delete("s1")
    for is_there_again in (False, True):
        if is_there_again:
            await services.create()
        with pytest.raises(LinkNotFound):
            await service.check(link)
        with pytest.raises(LinkNotFound):
            await service.find(secret)
    again, _ = await service.create("s1", PORT, 60)
    await service.check(again)
    with pytest.raises(LinkNotFound):
        await service.check(dataclasses.replace(again, directory=link.directory))
