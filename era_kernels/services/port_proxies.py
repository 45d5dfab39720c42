"""Connects callers to what code serves inside its session."""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from era_kernels.concurrency.single_flight import SingleFlight
from era_kernels.errors import (
    AtCapacity,
    BadGateway,
    Forbidden,
    GatewayTimeout,
    NotEnforceable,
    SessionNotFound,
)
from era_kernels.models import ListeningPort
from era_kernels.services.kernel_limiter import RETRY_AFTER_SECONDS
from era_kernels.services.public_cutoff import PublicCutoff
from era_kernels.services.sessions import SessionService

MAX_REQUESTS = 500
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
# Nobody can listen there: the address or its family is not there, or the session has just ended.
_NOBODY = (
    errno.ECONNREFUSED,
    errno.ECONNABORTED,
    errno.EAFNOSUPPORT,
    errno.EADDRNOTAVAIL,
    errno.ENETUNREACH,
)


SEARCH_INTERVAL = 1.0  # seconds between two searches among all sessions
_HOST_ID = re.compile(r"[a-z0-9-]{1,50}")


def host_label(session_id: str) -> str:
    """Returns the id as it stands in names of hosts, which have no capitals and few characters."""
    if _HOST_ID.fullmatch(session_id):
        return session_id
    digest = hashlib.sha256(session_id.encode()).digest()
    return base64.b32encode(digest).decode().lower()[:26]


class PortProxies:
    """Finds the programs of sessions that listen, and connects to them."""

    def __init__(
        self,
        sessions: SessionService,
        public_cutoff: PublicCutoff,
        max_requests: int = MAX_REQUESTS,
    ) -> None:
        """Takes how many requests may be under way together; one session has half of them."""
        self._sessions = sessions
        self._public_cutoff = public_cutoff
        self._max_requests = max_requests
        self._requests: Counter[str] = Counter()
        self._ids: dict[str, str] = {}  # by the label in the name of a host, where that is another
        self._search = SingleFlight(self._search_ids)
        self._searched_at = -SEARCH_INTERVAL

    @contextmanager
    def hold(
        self, session_id: str, close: Callable[[], object], *, has_token: bool
    ) -> Iterator[None]:
        """Counts a request to a session while the context is open. Raises AtCapacity.

        `close` is called when callers without a token may not go on with theirs.
        """
        is_full = self._requests.total() >= self._max_requests
        if is_full or self._requests[session_id] >= max(1, self._max_requests // 2):
            raise AtCapacity(
                "As many requests to what sessions serve are under way as this server passes on.",
                retry_after=RETRY_AFTER_SECONDS,
            )
        self._requests[session_id] += 1
        watched = self._public_cutoff.watch(session_id, close)
        try:
            with nullcontext() if has_token else watched:
                yield
        finally:
            self._requests[session_id] -= 1
            if not self._requests[session_id]:
                del self._requests[session_id]

    async def listening(self, session_id: str) -> list[ListeningPort]:
        """Returns the ports on which something listens in a session. Raises SessionNotFound."""
        async with self._sessions.borrow(session_id) as live:
            machine = live.session_machine.find()
            return [] if machine is None else await machine.ports.listening()

    async def find_id(self, label: str) -> str:
        """Returns the id of the session that has this label. Raises SessionNotFound."""
        try:
            return (await self._sessions.session(self._ids.get(label, label))).id
        except SessionNotFound:
            await self._search.run()
            if label not in self._ids:
                raise
            return self._ids[label]

    async def _search_ids(self) -> None:
        """Looks at all sessions, for all who wait: it is long where there are many."""
        await asyncio.sleep(self._searched_at + SEARCH_INTERVAL - time.monotonic())
        self._searched_at = time.monotonic()
        views, _ = await self._sessions.list_sessions()
        ids = [view.session.id for view in views]
        self._ids = {name: one for one in ids if (name := host_label(one)) != one}

    async def dial(self, session_id: str, port: int, *, has_token: bool) -> socket.socket | None:
        """Returns a connection to what listens on a port of a session, which the caller closes.

        None: nothing listens there. `has_token` is whether the caller has one of the API. Raises
        SessionNotFound, Forbidden, GatewayTimeout, BadGateway, AtCapacity, NotEnforceable.
        """
        async with self._sessions.borrow(session_id) as live:
            if not live.session.allow_public and not has_token:
                raise Forbidden(
                    "What this session serves is open to bearers of an API token only.",
                    hint="Send a token, or set the session's allowPublicAccess to true.",
                )
            machine = live.session_machine.find()
            if machine is None:
                return None
            with _domain_errors(port):
                try:
                    return await machine.ports.dial(port)
                except OSError as error:
                    if error.errno in _NOBODY:
                        return None
                    raise


@contextmanager
def _domain_errors(port: int) -> Iterator[None]:
    """Raises what became of a connection as an error of the API."""
    try:
        yield
    except TimeoutError as error:
        raise GatewayTimeout(
            f"The program that listens on port {port} does not accept connections.",
            hint="It is busy, or has stopped; look at the session's stack, or restart it.",
        ) from error
    except PermissionError as error:
        raise NotEnforceable(
            f"A program outside the session listens on port {port}, and is not shown.",
            hint="Without a network of its own, a session shares the ports of its host.",
        ) from error
    except OSError as error:
        if error.errno in _NO_DESCRIPTORS:
            raise AtCapacity(
                "The server may open no more connections for now.",
                retry_after=RETRY_AFTER_SECONDS,
            ) from error
        raise BadGateway(f"The connection to port {port} failed: {error.strerror}.") from error
