"""Writes data to a descriptor as a whole, of which the system may take a part at a time."""

from __future__ import annotations

import os


def write_all(descriptor: int, data: bytes | bytearray) -> None:
    """Writes all data where the descriptor stands (blocking). Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_all_at(descriptor: int, data: bytes, offset: int) -> int:
    """Writes all data at an offset (blocking), and returns the offset after them. Raises OSError.

    A disk that fills up writes only a part before the error.
    """
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
    return offset
