"""Thread pools and serial executors return results, keep the order and never hang."""

from __future__ import annotations

import asyncio
import errno
import gc
import threading
import time
from collections.abc import Callable

import pytest

from era_kernels.errors import InsufficientStorage, StorageFailed, StorageUnavailable
from era_kernels.storage.threads import SerialExecutor, StorageThreads


@pytest.fixture
def threads() -> object:
    threads = StorageThreads("test", 4)
    yield threads
    threads.close()


def _fail(error: BaseException) -> None:
    raise error


def _start_no_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


async def test_outcomes(threads: StorageThreads) -> None:
    """Results and own exceptions come back as they are, foreign ones in domain words."""
    assert await threads.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await threads.run(_fail, ZeroDivisionError())
    with pytest.raises(InsufficientStorage) as caught:
        await threads.run(_fail, OSError(errno.ENOSPC, "full"))
    assert isinstance(caught.value.__cause__, OSError)


async def test_side_by_side(threads: StorageThreads) -> None:
    """As many functions run at once as there are threads."""
    barrier = threading.Barrier(4, timeout=10)
    await asyncio.gather(*(threads.run(barrier.wait) for _ in range(8)))


async def test_closed_threads_refuse(threads: StorageThreads) -> None:
    """Closing finishes what was started; afterwards a start is StorageFailed."""
    started = threads.submit(time.sleep, 0.05)
    threads.close()
    assert await started is None
    with pytest.raises(StorageFailed):
        await threads.run(int)
    threads.submit_detached(int)
    threads.close()


async def test_a_pool_whose_threads_could_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls fail while the system starts no thread; the pool has all its threads afterwards."""
    threads, done = StorageThreads("short", 2), []
    executor = SerialExecutor(threads)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", _start_no_thread)
        for _ in range(5):
            with pytest.raises(StorageUnavailable):
                await threads.run(done.append, "run")
            with pytest.raises(StorageUnavailable):
                await executor.run(done.append, "serial")
        threads.submit_detached(done.append, "detached")
    async with asyncio.timeout(10):
        assert await executor.run(divmod, 7, 2) == (3, 1)
        barrier = threading.Barrier(2, timeout=5)
        await asyncio.gather(*(threads.run(barrier.wait) for _ in range(2)))
    assert done == ["detached"]
    await asyncio.to_thread(threads.close)


async def test_threads_that_there_are_do_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that gets no further thread goes on with those that it has."""
    threads = StorageThreads("few", 4)
    await threads.run(int)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", _start_no_thread)
        async with asyncio.timeout(10):
            assert await asyncio.gather(*(threads.run(int) for _ in range(9))) == [0] * 9
    threads.close()


async def test_a_pool_without_threads_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody waits for is done by whoever closes a pool that never had a thread."""
    threads, done = StorageThreads("none", 4), []
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", _start_no_thread)
        threads.submit_detached(done.append, 1)
        threads.close()
    threads.close()
    assert done == [1]


async def test_forgotten_threads_end() -> None:
    """Threads that nobody closed end when nobody can use them any more."""

    async def body() -> list[threading.Thread]:
        threads = StorageThreads("forgotten", 3)
        await asyncio.gather(*(threads.run(time.sleep, 0.01) for _ in range(3)))
        return [t for t in threading.enumerate() if t.name == "era-forgotten"]

    left = await body()
    gc.collect()
    for thread in left:
        thread.join(5)
    assert len(left) == 3
    assert not any(thread.is_alive() for thread in left)


async def test_a_serial_executor_keeps_the_order(threads: StorageThreads) -> None:
    """Functions of one executor run one at a time, in the order of the calls, failures included."""
    executor, seen, running = SerialExecutor(threads), [], []

    def step(number: int) -> int:
        running.append(number)
        time.sleep(0.001 * (number % 3))
        seen.append(number)
        assert running == [number]
        running.clear()
        return number if number % 5 else 1 // 0

    outcomes = await asyncio.gather(
        *(executor.run(step, number) for number in range(30)), return_exceptions=True
    )
    assert seen == list(range(30))
    assert [o for n, o in enumerate(outcomes) if n % 5] == [n for n in range(30) if n % 5]
    assert all(isinstance(outcomes[n], ZeroDivisionError) for n in range(0, 30, 5))


async def test_functions_of_cancelled_callers_still_run(threads: StorageThreads) -> None:
    """A cancelled caller's function still runs, before functions that were submitted later."""
    executor, seen = SerialExecutor(threads), []
    first = asyncio.create_task(executor.run(_slow, seen.append, 1))
    second = asyncio.create_task(executor.run(_slow, seen.append, 2))
    await asyncio.sleep(0.01)
    first.cancel()
    second.cancel()
    await executor.run(seen.append, 3)
    assert seen == [1, 2, 3]


def _slow(function: Callable[[int], None], value: int) -> None:
    time.sleep(0.03)
    function(value)
