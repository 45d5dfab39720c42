"""Keeps free space on the disk of the server: the session that takes it fastest is ended."""

from __future__ import annotations

from collections.abc import Collection

from era_kernels.models import format_size
from era_kernels.sandbox.server.disk_session import MIB, SessionDisk
from era_kernels.sandbox.server.disk_space import DiskSpace

MAX_DEFAULT = 1024 * MIB  # bytes that are kept free when no setting says more or less
DEFAULT_PERCENT = 5  # of the disk: the same, if that is less
PAUSE = 0.25  # seconds until the next session is chosen: those that end give room back
REPEAT_PAUSE = 2.0  # seconds until the same session is chosen again


def default_reserve(total: int) -> int:
    """Returns the bytes to keep free of a disk of `total` bytes."""
    return min(MAX_DEFAULT, total * DEFAULT_PERCENT // 100)


class DiskReserve:
    """The free space that sessions must leave to the server."""

    def __init__(self, max_bytes: int | None = None) -> None:
        """Takes the bytes, 0 for none; None for what `default_reserve` says of the disk."""
        self._bytes = max_bytes
        self._next_choice = 0.0
        self._chosen: dict[SessionDisk, float] = {}  # and when

    def find_fastest(
        self, space: DiskSpace, sessions: Collection[SessionDisk], now: float
    ) -> tuple[SessionDisk, str] | None:
        """Returns the session that takes the most of a disk that is nearly full, and the cause.

        None while there is room, and when nobody takes much. `now`: `time.monotonic`.
        """
        for file_system in space.file_systems.values():
            reserve = self._bytes
            if reserve is None:
                reserve = default_reserve(file_system.total)
            if file_system.free >= reserve or now < self._next_choice:
                continue
            least = max(MIB // 16, min(MIB, reserve // 16))
            chosen = {one: at for one, at in self._chosen.items() if one in sessions}
            self._chosen = {one: at for one, at in chosen.items() if now < at + REPEAT_PAUSE}
            growing = [
                one
                for one in sessions
                if file_system.device == one.workspace_device
                and one.growth.recent >= least
                and one not in self._chosen
            ]
            if growing:
                fastest = max(growing, key=lambda one: one.growth.recent)
                self._next_choice, self._chosen[fastest] = now + PAUSE, now
                return fastest, _describe(reserve)
        return None


def _describe(reserve: int) -> str:
    return (
        f"disk nearly full: less than {format_size(reserve)} of the server's disk was free "
        "(disk_reserve), and this session took the most"
    )
