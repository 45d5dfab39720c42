"""What a process is given to read: all of it, then end of file, and nobody ever waits."""

from __future__ import annotations

import asyncio
import os

from era_kernels.models import Ending
from era_kernels.sandbox.feed import Feed
from tests.sandbox.house import descriptors, one, shell

MUCH = bytes(range(256)) * 8192  # more than a pipe holds


async def until_closed(feed: Feed) -> None:
    async with asyncio.timeout(10):
        while feed.open:
            await asyncio.sleep(0.001)


def test_all_is_read() -> None:
    """A slow reader gets every byte, and end of file."""

    async def body() -> None:
        read, write = os.pipe()
        feed = Feed(write, MUCH)
        with os.fdopen(read, "rb") as file:
            assert await asyncio.to_thread(file.read) == MUCH
        await until_closed(feed)

    asyncio.run(body())


def test_nobody_reads() -> None:
    """When the last reader is gone it is closed; somebody who only waits does not block it."""

    async def body() -> None:
        read, write = os.pipe()
        feed = Feed(write, MUCH)
        await asyncio.sleep(0.05)
        assert feed.open
        os.close(read)
        await until_closed(feed)
        feed.close()

    asyncio.run(body())


def test_process_reads_it() -> None:
    """A process finds it on descriptor 0; an empty text is end of file at once."""

    async def body() -> None:
        async with one() as sandbox:
            for data in (MUCH, b""):
                process = await sandbox.spawn(shell("wc -c"), stdin=data)
                assert await asyncio.wait_for(process.ended, 20) == Ending(code=0)
                assert int(process.stdout.tail()) == len(data)

    asyncio.run(body())


def test_end_of_the_process_ends_it() -> None:
    """What a process leaves behind reads the end, whatever the process has not read."""

    async def body() -> None:
        async with one() as sandbox:
            # Redirected, or the shell would give its child /dev/null.
            command = shell("exec 3<&0; (exec cat <&3 | wc -c) & exec true")
            before = descriptors(os.getpid())
            process = await sandbox.spawn(command, stdin=MUCH)
            assert await asyncio.wait_for(process.ended, 20) == Ending(code=0)
            async with asyncio.timeout(20):
                while not process.finished:
                    await asyncio.sleep(0.005)
            assert 0 <= int(process.stdout.tail()) <= len(MUCH)
            assert descriptors(os.getpid()) == before

    asyncio.run(body())
