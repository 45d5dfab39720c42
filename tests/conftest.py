"""A real server for each module that asks for one, and a loop for each coroutine."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import signal
import ssl
from collections.abc import Generator, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

import hypothesis
import pytest
from tornado.ioloop import IOLoop

from era_kernels.logs import HumanFormatter
from tests.client import Client
from tests.server_process import Launcher, Server, fork_servers, temporary_launcher

T = TypeVar("T")

# pytest-timeout alone limits the time of a test: an example may wait for a processor.
hypothesis.settings.register_profile("era", deadline=None)
hypothesis.settings.load_profile("era")

# Each HTTP client would read all certificates of the authorities anew, for 30 ms, and speak no TLS.
ssl.create_default_context = functools.cache(ssl.create_default_context)  # type: ignore[assignment]


def pytest_configure(config: pytest.Config) -> None:
    """Undoes what the tests inherited from how they were started (`nohup`, a shell's background).

    An ignored signal gets an empty handler, which programs that are started do not inherit. The
    process that only hands tests to workers keeps what it has.
    """
    if hasattr(config, "workerinput") or getattr(config.option, "dist", "no") == "no":
        for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # Python's own
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())


def pytest_sessionstart(session: pytest.Session) -> None:
    """Has the report of a test that failed show its log with all fields, as the server does."""
    plugin = session.config.pluginmanager.get_plugin("logging-plugin")
    if plugin is not None:
        plugin.report_handler.setFormatter(HumanFormatter())


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collects tests without collecting garbage: all that is made here stays until the end.

    What is there then is frozen, so that it is not searched after each test.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lets pytest-tornado run every coroutine test; pytest-timeout alone limits its time."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.add_marker(pytest.mark.gen_test(timeout=None))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Lets servers be forked, except for tests that start them by their command."""
    fork_servers(item.get_closest_marker("command") is None)


@contextmanager
def open_loop() -> Iterator[IOLoop]:
    """Opens a loop; closes it as `asyncio.run` does, so that nothing left on it goes on."""
    io_loop = IOLoop(make_current=True)
    loop: asyncio.AbstractEventLoop = io_loop.asyncio_loop  # type: ignore[attr-defined]
    yield io_loop
    if tasks := asyncio.all_tasks(loop):
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    io_loop.close(all_fds=True)
    asyncio.set_event_loop(None)


@contextmanager
def entered(io_loop: IOLoop, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """Enters an asynchronous context on a loop that goes on, and leaves it at the end."""
    entered = io_loop.run_sync(manager.__aenter__)
    try:
        yield entered
    finally:
        io_loop.run_sync(lambda: manager.__aexit__(None, None, None))


def loop() -> Iterator[IOLoop]:
    """A loop as a fixture. Where it is that of a module, what one test opens lives on in others."""
    with open_loop() as io_loop:
        yield io_loop


io_loop = pytest.fixture(loop)  # of each test


@pytest.fixture(scope="session", autouse=True)
def no_loop_but_ours() -> None:
    """pytest-tornado asks for the current loop; asyncio would make one that nobody closes."""
    asyncio.set_event_loop(None)


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    """For tests that start, end and start servers."""
    with temporary_launcher() as launcher:
        yield launcher


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server without tokens for the module."""
    with temporary_launcher() as launcher:
        yield launcher.start()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    """A client of the module's server."""
    client = Client(server.base_url)
    yield client
    client.close()
