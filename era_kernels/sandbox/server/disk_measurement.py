"""Measures what one session takes of the disk, in small steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator

from era_kernels.safe_fs.usage import running_totals
from era_kernels.sandbox.server.disk_reserve import ReserveBreach
from era_kernels.sandbox.server.nameless_files import NamelessFiles
from era_kernels.sandbox.server.process_tree import ProcStat
from era_kernels.sandbox.server.session_disk import MAX_EXCESS_AT_START, SessionDisk

MAX_STOP_SECONDS = 0.5  # seconds after which it is measured although some do not stand still
# Seconds after which a session that stands still goes on for so many: others wait for its answers.
MAX_STILL_SECONDS = 2.0
PAUSE_SECONDS = 0.2


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

        `breach` ends a session that has grown just now, even within its bounds.
        """
        self.session = session
        self.is_still = is_still
        self.is_pausing = False  # it goes on for a moment in the middle of its measurement
        self.is_for_reserve = breach is not None
        self.excess: str | None = None  # the cause of the end of the session
        self.is_unsure = False  # it has grown, but that may have been long ago
        self._find_processes = find_processes
        self._taken = taken
        self._breach = breach
        self._seconds = 0.0
        self._still_until = 0.0  # `time.monotonic`
        self._steps = self._measure()

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
            self.session.stopped.resume()
        else:
            self.session.stopped.forget()

    def _measure(self) -> Generator[None]:
        is_first = self.session.measured is None
        processes: list[ProcStat] = []
        if self.is_still:
            processes = yield from self._stop()
        elif not is_first:  # else its code has just begun: what it has written counts as grown
            processes = self._find_code()
        self.session.begin_measurement(self._taken(), is_still=self.is_still)
        began = self._seconds
        nameless = NamelessFiles()
        pids = [one.pid for one in processes]
        workspace = self.session.quotas[0]
        for _ in nameless.find(pids, self.session.devices, workspace.max_bytes):
            yield from self._step()
        total, headroom = 0, self.session.allowed(workspace)
        is_start = is_first and self.session.hardly_wrote
        for quota in self.session.quotas:
            most = self.session.allowed(quota) + is_start * MAX_EXCESS_AT_START
            size = nameless.total if quota is workspace else 0
            for found in running_totals(*quota.roots):
                size = found + (nameless.total if quota is workspace else 0)
                if size > most:
                    break
                yield from self._step()
            if quota is workspace:
                size = self.session.with_hidden(size, is_all=nameless.is_all)
            if is_start:
                self.session.note_start(quota, size)
            if size > self.session.allowed(quota):
                self.excess = quota.excess_message
                return
            total, headroom = total + size, min(headroom, self.session.allowed(quota) - size)
        self.session.end_measurement(total, headroom, self._seconds - began)
        self._judge_growth(is_first=is_first)

    def _step(self) -> Generator[None]:
        """Ends a step; has the session go on for a moment when it has stood still for long."""
        yield
        if not self.is_still or time.monotonic() < self._still_until:
            return
        self.session.stopped.resume()
        self.is_pausing = True
        limit = time.monotonic() + PAUSE_SECONDS
        while time.monotonic() < limit:
            yield
        self.is_pausing = False
        yield from self._stop()

    def _stop(self) -> Generator[None, None, list[ProcStat]]:
        """Stops the processes of the session; returns those that were there in the end."""
        began = time.monotonic()
        self._still_until = began + MAX_STILL_SECONDS
        processes = self._find_code()
        while (
            not self.session.stopped.stop(processes) and time.monotonic() < began + MAX_STOP_SECONDS
        ):
            yield
            processes = self._find_code()
        return processes

    def _find_code(self) -> list[ProcStat]:
        # The init is the server's own: it goes on, and holds no files.
        return [one for one in self._find_processes() if one.pid != self.session.init]

    def _judge_growth(self, *, is_first: bool) -> None:
        if self._breach is None:
            return
        sure, unsure = self.session.growth.found_lately()
        if sure >= self._breach.min_growth:
            self.excess = self._breach.message
        else:
            self.is_unsure = is_first or unsure >= self._breach.min_growth
