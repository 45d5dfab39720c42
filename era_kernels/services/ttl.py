"""Finds the sessions that were not used for their `ttl`, by one timer for all."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

MIN_RECHECK_INTERVAL = 0.2  # seconds, at least, between two checks of a session that is in use


@dataclass(slots=True, eq=False)
class TtlEntry:
    """A session that has a `ttl` in seconds; `last_request_at` is a time of `time.monotonic`."""

    session_id: str
    directory: str
    ttl: float
    last_request_at: float = field(default_factory=time.monotonic)


class TtlTimer:
    """Calls `on_expired` with the sessions that had no request and no run for their `ttl`.

    No timer is reset per request: a request only stores the time of its end, and a check that comes
    too early plans the next one. `idle_since` returns since when a session has no run, or None
    while it has one. `on_expired` gets entries that are discarded already; it must not raise.
    """

    def __init__(
        self,
        idle_since: Callable[[TtlEntry], float | None],
        on_expired: Callable[[list[TtlEntry]], None],
    ) -> None:
        self._idle_since = idle_since
        self._on_expired = on_expired
        self._entries: dict[str, TtlEntry] = {}
        self._open_requests: Counter[str] = Counter()
        # A heap of the times at which to check entries; some of these are discarded by now.
        self._checks: list[tuple[float, int, TtlEntry]] = []
        self._sequence = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    def set_ttl(self, session_id: str, directory: str, ttl: float | None) -> None:
        """Sets the session's `ttl`, which begins now; None: the session never expires."""
        self._entries.pop(session_id, None)
        if ttl is not None:
            entry = self._entries[session_id] = TtlEntry(session_id, directory, ttl)
            self._add_check(entry, entry.last_request_at + ttl)
            self._schedule()

    def discard(self, session_id: str, directory: str) -> None:
        """Discards a deleted session, but not another session that has its id by now."""
        if session_id in self._entries and self._entries[session_id].directory == directory:
            del self._entries[session_id]

    @contextmanager
    def hold(self, session_id: str) -> Iterator[None]:
        """Keeps a session while a request is under way; its `ttl` begins anew at the end."""
        self._open_requests[session_id] += 1
        try:
            yield
        finally:
            self._open_requests[session_id] -= 1
            if not self._open_requests[session_id]:
                del self._open_requests[session_id]
            if session_id in self._entries:
                self._entries[session_id].last_request_at = time.monotonic()

    def close(self) -> None:
        """Stops the timer: no session expires any more."""
        self._entries.clear()
        self._checks.clear()
        self._schedule()

    # ------------------------------------------------------------ the timer

    def _add_check(self, entry: TtlEntry, check_at: float) -> None:
        heapq.heappush(self._checks, (check_at, next(self._sequence), entry))
        if len(self._checks) > 2 * len(self._entries) + 64:
            self._checks = [check for check in self._checks if self._is_current(check[2])]
            heapq.heapify(self._checks)

    def _schedule(self) -> None:
        """Sets the timer for the next check, unless it is set already."""
        loop = asyncio.get_running_loop()
        next_at = self._checks[0][0] if self._checks else None
        if self._timer is not None:
            if self._timer.when() == next_at:
                return
            self._timer.cancel()
        self._timer = None if next_at is None else loop.call_at(next_at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now, expired = time.monotonic(), []
        while self._checks and self._checks[0][0] <= now:
            entry = heapq.heappop(self._checks)[2]
            if not self._is_current(entry):
                continue
            due_at = self._due_at(entry, now)
            if due_at > now:
                self._add_check(entry, due_at)
            else:
                del self._entries[entry.session_id]
                expired.append(entry)
        self._schedule()
        if expired:
            self._on_expired(expired)

    def _due_at(self, entry: TtlEntry, now: float) -> float:
        """Returns when the entry expires: at least one more `ttl` from now if it is in use."""
        idle_since = self._idle_since(entry)
        if idle_since is None or entry.session_id in self._open_requests:
            return now + max(entry.ttl, MIN_RECHECK_INTERVAL)
        return max(entry.last_request_at, idle_since) + entry.ttl

    def _is_current(self, entry: TtlEntry) -> bool:
        return self._entries.get(entry.session_id) is entry
