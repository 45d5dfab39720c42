"""Deno's programs for the table of the storage SDK: TypeScript's, with the names of Deno."""

from __future__ import annotations

from dataclasses import fields, replace

from tests.languages.storage_programs.typescript import PROGRAMS as TYPESCRIPT

CHANGES = {
    'from "era_storage";\n': (
        'from "era_storage";\n'
        'import { createHash } from "node:crypto";\nimport { Buffer } from "node:buffer";\n'
    ),
    'require("crypto").createHash': "createHash",
    "process.env.ARGUMENTS": 'Deno.env.get("ARGUMENTS")!',
}


def _of_deno(program: str) -> str:
    for old, new in CHANGES.items():
        program = program.replace(old, new)
    return program


PROGRAMS = replace(
    TYPESCRIPT,
    **{
        one.name: _of_deno(getattr(TYPESCRIPT, one.name))
        for one in fields(TYPESCRIPT)
        if one.name not in ("column", "language", "kernel")
    },
    column="deno",
    language="deno",
)
