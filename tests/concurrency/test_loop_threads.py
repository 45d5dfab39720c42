"""The loop's own pool starts all its threads ahead, or says that it cannot."""

from __future__ import annotations

import asyncio
import threading

import pytest

from era_kernels.concurrency.loop_threads import start_loop_threads


async def _run_side_by_side(count: int) -> None:
    barrier = threading.Barrier(count, timeout=10)
    await asyncio.gather(*(asyncio.to_thread(barrier.wait) for _ in range(count)))


async def test_no_thread_is_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """All threads of the pool work where the system starts none any more."""
    start_loop_threads(5)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", _start_no_thread)
        await _run_side_by_side(5)


async def test_a_system_that_starts_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails at once where a thread cannot be started, and ends those that could."""
    start, started = threading.Thread.start, []

    def start_two(thread: threading.Thread) -> None:
        if len(started) == 2:
            _start_no_thread(thread)
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    with pytest.raises(RuntimeError):
        start_loop_threads(5)
    assert not any(thread.is_alive() for thread in started)


def _start_no_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
