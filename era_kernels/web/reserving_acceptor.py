"""Accepts connections, and rests for a while when this process may open no more files."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit
from typing import Any

from era_kernels.concurrency.accepting import Acceptor

log = logging.getLogger(__name__)

REST_SECONDS = 1.0  # without accepting, after the system has refused a descriptor
LOG_SECONDS = 60.0  # between two lines about that
MAX_ACCEPTED = 128  # connections that are accepted before others have their turn
MAX_RESERVED = 64  # descriptors that connections leave to what is under way


class FileReserve:
    """Tells which connections use up the descriptors that sessions and requests in work need."""

    def __init__(self) -> None:
        limit, _ = getrlimit(RLIMIT_NOFILE)
        self._first = None if limit == RLIM_INFINITY else limit - min(MAX_RESERVED, limit // 8)
        self._logged_at = -LOG_SECONDS
        self._rest_count = 0

    def holds(self, connection: socket.socket) -> bool:
        """Returns whether a connection's descriptor is of the reserve: Linux gives the least."""
        return self._first is not None and connection.fileno() >= self._first

    def log_rest(self) -> None:
        """Notes that accepting rests, with a line of the log from time to time."""
        self._rest_count += 1
        if time.monotonic() - self._logged_at >= LOG_SECONDS:
            self._logged_at = time.monotonic()
            extra = {"rests": self._rest_count, "hint": "raise the limit (ulimit -n)"}
            log.warning("too many open files: connections must wait", extra=extra)


class ReservingAcceptor(Acceptor):
    """Rests, too, when a connection has used up a descriptor of the reserve."""

    def __init__(
        self,
        listener: socket.socket,
        on_connection: Callable[[socket.socket, Any], object],
        reserve: FileReserve,
    ) -> None:
        super().__init__(listener, self._handle, MAX_ACCEPTED, REST_SECONDS)
        self._handle_connection = on_connection
        self._reserve = reserve

    def rest(self) -> None:
        """Accepts nothing for a while."""
        self._reserve.log_rest()
        super().rest()

    def _handle(self, connection: socket.socket, address: Any) -> None:
        is_reserved = self._reserve.holds(connection)
        self._handle_connection(connection, address)
        if is_reserved:
            self.rest()
