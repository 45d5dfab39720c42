"""Waits for one thing at most as long as for another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any


async def within_timeout(awaitable: Awaitable[object], seconds: float) -> bool:
    """Returns False when the awaitable has not ended after so many seconds; it is cancelled then.

    Raises what it raises.
    """
    try:
        async with asyncio.timeout(seconds):
            await awaitable
    except TimeoutError:
        return False
    return True


async def ends_within(future: asyncio.Future[Any], seconds: float) -> bool:
    """Returns whether a future or task is done at most `seconds` later; it goes on if it is not.

    It takes half of the time of `asyncio.wait`.
    """
    if future.done():
        return True
    loop = asyncio.get_running_loop()
    woken = loop.create_future()

    def wake(*_: object) -> None:
        if not woken.done():
            woken.set_result(None)

    timer = loop.call_later(seconds, wake)
    future.add_done_callback(wake)
    try:
        await woken
    finally:
        timer.cancel()
        future.remove_done_callback(wake)
    return future.done()


async def ends_before(task: asyncio.Task[Any], event: asyncio.Event) -> bool:
    """Waits for the end of a task or for an event; returns True if the event is not set then.

    The task goes on when the event came first.
    """
    event_wait = asyncio.create_task(event.wait())
    try:
        await asyncio.wait([task, event_wait], return_when=asyncio.FIRST_COMPLETED)
    finally:
        event_wait.cancel()
    return not event.is_set()
