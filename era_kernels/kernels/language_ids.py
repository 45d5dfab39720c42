"""Makes the id of a language of the name that a kernelspec gives it."""

from __future__ import annotations

import re
import unicodedata

_NOT_IN_IDS = re.compile(r"[^a-z0-9_+]+")


def language_id(name: str) -> str:
    """Returns the id of a language as the API writes it: lower case, without spaces; "" if none.

    >>> [language_id(name) for name in ("R", "C++17", "Wolfram Language", "C#", "Français")]
    ['r', 'c++17', 'wolfram-language', 'csharp', 'francais']
    """
    spelled = unicodedata.normalize("NFKD", name.replace("#", "sharp")).lower()
    ascii_only = spelled.encode("ascii", "ignore").decode()
    return _NOT_IN_IDS.sub("-", ascii_only).lstrip("-+_").rstrip("-_")
