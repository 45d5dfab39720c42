"""Rows about what programs of JavaScript and of TypeScript do, with the programs themselves.

Each name is declared by one row only: the rows share a session.
"""

from __future__ import annotations

from itertools import product

from tests.client import SessionClient
from tests.languages.rows.table_rows import check, program_row, row

JAVASCRIPT = ("node", "typescript")
TYPESCRIPT = ("typescript",)
WITH_DENO = (*JAVASCRIPT, "deno")
TYPES_OF_BOTH = ("typescript", "deno")

DECLARATIONS = {
    "var": "var {name} = {value}",
    "let": "let {name} = {value}",
    "const": "const {name} = {value}",
    "function": "function {name}() {{ return {value} }}",
    "async function": "async function {name}() {{ return {value} }}",
    "class": "class {name} {{ static value = {value} }}",
    "import": "import {{ sep as {name} }} from 'node:path'",
}


@row(leaves_nothing=True, languages=WITH_DENO)
def redeclarations(session: SessionClient) -> None:
    """Every kind of declaration may follow every other: 49 pairs, one binding for functions."""
    for first, second in product(DECLARATIONS, repeat=2):
        name = f"name_{first}_{second}".replace(" ", "_")
        once = DECLARATIONS[first].format(name=name, value=1)
        again = DECLARATIONS[second].format(name=name, value=2)
        check(session.run(f"{once}\nvar see_{name} = () => {name}"), exit_code=0, stderr="")
        check(session.run(again), exit_code=0, stderr="")
        kind = "number" if second in ("var", "let", "const") else "function"
        kind = "string" if second == "import" else kind
        read = f"console.log(typeof {name}, see_{name}() === {name})"
        check(session.run(read), stdout=f"{kind} true\n", stderr="")


program_row(
    "shared_binding",
    "A closure and a later run share one binding, also of constants' objects and in `{ x }`.",
    WITH_DENO,
    ("let counter = 0; const add = () => ++counter; const thing = { a: 1 }", ""),
    ("add(); counter += 10; console.log(counter, add())", "11 12\n"),
    ("thing.a++", ""),
    ("console.log({ thing, counter })", "{ thing: { a: 2 }, counter: 12 }\n"),
)
program_row(
    "names_before_a_throw",
    "What a run has set before an uncaught error is there in the next run.",
    WITH_DENO,
    ("var kept = 7\nlet alsoKept = 8\nthrow new Error('x')", "", 1),
    ("console.log(kept, alsoKept)", "7 8\n"),
)
program_row(
    "main_module",
    "A program is the main module, and has no arguments.",
    JAVASCRIPT,
    (
        "console.log(require.main === module, process.argv.length)",
        "true 2\n",
    ),
    ("console.log(typeof __filename, __dirname === process.cwd())", "string true\n"),
)
program_row(
    "import_forms",
    "Modules are had by every form of `require` and `import`: CommonJS, ECMAScript, JSON.",
    JAVASCRIPT,
    (
        (
            "const files = require('fs'); files.writeFileSync('form.cjs', 'exports.c = 1')\n"
            "files.writeFileSync('form.mjs', 'export const m = 2; export default 3')\n"
            "files.writeFileSync('form.json', '{\"j\": 4}')\n"
            "files.writeFileSync('formEsm.js', 'export const e = 5')"
        ),
        "",
    ),
    ("console.log(require('./form.cjs').c, require('./form.json').j)", "1 4\n"),
    (
        (
            "import three, { m } from './form.mjs'; import * as all from './form.mjs'\n"
            "import c from './form.cjs'; import { e } from './formEsm.js'\n"
            "import json from './form.json' with { type: 'json' }; import './form.mjs'\n"
            "console.log(three, m, all.m, c.c, e, json.j, (await import('./form.mjs')).m)"
        ),
        "3 2 2 1 5 4 2\n",
    ),
    ("console.log(typeof import.meta.url, m, three)", "string 2 3\n"),
)
program_row(
    "failed_import",
    "After an import that failed, the same import works when the package is there.",
    JAVASCRIPT,
    ("import later from 'later-package'", "", 1),
    (
        (
            "const place = 'node_modules/later-package/'\n"
            "require('fs').mkdirSync(place, { recursive: true })\n"
            "require('fs').writeFileSync(place + 'package.json', "
            '\'{"name":"later-package","type":"module","exports":"./i.js"}\')\n'
            "require('fs').writeFileSync(place + 'i.js', 'export default 42')"
        ),
        "",
    ),
    ("import later from 'later-package'; console.log(later)", "42\n"),
)
program_row(
    "npm_install",
    "A package that npm installs is imported by the next run.",
    JAVASCRIPT,
    (
        (
            "const files2 = require('fs'); files2.mkdirSync('source', { recursive: true })\n"
            "files2.writeFileSync('source/package.json', "
            '\'{"name":"by-npm","version":"1.0.0","type":"module","exports":"./i.js"}\')\n'
            "files2.writeFileSync('source/i.js', 'export const answer = 6')\n"
            "require('child_process').execSync('npm install --offline --no-audit --no-fund "
            "./source', "
            "{ stdio: 'ignore' })"
        ),
        "",
    ),
    ("import { answer } from 'by-npm'; console.log(answer)", "6\n"),
)
program_row(
    "write_with_callback",
    "`process.stdout.write` calls back.",
    JAVASCRIPT,
    ("process.stdout.write('a\\n', () => console.log('written')); null", "a\nwritten\n"),
)
program_row(
    "event_loop",
    "Timers, an async `main()`, `fetch` and children end inside the run.",
    JAVASCRIPT,
    ("setTimeout(() => console.log('timer'), 5); null", "timer\n"),
    (
        (
            "async function main() { await new Promise((r) => setTimeout(r, 5)); "
            "console.log('main') }\n"
            "main(); null"
        ),
        "main\n",
    ),
    (
        "fetch('data:text/plain,fetched').then((r) => r.text()).then((t) => console.log(t)); null",
        "fetched\n",
    ),
    (
        (
            "require('child_process').exec('sleep 0.05; echo child', "
            "(error, out) => console.log(out.trim())); null"
        ),
        "child\n",
    ),
)
program_row(
    "uncaught_in_callbacks",
    "An uncaught error of a timer and a rejection that nobody handles end the run with 1.",
    WITH_DENO,
    ("setTimeout(() => { throw new Error('late') }, 1); setTimeout(console.log, 20, 'no')", "", 1),
    ("Promise.reject(new Error('rejected')); setTimeout(console.log, 20, 'no')", "", 1),
    ("console.log('next')", "next\n"),
)
program_row(
    "exit_in_callbacks",
    "`process.exit` in a callback ends the run and its timers; `process.exitCode` is heeded.",
    WITH_DENO,
    ("setTimeout(() => process.exit(5), 1); setTimeout(console.log, 5, 'never')", "", 5),
    ("Promise.resolve().then(() => process.exit(6)); setTimeout(console.log, 5, 'never')", "", 6),
    ("process.exitCode = 7", "", 7),
    ("console.log('next')", "next\n"),
)
program_row(
    "loose_types",
    "JavaScript that a checker of types would refuse runs.",
    JAVASCRIPT,
    ("var loose = 1; loose = 'text'; loose.nothing; undeclared = 5\nnull", ""),
    (
        "console.log('5' * '2', loose, undeclared, {}.a)",
        "10 text 5 undefined\n",
    ),
)

