"""Connections to the unix sockets of a session, which lie where its code may put what it likes."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from pathlib import Path

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED


def connect(path: Path) -> socket.socket:
    """A connection to the socket at `path`, non-blocking in all it does; connected on return.

    The directory is the session's own, and belongs to the uid that its processes run as. What has
    the name in it must be a socket itself, no link to one, and listened on by that uid.
    Raises OSError: FileNotFoundError, ConnectionRefusedError and BlockingIOError when it may be
    there later; ENOTSOCK and EACCES when something else lies in its place.
    """
    path_fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(path_fd).st_mode):
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK), path.name)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            # The very socket that was looked at, whatever has its name by now.
            connection.connect(f"/proc/self/fd/{path_fd}")
            if _peer_uid(connection) != path.parent.stat().st_uid:
                raise PermissionError(errno.EACCES, "somebody else's socket", path.name)
        except BaseException:
            connection.close()
            raise
        return connection
    finally:
        os.close(path_fd)


def _peer_uid(connection: socket.socket) -> int:
    """Of the process that began to listen."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(credentials)
    return int(uid)
