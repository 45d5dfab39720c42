"""What one language brings to the table of the storage SDK: programs that take their arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, kw_only=True)
class StoragePrograms:
    """Programs of one kernel.

    Each finds its arguments in the variable `ARGUMENTS`, a list in JSON, and prints JSON. Bytes are
    hexadecimal in both, and so are integers texts.
    """

    column: str
    language: str
    kernel: str | None = None
    kv_set: str  # namespace, key, value, metadata: prints true
    kv_get: str  # namespace, keys: prints a list of the values, null for each that is not there
    kv_list: str  # namespace, prefix, limit: prints a list of [name, metadata]
    kv_delete: str  # namespace, key: prints true
    d1_exec: str  # namespace, SQL, text, bytes, integer (all three parameters): prints `changes`
    d1_query: str  # namespace, SQL for columns t, b, i: prints a list of [text, bytes, integer]
    r2_put: str  # namespace, key, bytes, how often they are repeated, metadata: prints true
    r2_get: str  # namespace, keys: prints a list of SHA-256 in hexadecimal, null where is nothing
    r2_list: str  # namespace: prints a list of [key, size]
    r2_delete: str  # namespace, key: prints true
    # namespace: gets a key, and prints the error's code, its status, and "kv get failed" when the
    # error's text begins with that, whatever the case of its letters
    fails: str
    at_once: str  # namespace, number: sets so many keys at the same time, each to its own name

    def translated(self, column: str, changes: Mapping[str, str]) -> StoragePrograms:
        """Returns the programs of a language that differs by these texts."""
        programs = {}
        for name in (one.name for one in fields(self)[3:]):
            program = getattr(self, name)
            for old, new in changes.items():
                program = program.replace(old, new)
            programs[name] = program
        return replace(self, column=column, language=column, **programs)
