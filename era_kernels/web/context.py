"""Holds what every handler needs."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from era_kernels.concurrency.memory_in_work import MemoryInWork
from era_kernels.concurrency.turns import Turns
from era_kernels.services.metrics import Metrics
from era_kernels.web.access import Access
from era_kernels.web.answer_memory import AnswerMemory
from era_kernels.web.port_hosts import PortHosts


@dataclass(frozen=True, slots=True)
class HandlerContext:
    """Holds what every handler needs.

    `max_body` and `max_upload` are in bytes, `keepalive_interval` in seconds. `active_handlers` are
    those whose clients have not got the whole answer yet. `route` is the pattern of the path, or
    empty. `touch_session` and `in_work` make contexts around each request to a session and to the
    storage.
    """

    access: Access
    max_body: int
    max_upload: int = 5 * 1024**3
    keepalive_interval: float = 5.0
    active_handlers: set[object] = field(default_factory=set)
    metrics: Metrics = field(default_factory=Metrics)
    route: str = ""
    touch_session: Callable[[str], AbstractContextManager[object]] = nullcontext
    is_stopping: Callable[[], bool] = bool  # True while runs finish before the server ends
    storage_turns: Turns = field(default_factory=Turns)  # whose members serve the storage
    proxy_turns: Turns = field(default_factory=Turns)  # whose members serve what sessions serve
    chunk_turns: Turns = field(default_factory=Turns)  # of bodies that come in small chunks
    memory: MemoryInWork = field(default_factory=MemoryInWork)
    answer_memory: AnswerMemory = field(default_factory=AnswerMemory)
    in_work: Callable[[Any], AbstractContextManager[object]] = nullcontext
    port_hosts: PortHosts | None = None  # where ports of sessions have hosts of their own
    # Bodies beyond `max_body` that may be in memory at once.
    large_bodies: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))

    def for_route(self, route: str) -> HandlerContext:
        """Returns a copy of this context for the handlers of one route."""
        return dataclasses.replace(self, route=route)
