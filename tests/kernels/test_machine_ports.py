"""The ports of a machine are listed once for many who ask, and of two machines at once at most."""

from __future__ import annotations

import asyncio
import threading
import time
from unittest.mock import Mock

import pytest

from era_kernels.kernels import machine_ports
from era_kernels.kernels.kernel_ports import MAX_LOOKS, KernelPorts
from era_kernels.kernels.machine_ports import MachinePorts
from era_kernels.models import ListeningPort, Network


async def test_one_look_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks while a look is under way gets the next one, which sees what listens by then."""
    at_once, most, looks = 0, 0, 0
    lock = threading.Lock()

    def list_ports(pid: int, *, is_own_network: bool) -> list[ListeningPort]:
        nonlocal at_once, most, looks
        with lock:
            looks, at_once = looks + 1, at_once + 1
            most, number = max(most, at_once), looks
        time.sleep(0.05)
        with lock:
            at_once -= 1
        return [ListeningPort(number, "127.0.0.1", "program")]

    monkeypatch.setattr(machine_ports, "list_ports", list_ports)
    sandbox, shared = Mock(is_running=True, pid=1), KernelPorts(Network.OWN)
    machine, *others = [MachinePorts(sandbox, Network.OWN, shared) for _ in range(6)]
    first = asyncio.create_task(machine.listening())
    await asyncio.sleep(0.01)
    late = [asyncio.create_task(machine.listening()) for _ in range(20)]
    late[0].cancel()
    assert (await first)[0].port == 1
    assert {(await one)[0].port for one in late[1:]} == {2}
    await asyncio.gather(*(one.listening() for one in others))
    assert (looks, most) == (2 + len(others), MAX_LOOKS)
