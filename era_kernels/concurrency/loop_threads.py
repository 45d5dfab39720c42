"""Starts the threads of a loop's own pool ahead, while the system still gives them."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor

COUNT = min(32, (os.cpu_count() or 1) + 4)  # as many as asyncio's own pool may have
PATIENCE = 30.0  # seconds for all of them to start


def start_loop_threads(count: int = COUNT) -> None:
    """Gives the running loop a pool for `asyncio.to_thread` that starts no thread later.

    A pool that starts them when they are needed fails where code of sessions has used up the
    threads of the server's user: what was submitted then is run later, although its caller was told
    that it failed. Raises RuntimeError when the system gives fewer threads.
    """
    executor = ThreadPoolExecutor(count, thread_name_prefix="era-loop")
    all_started = threading.Barrier(count + 1)
    try:
        for _ in range(count):
            executor.submit(all_started.wait, PATIENCE)
        all_started.wait(PATIENCE)
    except RuntimeError:  # a barrier that is broken is one, too
        all_started.abort()
        executor.shutdown()
        raise
    asyncio.get_running_loop().set_default_executor(executor)
