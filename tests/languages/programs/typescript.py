"""TypeScript's programs for the conformance table: JavaScript's, with types."""

from __future__ import annotations

from dataclasses import replace

from tests.languages.programs.node import PROGRAMS as NODE

PROGRAMS = replace(
    NODE,
    column="typescript",
    language="typescript",
    set_state="let x: number = 41",
    fail='let y: number = 1;\n\nthrow new Error("boom")',
    syntax_error="let a: number = 1;\nlet b: number = );",
    module_name="fresh.ts",
    module_text="export const VALUE: number = {value};\n",
    import_module='import { VALUE } from "./fresh";\nconsole.log(VALUE)',
    write_module=(
        'import * as fs from "fs";\n'
        'fs.writeFileSync("fresh.ts", "export const VALUE: number = {value};")'
    ),
    take_memory=(
        "let taken: Buffer[] = [];\nwhile (true) {\n  taken.push(Buffer.alloc(50_000_000, 1));\n}"
    ),
    use_storage=(
        "import { kv } from 'era_storage';\nawait kv.set('shop', 'flavour', 'lemon');\n"
        "const found: string | null = await kv.get('shop', 'flavour');\nconsole.log(found)"
    ),
)
