"""Connects to one socket of a kernel by ZMTP, read by the event loop's callbacks.

A connection is read only while its messages are wanted: while it is paused, they wait at its other
end, in the kernel's own memory. So at most one message is held here, whatever a kernel sends.
(libzmq counts messages and not bytes, reconnects to whatever has the name by then, and reads ahead
in its own thread; 20 000 small messages cost it 0.3 s of processor, here 0.1 s.)
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from era_kernels.kernels import zmtp
from era_kernels.kernels.receive_budget import ReceiveBudget
from era_kernels.kernels.socket_writer import SocketWriter

TURN_BYTES = 1024 * 1024  # bytes that may be read from one socket in one turn
TURN_SECONDS = 0.001  # seconds that one turn may take, in slices
# Seconds of a slice; between two the loop runs other callbacks. An HTTP request takes some thirty
# steps of the loop, each of which may wait for a slice.
SLICE_SECONDS = 0.0003
READ_BYTES = 256 * 1024  # bytes that are read at once
BACKOFF_SECONDS = 0.008  # seconds after a turn in which the socket is not read

MAX_UNSENT_BYTES = 1024 * 1024  # bytes that may wait to be sent when one more message is added

PROTOCOL_VIOLATION = "the kernel broke the protocol"
CONNECTION_CLOSED = "the kernel closed its connection"
NOT_READING = "the kernel does not read what it is sent"
MESSAGE_STALLED = "the kernel does not finish what it sends"

OnMultipart = Callable[[zmtp.Multipart], None]


class ChannelConnection:
    """Connects to one socket of a kernel and passes each message to `on_multipart`.

    Nothing is read while it is paused. Messages that are sent before the kernel is ready wait for
    it. `on_lost` is called at most once, with the reason as text, when nothing can come any more.
    """

    def __init__(
        self,
        socket_type: zmtp.SocketType,
        identity: bytes,
        on_multipart: OnMultipart,
        on_lost: Callable[[str], None],
        max_message_bytes: int | None = None,
        receive_budget: ReceiveBudget | None = None,
    ) -> None:
        """`max_message_bytes` bounds one message; all kernels share `receive_budget`."""
        self._loop = asyncio.get_running_loop()
        self._socket_type = socket_type
        self._on_multipart = on_multipart
        self._on_lost = on_lost
        self._receive_budget = receive_budget or ReceiveBudget()
        self._decoder = zmtp.Decoder(max_message_bytes or zmtp.MAX_MESSAGE_BYTES)
        self.received_bytes = 0
        self._socket: socket.socket | None = None
        self._writer = SocketWriter()
        self._greeting = zmtp.greeting() + zmtp.ready(socket_type, identity)
        self._unsent: list[bytes] | None = []  # sent when the kernel is ready
        self._is_closed = False
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._is_decoding_paused = False
        self._has_reader = False
        self._is_turn_scheduled = False
        self._turn_bytes_left, self._turn_seconds_spent = TURN_BYTES, 0.0

    @property
    def is_paused(self) -> bool:
        """True while messages are not wanted, or wait until the last one is unpacked."""
        return not self._is_closed and (self._is_decoding_paused or not self._resumed.is_set())

    @property
    def is_closed(self) -> bool:
        """True when everything was received, and nothing more will come."""
        return self._is_closed

    def open(self, sock: socket.socket) -> None:
        """Takes the connected socket and greets the kernel."""
        self._socket = sock
        self._writer.open(sock)
        self._writer.write([self._greeting])
        self._update_reader()

    def send(self, parts: list[bytes]) -> None:
        """Sends a message, now or as soon as the kernel takes it.

        One message of any size may wait, more while at most MAX_UNSENT_BYTES wait. Past that the
        connection fails: the kernel reads nothing.
        """
        pieces = zmtp.message(parts)
        if self._is_closed:
            return
        if self._unsent is not None:
            self._unsent += pieces
        elif self._writer.pending_bytes > MAX_UNSENT_BYTES:
            self._fail(NOT_READING)
        else:
            self._writer.write(pieces)

    def pause(self) -> None:
        """Stops reading: messages wait in the kernel."""
        self._resumed.clear()
        self._update_reader()

    def resume(self) -> None:
        """Reads again after `pause`."""
        if not self._resumed.is_set():
            self._resumed.set()
            self._schedule_turn()

    async def wait_until_resumed(self) -> None:
        """Waits while it is paused, and lets other tasks run in any case."""
        await asyncio.sleep(0)
        await self._resumed.wait()

    def pause_decoding(self) -> None:
        """Stops reading until the last message is unpacked; independent of `pause`."""
        self._is_decoding_paused = True
        self._update_reader()

    def resume_decoding(self) -> None:
        """Reads again after `pause_decoding`."""
        self._is_decoding_paused = False
        self._schedule_turn()

    def close(self) -> None:
        """Closes the connection: nothing is received or sent any more. Can be called again."""
        self._is_closed = True
        self._unsent = []
        self._decoder = zmtp.Decoder()  # the old one may hold a large part of a message
        self._receive_budget.release(self)
        self._update_reader()
        self._writer.close()
        if self._socket is not None:
            self._socket.close()

    # ------------------------------------------------------------ reading

    @property
    def _is_reading(self) -> bool:
        return self._resumed.is_set() and not self._is_decoding_paused and not self._is_closed

    def _update_reader(self) -> None:
        """Adds or removes the loop's callback for data to read, as is needed now."""
        needs_reader = self._is_reading and not self._is_turn_scheduled and self._socket is not None
        if needs_reader != self._has_reader and self._socket is not None:
            self._has_reader = needs_reader
            if needs_reader:
                self._loop.add_reader(self._socket.fileno(), self._read_slice)
            else:
                self._loop.remove_reader(self._socket.fileno())

    def _schedule_turn(self) -> None:
        """Schedules a turn of reading: there may be messages that arrived before a pause."""
        if not self._is_turn_scheduled and self._is_reading and self._socket is not None:
            self._is_turn_scheduled = True
            self._loop.call_soon(self._run_turn)

    def _run_turn(self) -> None:
        self._is_turn_scheduled = False
        self._read_slice()
        self._update_reader()

    def _read_slice(self) -> None:
        started_at = self._loop.time()
        bytes_left, slice_end = self._turn_bytes_left, started_at + SLICE_SECONDS
        try:
            while self._is_reading and bytes_left > 0:
                item = self._decoder.next()
                if item is not None:
                    self._dispatch(item)
                    if self._loop.time() > slice_end:
                        break
                    continue
                if not self._receive_budget.may_read(self):
                    bytes_left = 0
                elif (data := self._recv_available()) is None:
                    self._turn_bytes_left, self._turn_seconds_spent = TURN_BYTES, 0.0
                    return
                else:
                    bytes_left -= len(data)
                    self.received_bytes += len(data)
                    self._decoder.feed(data)
        except zmtp.ProtocolError as problem:
            self._fail(f"{PROTOCOL_VIOLATION}: {problem}")
        finally:
            self._receive_budget.update(self, self._decoder.buffered_bytes, self._on_evicted)
        if self._is_reading:
            self._schedule_next_slice(bytes_left, self._loop.time() - started_at)

    def _schedule_next_slice(self, bytes_left: int, seconds: float) -> None:
        """Reads on in the next slice of this turn, or when the turn is over in the next turn."""
        self._is_turn_scheduled = True
        self._update_reader()
        self._turn_bytes_left = bytes_left
        self._turn_seconds_spent += seconds
        if bytes_left > 0 and self._turn_seconds_spent < TURN_SECONDS:
            self._loop.call_soon(self._run_turn)
        else:
            self._turn_bytes_left, self._turn_seconds_spent = TURN_BYTES, 0.0
            self._loop.call_later(BACKOFF_SECONDS, self._run_turn)

    def _recv_available(self) -> bytes | None:
        """Returns the data that is there now; None when there is none yet, or never will be."""
        assert self._socket is not None
        try:
            data = self._socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:  # the kernel closed it with data of ours unread
            data = b""
        if not data:
            self._fail(CONNECTION_CLOSED)
        return data or None

    def _dispatch(self, item: zmtp.Multipart | zmtp.ZmtpCommand) -> None:
        if isinstance(item, zmtp.ZmtpCommand):
            self._on_command(item)
        elif self._unsent is not None:
            raise zmtp.ProtocolError("a message came before READY")
        else:
            self._receive_budget.release(self)
            self._on_multipart(item)

    def _on_command(self, command: zmtp.ZmtpCommand) -> None:
        if command.name == b"READY" and self._unsent is not None:
            zmtp.check_ready(self._socket_type, command.data)
            assert self._decoder.version is not None
            unsent, self._unsent = self._unsent, None
            if self._socket_type == "SUB":
                self._writer.write([zmtp.subscription(self._decoder.version)])
            self._writer.write(unsent)
        elif command.name == b"ERROR":
            raise zmtp.ProtocolError("it answered with an error")
        elif self._unsent is not None:
            raise zmtp.ProtocolError("a command came before READY")
        elif command.name == b"PING" and not self._writer.pending_bytes:
            self._writer.write([zmtp.pong(command.data)])

    def _on_evicted(self) -> None:
        self._fail(MESSAGE_STALLED)

    def _fail(self, reason: str) -> None:
        if not self._is_closed:
            self.close()
            self._on_lost(reason)
