"""Keeps free space on the disk of the server: the session that takes it fastest is ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from era_kernels.models import MIB, default_disk_reserve, format_size
from era_kernels.sandbox.server.disk_space import DiskSpace, FileSystem
from era_kernels.sandbox.server.session_disk import Measured, SessionDisk

NEAR = 2  # so many times the reserve is little
PAUSE = 0.25  # seconds until the next session is chosen: those that end give room back
REPEAT_PAUSE = 2.0  # seconds until the same session is chosen again
SLOW_SHARE = 16  # so many of the slow are ended, one by one, until the reserve is used up
MIN_SLOW_GROWTH = MIB // 16  # bytes that one of them has taken at least


def _always(_session: SessionDisk, _grown: int) -> bool:
    return True


def _find_lately(session: SessionDisk) -> tuple[int, int]:
    return session.growth.found_lately()


@dataclass(frozen=True, slots=True)
class ReserveBreach:
    """Ends a session with `message` if it has grown by `min_growth` bytes, and the most of all.

    `is_most` is called with a session that has, and its bytes. `find_growth` returns by how many it
    has grown, of those that it has been measured to have, and how many more may be among these.
    """

    message: str
    min_growth: int
    is_most: Callable[[SessionDisk, int], bool] = _always
    find_growth: Callable[[SessionDisk], tuple[int, int]] = _find_lately


@dataclass(frozen=True, slots=True)
class _AtShortage:
    """What a session had when the disk became nearly full: its growth's total, a measurement."""

    total: int
    measured: Measured | None

    @classmethod
    def of(cls, session: SessionDisk) -> _AtShortage:
        return cls(session.growth.total, session.measured)


