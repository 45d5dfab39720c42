"""Connection files and signed messages, read by jupyter_client and written by it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.session import DELIM, Session

from era_kernels.concurrency.cooperative import run_in_slices
from era_kernels.json_incremental import EncodedJson
from era_kernels.kernels.wire_protocol import (
    MAX_HEADER_BYTES,
    MAX_VALUES,
    ConnectionInfo,
    InvalidMessage,
    MessageCodec,
    is_slow_to_unpack,
)

KEY = "a key"


def _pack_with_jupyter(kind: str = "stream", **content: object) -> list[bytes]:
    session = Session(key=KEY.encode())
    parent = session.msg("execute_request")
    message = session.msg(kind, content, parent=parent)
    return session.serialize(message, ident=b"topic")


def test_connection_file_is_what_jupyter_reads(tmp_path: Path) -> None:
    """jupyter_client finds the same addresses and key in the file, which only its owner reads."""
    connection = ConnectionInfo.new(tmp_path)
    connection.write_file()
    assert stat.S_IMODE(connection.file_in_sandbox.stat().st_mode) == 0o600
    client = BlockingKernelClient()
    client.load_connection_file(str(connection.file_in_sandbox))
    for channel in ("shell", "iopub", "stdin", "control", "hb"):
        assert client._make_url(channel) == connection.address(channel)
    assert client.session.key == connection.key.encode()


def test_separator_of_socket_names(tmp_path: Path) -> None:
    """A kernel that makes its addresses as URLs is connected to by the names that it makes."""
    connection = ConnectionInfo.new(tmp_path, separator=":")
    connection.write_file()
    content = json.loads(connection.file_in_sandbox.read_text())
    for channel in ("shell", "iopub", "stdin", "control", "hb"):
        port = content[f"{channel}_port"]
        address = f"{content['transport']}://{content['ip']}:{port}"
        assert connection.address(channel) == address


def test_connection_file_is_written_once(tmp_path: Path) -> None:
    """What lies in the way of a connection file is not followed and not overwritten."""
    connection = ConnectionInfo.new(tmp_path)
    connection.file_in_sandbox.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        connection.write_file()
    assert not (tmp_path / "elsewhere").exists()


def test_keys_are_of_their_own(tmp_path: Path) -> None:
    """No two connections share a key."""
    assert ConnectionInfo.new(tmp_path).key != ConnectionInfo.new(tmp_path).key


def test_request_is_what_jupyter_reads() -> None:
    """A packed request verifies and parses with the kernel's side of jupyter_client."""
    request_id, parts = MessageCodec(KEY).pack("execute_request", {"code": "é"}, {"era": {"n": 1}})
    session = Session(key=KEY.encode())
    _, rest = session.feed_identities(parts)
    message = session.deserialize(rest)
    assert message["header"]["msg_id"] == request_id
    assert message["content"] == {"code": "é"}
    assert message["metadata"] == {"era": {"n": 1}}


def test_message_of_jupyter_is_unpacked() -> None:
    """Type, parent and content of a message that jupyter_client made, with its size."""
    parts = _pack_with_jupyter(name="stdout", text="x")
    message = MessageCodec(KEY).unpack([*parts, b"a buffer"])
    assert message.msg_type == "stream"
    assert message.parent_id == json.loads(parts[4])["msg_id"]
    assert message.content == {"name": "stdout", "text": "x"}
    assert message.size == len(parts[-1])


def test_message_may_have_no_parent() -> None:
    """A message that answers no request has the empty parent."""
    session = Session(key=KEY.encode())
    parts = session.serialize(session.msg("status", {}))
    assert MessageCodec(KEY).unpack(parts).parent_id == ""


def test_bytes_that_are_no_utf8_become_replacement_characters() -> None:
    """A stream of any bytes is still a message."""
    wire, session = MessageCodec(KEY), Session(key=KEY.encode())
    body = [b'{"msg_type": "stream"}', b"{}", b"{}", b'{"text": "a\xff"}']
    assert wire.unpack([DELIM, session.sign(body), *body]).content == {"text": "a\ufffd"}


def test_numbers_that_json_lacks_are_null() -> None:
    """NaN and Infinity, which Python writes and JSON lacks, are read as null."""
    session = Session(key=KEY.encode())
    body = [b'{"msg_type": "x"}', b"{}", b"{}", b'{"a": NaN, "b": [-Infinity]}']
    assert MessageCodec(KEY).unpack([DELIM, session.sign(body), *body]).content == {
        "a": None,
        "b": [None],
    }


