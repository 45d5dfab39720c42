"""Opens and closes the services around a test; nothing may be left of them on the loop."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from tests.services.service_fixture import Services

OpenServices = Callable[..., Services]


@pytest.fixture
def open_services(io_loop: IOLoop, tmp_path: Path) -> Iterator[OpenServices]:
    """Opens services with the test's own limits; also again on the same directory."""
    loop: asyncio.AbstractEventLoop = io_loop.asyncio_loop  # type: ignore[attr-defined]
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    opened: list[Services] = []

    def opener(**options: Any) -> Services:
        services = Services(tmp_path / "data", **options)
        io_loop.run_sync(services.open)
        opened.append(services)
        return services

    yield opener
    for services in opened:
        io_loop.run_sync(services.aclose, timeout=5)
    gc.collect()  # tasks left pending and exceptions never retrieved are reported now
    io_loop.run_sync(loop.shutdown_asyncgens)
    assert not asyncio.all_tasks(loop)
    assert not complaints


@pytest.fixture
def services(open_services: OpenServices) -> Services:
    return open_services()
