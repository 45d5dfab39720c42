"""The server's side of a way out: opened, closed, told and tried again; a test plays the keeper."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tornado.ioloop import IOLoop

from era_kernels.models.internet import OutboundRules
from era_kernels.sandbox.init import fd_messages
from era_kernels.sandbox.init.sandbox_spec import OutboundSpec
from era_kernels.sandbox.server import pasta as outbounds_module
from era_kernels.sandbox.server.control_channel import ControlChannel
from era_kernels.sandbox.server.init_pool import InitPool, PreparedInit
from era_kernels.sandbox.server.pasta import Outbound, Outbounds, find_problem
from tests.conftest import entered
from tests.waiting import until

BOTH = (socket.AF_INET, socket.AF_INET6)


class PlayedOutbounds(Outbounds):
    """Ways out whose keepers are played by the test: `keepers` are their ends of the sockets."""

    def __init__(self, families: tuple[int, ...] = BOTH) -> None:
        self.rules = OutboundRules((("0.0.0.0", 0, True),), families)
        super().__init__(cast(InitPool, None), 7, lambda: self.rules)
        self.problem = None
        self.keepers: list[socket.socket] = []
        self.killed: list[int] = []

    def spawn(self, control: socket.socket, network: int, spec: OutboundSpec) -> Callable[[], None]:
        os.close(network)
        self.keepers.append(control)
        return lambda: self.killed.append(len(self.keepers))


class PlayedInit:
    """Hands over a descriptor in place of a network."""

    async def request_descriptors(
        self, message: dict[str, Any]
    ) -> tuple[dict[str, Any], list[int]]:
        assert message == {"op": "network"}
        return {}, [os.open(os.devnull, os.O_RDONLY)]


@asynccontextmanager
async def opened(outbounds: PlayedOutbounds) -> AsyncIterator[Outbound]:
    profile = SimpleNamespace(has_session_uids=False)
    prepared = SimpleNamespace(profile=profile, cgroup_procs=())
    control = cast(ControlChannel, PlayedInit())
    one = Outbound(outbounds, cast(PreparedInit, prepared), control)
    yield one
    closing = asyncio.create_task(one.aclose())
    await asyncio.sleep(0.01)
    for keeper in outbounds.keepers:
        keeper.close()
    await closing


@pytest.fixture
def outbounds() -> PlayedOutbounds:
    return PlayedOutbounds()


@pytest.fixture
def one(io_loop: IOLoop, outbounds: PlayedOutbounds) -> Iterator[Outbound]:
    with entered(io_loop, opened(outbounds)) as one:
        yield one


async def play_start(outbounds: PlayedOutbounds, number: int = 0) -> socket.socket:
    """Waits for a keeper, and says that packets flow."""
    await until(lambda: len(outbounds.keepers) > number)
    fd_messages.send(outbounds.keepers[number], {"up": True})
    return outbounds.keepers[number]


async def switch_on(one: Outbound, outbounds: PlayedOutbounds) -> socket.socket:
    """Opens it, and returns its keeper."""
    opening = asyncio.create_task(one.switch(True))
    keeper = await play_start(outbounds)
    await opening
    return keeper


async def test_switched_both_ways(one: Outbound, outbounds: PlayedOutbounds) -> None:
    """It is open when the keeper says so, and closed when the keeper has ended."""
    opening = asyncio.create_task(one.switch(True))
    await asyncio.sleep(0.02)
    assert not opening.done()
    keeper = await play_start(outbounds)
    await opening
    assert one.problem is None and one in outbounds.opened
    closing = asyncio.create_task(one.switch(False))
    await asyncio.sleep(0.02)
    assert keeper.recv(10) == b"" and not closing.done()
    keeper.close()
    await closing
    assert one not in outbounds.opened


async def test_pasta_that_dies_is_started_again(one: Outbound, outbounds: PlayedOutbounds) -> None:
    """Meanwhile the reason is told."""
    keeper = await switch_on(one, outbounds)
    fd_messages.send(keeper, {"ended": "pasta has ended (signal 9)"})
    keeper.close()
    await until(lambda: one.problem == "pasta has ended (signal 9)")
    await play_start(outbounds, 1)
    await until(lambda: one.problem is None)


async def test_failure_is_told_and_tried_again(one: Outbound, outbounds: PlayedOutbounds) -> None:
    """`switch` returns all the same; what fails again and again is tried less and less often."""
    opening = asyncio.create_task(one.switch(True))
    await until(lambda: outbounds.keepers)
    fd_messages.send(outbounds.keepers[0], {"failed": "no device"})
    outbounds.keepers[0].close()
    await opening
    assert one.problem == "no device"
    await play_start(outbounds, 1)
    await until(lambda: one.problem is None)


async def test_closed_while_it_opens(one: Outbound, outbounds: PlayedOutbounds) -> None:
    """Who closes it does not wait until pasta has started."""
    opening = asyncio.create_task(one.switch(True))
    await until(lambda: outbounds.keepers)
    closing = asyncio.create_task(one.switch(False))
    await asyncio.sleep(0.02)
    assert outbounds.keepers[0].recv(10) == b""
    outbounds.keepers[0].close()
    await asyncio.gather(opening, closing)
    assert one.problem is None and len(outbounds.keepers) == 1


async def test_caller_that_leaves(one: Outbound, outbounds: PlayedOutbounds) -> None:
    """An opening that is cancelled is ended, and begun again later: access is still on."""
    opening = asyncio.create_task(one.switch(True))
    await until(lambda: outbounds.keepers)
    opening.cancel()
    await asyncio.sleep(0.02)
    outbounds.keepers[0].close()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await play_start(outbounds, 1)
    await until(lambda: one.problem is None)


async def test_rules_follow_the_host(one: Outbound, outbounds: PlayedOutbounds) -> None:
    """A change of the host's addresses is sent to what is open."""
    keeper = await switch_on(one, outbounds)
    outbounds.rules = OutboundRules((("45.33.32.5", 32, False),), BOTH)
    outbounds.refresh()
    assert fd_messages.receive(keeper) == ({"rules": [["45.33.32.5", 32, False]]}, [])


async def test_host_without_a_way_out() -> None:
    """Without a default route nothing is started, and that is told."""
    outbounds = PlayedOutbounds(families=())
    async with opened(outbounds) as one:
        await one.switch(True)
        assert one.problem == "this host has no default route" and not outbounds.keepers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nameserver 10.0.0.1\n", ["198.51.100.3"]),
        ("# a\noptions x\nnameserver fd00::1\nnameserver 10.0.0.1\n", ["2001:db8:6572:61::3"]),
        ("", []),
    ],
)
def test_resolver(
    text: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs ask by the family of the host's first resolver: pasta asks that one."""
    (tmp_path / "resolv.conf").write_text(text)
    monkeypatch.setattr(outbounds_module, "RESOLV_CONF", tmp_path / "resolv.conf")
    assert PlayedOutbounds().find_resolvers() == expected


def test_missing_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is told."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert "apt-get install passt" in (find_problem() or "")
