"""Opens the sockets on which the server listens to the code of one sandbox.

With a network namespace the init makes a TCP socket on its loopback, which nobody else can reach.
Else it is a unix socket beside the sandbox's runtime directory: its code can connect to it, and
neither remove nor replace it. Others might find its name (in /proc/net/unix), so each connection
is asked for its process.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from functools import partial
from pathlib import Path
from urllib.parse import quote

from era_kernels.errors import KernelStartFailed
from era_kernels.models import SessionListener
from era_kernels.sandbox.server.control_channel import ChannelClosed, ChannelError, ControlChannel
from era_kernels.sandbox.server.process_tree import read_stat

BACKLOG = 1024  # connections that wait to be accepted
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED
_MAX_DEPTH = 1000  # of parents from a process to its init


async def listen_in_namespace(control: ControlChannel, port: int) -> SessionListener:
    """Has the init listen on 127.0.0.1:`port` of its namespace; 0 is any free port.

    Raises KernelStartFailed when the port is taken or the init is gone.
    """
    try:
        reply, descriptors = await control.request_descriptors({"op": "listen", "port": port})
    except ChannelClosed:
        raise _not_listening("its sandbox has ended") from None
    except ChannelError as error:
        raise _not_listening(str(error)) from error
    if "error" in reply:
        raise _not_listening(reply["error"])
    if not descriptors:  # this process may open no more, so that the system dropped it
        raise _not_listening(os.strerror(errno.EMFILE))
    listening = socket.socket(fileno=descriptors.pop())
    return SessionListener(listening, f"http://127.0.0.1:{reply['port']}")


def listen_on_unix_socket(path: Path, gid: int | None, init_pid: int) -> SessionListener:
    """Listens on a unix socket at `path`, in a directory of the server, in some microseconds.

    `gid` is the session's own group, where it has one: the socket's owner stays the server, so that
    code cannot change its mode. Raises KernelStartFailed.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listening.bind(os.fspath(path))
        if gid is not None:
            os.chown(path, -1, gid)
        path.chmod(0o600 if gid is None else 0o660)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        path.unlink(missing_ok=True)
        raise _not_listening(str(error.strerror)) from error
    url = f"http+unix://{quote(os.fspath(path), safe='')}"
    return SessionListener(listening, url, partial(_is_from_sandbox, init_pid))


def _is_from_sandbox(init_pid: int, connection: socket.socket) -> bool:
    """Returns whether the process that connected descends from the init.

    Orphans become children of the init, so the parents of each of its processes lead to it.
    """
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, _, _ = _CREDENTIALS.unpack(credentials)
    for _ in range(_MAX_DEPTH):
        if pid == init_pid:
            return True
        process = read_stat(pid) if pid > 1 else None
        if process is None:
            return False
        pid = process.parent_pid
    return False


def _not_listening(why: str) -> KernelStartFailed:
    return KernelStartFailed(f"The sandbox's storage cannot be served: {why}.")
