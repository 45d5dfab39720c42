"""Keeps connections to the server: one for each thread, which a forked process does not share."""

from __future__ import annotations

import http.client
import os
import select
import socket
import threading
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

CONNECT_TIMEOUT = 10.0  # seconds
ANSWER_TIMEOUT = 600.0  # seconds between two pieces of an answer
_BLOCK_SIZE = 64 * 1024  # bytes of a file that are read and sent at once

_kept = threading.local()  # pid, url, connection: what this thread used last and may use again


class _Socket(socket.socket):
    """Closes without a ResourceWarning when its thread or its program ends."""

    def __del__(self) -> None:
        try:  # noqa: SIM105 - while the program ends, names of modules may be gone
            self.close()
        except (AttributeError, OSError, TypeError):
            pass  # it was never opened, or somebody else has closed its descriptor


class _TcpConnection(http.client.HTTPConnection):
    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port, blocksize=_BLOCK_SIZE)

    def connect(self) -> None:
        problem: OSError | None = None
        for family, kind, protocol, _, address in socket.getaddrinfo(
            self.host, self.port, 0, socket.SOCK_STREAM
        ):
            self.sock = _Socket(family, kind, protocol)
            try:
                self.sock.settimeout(CONNECT_TIMEOUT)
                self.sock.connect(address)
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.sock.settimeout(ANSWER_TIMEOUT)
                return
            except OSError as error:
                self.close()
                problem = error
        raise problem or OSError("the host has no address")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", blocksize=_BLOCK_SIZE)
        self._path = path

    def connect(self) -> None:
        self.sock = _Socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CONNECT_TIMEOUT)
        self.sock.connect(self._path)
        self.sock.settimeout(ANSWER_TIMEOUT)


def take(url: str) -> tuple[http.client.HTTPConnection, bool]:
    """Returns a connection to the server at `url`, and whether it has been used before.

    Nobody else has the connection until `keep` is called. Raises ValueError for a URL of another
    kind, and OSError.
    """
    kept = getattr(_kept, "value", None)
    _kept.value = None  # also a signal's handler may want one meanwhile
    if kept is not None:
        pid, kept_url, connection = kept
        # The parent goes on using the connection that a forked process has inherited.
        if pid == os.getpid() and kept_url == url and not _is_closed(connection):
            return connection, True
    connection = _new(urlsplit(url))
    connection.connect()
    return connection, False


def keep(url: str, connection: http.client.HTTPConnection) -> None:
    """Keeps a connection, whose answer was read to its end, for the next call of this thread."""
    if connection.sock is not None:
        _kept.value = os.getpid(), url, connection


def base_path(url: str) -> str:
    """Returns the path below which the API lies, without a slash at the end."""
    return urlsplit(url).path.rstrip("/")


def _new(parts: SplitResult) -> http.client.HTTPConnection:
    if parts.scheme == "http+unix":
        return _UnixConnection(unquote(parts.netloc))
    if parts.scheme == "http" and parts.hostname:
        return _TcpConnection(parts.hostname, parts.port or 80)
    if parts.scheme == "https" and parts.hostname:
        return http.client.HTTPSConnection(
            parts.hostname, parts.port or 443, timeout=ANSWER_TIMEOUT
        )
    raise ValueError("ERA_STORAGE_URL must begin with http://, https:// or http+unix://")


def _is_closed(connection: Any) -> bool:
    """Returns whether the server has closed a connection, or sent what nobody asked for."""
    if connection.sock is None:
        return True
    try:
        poll = select.poll()
        poll.register(connection.sock, select.POLLIN)
        return bool(poll.poll(0))
    except (OSError, ValueError):
        return True
