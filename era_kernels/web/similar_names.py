"""Finds the known name that a caller meant by another one, where that is clear."""

from __future__ import annotations

import re
from collections.abc import Collection
from difflib import SequenceMatcher

MIN_LIKENESS = 0.75  # share of the characters of both names that stand in both, in order
AS_LIKELY = 0.1  # difference of shares that tells nothing
MIN_PART = 4  # characters of a word, or of the beginning of one, that stand for a whole name

_WORDS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+")


def fold(name: str) -> str:
    """Returns what two spellings of a name have in common: the case, `_` and `-` do not count.

    >>> fold("timeout_ms") == fold("timeoutMs")
    True
    """
    return name.lower().replace("_", "").replace("-", "")


def find_similar(name: str, known: Collection[str]) -> str | None:
    """Returns the known name that is spelt almost like this one, else the one that shares a word.

    None where there is none, or several are as likely: a wrong guess is worse than none.

    >>> find_similar("langauge", ["language", "limits"]), find_similar("cmd", ["command", "cwd"])
    ('language', None)
    >>> find_similar("timeout", ["default_timeout", "ttl"])
    'default_timeout'
    """
    likeness = {one: SequenceMatcher(None, fold(name), fold(one)).ratio() for one in known}
    least = max(MIN_LIKENESS, max(likeness.values(), default=0.0) - AS_LIKELY)
    near = [
        one for one, ratio in likeness.items() if ratio >= least and fold(one)[:1] == fold(name)[:1]
    ]
    found = near or [one for one in known if _is_part(name, one)]
    return found[0] if len(found) == 1 else None


def _is_part(name: str, known: str) -> bool:
    """Returns whether one of the names is made of words of the other, or is its beginning."""
    if fold(known).startswith(fold(name)) and len(name) >= MIN_PART:
        return True
    words, known_words = _words(name), _words(known)
    return _holds(known_words, words) or _holds(words, known_words)


def _holds(words: list[str], part: list[str]) -> bool:
    """Returns whether some neighbouring words are this part, which is long enough to tell."""
    starts = range(len(words) - len(part) + 1)
    is_long = len("".join(part)) >= MIN_PART
    return is_long and any(words[start : start + len(part)] == part for start in starts)


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(name)]
