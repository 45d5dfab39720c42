"""Holds a session's present values, as in its row, and why it ended."""

from __future__ import annotations

import dataclasses

from era_kernels.errors import EraError
from era_kernels.models import EndReason, JsonObject, Session
from era_kernels.services.validation import check_json_size
from era_kernels.storage.sessions import SessionStore


class SessionState:
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

    def check_open(self) -> None:
        """Raises the error that callers get once the session has ended."""
        if self.closed_with is not None:
            raise self.closed_with[1]

    async def update(self, **changes: object) -> None:
        """Changes fields; they are durable when this returns.

        Raises SessionNotFound, StorageFailed.
        """
        if self.is_stored:
            await self._store.update(self.session, **changes)
        self.session = dataclasses.replace(self.session, **changes)  # type: ignore[arg-type]

    async def update_data(self, data: JsonObject) -> None:
        """Replaces the session's data. Raises as `update` does, and TooLarge."""
        await check_json_size(data, "data")
        await self.update(data=data)

    def update_soon(self, **changes: object) -> None:
        """Changes fields, and does not wait until they are durable."""
        if self.is_stored:
            self._store.update_soon(self.session, **changes)
        self.session = dataclasses.replace(self.session, **changes)  # type: ignore[arg-type]
