"""Keeps free space on the disk of the server: the session that takes it fastest is ended."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from era_kernels.models import MIB, default_disk_reserve, format_size
from era_kernels.sandbox.server.disk_space import DiskSpace, FileSystem
from era_kernels.sandbox.server.session_disk import SessionDisk

NEAR = 2  # so many times the reserve is little
PAUSE = 0.25  # seconds until the next session is chosen: those that end give room back
REPEAT_PAUSE = 2.0  # seconds until the same session is chosen again


@dataclass(frozen=True, slots=True)
class ReserveBreach:
    """Ends a session with `message` if it is found to have grown by `min_growth` bytes or more."""

    message: str
    min_growth: int


class DiskReserve:
    """The free space that sessions must leave to the server."""

    def __init__(self, max_bytes: int | None = None) -> None:
        """Takes the bytes, 0 for none; None for what `default_disk_reserve` says."""
        self._bytes = max_bytes
        self._next_choice = 0.0
        self._chosen: dict[SessionDisk, float] = {}  # and when

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
        for file_system in space.file_systems.values():
            reserve = self._reserve_of(file_system)
            if file_system.free >= reserve or now < self._next_choice:
                continue
            breach = ReserveBreach(_describe(reserve), max(MIB // 16, min(MIB, reserve // 16)))
            chosen = {one: at for one, at in self._chosen.items() if one in sessions}
            self._chosen = {one: at for one, at in chosen.items() if now < at + REPEAT_PAUSE}
            growing = [
                one
                for one in sessions
                if file_system.device == one.workspace_device
                and one.growth.recent >= breach.min_growth
                and one not in self._chosen
            ]
            if growing:
                fastest = max(growing, key=lambda one: one.growth.recent)
                self._next_choice, self._chosen[fastest] = now + PAUSE, now
                return fastest, breach
        return None

    def choose_again(self, session: SessionDisk) -> None:
        """Lets a session be chosen again soon: the next measurement can be compared with this."""
        self._chosen.pop(session, None)


def _describe(reserve: int) -> str:
    return (
        f"disk nearly full: less than {format_size(reserve)} of the server's disk was free "
        "(disk_reserve), and this session took the most"
    )
