"""Outputs: always drained, bounded in memory, streamed to whoever reads."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from era_kernels.models import ExitInfo
from era_kernels.sandbox.server.process import MAX_BUFFERED, TAIL_BYTES, OutputPipe
from era_kernels.sandbox.server.sandbox import MAX_DETACHED, Sandbox
from tests.conftest import loop
from tests.sandbox.sandboxes import count_descriptors, shell_command
from tests.waiting import until

Pipe = tuple[OutputPipe, int]


io_loop = pytest.fixture(loop, scope="module")


@asynccontextmanager
async def with_pipe() -> AsyncIterator[tuple[OutputPipe, int]]:
    """Run the body of a test with an output and the write end of its pipe."""
    read, write = os.pipe()
    output = OutputPipe(read)
    yield (output, write)
    output.close()
    output.close()


async def test_the_tail_is_what_was_written_last() -> None:
    """However much comes, the last 64 KiB are kept, and not much more is held."""
    async with with_pipe() as (output, write):
        text = b"".join(b"%09d\n" % number for number in range(200_000))

        def fill() -> None:
            rest = text
            while rest:
                rest = rest[os.write(write, rest) :]
            os.close(write)

        await asyncio.to_thread(fill)
        async for _ in output:
            pass
        assert output.tail() == text[-TAIL_BYTES:]
        assert not output.is_open


async def test_a_consumer_gets_every_byte() -> None:
    """Iteration starts with what was kept and ends when every writer is gone."""
    async with with_pipe() as (output, write):
        os.write(write, b"early ")
        await asyncio.sleep(0.02)
        seen = []

        async def consume() -> None:
            seen.extend([chunk async for chunk in output])

        consumer = asyncio.ensure_future(consume())
        await asyncio.sleep(0.02)
        os.write(write, b"late")
        os.close(write)
        await asyncio.wait_for(consumer, 5)
        assert b"".join(seen) == b"early late"


async def test_there_is_one_consumer() -> None:
    """A second one at the same time is an error, a second one after the first is not."""
    async with with_pipe() as (output, write):
        os.write(write, b"x")
        first = output.__aiter__()
        assert await anext(first) == b"x"
        with pytest.raises(RuntimeError):
            await anext(output.__aiter__())
        await first.aclose()  # type: ignore[attr-defined]
        assert await anext(output.__aiter__()) == b"x"
        os.close(write)


async def test_a_slow_consumer_slows_the_process(sandbox: Sandbox) -> None:
    """Memory is bounded: who does not take what it asked for makes the writer wait."""
    process = await sandbox.spawn(shell_command("head -c 20000000 /dev/zero; echo done >&2"))
    stream = process.stdout.__aiter__()
    count = len(await anext(stream))
    await asyncio.sleep(0.3)
    assert process.is_running
    assert process.stderr.tail() == b""
    largest = 0
    async for chunk in stream:
        count += len(chunk)
        largest = max(largest, len(chunk))
    assert count == 20_000_000
    # One chunk past the bound, and what was still in the pipe when the process ended.
    assert largest <= MAX_BUFFERED + 2 * 64 * 1024
    assert await process.ended == ExitInfo(code=0)


async def test_nobody_has_to_read(sandbox: Sandbox) -> None:
    """A process that writes megabytes to descriptors that nobody reads goes on."""
    process = await sandbox.spawn(
        shell_command("head -c 5000000 /dev/zero; head -c 5000000 /dev/zero >&2; echo end >&2")
    )
    assert await asyncio.wait_for(process.ended, 10) == ExitInfo(code=0)
    assert process.stderr.tail().endswith(b"end\n")
    assert len(process.stdout.tail()) == TAIL_BYTES


async def test_a_flood_that_nobody_takes_is_slowed_down(sandbox: Sandbox) -> None:
    """It would keep a processor of the server busy; the last of it is there all the same."""
    process = await sandbox.spawn(shell_command("exec yes >&2"))
    await asyncio.sleep(0.5)
    assert TAIL_BYTES < process.stderr.total_bytes < 50 * TAIL_BYTES
    await process.signal(signal.SIGKILL)
    await asyncio.wait_for(process.ended, 10)
    assert process.stderr.tail().strip(b"y\n") == b""
    assert len(process.stderr.tail()) == TAIL_BYTES


async def test_last_words_are_there_when_the_ending_is(sandbox: Sandbox) -> None:
    """Bytes written before the death are in the tail as soon as the death is reported."""
    for _ in range(20):
        process = await sandbox.spawn(shell_command("echo last words >&2; kill -KILL $$"))
        await process.ended
        assert process.stderr.tail() == b"last words\n"


async def test_a_daemon_keeps_an_output_open_and_the_sandbox_closes_it(sandbox: Sandbox) -> None:
    """Iteration goes on as long as anybody may write, and ends with the sandbox."""
    process = await sandbox.spawn(shell_command("(sleep 0.2; echo later; sleep 600) & echo now"))
    await process.ended
    stream = process.stdout.__aiter__()
    assert await anext(stream) == b"now\n"
    assert await asyncio.wait_for(anext(stream), 10) == b"later\n"
    await sandbox.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


# ---------------------------------------------------------------- consumers from the beginning


@asynccontextmanager
async def with_consumer() -> AsyncIterator[tuple[OutputPipe, int, asyncio.Event]]:
    """Run the body of a test with an output that has a consumer from its first byte on."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    news = asyncio.Event()
    output = OutputPipe(read, news)
    yield (output, write, news)
    output.close()


async def test_nothing_is_lost_before_the_consumer_comes() -> None:
    """All is kept until it is taken, up to a bound; then the process waits."""
    async with with_consumer() as (output, write, news):
        sent = seen = b""
        for number in range(60):
            piece = bytes([number]) * 32768
            try:
                sent += piece[: os.write(write, piece)]
            except BlockingIOError:
                break
            await asyncio.sleep(0.002)
        else:
            raise AssertionError("the process never had to wait")
        assert len(sent) >= MAX_BUFFERED
        os.set_blocking(write, True)
        os.close(write)
        while output.is_open or not seen:
            await asyncio.wait_for(news.wait(), 5)
            news.clear()
            seen += output.read_available()
        assert seen + output.read_available() == sent
        assert output.read_available() == b""


async def test_late_output_is_handed_on() -> None:
    """Who writes when the consumer has left goes on, but not as fast as they like."""
    async with with_consumer() as (output, write, _):
        late = bytearray()
        output.detach(late.extend)
        written = 0
        for _ in range(200):
            try:
                written += os.write(write, bytes(65536))
            except BlockingIOError:
                await asyncio.sleep(0.002)
        assert 3 * 65536 <= written < 150 * 65536
        os.close(write)
        await until(lambda: not output.is_open)
        assert output.tail() == output.read_available() == b""
        assert late == bytes(written)


async def test_leftovers_are_bounded(sandbox: Sandbox) -> None:
    """Of processes that left others behind with their outputs, the newest are still read."""
    before = count_descriptors(os.getpid())
    for _ in range(MAX_DETACHED + 20):
        process = await sandbox.spawn(shell_command("sleep 600 & exit"), readable=asyncio.Event())
        await asyncio.wait_for(process.ended, 20)
        process.stdout.detach()
        process.stderr.detach()
    assert process.stdout.is_open
    assert count_descriptors(os.getpid()) - before <= 2 * MAX_DETACHED + 2
