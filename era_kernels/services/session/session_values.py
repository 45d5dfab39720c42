"""Holds a session's present values, in memory and in its row, and why it ended."""

from __future__ import annotations

import dataclasses
from typing import Any

from era_kernels.errors import EraError
from era_kernels.models import EndReason, Session
from era_kernels.storage.sessions import SessionStore


class SessionValues:
    """A session's values, in memory and in its row; in memory only if not `is_stored`."""

    def __init__(self, session: Session, store: SessionStore, *, is_stored: bool = True) -> None:
        self.session = session
        self.is_stored = is_stored
        # The reason of the session's end, and the error that callers get from then on.
        self.closed_with: tuple[EndReason, EraError] | None = None
        self._store = store

    @property
    def is_deleted(self) -> bool:
        return self.closed_with is not None and self.closed_with[0] is not EndReason.STOPPED

    def close(self, reason: EndReason, closed_error: EraError) -> tuple[EndReason, EraError]:
        """Notes that the session ends; returns how it ended first, with the error for callers."""
        self.closed_with = self.closed_with or (reason, closed_error)
        return self.closed_with

    def check_open(self) -> None:
        """Raises the error that callers get once the session has ended."""
        if self.closed_with is not None:
            raise self.closed_with[1]

    async def update(self, **changes: Any) -> None:
        """Changes fields; they are durable when this returns.

        Raises SessionNotFound, StorageFailed.
        """
        if self.is_stored:
            await self._store.update(self.session, **changes)
        self.session = dataclasses.replace(self.session, **changes)

    def update_soon(self, **changes: Any) -> None:
        """Changes fields, and does not wait until they are durable."""
        if self.is_stored:
            self._store.update_soon(self.session, **changes)
        self.session = dataclasses.replace(self.session, **changes)
