"""Opens the sockets on which the server listens to the code of one sandbox.

With a network namespace the init makes a TCP socket on its loopback, which nobody else can reach.
Else it is a unix socket beside the sandbox's runtime directory: its code can connect to it, and
neither remove nor replace it. Others might find its name (in /proc/net/unix), so each connection
is asked for its process. There the server listens for the kernel, too: where all sessions have one
uid, a socket that a kernel has bound is open to whoever finds its name, and stays open without a
name to those who have opened its path (O_PATH).
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import quote

from era_kernels.errors import KernelStartFailed
from era_kernels.models import SessionListener
from era_kernels.sandbox.server.control_channel import ChannelClosed, ChannelError, ControlChannel
from era_kernels.sandbox.server.process_tree import read_stat
from era_kernels.sandbox.server.unix_sockets import refuse_descriptors

BACKLOG = 1024  # connections that wait to be accepted
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED
_MAX_DEPTH = 1000  # of parents from a process to its init
_SO_PEERPIDFD = 77  # unix(7), since Linux 6.5; Python has no name for it


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
    try:
        listening = _listen_at(path, gid)
    except OSError as error:
        raise _not_listening(str(error.strerror)) from error
    url = f"http+unix://{quote(os.fspath(path), safe='')}"
    return SessionListener(listening, url, partial(is_from_sandbox, init_pid))


class ChannelListeners:
    """Listens for one kernel, at a path for each of its channels, and accepts nobody else.

    A channel's socket is closed and its path removed as soon as the kernel has connected: from then
    on nobody can, whatever name or descriptor they have of it.
    """

    def __init__(self, paths: Mapping[str, Path], gid: int | None, init_pid: int) -> None:
        """`paths` are by channel, in a directory of the server; `gid` as above. Raises OSError."""
        self._init_pid = init_pid
        self._paths = dict(paths)
        self._listening: dict[str, socket.socket] = {}
        try:
            for channel, path in paths.items():
                self._listening[channel] = _listen_at(path, gid)
        except OSError:
            self.close()
            raise

    async def accept(self, channel: str) -> socket.socket:
        """Returns the kernel's connection, which does not block, when it has come.

        Raises OSError: ConnectionAbortedError after `close`.
        """
        loop = asyncio.get_running_loop()
        while (listening := self._listening.get(channel)) is not None:
            connection, _ = await loop.sock_accept(listening)
            if is_from_sandbox(self._init_pid, connection):
                self._close(channel)
                return connection
            connection.close()
            await asyncio.sleep(0)  # others' connections may come without end
        raise ConnectionAbortedError(errno.ECONNABORTED, "its sandbox has ended")

    def close(self) -> None:
        """Listens no more. Can be called again."""
        for channel in tuple(self._listening):
            self._close(channel)

    def _close(self, channel: str) -> None:
        listening = self._listening.pop(channel)
        with suppress(RuntimeError):  # there is no loop where none of them could be made
            asyncio.get_running_loop().remove_reader(listening)
        listening.close()
        self._paths[channel].unlink(missing_ok=True)


def _listen_at(path: Path, gid: int | None) -> socket.socket:
    """Returns a socket that does not block, and takes no descriptors where Linux can refuse them.

    Nothing is left of it when this raises OSError.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listening.bind(os.fspath(path))
    except OSError:
        listening.close()
        raise
    try:
        if gid is not None:
            os.chown(path, -1, gid)
        path.chmod(0o600 if gid is None else 0o660)
        refuse_descriptors(listening)
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        path.unlink(missing_ok=True)
        raise
    return listening


def is_from_sandbox(init_pid: int, connection: socket.socket) -> bool:
    """Returns whether the process that connected lives, and descends from the init.

    Orphans become children of the init, so the parents of each of its processes lead to it. A pid
    may be another process's by now; the descriptor that Linux has of the peer (since 6.5) tells.
    """
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, _, _ = _CREDENTIALS.unpack(credentials)
    return _descends_from(init_pid, pid) and not _has_peer_ended(connection)


def _has_peer_ended(connection: socket.socket) -> bool:
    """Returns whether the process that connected is known to have ended."""
    try:
        pidfd = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        return error.errno != errno.ENOPROTOOPT  # else this Linux does not know the option
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(0))
    finally:
        os.close(pidfd)


def _descends_from(init_pid: int, pid: int) -> bool:
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
