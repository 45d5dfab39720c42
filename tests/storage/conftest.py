"""All stores on a directory of the test, a session in them, and the log of an execution of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop

from era_kernels.models import Execution, Session
from era_kernels.storage.execution_log import ExecutionLog
from tests.conftest import entered
from tests.storage.stores import LANGUAGE, Stores, make_execution, open_stores


@pytest.fixture
def stores(io_loop: IOLoop, tmp_path: Path) -> Iterator[Stores]:
    with entered(io_loop, open_stores(tmp_path)) as stores:
        yield stores


@pytest.fixture
def session(io_loop: IOLoop, stores: Stores) -> Session:
    return io_loop.run_sync(stores.create_session)


@pytest.fixture
def execution(session: Session) -> Execution:
    return make_execution(session)


@pytest.fixture
def log(
    io_loop: IOLoop, stores: Stores, session: Session, execution: Execution
) -> Iterator[ExecutionLog]:
    """The log of that execution, which goes on."""
    create = stores.executions.create
    log = io_loop.run_sync(lambda: create(execution, session.directory, LANGUAGE))
    yield log
    io_loop.run_sync(log.aclose)
