"""Accepts connections, and rests for a while when this process may open no more files."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit
from typing import Any

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


class Acceptor:
    """Accepts the connections of a listening socket that does not block, until it is closed."""

    def __init__(
        self,
        listener: socket.socket,
        on_connection: Callable[[socket.socket, Any], object],
        reserve: FileReserve,
    ) -> None:
        self._listener = listener
        self._on_connection = on_connection
        self._reserve = reserve
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """Accepts no more; the listening socket stays open. A second call is fine."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        else:
            self._loop.remove_reader(self._listener)

    def _accept(self) -> None:
        for _ in range(MAX_ACCEPTED):
            if self._is_closed:
                return
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:  # it left while it waited
                continue
            except (
                OSError
            ):  # accept(2): EMFILE, ENFILE, ENOBUFS, ENOMEM, or an error of its network
                self._rest()
                return
            is_reserved = self._reserve.holds(connection)
            self._on_connection(connection, address)
            if is_reserved:
                self._rest()
                return

    def _rest(self) -> None:
        self._reserve.log_rest()
        if not self._is_closed:
            self._loop.remove_reader(self._listener)
            self._timer = self._loop.call_later(REST_SECONDS, self._resume)

    def _resume(self) -> None:
        self._timer = None
        self._loop.add_reader(self._listener, self._accept)
