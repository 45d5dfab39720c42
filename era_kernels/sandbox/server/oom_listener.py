"""Listens on the event loop for processes that Linux kills for lack of memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from era_kernels.sandbox.server.host_resources import HostResources

MAX_POLLS = 20  # of Linux's counter, which is updated after the eventfd
POLL_INTERVAL = 0.005  # seconds between two polls


class OomListener:
    """Calls `on_oom` with the cause within some milliseconds of a kill, until closed."""

    def __init__(self, resources: HostResources, on_oom: Callable[[str], None]) -> None:
        self._resources = resources
        self._on_oom = on_oom
        self._eventfd = resources.oom_eventfd
        self._loop = asyncio.get_running_loop()
        if self._eventfd is not None:
            self._loop.add_reader(self._eventfd, self._on_event)

    def close(self) -> None:
        """Stops listening, before the group is removed; a second call is fine."""
        if self._eventfd is not None:
            self._loop.remove_reader(self._eventfd)
            self._eventfd = None

    def _on_event(self) -> None:
        """Polls for the cause: Linux is about to kill, in this group or in one above it."""
        self._poll_cause(MAX_POLLS)

    def _poll_cause(self, retries: int) -> None:
        if self._eventfd is None:
            return
        cause = self._resources.find_oom_cause()  # empties the descriptor
        if cause is not None:
            self._on_oom(cause)
        elif retries:
            self._loop.call_later(POLL_INTERVAL, self._poll_cause, retries - 1)
