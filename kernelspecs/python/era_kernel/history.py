"""Remembers the code of this kernel's own runs, for clients that ask for its history."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

MAX_ENTRIES = 1000  # runs that are remembered
MAX_CHARS = 1024 * 1024  # characters of all of them, what they gave included
SESSION = 1  # the number of the session: earlier ones are not remembered

Content = dict[str, Any]


@dataclass(slots=True)
class HistoryEntry:
    """One run: its number, its code, and the text of the value of its last expression."""

    number: int
    source: str
    output: str | None = None

    def count_chars(self) -> int:
        return len(self.source) + len(self.output or "")


class History:
    """Keeps the newest runs within both bounds; the oldest go first."""

    def __init__(self) -> None:
        self._entries: deque[HistoryEntry] = deque()
        self._size = 0

    def add(self, number: int, source: str) -> None:
        """Adds a run that begins."""
        self._entries.append(HistoryEntry(number, source))
        self._size += len(source)
        self._drop_oldest()

    def set_output(self, number: int, text: object) -> None:
        """Remembers what the newest run gave, when it has that number."""
        if self._entries and self._entries[-1].number == number and isinstance(text, str):
            entry = self._entries[-1]
            self._size -= entry.count_chars()
            entry.output = text
            self._size += entry.count_chars()
            self._drop_oldest()

    def answer(self, content: Content) -> Content:
        """Returns the reply to a `history_request`; entries are in the order of the runs.

        Raises ValueError for a kind of access that there is not.
        """
        kind = content.get("hist_access_type", "tail")
        if kind == "tail":
            found = self._tail(content.get("n"))
        elif kind == "range":
            found = self._range(content)
        elif kind == "search":
            found = self._search(content)
        else:
            raise ValueError(f"{kind!r} is no kind of access to the history")
        with_output = bool(content.get("output", False))
        return {"status": "ok", "history": [_to_item(entry, with_output) for entry in found]}

    def _tail(self, n: Any) -> Iterable[HistoryEntry]:
        entries = list(self._entries)
        return entries if n is None else entries[max(len(entries) - max(int(n), 0), 0) :]

    def _range(self, content: Content) -> Iterable[HistoryEntry]:
        """Returns the runs from `start` to before `stop`; session 0 is this one."""
        if content.get("session") not in (None, 0, SESSION):
            return []
        start, stop = int(content.get("start") or 0), content.get("stop")
        return [
            entry
            for entry in self._entries
            if start <= entry.number and (stop is None or entry.number < int(stop))
        ]

    def _search(self, content: Content) -> Iterable[HistoryEntry]:
        """Returns the newest `n` runs whose code matches the pattern, as file names do."""
        pattern = content.get("pattern")
        found = self._matching("*" if pattern is None else str(pattern))
        if content.get("unique", False):
            found = _unique(found)
        n = content.get("n")
        return list(islice(found, None if n is None else max(int(n), 0)))[::-1]

    def _matching(self, pattern: str) -> Iterator[HistoryEntry]:
        return (entry for entry in reversed(self._entries) if fnmatchcase(entry.source, pattern))

    def _drop_oldest(self) -> None:
        while self._entries and (len(self._entries) > MAX_ENTRIES or self._size > MAX_CHARS):
            self._size -= self._entries.popleft().count_chars()


def _unique(entries: Iterable[HistoryEntry]) -> Iterator[HistoryEntry]:
    """Yields each code once: the first of its entries."""
    seen: set[str] = set()
    for entry in entries:
        if entry.source not in seen:
            seen.add(entry.source)
            yield entry


def _to_item(entry: HistoryEntry, with_output: bool) -> list[Any]:
    shown: Any = [entry.source, entry.output] if with_output else entry.source
    return [SESSION, entry.number, shown]
