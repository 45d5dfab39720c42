"""The namespaces of KV, D1 and R2: their names, scopes and quotas, and what types are in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Self, cast

NAMESPACE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NAMESPACE_RULE = (
    "must be 1 to 64 letters, digits, dots, underscores and hyphens, "
    "and begin with a letter or a digit"
)


class ResourceType(StrEnum):
    """The types of stored resources; `DO` is a session."""

    KV = "kv"
    D1 = "d1"
    R2 = "r2"
    DO = "do"


@dataclass(frozen=True, slots=True)
class StorageQuotas:
    """Bounds what KV, D1 and R2 hold together, in bytes; None means no bound."""

    server: int | None = None
    namespace: int | None = None


SCOPE_WORDS = ("all", "none")
MAX_SCOPE_PATTERNS = 256
SCOPE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}|([A-Za-z0-9][A-Za-z0-9._-]{0,62})?\*")


@dataclass(frozen=True, slots=True)
class StorageScope:
    """Names the namespaces that the code of a session may use.

    `value` is "all", "none" or patterns, as the caller wrote them. A pattern is a namespace, or a
    beginning followed by `*`. Made by `parse`, which checks them.

    >>> StorageScope.parse(["app", "tmp-*"]).allows("tmp-1")
    True
    """

    value: Literal["all", "none"] | tuple[str, ...]

    @classmethod
    def parse(cls, value: str | Sequence[str]) -> Self:
        """Returns the scope. Raises ValueError with the rule, as a phrase after the name."""
        if isinstance(value, str):
            if value not in SCOPE_WORDS:
                raise ValueError('must be "all", "none" or a list of patterns')
            return cls(cast(Literal["all", "none"], value))
        if len(value) > MAX_SCOPE_PATTERNS:
            raise ValueError(f"must have at most {MAX_SCOPE_PATTERNS} patterns")
        for number, pattern in enumerate(value, start=1):
            if not SCOPE_PATTERN.fullmatch(pattern):
                raise ValueError(
                    "must have patterns that are namespaces, or beginnings of namespaces followed "
                    f"by *, which number {number} is not"
                )
        return cls(tuple(value))

    def allows(self, namespace: str) -> bool:
        """Returns whether the code may use this namespace."""
        if isinstance(self.value, str):
            return self.value == "all"
        return any(
            namespace.startswith(pattern[:-1]) if pattern.endswith("*") else namespace == pattern
            for pattern in self.value
        )

    def to_json(self) -> Literal["all", "none"] | list[str]:
        """Returns the scope as callers write it."""
        return self.value if isinstance(self.value, str) else list(self.value)


ALL_STORAGE = StorageScope("all")
