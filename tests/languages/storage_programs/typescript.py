"""TypeScript's programs for the table of the storage SDK: JavaScript's, with types."""

from __future__ import annotations

from tests.languages.storage_programs.node import PROGRAMS as NODE

CHANGES = {
    'const { kv, d1, r2, StorageError } = require("era_storage")': (
        'import { kv, d1, r2, StorageError } from "era_storage"'
    ),
    "(bytes) =>": "(bytes: Uint8Array): string =>",
    "(one) => one &&": "(one: Uint8Array | null) => one &&",
    "const a =": "const a: any[] =",
    "(error) =>": "(error: StorageError) =>",
    "const found =": "const found: any[] =",
    "function* pieces()": "function* pieces(): AsyncGenerator<Uint8Array>",
}
PROGRAMS = NODE.translated("typescript", CHANGES)