# ---------------------------------------------------------------- TypeScript

program_row(
    "types_erased",
    "Annotations, generics, `satisfies` and `import type` are taken.",
    TYPES_OF_BOTH,
    (
        (
            "import type { Stats } from 'node:fs'\nlet typed: number = 1\n"
            "function same<T extends object>(value: T): T { return value }\n"
            "const table = { a: 1 } satisfies Record<string, number>\nlet stats: Stats | "
            "undefined\n"
            "console.log(typed, same<{ b: number }>({ b: 2 }).b, table.a, stats)"
        ),
        "1 2 1 undefined\n",
    ),
)
program_row(
    "types_with_code",
    "`enum`, `namespace` and parameter properties are taken, and are there in the next run.",
    TYPES_OF_BOTH,
    (
        (
            "enum Color { Red, Green = 4 }\nnamespace Space { export const inside = 3 }\n"
            "class Point { constructor(public x = 1, private y = 2) {} sum() { return "
            "this.x + this.y } }"
        ),
        "",
    ),
    ("console.log(Color.Green, Color[0], Space.inside, new Point().sum())", "4 Red 3 3\n"),
)
program_row(
    "decorators",
    "Decorators are called.",
    TYPES_OF_BOTH,
    (
        (
            "function mark(target: any, context: any) { console.log(context.kind, context.name) }\n"
            "@mark class Marked { @mark method() {} }\nnull"
        ),
        "method method\nclass Marked\n",
    ),
)
program_row(
    "unused_import",
    "An import that its cell does not use is there in the next run.",
    TYPES_OF_BOTH,
    ("import { basename } from 'node:path'", ""),
    ("console.log(basename('/a/b'))", "b\n"),
)
program_row(
    "type_errors",
    "A type error does not stop the program.",
    TYPES_OF_BOTH,
    ("let wrong: number = 'a text'; console.log(wrong)", "a text\n"),
)
program_row(
    "typed_modules",
    "`./x`, `./x.ts` and JSON with attributes are imported.",
    TYPESCRIPT,
    (
        (
            "import { writeFileSync } from 'fs'\n"
            "writeFileSync('typed.ts', 'export const v: number = 1')\n"
            "writeFileSync('typed.json', '{\"k\": 2}')"
        ),
        "",
    ),
    (
        (
            "import { v } from './typed'; import { v as w } from './typed.ts'\n"
            "import data from './typed.json' with { type: 'json' }\nconsole.log(v, w, data.k)"
        ),
        "1 1 2\n",
    ),
)
program_row(
    "using",
    "`using` disposes of what it declares.",
    TYPES_OF_BOTH,
    (
        (
            "{\n  using held = { [Symbol.dispose]() { console.log('disposed') } }\n"
            "  console.log('body')\n}\nnull"
        ),
        "body\ndisposed\n",
    ),
)
