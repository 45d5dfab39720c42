"""Keeps a JSON value as its text: a million empty arrays take 3 MB as text, and 72 as values."""

from __future__ import annotations

from collections.abc import Iterator

from era_kernels.json_incremental.utf8_text import Utf8Pieces


class EncodedJson(Utf8Pieces):
    """A JSON value in pieces of its text; stands in the place of the value.

    `iterencode` puts the text where the value would be.
    """

    __slots__ = ()

    def texts(self) -> Iterator[str]:
        """Yields the pieces as strings."""
        return (piece.decode("utf-8", "surrogatepass") for piece in self._pieces)
