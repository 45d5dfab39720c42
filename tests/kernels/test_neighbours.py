"""Sessions with one uid and without namespaces: none reads what another's kernel says."""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from era_kernels.errors import LanguageUnavailable, StartError
from era_kernels.kernels.kernelspecs import OPEN_SOCKETS
from era_kernels.kernels.languages import Languages
from era_kernels.kernels.machines import Machines
from era_kernels.models import ExecutionEnd, Limits, Network
from era_kernels.sandbox.server.sandboxes import Sandboxes
from era_kernels.sandbox.server.tiers import IsolationPolicy
from tests.kernels.conftest import make_paths
from tests.kernels.test_machine import run
from tests.sandbox.sandboxes import ORDINARY_UID, short_directory

# Connects to every socket with a name, as soon as it has one, and keeps what could help later.
WATCH = """
import os, re, select, socket, threading
paths, ends, watching = {}, [], True
def connect(address):
    end = socket.socket(socket.AF_UNIX)
    try:
        end.connect(address)
        ends.append(end)
        return True
    except OSError:
        return False
def watch():
    while watching:
        with open("/proc/net/unix") as file:
            names = set(re.findall(DIRECTORY + r"/\\S*k-\\d", file.read()))
        for name in names - paths.keys():
            try:
                paths[name] = os.open(name, os.O_PATH)
            except OSError:
                continue
            connect(name)
            connect(f"/proc/self/fd/{paths[name]}")
watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
"""
REPORT = """
watching = False
watcher.join()
late = [name for name, path in paths.items() if connect(name) or connect(f"/proc/self/fd/{path}")]
received = b""
for end in ends:
    if select.select([end], [], [], 0.2)[0]:
        try:
            received += end.recv(100)
        except ConnectionError:
            pass
print(len(paths), len(ends), len(late), received)
"""
NUMBERS = range(4)  # of starts that are watched


@asynccontextmanager
async def open_host(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Machines]:
    """A host of tier 3 whose sessions all have one uid."""
    monkeypatch.setattr(os, "geteuid", lambda: ORDINARY_UID)
    languages = Languages.load()
    with short_directory() as base:
        policy = IsolationPolicy(
            strongest_tier=3,
            allow_weak_tier3=True,
            readable_paths=languages.readable_paths,
            hidden_paths=(base / "data",),
        )
        try:
            sandboxes = await Sandboxes.open(
                base / "r", languages.preload, languages.entry_paths, policy
            )
        except StartError as error:
            pytest.skip(f"this host has no tier 3: {error}")
        assert sandboxes.profile.shares_uid
        host = Machines(languages, sandboxes)
        try:
            yield host
        finally:
            await host.aclose()
            await sandboxes.aclose()


async def test_nobody_reads_a_neighbour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever connects as soon as there is a name gets nothing, then or later; the kernel runs."""
    async with open_host(monkeypatch) as host:
        spy = await host.open("python", make_paths(tmp_path / "spy"), Limits(), {})
        directory = str(spy._sandbox.runtime_directory.parent)
        assert await run(spy, f"DIRECTORY = {directory!r}\n{WATCH}") == ("", ExecutionEnd(0))
        for number in NUMBERS:
            victim = await host.open("python", make_paths(tmp_path / f"{number}"), Limits(), {})
            assert await run(victim, "print('of the neighbour')") == (
                "of the neighbour\n",
                ExecutionEnd(0),
            )
        text, end = await run(spy, REPORT)
        assert end == ExecutionEnd(0)
        found, connected, late, received = text.split(maxsplit=3)
        assert int(found) > 0  # else nothing was tried
        assert int(connected) > 0
        assert (int(late), received) == (0, "b''\n")


def test_kernels_that_bind_are_refused(tmp_path: Path) -> None:
    """A kernel that cannot connect is unavailable there, with the reason, and nowhere else."""
    folder = tmp_path / "toy"
    folder.mkdir()
    kernel_json = {"argv": ["{python}", "-V"], "display_name": "Toy", "language": "toy"}
    (folder / "kernel.json").write_text(json.dumps(kernel_json))
    languages = Languages.load([tmp_path])
    languages.set_network(Network.NONE, shares_uid=True)
    with pytest.raises(LanguageUnavailable, match=re.escape(OPEN_SOCKETS)):
        languages.resolve("toy").available_kernel(None)
    languages.resolve("python").available_kernel(None)
    languages.set_network(Network.NONE, shares_uid=False)
    languages.resolve("toy").available_kernel(None)
