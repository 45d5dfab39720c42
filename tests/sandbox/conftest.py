"""A tier that the tests of a module share, and sandboxes in it for each test.

A module that asks for them has a loop of its own, which lives as long.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tornado.ioloop import IOLoop

from era_kernels.sandbox.server.sandbox import Sandbox
from tests.conftest import entered
from tests.sandbox.tiers import Isolated, OpenTier, isolated_sandboxes, open_sandbox, tier_on


@pytest.fixture(scope="module", params=[1, 2, 3, 4])
def opened(io_loop: IOLoop, request: pytest.FixtureRequest) -> Iterator[OpenTier]:
    with tier_on(io_loop, request.param) as opened:
        yield opened


@pytest.fixture(scope="module", params=[1, 2, 3])
def isolated(io_loop: IOLoop, request: pytest.FixtureRequest) -> Iterator[Isolated]:
    with entered(io_loop, isolated_sandboxes(request.param)) as (sandboxes, make_paths):
        yield Isolated(request.param, sandboxes, make_paths)


@pytest.fixture
def tier(opened: OpenTier) -> int:
    return opened.tier


@pytest.fixture
def sandbox(io_loop: IOLoop, opened: OpenTier) -> Iterator[Sandbox]:
    """A sandbox of the tier, which is closed after the test."""
    with entered(io_loop, open_sandbox(opened)) as sandbox:
        yield sandbox


@pytest.fixture
def other(io_loop: IOLoop, opened: OpenTier) -> Iterator[Sandbox]:
    """The sandbox of another session."""
    with entered(io_loop, open_sandbox(opened)) as sandbox:
        yield sandbox
