"""Reads and replaces the code stored with a session, which runs without `code` execute."""

from __future__ import annotations

from era_kernels.errors import InvalidRequest, NotFound
from era_kernels.services.sessions import SessionService
from era_kernels.services.validation import check_json_size
from era_kernels.storage.stored_code import CodeStore, StoredCode


class StoredCodeService:
    """Finds and durably replaces the stored code of sessions."""

    def __init__(self, sessions: SessionService, store: CodeStore) -> None:
        self._sessions = sessions
        self._store = store

    async def get(self, session_id: str) -> StoredCode:
        """Returns the stored code. Raises SessionNotFound, and NotFound when none is stored."""
        stored = await self._find(session_id)
        if stored is None:
            raise NotFound(
                f"No code is stored in the session {session_id}.",
                hint=f"Store some with PUT /api/sessions/{session_id}/code and a body like "
                '{"code": "…"}.',
            )
        return stored

    async def put(self, session_id: str, code: str, description: str | None = None) -> StoredCode:
        """Replaces the stored code; without a description the old one stays.

        Raises SessionNotFound, TooLarge.
        """
        await check_json_size(description, "description")
        session = await self._sessions.session(session_id)
        return await self._store.put(session, code, description)

    async def get_text(self, session_id: str) -> str:
        """Returns the code for a run without `code`; the web layer asks before it submits one.

        Raises SessionNotFound, InvalidRequest.
        """
        stored = await self._find(session_id)
        if stored is None:
            raise InvalidRequest(
                "`code` is required: the request has none, and none is stored in the session.",
                details=[{"field": "code", "problem": "is required"}],
                hint=f"PUT /api/sessions/{session_id}/code stores what runs without `code` run.",
            )
        return stored.code

    async def find_text(self, session_id: str) -> str | None:
        """Returns the stored code, None when none is stored. Raises SessionNotFound."""
        stored = await self._find(session_id)
        return None if stored is None else stored.code

    async def has_code(self, session_id: str) -> bool:
        """Returns whether code is stored, however large. Raises SessionNotFound."""
        session = await self._sessions.session(session_id)
        return await self._store.exists(session.directory)

    async def _find(self, session_id: str) -> StoredCode | None:
        session = await self._sessions.session(session_id)
        return await self._store.find(session.directory)
