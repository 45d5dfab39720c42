"""Stored code is kept with its session, apart from the data; runs without `code` execute it."""

from __future__ import annotations

import pytest

from era_kernels.errors import InvalidRequest, NotFound, SessionNotFound, TooLarge
from era_kernels.services.stored_code import StoredCodeService
from tests.services.service_fixture import Services


@pytest.fixture
def stored_code(services: Services) -> StoredCodeService:
    return StoredCodeService(services.sessions, services.codes)


async def test_put_and_get(services: Services, stored_code: StoredCodeService) -> None:
    """What was put is shown; a description that is not given stays."""
    await services.create()
    await stored_code.put("s1", "one", "about")
    stored = await stored_code.put("s1", "two")
    assert (stored.code, stored.description) == ("two", "about")
    assert await stored_code.get("s1") == stored
    assert await stored_code.get_text("s1") == "two"


async def test_none(services: Services, stored_code: StoredCodeService) -> None:
    """Without stored code a hint tells how to store some; a run's error names both ways."""
    await services.create()
    with pytest.raises(NotFound) as caught:
        await stored_code.get("s1")
    assert (caught.value.code, caught.value.status) == ("NOT_FOUND", 404)
    assert caught.value.hint is not None
    assert "PUT" in caught.value.hint
    with pytest.raises(InvalidRequest, match=r"`code` is required.*none is stored"):
        await stored_code.get_text("s1")


async def test_no_session(stored_code: StoredCodeService) -> None:
    """A session that is not there has no code and gets none."""
    for call in (
        stored_code.get("gone"),
        stored_code.put("gone", "x"),
        stored_code.get_text("gone"),
    ):
        with pytest.raises(SessionNotFound, match="gone"):
            await call


async def test_too_long_a_description(services: Services, stored_code: StoredCodeService) -> None:
    """A description has the size limit of data; code has that of code to run."""
    await services.create()
    with pytest.raises(TooLarge, match="description"):
        await stored_code.put("s1", "x", "x" * 1_100_000)
    await stored_code.put("s1", "x" * 5_000_000, "x" * 1_000_000)


async def test_initial_code(services: Services, stored_code: StoredCodeService) -> None:
    """`code` in the initial data is stored as code too; a value that is no text is only data."""
    await services.create(data={"code": "out seeded", "other": 1})
    assert (await stored_code.get("s1")).code == "out seeded"
    assert (await services.session()).data == {"code": "out seeded", "other": 1}
    await services.create("s2", data={"code": 5})
    with pytest.raises(NotFound):
        await stored_code.get("s2")


async def test_apart_from_the_data(services: Services, stored_code: StoredCodeService) -> None:
    """Changes of the data change no code, and the other way round."""
    await services.create(data={"code": "seed"})
    await services.sessions.update("s1", data={"code": "other"})
    await services.run("out x", update_data={"code": "another"})
    assert await stored_code.get_text("s1") == "seed"
    await stored_code.put("s1", "new")
    assert (await services.session()).data == {"code": "another"}


async def test_gone_with_the_session(services: Services, stored_code: StoredCodeService) -> None:
    """The next session of that id has no code."""
    await services.create()
    await stored_code.put("s1", "x")
    await services.sessions.delete("s1")
    await services.create()
    with pytest.raises(NotFound):
        await stored_code.get("s1")


async def test_stays_without_persistence(
    services: Services, stored_code: StoredCodeService
) -> None:
    """Files of a session that is not persistent go with its kernel, code and data stay."""
    await services.create(persistent=False, data={"code": "out stored"})
    await services.run("die 1")
    assert await stored_code.get_text("s1") == "out stored"
