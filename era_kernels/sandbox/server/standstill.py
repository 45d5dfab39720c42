"""Has a session stand still while it is measured, and go on for moments where that takes long."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator

from era_kernels.sandbox.server.process_tree import ProcStat
from era_kernels.sandbox.server.session_disk import SessionDisk

MAX_STOP_SECONDS = 0.5  # seconds after which it is measured although some do not stand still
# Seconds after which a session that stands still goes on for so many: others wait for its answers.
MAX_STILL_SECONDS = 2.0
PAUSE_SECONDS = 0.2


class Standstill:
    """One session in one measurement."""

    def __init__(
        self, session: SessionDisk, find_processes: Callable[[], Collection[ProcStat]]
    ) -> None:
        """`find_processes` returns those of the session, its init as well."""
        self.goes_on = True  # for moments
        self.is_pausing = False  # it goes on for a moment now
        self.went_on = False  # since `begin`
        self.has_unseen = False  # since then: some that no list shows did not stand still
        self._session = session
        self._find_processes = find_processes
        self._still_until = 0.0  # `time.monotonic`

    def begin(self) -> None:
        """Forgets what was before."""
        self.went_on = self.has_unseen = False

    def stop(self) -> Generator[None, None, list[ProcStat]]:
        """Stops the processes in steps; returns those that were there in the end."""
        self._still_until = time.monotonic() + MAX_STILL_SECONDS
        still = yield from self._session.stopped.stand_still(
            self, self._find_processes, MAX_STOP_SECONDS
        )
        self.has_unseen |= still.has_unseen
        return still.processes

    def go_on_for_a_moment(self) -> Generator[None]:
        """Has the session go on when it has stood still for long, and stops it again, in steps."""
        if self.goes_on and time.monotonic() >= self._still_until:
            self.went_on = True
            yield from self.pause()
            yield from self.stop()

    def pause(self) -> Generator[None]:
        """Has the session go on for a moment, in steps."""
        self._session.stopped.resume(self)
        self.is_pausing = True
        limit = time.monotonic() + PAUSE_SECONDS
        while time.monotonic() < limit:
            yield
        self.is_pausing = False

    def find_code(self) -> list[ProcStat]:
        """Returns the processes, which go on."""
        return self._without_init(self._find_processes())

    def _without_init(self, processes: Collection[ProcStat]) -> list[ProcStat]:
        # The init is the server's own: it goes on, and holds no files.
        return [one for one in processes if one.pid != self._session.init]
