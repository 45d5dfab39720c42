"""Measures what one session takes of the disk, in small steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator

from era_kernels.safe_fs.usage import running_totals
from era_kernels.sandbox.server.disk_reserve import ReserveBreach
from era_kernels.sandbox.server.nameless_files import NamelessFiles
from era_kernels.sandbox.server.process_tree import ProcStat
from era_kernels.sandbox.server.session_disk import MAX_EXCESS_AT_START, DiskQuota, SessionDisk
from era_kernels.sandbox.server.standstill import Standstill


class DiskMeasurement:
    """One measurement of a session, which stands still meanwhile if `is_still`.

    Callers call `advance` until it returns True, and in any case `close`.
    """

    def __init__(
        self,
        session: SessionDisk,
        find_processes: Callable[[], Collection[ProcStat]],
        taken: Callable[[], int],
        *,
        is_still: bool = False,
        breach: ReserveBreach | None = None,
    ) -> None:
        """`find_processes` returns those of the session, `taken` what anybody took of the disk.

        `breach` ends a session that has grown the most just now, even within its bounds.
        """
        self.session = session
        self.is_still = is_still
        self.is_for_reserve = breach is not None
        self.excess: str | None = None  # the cause of the end of the session
        self.is_unsure = False  # it has grown, but that may have been long ago
        self._standstill = Standstill(session, find_processes)
        # What is measured for the reserve is no proof where it went on meanwhile (`_measure_once`).
        self._standstill.goes_on = breach is None
        self._taken = taken
        self._breach = breach
        self._seconds = 0.0
        self._steps = self._measure()

    @property
    def is_pausing(self) -> bool:
        """True while the session goes on for a moment in the middle of its measurement."""
        return self._standstill.is_pausing

    def advance(self, budget: float) -> bool:
        """Measures for `budget` seconds; returns whether it has finished (blocking)."""
        began = time.monotonic()
        try:
            for _ in self._steps:
                if self.is_pausing or time.monotonic() - began > budget:
                    return False
            return True
        finally:
            self._seconds += time.monotonic() - began

    def close(self) -> None:
        """Closes what is open; a session that stands still goes on unless it is to end."""
        self._steps.close()
        if self.excess is None:
            self.session.stopped.resume(self._standstill)
        else:
            self.session.stopped.forget()

    def _measure(self) -> Generator[None]:
        if (yield from self._measure_once()):
            return
        self._standstill.goes_on = False
        yield from self._standstill.pause()
        yield from self._measure_once()

    def _measure_once(self) -> Generator[None, None, bool]:
        """Measures; returns False when that is to be done again, with all still from end to end.

        What is moved while the session goes on, a file or a descriptor, is found twice or nowhere.
        """
        standstill = self._standstill
        standstill.begin()
        is_first = self.session.measured is None
        processes: list[ProcStat] = []
        if self.is_still:
            processes = yield from standstill.stop()
        elif not is_first:  # else its code has just begun: what it has written counts as grown
            processes = standstill.find_code()
        grown = self.session.growth.total
        self.session.begin_measurement(self._taken(), is_still=self.is_still)
        began = self._seconds
        nameless = NamelessFiles()
        pids = [one.pid for one in processes]
        workspace = self.session.quotas[0]
        for _ in nameless.find(pids, self.session.devices, workspace.max_bytes):
            yield from self._step()
        nameless.hides_files |= standstill.has_unseen
        total, headroom = 0, self.session.allowed(workspace)
        is_start = is_first and self.session.hardly_wrote
        for quota in self.session.quotas:
            size = yield from self._size_of(quota, nameless, is_start=is_start)
            if size > self.session.allowed(quota):
                if standstill.went_on:
                    return False
                self.excess = quota.excess_message
                return True
            total, headroom = total + size, min(headroom, self.session.allowed(quota) - size)
        if standstill.went_on and (
            self._breach is not None or self.session.growth.has_used_headroom
        ):
            return False
        if self.is_still and not standstill.went_on:
            self.session.growth.note_certainty(grown, headroom)
        self.session.end_measurement(total, headroom, self._seconds - began)
        self._judge_growth(is_first=is_first)
        return True

    def _size_of(
        self, quota: DiskQuota, nameless: NamelessFiles, *, is_start: bool
    ) -> Generator[None, None, int]:
        """Returns the bytes of a quota's directories; of the workspace with files without a name.

        `is_start`: what is there when the session begins is noted.
        """
        is_workspace = quota is self.session.quotas[0]
        beside = nameless.total if is_workspace else 0
        most = self.session.allowed(quota) + is_start * MAX_EXCESS_AT_START
        size = beside
        for found in running_totals(*quota.roots):
            size = found + beside
            if size > most:
                break
            yield from self._step()
        if is_workspace:
            is_all = nameless.is_all and not self._standstill.went_on
            size = self.session.with_hidden(size, is_all=is_all)
        if is_start:
            self.session.note_start(quota, size)
        return size

    def _step(self) -> Generator[None]:
        yield
        if self.is_still:
            yield from self._standstill.go_on_for_a_moment()

    def _judge_growth(self, *, is_first: bool) -> None:
        if self._breach is None:
            return
        sure, unsure = self._breach.find_growth(self.session)
        if sure >= self._breach.min_growth:
            is_most = self._breach.is_most(self.session, sure)
            self.excess = self._breach.message if is_most else None
        else:
            self.is_unsure = is_first or unsure >= self._breach.min_growth
