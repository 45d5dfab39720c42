"""What a process is given to read: all of it, then end of file, and nobody ever waits."""

from __future__ import annotations

import asyncio
import os

import pytest

from era_kernels.models import ExitInfo
from era_kernels.sandbox.server.sandbox import Sandbox
from era_kernels.sandbox.server.stdin_writer import StdinWriter
from tests.conftest import loop
from tests.sandbox.sandboxes import count_descriptors, shell_command
from tests.waiting import until

MUCH = bytes(range(256)) * 8192  # more than a pipe holds


io_loop = pytest.fixture(loop, scope="module")


async def test_all_is_read() -> None:
    """A slow reader gets every byte, and end of file."""
    read, write = os.pipe()
    writer = StdinWriter(write, MUCH)
    with os.fdopen(read, "rb") as file:
        assert await asyncio.to_thread(file.read) == MUCH
    await until(lambda: not writer.is_open)


async def test_nobody_reads() -> None:
    """When the last reader is gone it is closed; somebody who only waits does not block it."""
    read, write = os.pipe()
    writer = StdinWriter(write, MUCH)
    await asyncio.sleep(0.05)
    assert writer.is_open
    os.close(read)
    await until(lambda: not writer.is_open)
    writer.close()


async def test_process_reads_it(sandbox: Sandbox) -> None:
    """A process finds it on descriptor 0; an empty text is end of file at once."""
    for data in (MUCH, b""):
        process = await sandbox.spawn(shell_command("wc -c"), stdin=data)
        assert await asyncio.wait_for(process.ended, 20) == ExitInfo(code=0)
        assert int(process.stdout.tail()) == len(data)


async def test_end_of_the_process_ends_it(sandbox: Sandbox) -> None:
    """What a process leaves behind reads the end, whatever the process has not read."""
    # Redirected, or the shell would give its child /dev/null.
    command = shell_command("exec 3<&0; (exec cat <&3 | wc -c) & exec true")
    before = count_descriptors(os.getpid())
    process = await sandbox.spawn(command, stdin=MUCH)
    assert await asyncio.wait_for(process.ended, 20) == ExitInfo(code=0)
    await until(lambda: process.is_finished)
    assert 0 <= int(process.stdout.tail()) <= len(MUCH)
    assert count_descriptors(os.getpid()) == before