@pytest.mark.parametrize("position", range(7))
def test_changed_part_breaks_the_signature(position: int) -> None:
    """Every signed part is covered: a changed one is refused. The topic is nobody's concern."""
    parts = _pack_with_jupyter(name="stdout", text="x")
    parts[position] = parts[position] + b" "
    wire = MessageCodec(KEY)
    if position == 0:
        wire.unpack(parts)
    else:
        with pytest.raises(InvalidMessage):
            wire.unpack(parts)


def test_bombs_are_refused_and_long_texts_are_not() -> None:
    """Millions of tiny values are too many; the marks of JSON in a string are no values."""
    wire, session = MessageCodec(KEY), Session(key=KEY.encode())
    head = [b'{"msg_type": "stream"}', b"{}", b"{}"]
    bomb = [*head, b'{"a": [' + b"[]," * MAX_VALUES + b"[]]}"]
    with pytest.raises(InvalidMessage, match="too much"):
        run_in_slices(wire.unpack_stepwise([DELIM, session.sign(bomb), *bomb]))
    text = [*head, b'{"text": "' + b'[\\"],{' * MAX_VALUES + b'"}']
    found = run_in_slices(wire.unpack_stepwise([DELIM, session.sign(text), *text]))
    assert found.content == {"text": '["],{' * MAX_VALUES}


@pytest.mark.parametrize(
    ("msg_type", "is_encoded"),
    [("display_data", True), ("execute_result", True), ("execute_reply", False)],
)
def test_items_of_rich_outputs_are_kept_as_json(msg_type: str, is_encoded: bool) -> None:
    """Where they have many values; the server looks into other messages."""
    wire, session = MessageCodec(KEY), Session(key=KEY.encode())
    content = b'{"data": {"a": [' + b"[]," * 50_000 + b'1], "b": [1]}}'
    parts = [b'{"msg_type": "%b"}' % msg_type.encode(), b"{}", b"{}", content]
    found = run_in_slices(wire.unpack_stepwise([DELIM, session.sign(parts), *parts]))
    assert isinstance(found.content["data"]["a"], EncodedJson) is is_encoded
    assert found.content["data"]["b"] == [1]


def test_both_ways_to_unpack_are_one() -> None:
    """In one go or in steps: the same message, the same refusals."""
    wire = MessageCodec(KEY)
    for parts in (
        _pack_with_jupyter(name="stdout", text="x"),
        _pack_with_jupyter(a=[1.5, None, {"b": "é"}]),
    ):
        assert run_in_slices(wire.unpack_stepwise(parts)).size == wire.unpack(parts).size
        for position in range(1, 7):
            wrong = [*parts[:position], parts[position] + b"x", *parts[position + 1 :]]
            for unpack in (wire.unpack, lambda parts: run_in_slices(wire.unpack_stepwise(parts))):
                with pytest.raises(InvalidMessage):
                    unpack(wrong)
                with pytest.raises(InvalidMessage):
                    unpack(parts[:position])


def test_what_is_long() -> None:
    """Many bytes or many values, in whatever part; not the marks of JSON in a text."""
    assert not is_slow_to_unpack(_pack_with_jupyter(text="x,[{" * 50_000))
    assert is_slow_to_unpack(_pack_with_jupyter(text="x" * 300_000))
    assert is_slow_to_unpack(_pack_with_jupyter(data=[[]] * 6000))
    assert is_slow_to_unpack([b"{" * 6000, b""])
    assert is_slow_to_unpack([b'""' * 50_000 + b"," * 6000])
    assert not is_slow_to_unpack(_pack_with_jupyter(text='\\"",[{' * 8_000))


@pytest.mark.parametrize("length", range(7))
def test_missing_parts_are_refused(length: int) -> None:
    """A message that is too short is broken, not an error of ours."""
    with pytest.raises(InvalidMessage):
        MessageCodec(KEY).unpack(_pack_with_jupyter()[:length])


@pytest.mark.parametrize("part", ["header", "parent"])
def test_long_headers_are_refused(part: str) -> None:
    """A header names a message: one of megabytes would take many steps, and its name a long one."""
    wire = MessageCodec(KEY)
    long = b'{"msg_type": "stream", "a": "%b"}' % (b"x" * MAX_HEADER_BYTES)
    signed = [b"{}", b"{}", b"{}", b"{}"]
    signed[0 if part == "header" else 1] = long
    parts = [DELIM, b"", *signed]
    with pytest.raises(InvalidMessage, match="too long"):
        wire.unpack(parts)
    with pytest.raises(InvalidMessage, match="too long"):
        run_in_slices(wire.unpack_stepwise(parts))


def test_other_keys_are_refused() -> None:
    """A message signed with another kernel's key is no message."""
    with pytest.raises(InvalidMessage, match="signature"):
        MessageCodec("another key").unpack(_pack_with_jupyter())
