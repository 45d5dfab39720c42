"""Lets many short tasks go on in small groups, so that other work gets the loop in between."""

from __future__ import annotations

import asyncio
import time
from collections import deque

GROUP_SIZE = 2  # turns that are given out in one round of the loop
# For how many times as long as a group took the loop is left to others. What its tasks cause (the
# next requests of the same clients) takes as long again or more: all of it gets a quarter or so.
# It is the processor's time that counts: on a busy machine, a group may wait for it long.
REST = 8


class Turns:
    """Gives out turns while something else wants the loop: one owner after the other.

    Of one owner, they come in the order of the requests. Who asks for many, or has them take long,
    so makes others wait for one group of its own at a time.

    Without turns, tasks that become ready together all run in one round of the loop, and
    everything else waits for all of them, in each of its own rounds. With them a small group gets
    its turn, and then the loop is left to others for a while.
    """

    members: set[object]  # who takes turns, which the callers keep: all others want the loop, too

    def __init__(self, group_size: int = GROUP_SIZE, caution: float = 1.0) -> None:
        """`caution` is for how many seconds something else counts as there after it was seen."""
        self.members = set()
        self._group_size = group_size
        self._caution = caution
        self._careful_until = 0.0  # in the loop's time
        # By owner, in the order in which these have their turns. None of the queues is empty.
        self._waiting: dict[object, deque[asyncio.Future[None]]] = {}
        self._is_active = False

    def take(self, *, is_alone: bool, owner: object = None) -> asyncio.Future[None] | None:
        """Returns what to wait for until it is the caller's turn; None: it is at once.

        `owner` can be hashed; `is_alone` is whether the caller knows of nothing else that wants the
        loop.
        """
        loop = asyncio.get_running_loop()
        if not is_alone:
            self._careful_until = loop.time() + self._caution
        if not self._is_active:
            if loop.time() >= self._careful_until:
                return None
            self._is_active = True
            loop.call_soon(self._begin_group)
        turn = loop.create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        return turn

    def _begin_group(self) -> None:
        loop = asyncio.get_running_loop()
        left = self._group_size
        while self._waiting and left:
            owner = next(iter(self._waiting))
            queue = self._waiting.pop(owner)
            turn = queue.popleft()
            if queue:
                self._waiting[owner] = queue  # behind the others
            if not turn.done():  # else its task was cancelled
                turn.set_result(None)
                left -= 1
        # The tasks of the group are ahead of this call in the loop's next round.
        loop.call_soon(self._end_group, time.thread_time())

    def _end_group(self, began_at: float) -> None:
        loop = asyncio.get_running_loop()
        if self._waiting:
            loop.call_later(REST * (time.thread_time() - began_at), self._begin_group)
        else:
            self._is_active = False
