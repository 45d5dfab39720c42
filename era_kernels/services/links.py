"""Makes, finds and revokes links, and ends what is under way by a link that is revoked."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from era_kernels.errors import LinkExpired, LinkNotFound, SessionNotFound
from era_kernels.models import Link, LinkTarget, now
from era_kernels.services.sessions import SessionService
from era_kernels.services.validation import check_writable_path
from era_kernels.storage.files import validate_path
from era_kernels.storage.links import LinkStore

SECRET_BYTES = 32  # of randomness
# The first letter tells what the link opens: a file or a port.
FILE_SECRET = re.compile(r"f[A-Za-z0-9_-]{43}")
PORT_SECRET = re.compile(r"p[A-Za-z0-9_-]{43}")


class LinkService:
    """Makes links and finds them by their secrets, which are stored nowhere."""

    def __init__(self, sessions: SessionService, store: LinkStore) -> None:
        self._sessions = sessions
        self._store = store
        # What ends a request that is under way, by the link that it came by.
        self._open: dict[str, dict[object, Callable[[], object]]] = {}
        self._revocation_count = 0

    async def create(self, session_id: str, target: LinkTarget, ttl: float) -> tuple[Link, str]:
        """Makes a link that expires in `ttl` seconds; returns it with its secret.

        Raises SessionNotFound, InvalidPath, AtCapacity, InsufficientStorage.
        """
        if target.path is not None:
            check = check_writable_path if target.method == "PUT" else validate_path
            check(target.path)
        session = await self._sessions.session(session_id)
        kind = "f" if target.port is None else "p"
        secret = kind + secrets.token_urlsafe(SECRET_BYTES)
        created_at = now()
        link = Link(
            id=f"link-{secrets.token_hex(8)}",
            session_id=session_id,
            directory=session.directory,
            created_at=created_at,
            expires_at=created_at + timedelta(seconds=ttl),
            target=target,
        )
        await self._store.create(link, _digest(secret))
        return link, secret

    async def list_links(self, session_id: str) -> list[Link]:
        """Returns the links that have not expired, oldest first. Raises SessionNotFound."""
        session = await self._sessions.session(session_id)
        return await self._store.list_links(session.directory)

    async def delete(self, session_id: str, link_id: str) -> None:
        """Revokes a link, and ends the requests that came by it.

        Raises SessionNotFound, LinkNotFound.
        """
        session = await self._sessions.session(session_id)
        if not await self._store.delete(session.directory, link_id):
            raise LinkNotFound(f"The session has no link {link_id}.", id=link_id)
        self._revocation_count += 1
        for close in tuple(self._open.pop(link_id, {}).values()):
            close()

    async def find(self, secret: str) -> Link:
        """Returns the link that has this secret. Raises LinkNotFound, LinkExpired.

        It is looked up by the secret's digest, so that the time this takes tells nothing of it. A
        caller who calls `watch` before it waits for anything else misses no revocation.
        """
        while True:
            revocation_count = self._revocation_count
            link = await self._store.find(_digest(secret))
            if link is None:
                raise unknown_link()
            if link.expires_at <= now():
                raise LinkExpired("The time of this link is over.", hint="Ask for a new one.")
            await self.check(link)
            # A row that was read before a revocation must not be used after it.
            if revocation_count == self._revocation_count:
                return link

    async def check(self, link: Link) -> None:
        """Raises LinkNotFound where another session has the id by now, or none."""
        try:
            session = await self._sessions.session(link.session_id)
        except SessionNotFound:
            raise unknown_link() from None
        if session.directory != link.directory:
            raise unknown_link()

    @contextmanager
    def watch(
        self, link: Link, close: Callable[[], object], *, ends_at_expiry: bool
    ) -> Iterator[None]:
        """Has `close` called when the link is revoked, or has expired, while this is open."""
        key, timer = object(), None
        if ends_at_expiry:
            left = (link.expires_at - now()).total_seconds()
            timer = asyncio.get_running_loop().call_later(left, close)
        self._open.setdefault(link.id, {})[key] = close
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
            watched = self._open.get(link.id, {})
            watched.pop(key, None)
            if not watched:
                self._open.pop(link.id, None)


def unknown_link() -> LinkNotFound:
    """Returns the error for a secret that no link has."""
    return LinkNotFound(
        "There is no such link.", hint="It may have been revoked, or its session deleted."
    )


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
