"""Connects to unix sockets of a session, in a directory where its code can put any file.

Code that sends the server a descriptor would keep a file by it that no process of its session has,
so that nobody counts it: until the message is read, which may be never where the server is busy.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from contextlib import suppress
from pathlib import Path

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED
_SO_PASSRIGHTS = 83  # asm-generic/socket.h, since Linux 6.16; Python has no name for it


def can_refuse_descriptors() -> bool:
    """Returns whether this Linux can have a unix socket refuse descriptors."""
    with socket.socket(socket.AF_UNIX) as any_socket:
        try:
            any_socket.getsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS)
        except OSError:
            return False
    return True


def refuse_descriptors(one: socket.socket) -> None:
    """Has whoever sends a descriptor get EPERM, as far as this Linux can do that.

    It holds for the connections of a listening socket, too, before they are accepted.
    """
    with suppress(OSError):  # ENOPROTOOPT: `can_refuse_descriptors` tells
        one.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)


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
            refuse_descriptors(connection)
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
