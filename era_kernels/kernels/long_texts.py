"""Hands on the text of a long stream message in parts, as fast as they are taken.

One message may have a hundred megabytes, and with one emoji a string takes four bytes for each
character. As UTF-8 it waits in no more memory than it came in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from era_kernels.json_incremental import Utf8Text
from era_kernels.kernels.wire_protocol import Message

PART_BYTES = 256 * 1024  # bytes of text in a part, or a little more


def split_long_text(message: Message) -> Iterator[Message]:
    """Yields a message, or in the place of a stream message with a long text several of them."""
    text = message.content.get("text")
    if message.msg_type != "stream" or not isinstance(text, Utf8Text):
        yield message
        return
    found: list[str] = []
    size = 0
    for piece in text.pieces():
        found.append(piece.decode())
        size += len(piece)
        if size >= PART_BYTES:
            yield _part(message, found, size)
            found, size = [], 0
    if found:
        yield _part(message, found, size)


def _part(message: Message, texts: list[str], size: int) -> Message:
    content = type(message.content)(message.content, text="".join(texts))
    return replace(message, content=content, size=size)
