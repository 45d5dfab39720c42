"""Waits for one thing at most as long as for another."""

from __future__ import annotations

import asyncio
from typing import Any


async def ends_within(future: asyncio.Future[Any], seconds: float) -> bool:
    """Waits for the end of a future or task, at most `seconds`; returns True if it has ended."""
    await asyncio.wait([future], timeout=seconds)
    return future.done()


async def is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Waits until an event is set, at most `seconds`; returns True if it is set."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return event.is_set()
    return True


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
