"""The services, opened and closed around a test; nothing may be left of them on the loop."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from tests.services.house import House

OpenHouse = Callable[..., House]


@pytest.fixture(scope="session", autouse=True)
def only_new_garbage() -> None:
    """What the whole test run has imported until now need not be searched after each test."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def open_house(io_loop: IOLoop, tmp_path: Path) -> Iterator[OpenHouse]:
    """Opens services with rules of the test's own; again on the same directory, if need be."""
    loop: asyncio.AbstractEventLoop = io_loop.asyncio_loop  # type: ignore[attr-defined]
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    opened: list[House] = []

    def opener(**rules: Any) -> House:
        house = House(tmp_path / "data", **rules)
        io_loop.run_sync(house.open)
        opened.append(house)
        return house

    yield opener
    for house in opened:
        io_loop.run_sync(house.aclose, timeout=5)
    gc.collect()  # what was left pending or unheard complains now
    io_loop.run_sync(loop.shutdown_asyncgens)
    assert not asyncio.all_tasks(loop)
    assert not complaints


@pytest.fixture
def house(open_house: OpenHouse) -> House:
    return open_house()
