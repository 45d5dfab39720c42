"""Sessions with a `ttl`: found out when nobody asked for them that long, by one timer for all."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

BREATH = 0.2  # seconds, at least, between two looks at a session that is in use


@dataclass(slots=True, eq=False)
class Watch:
    """A session whose time may run out; `asked_at` is a time of `time.monotonic`."""

    id: str
    directory: str
    ttl: float
    asked_at: float = field(default_factory=time.monotonic)


class Expiry:
    """Notes who is asked for, and hands over whose time is up.

    A session is looked at when its time may be up, and again later when it was used meanwhile: so
    a request costs no more than a note of its end. `quiet_since` tells since when no run is in a
    session, None while there is one. `expire` gets those whose time is up, which are not watched
    any more; it must not raise.
    """

    def __init__(
        self,
        quiet_since: Callable[[Watch], float | None],
        expire: Callable[[list[Watch]], None],
    ) -> None:
        self._quiet_since = quiet_since
        self._expire = expire
        self._watched: dict[str, Watch] = {}
        self._visits: Counter[str] = Counter()
        # When to look at whom, a heap; some of them are not watched any more.
        self._looks: list[tuple[float, int, Watch]] = []
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, id: str, directory: str, ttl: float | None) -> None:
        """From now on, or not at all, if `ttl` is None."""
        self._watched.pop(id, None)
        if ttl is not None:
            watch = self._watched[id] = Watch(id, directory, ttl)
            self._plan(watch, watch.asked_at + ttl)
            self._wind()

    def forget(self, id: str, directory: str) -> None:
        """It is gone; another one may have its id by now."""
        if id in self._watched and self._watched[id].directory == directory:
            del self._watched[id]

    @contextmanager
    def visit(self, id: str) -> Iterator[None]:
        """As long as a request is under way, its session stays; at its end, the time begins."""
        self._visits[id] += 1
        try:
            yield
        finally:
            self._visits[id] -= 1
            if not self._visits[id]:
                del self._visits[id]
            if id in self._watched:
                self._watched[id].asked_at = time.monotonic()

    def close(self) -> None:
        """Nothing expires any more."""
        self._watched.clear()
        self._looks.clear()
        self._wind()

    # ------------------------------------------------------------ the timer

    def _plan(self, watch: Watch, look_at: float) -> None:
        heapq.heappush(self._looks, (look_at, next(self._numbers), watch))
        if len(self._looks) > 2 * len(self._watched) + 64:
            self._looks = [look for look in self._looks if self._is_watched(look[2])]
            heapq.heapify(self._looks)

    def _wind(self) -> None:
        """Set the timer for the next look, unless it is."""
        loop = asyncio.get_running_loop()
        next_at = self._looks[0][0] if self._looks else None
        if self._timer is not None:
            if self._timer.when() == next_at:
                return
            self._timer.cancel()
        self._timer = None if next_at is None else loop.call_at(next_at, self._look)

    def _look(self) -> None:
        self._timer = None
        now, expired = time.monotonic(), []
        while self._looks and self._looks[0][0] <= now:
            watch = heapq.heappop(self._looks)[2]
            if not self._is_watched(watch):
                continue
            due_at = self._due_at(watch, now)
            if due_at > now:
                self._plan(watch, due_at)
            else:
                del self._watched[watch.id]
                expired.append(watch)
        self._wind()
        if expired:
            self._expire(expired)

    def _due_at(self, watch: Watch, now: float) -> float:
        """When its time is up. What is in use now cannot be due before another `ttl`."""
        quiet_since = self._quiet_since(watch)
        if quiet_since is None or watch.id in self._visits:
            return now + max(watch.ttl, BREATH)
        return max(watch.asked_at, quiet_since) + watch.ttl

    def _is_watched(self, watch: Watch) -> bool:
        return self._watched.get(watch.id) is watch
