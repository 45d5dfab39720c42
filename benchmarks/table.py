"""Formats the table that a benchmark prints: one line for each figure."""

from __future__ import annotations

from dataclasses import dataclass

MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class Row:
    """One line of the table. A row without a target informs only."""

    label: str
    figure: str
    target: str = ""
    is_reached: bool = True

    def __str__(self) -> str:
        verdict = "" if not self.target else ("ok" if self.is_reached else "MISSED")
        return f"{self.label:<58} {self.figure:>26}  {self.target:<24} {verdict}".rstrip()


def ms(seconds: float) -> str:
    """Formats seconds as milliseconds, to be read by people."""
    return f"{seconds * 1000:.1f} ms"
