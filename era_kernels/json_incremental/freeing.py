"""Frees large JSON values in short steps: to free a million lists at once stops everything else."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from era_kernels.concurrency.cooperative import SLICE_SECONDS, YIELD_SECONDS, Stepwise

CONTAINERS_PER_STEP = 256
ITEMS_PER_STEP = 4096
_CONTAINERS = (dict, list)
_OWN_REFERENCES = 2  # to what one variable holds: that, and the argument of `getrefcount`


def free_in_steps(value: Any) -> None:
    """Lets go of a value, whose last reference this becomes, a few containers at a time.

    What others still hold of it stays as it is. Needs a running loop.
    """
    if isinstance(value, _CONTAINERS):
        _run_slice(asyncio.get_running_loop(), free_stepwise([value]))


def _run_slice(loop: asyncio.AbstractEventLoop, steps: Stepwise[None]) -> None:
    end = time.perf_counter() + SLICE_SECONDS
    for _ in steps:
        if time.perf_counter() > end:
            loop.call_later(YIELD_SECONDS, _run_slice, loop, steps)
            return


def free_stepwise(held: list[Any]) -> Stepwise[None]:
    """Frees the values in a list, which is empty then, a few containers in each step.

    The caller holds them by no other name.
    """
    # Held by this list, a container does not go with the one around it; the outermost goes first.
    index = 0
    while index < len(held):
        node = held[index]
        items = list(node.values()) if isinstance(node, dict) else node
        for start in range(0, len(items), ITEMS_PER_STEP):
            part = items[start : start + ITEMS_PER_STEP]
            held += [item for item in part if isinstance(item, _CONTAINERS) and item]
            if start:
                yield
        index += 1
        if index % CONTAINERS_PER_STEP == 0:
            yield
    node = items = part = None
    for number in range(index):
        node, held[number] = held[number], None
        if len(node) > ITEMS_PER_STEP and sys.getrefcount(node) == _OWN_REFERENCES:
            yield from _empty(node)
        if number % CONTAINERS_PER_STEP == 0:
            node = None
            yield
    node = None
    held.clear()


def _empty(node: Any) -> Stepwise[None]:
    """Takes everything out of a long container that nobody else holds."""
    while node:
        if isinstance(node, dict):
            for _ in range(min(len(node), ITEMS_PER_STEP)):
                node.popitem()
        else:
            del node[-ITEMS_PER_STEP:]
        yield
