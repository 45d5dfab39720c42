"""What is known of a session: its present values, as in its row, and whether it has ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from era_kernels.errors import EraError
from era_kernels.models import JsonObject, Reason, Session
from era_kernels.services.rules import check_size
from era_kernels.storage.sessions import SessionStore


class Record:
    """A session's values, in memory and in its row; not `stored`: in memory only."""

    def __init__(self, session: Session, store: SessionStore, *, stored: bool = True) -> None:
        self.session = session
        self.stored = stored
        self.end: tuple[Reason, EraError] | None = None  # why it ended, what callers are told
        self._store = store

    @property
    def deleted(self) -> bool:
        return self.end is not None and self.end[0] is not Reason.STOPPED

    def check_open(self) -> None:
        """Raises what callers are told of the session's end."""
        if self.end is not None:
            raise self.end[1]

    async def change(self, **changes: object) -> None:
        """Change fields; durable when it returns. Raises SessionNotFound, StorageFailed."""
        if self.stored:
            await self._store.update(self.session, **changes)
        self.session = dataclasses.replace(self.session, **changes)  # type: ignore[arg-type]

    async def change_data(self, data: JsonObject) -> None:
        """Raises TooLarge besides."""
        check_size(data, "data")
        await self.change(data=data)

    def note(self, **changes: object) -> None:
        """Like `change`, but nothing waits for it."""
        if self.stored:
            self._store.update_soon(self.session, **changes)
        self.session = dataclasses.replace(self.session, **changes)  # type: ignore[arg-type]

    def environment(self, base_url: str) -> Mapping[str, str]:
        """The variables that code of this session sees and callers cannot override."""
        return {
            "ERA_SESSION": "true",
            "ERA_SESSION_ID": self.session.id,
            "ERA_LANGUAGE": self.session.language,
            "ERA_BASE_URL": base_url,
            "ERA_PROXY_URL": f"{base_url}/proxy/{self.session.id}",
        }
