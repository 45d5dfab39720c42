"""The words that KV, D1 and R2 share: types of resources, names of namespaces, quotas."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

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
