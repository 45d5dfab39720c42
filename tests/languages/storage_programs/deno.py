"""Deno's programs for the table of the storage SDK: TypeScript's, with the names of Deno."""

from __future__ import annotations

from tests.languages.storage_programs.typescript import PROGRAMS as TYPESCRIPT

CHANGES = {
    'from "era_storage";\n': (
        'from "era_storage";\n'
        'import { createHash } from "node:crypto";\nimport { Buffer } from "node:buffer";\n'
    ),
    'require("crypto").createHash': "createHash",
    "process.env.ARGUMENTS": 'Deno.env.get("ARGUMENTS")!',
}
PROGRAMS = TYPESCRIPT.translated("deno", CHANGES)
