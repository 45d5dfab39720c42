"""Connects to unix sockets of a session, in a directory where its code can put any file."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from pathlib import Path

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED


def connect(path: Path) -> socket.socket:
    """Returns a connection to the socket at `path`, made without blocking; connected on return.

    The directory is the session's own, and belongs to the uid of its processes. The path must name
    a socket itself, not a link to one, on which that uid listens.
    Raises OSError: FileNotFoundError, ConnectionRefusedError and BlockingIOError when the socket
    may be ready later; ENOTSOCK and EACCES when the path names anything else.
    """
    path_fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(path_fd).st_mode):
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK), path.name)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            # The socket that was checked, also when its name is another file's by now.
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
    """Returns the uid of the process that called listen(2)."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(credentials)
    return int(uid)
