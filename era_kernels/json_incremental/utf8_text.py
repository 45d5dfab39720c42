"""Keeps a text of many megabytes as UTF-8: one emoji makes a string take four bytes a character."""

from __future__ import annotations

from collections.abc import Iterator

LONG_TEXT_BYTES = 4 * 1024 * 1024  # bytes from which a parsed text is kept so


class Utf8Pieces:
    """Pieces of UTF-8, each of whole characters."""

    __slots__ = ("_pieces", "_size")

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self._size = sum(map(len, pieces))

    def __len__(self) -> int:
        """The bytes of all."""
        return self._size


class Utf8Text(Utf8Pieces):
    """A text in pieces; stands in the place of a string."""

    __slots__ = ()

    def __str__(self) -> str:
        """The whole text as a string, which may take four times as much."""
        return b"".join(self._pieces).decode()

    def __eq__(self, other: object) -> bool:
        return str(self) == str(other) if isinstance(other, str | Utf8Text) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def start(self, max_chars: int) -> str:
        """Returns the first characters, or all."""
        found, length = [], 0
        for text in self.texts():
            if length >= max_chars:
                break
            found.append(text)
            length += len(text)
        return "".join(found)[:max_chars]

    def texts(self) -> Iterator[str]:
        """Yields the pieces as strings."""
        return map(bytes.decode, self._pieces)

    def pieces(self) -> Iterator[bytes]:
        """Yields the pieces."""
        return iter(self._pieces)
