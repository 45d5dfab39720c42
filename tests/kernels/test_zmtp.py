"""The codec: what one side writes the other reads, cut anywhere; what is wrong is refused."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from era_kernels.kernels import zmtp
from era_kernels.kernels.zmtp import Decoder, ProtocolError, ZmtpCommand

Found = list[bytes] | ZmtpCommand

bodies = st.one_of(
    st.binary(max_size=20),
    st.integers(250, 260).map(bytes),
    st.integers(8190, 8195).map(lambda size: b"x" * size),
)
messages = st.lists(bodies, min_size=1, max_size=10)
commands = st.builds(ZmtpCommand, st.binary(min_size=1, max_size=20), st.binary(max_size=300))


def encoded(items: Iterable[Found]) -> bytes:
    return b"".join(
        zmtp.command(item.name, item.data)
        if isinstance(item, ZmtpCommand)
        else b"".join(zmtp.message(item))
        for item in items
    )


def read(decoder: Decoder, chunks: Iterable[bytes]) -> list[Found]:
    """All that the chunks mean."""
    found: list[Found] = []
    for chunk in chunks:
        decoder.feed(chunk)
        while (item := decoder.next()) is not None:
            found.append(item if isinstance(item, ZmtpCommand) else [bytes(part) for part in item])
    return found


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    stops = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(stops)]


@given(st.lists(st.one_of(messages, commands), max_size=10), st.lists(st.integers(0), max_size=20))
def test_what_is_written_is_read(items: list[Found], places: list[int]) -> None:
    """Messages and commands come as they were sent, wherever their bytes were cut."""
    data = zmtp.greeting() + encoded(items)
    decoder = Decoder()
    assert read(decoder, cut(data, places)) == items
    assert decoder.version == (3, 1)


@given(messages, commands)
def test_bytes_one_by_one(message: list[bytes], command: ZmtpCommand) -> None:
    """The same when every byte comes alone."""
    data = zmtp.greeting() + encoded([message, command, message])
    assert read(Decoder(), (data[n : n + 1] for n in range(len(data)))) == [
        message, command, message,
    ]  # fmt: skip


@given(st.lists(st.binary(max_size=40)), st.booleans())
def test_any_bytes_are_read_or_refused(chunks: list[bytes], greeted: bool) -> None:
    """Nothing but ProtocolError comes of what makes no sense."""
    decoder = Decoder()
    try:
        read(decoder, [zmtp.greeting()] * greeted + chunks)
    except ProtocolError:
        return


@given(st.binary(max_size=200))
def test_any_metadata_is_read_or_refused(data: bytes) -> None:
    """The same of READY's metadata."""
    try:
        zmtp.check_ready("SUB", data)
    except ProtocolError:
        return


def test_commands_may_come_between_parts() -> None:
    """A PING between two parts of a message leaves the message whole."""
    data = zmtp.frame(b"a", zmtp.MORE) + zmtp.command(b"PING", b"\0\0x") + zmtp.frame(b"b")
    assert read(Decoder(), [zmtp.greeting(), data]) == [
        ZmtpCommand(b"PING", b"\0\0x"),
        [b"a", b"b"],
    ]
    assert zmtp.pong(b"\0\0x") == zmtp.command(b"PONG", b"x")


@pytest.mark.parametrize(
    "data",
    [
        b"\x00",
        b"HTTP/1.1 400 Bad Request",
        b"\xff" + bytes(8) + b"\x00",
        b"\xff" + bytes(8) + b"\x7f\x01",
        zmtp.greeting().replace(b"NULL", b"PLAIN")[:64],
    ],
)
def test_wrong_greetings_are_refused(data: bytes) -> None:
    """Other protocols, old versions and security mechanisms, as soon as they show."""
    with pytest.raises(ProtocolError):
        read(Decoder(), [data])


@pytest.mark.parametrize(
    "data",
    [
        b"\x08\x00",  # a flag that is reserved
        b"\x05\x01\x00",  # a command that goes on
        b"\x04\x00",  # a command without a name
        b"\x04\x02\x05a",  # a name that is longer than its command
        b"\x04\x01\x00",
        b"\x06" + (8193).to_bytes(8),  # a command that is too long
        b"\x02" + (2**63).to_bytes(8),
        b"\x02" + (128 * 1024 * 1024 + 1).to_bytes(8),
        b"\x01\x00" * 64 + b"\x00\x00",
    ],
)
def test_wrong_frames_are_refused(data: bytes) -> None:
    """Flags that mean nothing, messages of too many parts or bytes: when the head is here."""
    with pytest.raises(ProtocolError):
        read(Decoder(), [zmtp.greeting(), data])


def test_too_many_bytes_are_refused() -> None:
    """The same of frames that are short enough, but too long together."""
    part = b"\x03" + (64 * 1024 * 1024).to_bytes(8) + bytes(64 * 1024 * 1024)
    with pytest.raises(ProtocolError):
        read(Decoder(), [zmtp.greeting(), part * 2 + b"\x00\x01"])


def test_the_longest_message_is_read() -> None:
    """As many parts and bytes as a message may have."""
    parts = [b"x"] * 63 + [bytes(1000)]
    assert read(Decoder(1063), [zmtp.greeting(), encoded([parts, parts])]) == [parts, parts]
    with pytest.raises(ProtocolError, match="more than 0 MiB"):
        read(Decoder(1062), [zmtp.greeting(), encoded([parts])])


def test_announced_bytes_take_no_memory() -> None:
    """A frame of 100 MiB of which little has come takes little."""
    decoder = Decoder()
    read(decoder, [zmtp.greeting()])
    tracemalloc.start()
    read(decoder, [b"\x02" + (100 << 20).to_bytes(8) + b"x" * 1000])
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def test_ready_names_type_and_identity() -> None:
    """READY is read by its other end, whatever the case of its names; a wrong type is refused."""
    data = read(Decoder(), [zmtp.greeting(), zmtp.ready("DEALER", b"me")])
    assert data == [
        ZmtpCommand(b"READY", b"\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\x02me")
    ]  # fmt: skip
    zmtp.check_ready("DEALER", b"\x0bSOCKET-type\0\0\0\x06ROUTER")
    for wrong in (b"", b"\x0bSocket-Type\0\0\0\x03PUB", b"\x0bSocket-Type\0\0\0\x09ROUTER"):
        with pytest.raises(ProtocolError):
            zmtp.check_ready("DEALER", wrong)


def test_subscriptions_follow_the_version() -> None:
    """A command for 3.1, a message before."""
    assert zmtp.subscription((3, 0)) == b"\x00\x01\x01"
    assert zmtp.subscription((3, 1)) == b"\x04\x0a\x09SUBSCRIBE"
