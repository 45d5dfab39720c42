"""Splits source text into lines as Python's own parser does."""

from __future__ import annotations


def normalize(source: str) -> str:
    r"""Returns the text as the parser reads it: without a byte order mark, lines ended by `\n`."""
    source = source.removeprefix("\ufeff")
    return source.replace("\r\n", "\n").replace("\r", "\n") if "\r" in source else source


def split_lines(source: str) -> list[str]:
    r"""Returns the lines of normalized text, each with its `\n`; the last one gets it, too.

    `str.splitlines` would end lines also at form feeds and at separators that Python reads over.
    """
    lines = source.split("\n")
    if not lines[-1]:
        del lines[-1]
    return [line + "\n" for line in lines]
