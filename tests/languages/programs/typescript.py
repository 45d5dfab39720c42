"""TypeScript's programs for the conformance table."""

from __future__ import annotations

from dataclasses import replace

from tests.languages.programs import node

PROGRAMS = replace(
    node.PROGRAMS,
    column="typescript",
    language="typescript",
    set_state="let x: number = 41",
    use_state="console.log((x + 1) as number)",
    fail='const y: number = 1\n\nthrow new Error("boom" as string)',
    syntax_error="const a: number = 1\nconst b = (",
    module_name="fresh.ts",
    module_text="export const VALUE: number = {value}\n",
    write_module='require("fs").writeFileSync("fresh.ts", "export const VALUE: number = {value}")',
    import_module='import { VALUE } from "./fresh"\nconsole.log(VALUE)',
)
