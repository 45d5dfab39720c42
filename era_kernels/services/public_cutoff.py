"""Ends the requests of callers without a token to a session that is public no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class PublicCutoff:
    """Knows the requests under way to what sessions serve that came without a token."""

    def __init__(self) -> None:
        self._open: dict[str, dict[object, Callable[[], object]]] = {}

    @contextmanager
    def watch(self, session_id: str, close: Callable[[], object]) -> Iterator[None]:
        """Has `close` called when the session is closed to the public in this context."""
        key = object()
        self._open.setdefault(session_id, {})[key] = close
        try:
            yield
        finally:
            watched = self._open.get(session_id, {})
            watched.pop(key, None)
            if not watched:
                self._open.pop(session_id, None)

    def close(self, session_id: str) -> None:
        """Ends all such requests to a session; there may be none."""
        for close in tuple(self._open.pop(session_id, {}).values()):
            close()
