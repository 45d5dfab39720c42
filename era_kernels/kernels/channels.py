"""Holds the connections to the sockets of one kernel, and unpacks what comes by them.

A kernel binds its sockets once, and a connection that is lost means the kernel's end.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import secrets
from collections.abc import Callable, Coroutine
from typing import Any

from era_kernels.concurrency.cooperative import Stepwise, run_cooperatively
from era_kernels.json_incremental import LARGE_BYTES, estimate_size, free_stepwise
from era_kernels.kernels import zmtp
from era_kernels.kernels.channel_connection import PROTOCOL_VIOLATION, ChannelConnection
from era_kernels.kernels.long_texts import split_long_text
from era_kernels.kernels.receive_budget import ReceiveBudget
from era_kernels.kernels.socket_connector import AcceptChannel, ConnectPort, SocketConnector
from era_kernels.kernels.wire_protocol import (
    ConnectionInfo,
    InvalidMessage,
    Message,
    MessageCodec,
    is_slow_to_unpack,
)
from era_kernels.models import JsonObject

log = logging.getLogger(__name__)

MAX_STDIN_BYTES = 1024 * 1024  # bytes of a message on stdin, where only small ones make sense
MAX_CONTROL_BYTES = 4 * 1024 * 1024  # bytes of a reply on control: stacks, variables are bounded

NOT_ITS_SOCKETS = "something else lies in the place of its sockets"
NOT_REACHED = "the kernel's sockets cannot be reached"

# What an attempt to connect fails with when something else lies in the place of a socket.
_NOT_ITS_SOCKET = (errno.ENOTSOCK, errno.EACCES, errno.EPROTOTYPE)

OnMessage = Callable[[Message], None]


class KernelChannels:
    """Holds the four connections of one kernel; drops and counts messages that make no sense.

    Shell, control and stdin have one identity, by which a kernel knows whom to ask for input.
    `on_connection_lost` is called with the reason as text when a connection cannot be used any
    more. The others are left open: a process that ends closes one after the other, iopub last.
    """

    def __init__(
        self,
        connection_info: ConnectionInfo,
        on_shell: OnMessage,
        on_iopub: OnMessage,
        on_control: OnMessage,
        on_stdin: OnMessage,
        on_connection_lost: Callable[[str], None],
        receive_budget: ReceiveBudget | None = None,
        connect_port: ConnectPort | None = None,
        accept_channel: AcceptChannel | None = None,
    ) -> None:
        """`connect_port` is for a kernel with TCP ports, `accept_channel` for one that connects."""
        self._codec = MessageCodec(connection_info.key)
        self._on_connection_lost = on_connection_lost
        self._receive_budget = receive_budget or ReceiveBudget()
        self.fault_count = 0
        self.dropped_count = 0
        self._tasks: set[asyncio.Task[None]] = set()
        identity = secrets.token_hex(16).encode()
        self.iopub = self._make_channel("SUB", identity, on_iopub)
        self.shell = self._make_channel("DEALER", identity, on_shell)
        self.control = self._make_channel("DEALER", identity, on_control, MAX_CONTROL_BYTES)
        self.stdin = self._make_channel("DEALER", identity, on_stdin, MAX_STDIN_BYTES)
        self._all = (self.iopub, self.shell, self.control, self.stdin)
        named = zip(("iopub", "shell", "control", "stdin"), self._all, strict=True)
        on_connected = {name: channel.open for name, channel in named}
        self._connector = SocketConnector(
            connection_info, connect_port, on_connected, self._on_connect_error, accept_channel
        )

    def request(
        self,
        channel: ChannelConnection,
        msg_type: str,
        content: JsonObject,
        metadata: JsonObject | None = None,
    ) -> str:
        """Sends a request, a long one soon; returns its id, which names it as a parent."""
        if estimate_size(content) > LARGE_BYTES:
            request_id, steps = self._codec.pack_stepwise(msg_type, content, metadata)
            self._start(_send_stepwise(channel, steps))
            return request_id
        request_id, parts = self._codec.pack(msg_type, content, metadata)
        channel.send(parts)
        return request_id

    def close(self) -> None:
        """Closes all connections. Can be called again."""
        self._connector.close()
        for task in self._tasks:
            task.cancel()
        for channel in self._all:
            channel.close()

    def count_dropped(self, reason: str) -> None:
        """Counts a message that makes no sense. The 1st, 2nd, 4th, 8th … are logged."""
        self.dropped_count += 1
        if _is_power_of_two(self.dropped_count):
            extra = {"count": self.dropped_count, "why": reason}
            log.warning("messages of a kernel dropped", extra=extra)

    def count_fault(self, why: str) -> None:
        """Counts a failure of the kernel's own code, which code can feign; logs as many."""
        self.fault_count += 1
        if _is_power_of_two(self.fault_count):
            extra = {"count": self.fault_count, "why": why}
            log.error("a kernel failed in its own code", extra=extra)

    def _on_connect_error(self, error: OSError) -> None:
        log.warning("a kernel's socket is none", extra={"why": str(error)})
        if error.errno in _NOT_ITS_SOCKET:
            self._report_lost(f"{PROTOCOL_VIOLATION}: {NOT_ITS_SOCKETS}")
        else:
            self._report_lost(f"{NOT_REACHED}: {error.strerror}")

    def _make_channel(
        self,
        socket_type: zmtp.SocketType,
        identity: bytes,
        on_message: OnMessage,
        max_message_bytes: int | None = None,
    ) -> ChannelConnection:
        def on_multipart(parts: zmtp.Multipart) -> None:
            self._unpack(channel, on_message, parts)

        limits = (max_message_bytes, self._receive_budget)
        channel = ChannelConnection(socket_type, identity, on_multipart, self._report_lost, *limits)
        return channel

    def _unpack(
        self, channel: ChannelConnection, on_message: OnMessage, parts: zmtp.Multipart
    ) -> None:
        if is_slow_to_unpack(parts):
            channel.pause_decoding()
            self._start(self._unpack_stepwise(channel, on_message, parts))
            return
        try:
            on_message(self._codec.unpack(parts))
        except InvalidMessage as problem:
            self.count_dropped(str(problem))

    async def _unpack_stepwise(
        self, channel: ChannelConnection, on_message: OnMessage, parts: zmtp.Multipart
    ) -> None:
        """Unpacks in small steps: a message of 60 MB would stop all else for half a second."""
        try:
            async with self._receive_budget.unpacking(parts) as holding:
                message = await run_cooperatively(self._codec.unpack_stepwise(parts))
                del parts
                holding.set(message.size)
                for part in split_long_text(message):
                    await channel.wait_until_resumed()
                    on_message(part)
                held = [message.content]
                del message, part
                await run_cooperatively(free_stepwise(held))
        except InvalidMessage as problem:
            self.count_dropped(str(problem))
        finally:
            channel.resume_decoding()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _report_lost(self, reason: str) -> None:
        # Called later: never from within the constructor or a call to this object.
        asyncio.get_running_loop().call_soon(self._on_connection_lost, reason)


async def _send_stepwise(channel: ChannelConnection, steps: Stepwise[list[bytes]]) -> None:
    channel.send(await run_cooperatively(steps))


def _is_power_of_two(count: int) -> bool:
    return count & (count - 1) == 0
