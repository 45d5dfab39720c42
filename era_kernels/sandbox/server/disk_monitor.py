"""Bounds what sessions take of the disk: follows how fast it goes, and measures who may be past.

One thread looks at the disk some 20 to 40 times a second, which costs one system call. Only when
the disk shrinks, and once a second, it looks at the sessions' processes, if any of them did
anything; and only a session that may be past its bound by what it wrote is measured. It stands
still meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue

from era_kernels.models import MIB
from era_kernels.sandbox.server.disk_measurement import DiskMeasurement
from era_kernels.sandbox.server.disk_reserve import DiskReserve, ReserveBreach
from era_kernels.sandbox.server.disk_space import DiskSpace
from era_kernels.sandbox.server.process_tree import ProcessTree, ProcStat
from era_kernels.sandbox.server.session_disk import MEASUREMENTS_PER_CHANGE, SessionDisk

log = logging.getLogger(__name__)

FASTEST = 0.005  # seconds between two looks at a disk that shrinks and is nearly full
FAST, SLOW = 0.025, 0.05  # seconds between two looks at the disk, while it shrinks and at rest
REST_LOOK = 1.0  # seconds between two looks at the sessions when nothing shrinks
LOOK_FACTOR = 4  # a look at the sessions follows after so many times as long as the last one took
MIN_GATE = MIB // 16  # bytes: the same, when it is nearly full
MAX_GATE = 64 * MIB  # bytes: the sessions are looked at whenever the disk has shrunk by so much
STILL_BUDGET = 0.01  # seconds of measuring between two looks, while a session stands still
REST_BUDGET = 0.005  # the same, where sessions go on
REST_FACTOR = 100  # at rest nothing is measured for so many times as long as the measuring took
HASTE = 10  # so much less nice than the server is the thread that watches
WRITTEN_FACTOR = 4  # the same, for a session that writes although the disk does not shrink


class DiskMonitor:
    """Watches the disk of all sessions, in a thread of its own."""

    def __init__(self, reserve: DiskReserve | None = None) -> None:
        """Takes the free space that sessions must leave, None for none."""
        self.space = DiskSpace()
        self._reserve = reserve or DiskReserve(0)
        self._watched = _WatchedSessions()
        self._welcomed: Sequence[SessionDisk] = ()  # those of `_watched` whose disks are known
        self._growths = _Growths()
        self._measured_tree = ProcessTree()  # looks between those that `have_rested` goes by
        self._measurements: dict[SessionDisk, DiskMeasurement] = {}
        self._next_look, self._earliest_look = math.inf, 0.0  # `time.monotonic`
        self._taken_at_look = 0
        self._gate = MIB  # bytes of the disk after which the sessions are looked at
        self._worker: _Worker | None = None

    def add(self, session: SessionDisk, on_exceeded: Callable[[str], None]) -> None:
        """Watches a session until it is discarded; calls `on_exceeded` when it is to end."""
        loop = asyncio.get_running_loop()
        self._watched.add(session, partial(_report, loop, on_exceeded))
        if self._worker is None:
            self._worker = _Worker(self.tick)
        self._worker.wake()

    def discard(self, session: SessionDisk) -> None:
        """Stops watching a session; its measurement is closed at once. An unknown one is fine."""
        self._watched.discard(session)
        if self._worker is not None and session in self._measurements:
            self._worker.wake()

    async def aclose(self) -> None:
        """Stops the thread, closes all measurements; a second call is fine."""
        self._watched.clear()
        if self._worker is not None:
            await asyncio.to_thread(self._worker.close)
        self._drop_discarded(())

    # ------------------------------------------------------------ in the thread

    def tick(self) -> float | None:
        """Looks once; returns the seconds until the next look, None for none (blocking)."""
        sessions = self._watched.sessions
        if sessions is not self._welcomed:
            self._update(sessions)
        if not sessions:
            self._next_look = math.inf
            return None
        now = time.monotonic()
        taken = self.space.look()
        shrunk = self.space.taken - self._taken_at_look
        if not shrunk and now < self._next_look and not self._measurements:
            return SLOW
        is_near = self._reserve.is_near(self.space, sessions)
        gate = min(self._gate, MIN_GATE) if is_near else self._gate
        is_due = shrunk >= gate and now >= self._earliest_look
        if now >= self._next_look or is_due:
            self._look_at_sessions(sessions, shrunk, now)
            ended = time.monotonic()
            self._next_look = ended + REST_LOOK
            self._earliest_look = ended + LOOK_FACTOR * (ended - now)
        if self._measurements:
            self._advance()
        if any(one.is_still and not one.is_pausing for one in self._measurements.values()):
            return 0.0
        if taken and is_near:
            return FASTEST
        return FAST if taken >= MIN_GATE or self._measurements else SLOW

    def _update(self, sessions: Sequence[SessionDisk]) -> None:
        """Begins to watch new sessions, and drops the measurements of those that are gone."""
        self._drop_discarded(sessions)
        for session in sessions:
            if not session.devices:
                self._welcome(session)
        if all(session.devices for session in sessions):
            self._welcomed = sessions

    def _welcome(self, session: SessionDisk) -> None:
        directories = [root for quota in session.quotas for root in quota.roots]
        session.devices = self.space.add(directories)
        session.workspace_device = next(iter(self.space.add(session.quotas[0].roots)), 0)
        self.space.look()
        session.begin_measurement(self.space.taken, is_still=True)  # no code has run yet
        if self.space.may_fill_soon(session.devices):
            session.pending_measurements -= 1
            self._begin(session)
        self._next_look = min(self._next_look, time.monotonic() + REST_LOOK)

    def _look_at_sessions(self, sessions: Sequence[SessionDisk], shrunk: int, now: float) -> None:
        """Adds up what each may have written, and measures those that may be past a bound."""
        self._taken_at_look = self.space.taken
        for session, grown in self._growths.find(sessions, shrunk).items():
            session.growth.add(grown or 0, session.stopped.running_time(now))
            session.growth.was_active |= grown is not None
            if grown or (session.growth.was_active and shrunk):
                session.pending_measurements = MEASUREMENTS_PER_CHANGE
        for session in sorted(sessions, key=lambda one: -one.growth.recent):
            self._judge(session, now)
        self._keep_reserve(sessions, now)
        self._gate = max(
            MIB, min(MAX_GATE, *((one.max_growth - one.grown) // 4 for one in sessions))
        )

    def _judge(self, session: SessionDisk, now: float) -> None:
        """Begins to measure a session if that is due."""
        running = self._measurements.get(session)
        is_suspect = session.grown >= session.max_growth
        taken = session.taken_since_measurement(self.space.taken)
        is_still = session.growth.is_unseen(session.max_growth, self.space.taken)
        # What others write, into pipes or over what is there, seems to explain what this one takes
        # by processes that nobody has seen.
        is_doubtful = is_suspect or (session.growth.was_active and taken >= session.max_growth)
        if running is not None and (running.is_still or not is_still):
            return
        seconds = 0.0 if session.measured is None else session.measured.seconds
        rested = now - session.next_measurement + REST_FACTOR * seconds
        if is_still or (is_doubtful and rested >= WRITTEN_FACTOR * seconds):
            self._begin(session, is_still=is_still)
        elif session.pending_measurements and now >= session.next_measurement:
            session.pending_measurements -= 1
            self._begin(session)

    def _keep_reserve(self, sessions: Collection[SessionDisk], now: float) -> None:
        found = self._reserve.find_fastest(self.space, sessions, now)
        if found is not None:
            session, breach = found
            running = self._measurements.get(session)
            if running is None or not running.is_for_reserve:
                self._begin(session, is_still=True, breach=breach)
        taker = self._reserve.find_taker(sessions, now)
        if taker is not None:
            self._end_taker(*taker)

    def _begin(
        self, session: SessionDisk, *, is_still: bool = False, breach: ReserveBreach | None = None
    ) -> None:
        running = self._measurements.pop(session, None)
        if running is not None:
            running.close()
        self._measurements[session] = DiskMeasurement(
            session,
            partial(self._find_processes, session),
            lambda: self.space.taken,
            is_still=is_still,
            breach=breach,
        )

    def _find_processes(self, session: SessionDisk) -> Collection[ProcStat]:
        inits = [one.init for one in self._watched.sessions]
        return self._measured_tree.by_init({*inits, session.init}, is_fresh=True)[session.init]

    def _advance(self) -> None:
        """Goes on with all measurements, those of sessions that stand still in the first place."""
        still = [one for one in self._measurements.values() if one.is_still]
        running = still or list(self._measurements.values())
        budget = STILL_BUDGET if still else REST_BUDGET
        for measurement in running:
            if not measurement.advance(budget / len(running)):
                continue
            session = measurement.session
            measurement.close()
            del self._measurements[session]
            if measurement.excess is not None:
                end = self._end_taker if measurement.is_for_reserve else self._end
                end(session, measurement.excess)
                continue
            if measurement.is_for_reserve:
                self._reserve.note_measured(session, is_unsure=measurement.is_unsure)
            if session.measured is not None:
                rest = REST_FACTOR * session.measured.seconds
                session.next_measurement = time.monotonic() + rest

    def _end_taker(self, session: SessionDisk, why: str) -> None:
        """Ends who took the most of a disk that is nearly full.

        What the others took before that ends none of them: it is not what filled the disk.
        """
        self._end(session, why)
        for one in self._watched.sessions:
            one.growth.forget_lately()

    def _end(self, session: SessionDisk, why: str) -> None:
        report = self._watched.discard(session)
        if report is not None:
            report(why)

    def _drop_discarded(self, sessions: Collection[SessionDisk]) -> None:
        for session in self._measurements.keys() - set(sessions):
            self._measurements.pop(session).close()


class _Growths:
    """Finds by how much sessions may have grown from one look to the next."""

    def __init__(self) -> None:
        self._process_tree = ProcessTree()
        self._unseen = 0  # bytes that may be of processes which no list shows

    def find(self, sessions: Sequence[SessionDisk], shrunk: int) -> dict[SessionDisk, int | None]:
        """Returns the bytes by which each may have grown; None: it did nothing (blocking).

        `shrunk` is what the disk has lost. Nobody says what he wrote whose parent does not wait for
        him, and who hides it: all who did anything may have. While anybody forks none is sure to
        have done nothing, either: processes each of which forks the next and ends are in no list,
        and need leave no trace in those that are.
        """
        written = self._read_written(sessions)
        unexplained = max(0, shrunk - sum(one or 0 for one in written.values()))
        resting = None
        if self._process_tree.was_any_forked():
            self._unseen += unexplained
        if self._unseen >= MIB:  # less is what others write, beside an innocent's forks
            resting, self._unseen = self._unseen, 0
        return {one: resting if size is None else size + unexplained
                for one, size in written.items()}  # fmt: skip

    def _read_written(self, sessions: Sequence[SessionDisk]) -> dict[SessionDisk, int | None]:
        inits = [one.init for one in sessions]
        if self._process_tree.have_rested(inits):
            return dict.fromkeys(sessions)
        processes = self._process_tree.by_init(inits)
        return {one: one.growth.read_written(processes[one.init]) for one in sessions}


class _WatchedSessions:
    """Holds the sessions, and what to call when one is to end; any thread may change them."""

    def __init__(self) -> None:
        self.sessions: Sequence[SessionDisk] = ()  # another sequence after each change
        self._reports: dict[SessionDisk, Callable[[str], None]] = {}
        self._lock = threading.Lock()

    def add(self, session: SessionDisk, report: Callable[[str], None]) -> None:
        with self._lock:
            self._reports[session] = report
            self.sessions = tuple(self._reports)

    def discard(self, session: SessionDisk) -> Callable[[str], None] | None:
        """Returns what is to be called, None for an unknown one."""
        with self._lock:
            report = self._reports.pop(session, None)
            self.sessions = tuple(self._reports)
            return report

    def clear(self) -> None:
        with self._lock:
            self._reports.clear()
            self.sessions = ()


class _Worker:
    """The thread that calls `tick` as often as it asks for."""

    def __init__(self, tick: Callable[[], float | None]) -> None:
        self._tick = tick
        self._calls: SimpleQueue[None] = SimpleQueue()  # an Event would wait in Python code
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="era-disk", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Has it look now."""
        self._calls.put(None)

    def close(self) -> None:
        """Ends the thread (blocking); a second call is fine."""
        self._is_closed = True
        self._calls.put(None)
        self._thread.join()

    def _run(self) -> None:
        # Sessions that write are not to keep the processor from whom they are bounded by.
        with suppress(OSError):  # only root may
            mine = threading.get_native_id()
            niceness = os.getpriority(os.PRIO_PROCESS, mine)
            os.setpriority(os.PRIO_PROCESS, mine, niceness - HASTE)
        pause: float | None = 0.0
        while not self._is_closed:
            with suppress(Empty):
                self._calls.get(timeout=pause)
            try:
                pause = self._tick()
            except Exception:  # one look that fails must not be the last
                log.exception("a look at the disk failed")
                pause = REST_LOOK


def _report(loop: asyncio.AbstractEventLoop, on_exceeded: Callable[[str], None], why: str) -> None:
    with suppress(RuntimeError):  # the loop is closed, and so is the session
        loop.call_soon_threadsafe(on_exceeded, why)