class DiskReserve:
    """The free space that sessions must leave to the server.

    Nobody says what some processes write, so that all who did anything may have. Hence who is found
    to have grown is ended only if nobody else may have grown by more, or less than half of the
    reserve is left: else the others are measured first.

    Many that are slow use the reserve up, too, or one with time. For each SLOW_SHARE of it that is
    gone while nobody is fast, the one is ended that has taken the most since the shortage began.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        """Takes the bytes, 0 for none; None for what `default_disk_reserve` says."""
        self._bytes = max_bytes
        self._next_choice = 0.0
        self._chosen: dict[SessionDisk, float] = {}  # and when
        self._unmeasured: set[SessionDisk] = set()  # of those that were chosen
        self._rivals: list[SessionDisk] = []  # that may have grown, and are to be chosen
        self._found: dict[SessionDisk, tuple[float, int]] = {}  # when, and by how much
        self._message = ""
        self._is_half_gone = False
        self._at_shortage: dict[SessionDisk, _AtShortage] = {}
        self._is_slow = False  # whether those that are chosen are slow
        self._next_slow_end: int | None = None  # free bytes at which the next of the slow is ended

    def is_near(self, space: DiskSpace, sessions: Collection[SessionDisk]) -> bool:
        """Returns whether little more than the reserve is left of a disk with workspaces."""
        near = [
            one.device
            for one in space.file_systems.values()
            if one.free < NEAR * self._reserve_of(one)
        ]
        return bool(near) and any(one.workspace_device in near for one in sessions)

    def _reserve_of(self, file_system: FileSystem) -> int:
        return default_disk_reserve(file_system.total) if self._bytes is None else self._bytes

    def find_fastest(
        self, space: DiskSpace, sessions: Collection[SessionDisk], now: float
    ) -> tuple[SessionDisk, ReserveBreach] | None:
        """Returns the session that seems to take the most of a disk that is nearly full.

        None while there is room, and when nobody takes much. `now`: `time.monotonic`.
        """
        file_systems = space.file_systems.values()
        full = [one for one in file_systems if one.free < self._reserve_of(one)]
        if not full:
            self._found.clear()
            self._at_shortage.clear()
            self._is_slow, self._next_slow_end = False, None
        self._is_half_gone = any(one.free < self._reserve_of(one) // 2 for one in full)
        for file_system in full:
            self._note_shortage(sessions)
            if now < self._next_choice:
                break
            chosen = {one: at for one, at in self._chosen.items() if one in sessions}
            self._chosen = {one: at for one, at in chosen.items() if now < at + REPEAT_PAUSE}
            there = [one for one in sessions if file_system.device == one.workspace_device]
            breach = self._find_rivals(file_system, there)
            if self._rivals:
                fastest = max(self._rivals, key=self._may_have_grown)
                self._next_choice, self._chosen[fastest] = now + PAUSE, now
                self._rivals.remove(fastest)
                self._unmeasured.add(fastest)
                return fastest, breach
        return None

    def _note_shortage(self, sessions: Collection[SessionDisk]) -> None:
        """Notes what each session has, the first time that it is there in a shortage."""
        self._at_shortage = {
            one: self._at_shortage.get(one) or _AtShortage.of(one) for one in sessions
        }

    def _find_rivals(
        self, file_system: FileSystem, sessions: Collection[SessionDisk]
    ) -> ReserveBreach:
        """Finds who may have grown, of the fast or else of the slow; returns what ends one."""
        reserve = self._reserve_of(file_system)
        self._message = _describe(reserve)
        breach = ReserveBreach(
            self._message, max(MIB // 16, min(MIB, reserve // 16)), self._is_most
        )
        self._is_slow = False
        self._rivals = self._may_have_grown_by(breach.min_growth, sessions)
        if self._next_slow_end is None:
            self._next_slow_end = file_system.free - reserve // SLOW_SHARE
        if self._rivals or file_system.free > self._next_slow_end:
            return breach
        self._is_slow = True
        self._rivals = self._may_have_grown_by(MIN_SLOW_GROWTH, sessions)
        if not (self._rivals or self._found or self._unmeasured):
            self._next_slow_end = None
        return replace(breach, min_growth=MIN_SLOW_GROWTH, find_growth=self._find_in_shortage)

    def _may_have_grown_by(self, size: int, sessions: Collection[SessionDisk]) -> list[SessionDisk]:
        return [
            one for one in sessions if self._may_have_grown(one) >= size and one not in self._chosen
        ]

    def _may_have_grown(self, session: SessionDisk) -> float:
        if not self._is_slow:
            return session.growth.recent
        then = self._at_shortage.get(session)
        return 0 if then is None else session.growth.total - then.total

    def _find_in_shortage(self, session: SessionDisk) -> tuple[int, int]:
        """Returns how many bytes more a measurement found than were there in the beginning.

        Where some may have been there already none counts; those that follow will.
        """
        then, now = self._at_shortage.get(session), session.measured
        if then is None or now is None:
            return 0, 0
        grown = 0
        if then.measured is not None:
            before = max(0, then.total - then.measured.grown)
            grown = now.total - then.measured.total - before
        if grown <= 0:
            self._at_shortage[session] = _AtShortage.of(session)
        return max(0, grown), 0

    def find_taker(
        self, sessions: Collection[SessionDisk], now: float
    ) -> tuple[SessionDisk, str] | None:
        """Returns who is to be ended of those that were found to have grown, and the cause.

        None while it is not known who of them has grown the most.
        """
        self._unmeasured &= set(sessions)
        self._rivals = [one for one in self._rivals if one in sessions]
        found = {one: it for one, it in self._found.items() if one in sessions}
        self._found = {one: it for one, it in found.items() if now < it[0] + REPEAT_PAUSE}
        if not self._found:
            return None
        most = max(self._found, key=lambda one: self._found[one][1])
        if not self._has_grown_most(most, self._found[most][1]):
            return None
        self._note_end()
        self._next_choice = now + PAUSE
        return most, self._message

    def note_measured(self, session: SessionDisk, *, is_unsure: bool) -> None:
        """Notes that a session that was chosen has been measured, and goes on.

        One of which it `is_unsure` how much it has grown is chosen again soon: the next measurement
        can be compared with this.
        """
        self._unmeasured.discard(session)
        if is_unsure:
            self._chosen.pop(session, None)
            self._rivals.append(session)
        else:
            self._next_choice = 0.0

    def _is_most(self, session: SessionDisk, grown: int) -> bool:
        self._found[session] = time.monotonic(), grown
        if self._has_grown_most(session, grown):
            self._note_end()
            return True
        return False

    def _note_end(self) -> None:
        self._found.clear()
        self._next_slow_end = None

    def _has_grown_most(self, session: SessionDisk, grown: int) -> bool:
        if any(it[1] > grown for it in self._found.values()):
            return False
        others = {*self._rivals, *self._unmeasured} - {session}
        is_urgent = self._is_half_gone and not self._is_slow
        return is_urgent or all(self._may_have_grown(one) <= grown for one in others)


def _describe(reserve: int) -> str:
    return (
        f"disk nearly full: less than {format_size(reserve)} of the server's disk was free "
        "(disk_reserve), and this session took the most"
    )
