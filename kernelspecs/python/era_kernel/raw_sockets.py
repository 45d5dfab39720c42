"""Sends and receives on libzmq's sockets, by the part of pyzmq that is compiled.

pyzmq's own Python code looks up builtins such as `isinstance` when it is called, and a program may
have replaced them.
"""

from __future__ import annotations

from collections.abc import Sequence

from zmq import EVENTS, FD, POLLIN, RCVMORE, SNDMORE
from zmq import Socket as ZmqSocket
from zmq.backend import Socket as BackendSocket

Socket = ZmqSocket[bytes]
Parts = list[bytes]

_send, _receive, _get = BackendSocket.send, BackendSocket.recv, BackendSocket.get
_POLLIN, _SNDMORE = int(POLLIN), int(SNDMORE)


def send_parts(socket: Socket, parts: Sequence[bytes], copy: bool = True) -> None:
    """Sends a message of several parts. Without `copy` large parts are sent from where they are."""
    for part in parts[:-1]:
        _send(socket, part, _SNDMORE, copy)
    _send(socket, parts[-1], 0, copy)


def receive_parts(socket: Socket) -> Parts:
    """Returns the parts of the next message; waits for one if there is none."""
    parts = [_receive(socket)]
    while _get(socket, RCVMORE):
        parts.append(_receive(socket))
    return parts


def has_message(socket: Socket) -> bool:
    """Returns whether a message can be received at once."""
    return bool(_get(socket, EVENTS) & _POLLIN)


def descriptor(socket: Socket) -> int:
    """Returns the descriptor that becomes readable when `has_message` may have changed."""
    return int(_get(socket, FD))
