"""The sockets to one kernel: our own ZMTP connections, read by the event loop's callbacks.

A connection is read only as far as somebody wants what comes: while it is paused, all waits at its
other end, in the kernel's own memory. So no more than one message a channel is held here, whatever
a kernel sends. (libzmq counts messages and not bytes, connects again to whatever has the name by
then, and reads ahead in a thread of its own; 20 000 small messages cost it 0.3 s of processor,
here 0.1 s.) A kernel binds its sockets once, and a connection that is lost means its end.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

from era_kernels.concurrency.cooperative import run_cooperatively
from era_kernels.kernels import zmtp
from era_kernels.kernels.outbox import Outbox
from era_kernels.kernels.unfinished import Unfinished
from era_kernels.kernels.wire import BrokenMessage, Connection, Message, Wire, is_long
from era_kernels.models import JsonObject
from era_kernels.sandbox import sockets

log = logging.getLogger(__name__)

TURN_BYTES = 1024 * 1024  # that one socket may hand over in one turn of the loop
TURN_SECONDS = 0.001  # that this may take, in slices between which others have their turn:
SLICE_SECONDS = 0.0003  # a request makes some thirty steps, and each may wait for a slice
CHUNK = 256 * 1024  # bytes that are read at once
BREATH = 0.008  # seconds after such a turn that belong to others

RETRY = 0.003  # seconds between two looks whether the kernel has bound a socket
UNSENT = 1024 * 1024  # bytes that may wait to be sent when one more message is added
SMALL_BYTES = 1024 * 1024  # of a message where only small ones make sense
CONTROL_BYTES = 4 * 1024 * 1024  # of an answer on control: stacks and variables are bounded

BROKEN = "the kernel broke the protocol"
LOST = "the kernel closed its connection"
DEAF = "the kernel does not read what it is sent"
STALLED = "the kernel does not finish what it sends"

Receive = Callable[[zmtp.Message], None]
Deliver = Callable[[Message], None]


class Channel:
    """One connection: what arrives goes to `receive`, message by message, unless it is paused.

    What is sent before the kernel is there waits for it. `broken` is called at most once, with the
    reason in words, when nothing can come any more.
    """

    def __init__(
        self,
        kind: zmtp.Kind,
        identity: bytes,
        receive: Receive,
        broken: Callable[[str], None],
        most: int | None = None,
        unfinished: Unfinished | None = None,
    ) -> None:
        """`most`: bytes of a message; `unfinished`: what of messages is here of all kernels."""
        self._loop = asyncio.get_running_loop()
        self._kind = kind
        self._receive = receive
        self._broken = broken
        self._unfinished = unfinished or Unfinished()
        self._decoder = zmtp.Decoder(zmtp.MESSAGE_BYTES if most is None else most)
        self.received = 0  # bytes
        self._socket: socket.socket | None = None
        self._outbox = Outbox()
        self._greeting = zmtp.greeting() + zmtp.ready(kind, identity)
        self._early: list[bytes] | None = []  # to be sent when the kernel is ready
        self._closed = False
        self._wanted = True
        self._held = False
        self._listening = False
        self._scheduled = False  # a turn of reading is due
        self._room, self._spent = TURN_BYTES, 0.0  # what is left of the turn, and what was spent

    @property
    def paused(self) -> bool:
        """What comes is not wanted, or has to wait for a message that still is unpacked."""
        return not self._closed and (self._held or not self._wanted)

    @property
    def closed(self) -> bool:
        """All that came before the end was received, and nothing more will come."""
        return self._closed

    def open(self, connection: socket.socket) -> None:
        """The kernel is there: greet it."""
        self._socket = connection
        self._outbox.open(connection)
        self._outbox.add([self._greeting])
        self._listen()

    def send(self, parts: list[bytes]) -> None:
        """Send a message, now or as soon as the kernel takes it.

        One of any size may wait, and others as long as little does; a kernel that reads nothing
        in spite of all is given up.
        """
        if self._closed:
            return
        pieces = zmtp.message(parts)
        if self._early is not None:
            self._early += pieces
        elif self._outbox.size > UNSENT:
            self._break(DEAF)
        else:
            self._outbox.add(pieces)

    def pause(self) -> None:
        """Leave what comes to the kernel."""
        self._wanted = False
        self._listen()

    def resume(self) -> None:
        if not self._wanted:
            self._wanted = True
            self._go_on()

    def hold(self) -> None:
        """Like a pause, of its own: until the last message is unpacked, none follows it."""
        self._held = True
        self._listen()

    def release(self) -> None:
        self._held = False
        self._go_on()

    def close(self) -> None:
        """Nothing comes and nothing is sent any more. A second call is nothing."""
        self._closed = True
        self._early = []
        self._decoder = zmtp.Decoder()  # what was here of a message may be a lot
        self._unfinished.release(self)
        self._listen()
        self._outbox.close()
        if self._socket is not None:
            self._socket.close()

    # ------------------------------------------------------------ reading

    @property
    def _reading(self) -> bool:
        return self._wanted and not self._held and not self._closed

    def _listen(self) -> None:
        """Be called when there is something to read, if it is to be read."""
        wanted = self._reading and not self._scheduled and self._socket is not None
        if wanted != self._listening and self._socket is not None:
            self._listening = wanted
            if wanted:
                self._loop.add_reader(self._socket, self._read)
            else:
                self._loop.remove_reader(self._socket)

    def _go_on(self) -> None:
        """There may be messages that arrived before a pause."""
        if not self._scheduled and self._reading and self._socket is not None:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        self._read()
        self._listen()

    def _read(self) -> None:
        began = self._loop.time()
        room, end = self._room, began + SLICE_SECONDS
        try:
            while self._reading and room > 0:
                found = self._decoder.next()
                if found is not None:
                    self._take(found)
                    if self._loop.time() > end:
                        break
                    continue
                data = self._received()
                if data is None:
                    self._room, self._spent = TURN_BYTES, 0.0
                    return
                room -= len(data)
                self.received += len(data)
                self._decoder.feed(data)
        except zmtp.ProtocolError as problem:
            self._break(f"{BROKEN}: {problem}")
        finally:
            self._unfinished.hold(self, self._decoder.held, self._stalled)
        if self._reading:
            self._go_on_later(room, self._loop.time() - began)

    def _go_on_later(self, room: int, seconds: float) -> None:
        """There may be more: in the next slice of this turn, or after it in the next turn."""
        self._scheduled = True
        self._listen()
        self._room, self._spent = room, self._spent + seconds
        if room > 0 and self._spent < TURN_SECONDS:
            self._loop.call_soon(self._turn)
        else:
            self._room, self._spent = TURN_BYTES, 0.0
            self._loop.call_later(BREATH, self._turn)

    def _received(self) -> bytes | None:
        """What is there now; None when that is nothing, or nothing will be any more."""
        assert self._socket is not None
        try:
            data = self._socket.recv(CHUNK)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:  # it was closed with something of ours unread
            data = b""
        if not data:
            self._break(LOST)
        return data or None

    def _take(self, found: zmtp.Message | zmtp.Command) -> None:
        if isinstance(found, zmtp.Command):
            self._obey(found)
        elif self._early is not None:
            raise zmtp.ProtocolError("a message came before READY")
        else:
            self._unfinished.release(self)
            self._receive(found)

    def _obey(self, command: zmtp.Command) -> None:
        if command.name == b"READY" and self._early is not None:
            zmtp.check_ready(self._kind, command.data)
            assert self._decoder.version is not None
            early, self._early = self._early, None
            if self._kind == "SUB":
                self._outbox.add([zmtp.subscription(self._decoder.version)])
            self._outbox.add(early)
        elif command.name == b"ERROR":
            raise zmtp.ProtocolError("it answered with an error")
        elif self._early is not None:
            raise zmtp.ProtocolError("a command came before READY")
        elif command.name == b"PING" and not self._outbox.size:
            self._outbox.add([zmtp.pong(command.data)])

    def _stalled(self) -> None:
        self._break(STALLED)

    def _break(self, why: str) -> None:
        if not self._closed:
            self.close()
            self._broken(why)


class Channels:
    """The four of one kernel. What cannot be believed is dropped and counted.

    Shell, control and stdin have one identity, by which a kernel knows whom to ask for input.
    `on_broken` is called with the reason in words when one of them cannot be used any more. The
    others are left open: a process that ends closes one after the other, the last words last.
    """

    def __init__(
        self,
        connection: Connection,
        on_shell: Deliver,
        on_iopub: Deliver,
        on_control: Deliver,
        on_stdin: Deliver,
        on_broken: Callable[[str], None],
        unfinished: Unfinished | None = None,
    ) -> None:
        self._wire = Wire(connection.key)
        self._on_broken = on_broken
        self._unfinished = unfinished
        self.dropped = 0
        self._unpacking: set[asyncio.Task[None]] = set()
        identity = secrets.token_hex(16).encode()
        self.iopub = self._channel("SUB", identity, on_iopub)
        self.shell = self._channel("DEALER", identity, on_shell)
        self.control = self._channel("DEALER", identity, on_control, CONTROL_BYTES)
        self.stdin = self._channel("DEALER", identity, on_stdin, SMALL_BYTES)
        self._all = (self.iopub, self.shell, self.control, self.stdin)
        named = zip(("iopub", "shell", "control", "stdin"), self._all, strict=True)
        self._unopened = [(channel, connection.path(name)) for name, channel in named]
        self._retry: asyncio.TimerHandle | None = None
        self._open()

    def request(
        self,
        channel: Channel,
        kind: str,
        content: JsonObject,
        metadata: JsonObject | None = None,
    ) -> str:
        """Send a request; the id by which its answers name it."""
        request_id, parts = self._wire.pack(kind, content, metadata)
        channel.send(parts)
        return request_id

    def close(self) -> None:
        """Give the sockets back; a second call is nothing."""
        if self._retry is not None:
            self._retry.cancel()
        for task in self._unpacking:
            task.cancel()
        for channel in self._all:
            channel.close()

    def drop(self, why: str) -> None:
        """Count a message that makes no sense. The 1st, 2nd, 4th, 8th … are logged."""
        self.dropped += 1
        if self.dropped & (self.dropped - 1) == 0:
            log.warning("messages of a kernel dropped", extra={"count": self.dropped, "why": why})

    def _open(self) -> None:
        """Connect to what the kernel has bound by now, one after the other; look again later."""
        self._retry = None
        while self._unopened:
            channel, path = self._unopened[0]
            connection = self._connected(path)
            if connection is None:
                return
            del self._unopened[0]
            channel.open(connection)

    def _connected(self, path: Path) -> socket.socket | None:
        try:
            return sockets.connect(path)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            self._retry = asyncio.get_running_loop().call_later(RETRY, self._open)
        except OSError as error:
            log.warning("a kernel's socket is none", extra={"why": str(error)})
            self._break(f"{BROKEN}: something else lies in the place of its sockets")
        return None

    def _channel(
        self,
        kind: zmtp.Kind,
        identity: bytes,
        deliver: Deliver,
        most: int | None = None,
    ) -> Channel:
        def receive(parts: zmtp.Message) -> None:
            self._unpack(channel, deliver, parts)

        channel = Channel(kind, identity, receive, self._break, most, self._unfinished)
        return channel

    def _unpack(self, channel: Channel, deliver: Deliver, parts: zmtp.Message) -> None:
        if is_long(parts):
            channel.hold()
            task = asyncio.create_task(self._unpack_long(channel, deliver, parts))
            self._unpacking.add(task)
            task.add_done_callback(self._unpacking.discard)
            return
        try:
            message = self._wire.unpack(parts)
        except BrokenMessage as problem:
            self.drop(str(problem))
        else:
            deliver(message)

    async def _unpack_long(self, channel: Channel, deliver: Deliver, parts: zmtp.Message) -> None:
        """In small steps: a message of 60 MB would stop everything else for half a second."""
        try:
            message = await run_cooperatively(self._wire.unpacking(parts))
        except BrokenMessage as problem:
            self.drop(str(problem))
        else:
            deliver(message)
        finally:
            channel.release()

    def _break(self, why: str) -> None:
        # Never from within the constructor or a call of ours.
        asyncio.get_running_loop().call_soon(self._on_broken, why)
