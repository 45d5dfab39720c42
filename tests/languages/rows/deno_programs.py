"""Rows about what programs of Deno do, with the programs themselves."""

from __future__ import annotations

from tests.client import SessionClient
from tests.languages.rows.table_rows import check, program_row, row

DENO = ("deno",)

program_row(
    "deno_exits",
    "`Deno.exit` and `process.exit` end the run, wherever they are called; `Deno.exitCode` counts.",
    DENO,
    ("let stays = 5; Deno.exit(3); console.log('never')", "", 3),
    ("import process from 'node:process'; setTimeout(() => process.exit(4), 1)", "", 4),
    ("Deno.exitCode = 6; console.log(stays)", "5\n", 6),
)
program_row(
    "deno_writers",
    "What is written by `Deno.stdout`, by `process.stdout` and by children stands in order.",
    DENO,
    (
        (
            "const encoder = new TextEncoder()\n"
            "console.log('a'); await Deno.stdout.write(encoder.encode('b\\n'))\n"
            "Deno.stdout.writeSync(encoder.encode('c\\n'))\n"
            "await new Deno.Command('echo', { args: ['d'], stdout: 'inherit' }).output()\n"
            "const piped = await new Deno.Command('echo', { args: ['e'] }).output()\n"
            "console.log(new TextDecoder().decode(piped.stdout).trim())\n"
            "process.stdout.write('f\\n')"
        ),
        "a\nb\nc\nd\ne\nf\n",
    ),
)
program_row(
    "deno_main_module",
    "A program is the main module.",
    DENO,
    (
        "console.log(import.meta.main, import.meta.url === Deno.mainModule, Deno.args)",
        "true true []\n",
    ),
)
program_row(
    "deno_no_input",
    "`prompt` is null when nobody answers.",
    DENO,
    ("console.log(prompt('name?'))", "null\n"),
)
program_row(
    "deno_uncaught",
    "An uncaught error of asynchronous code ends the run with 1 and its text.",
    DENO,
    ("setTimeout(() => { throw new Error('in a timer') }, 1)", "", 1),
    ("queueMicrotask(() => { throw new TypeError('in a microtask') })", "", 1),
    ("Promise.reject(new Error('rejected'))", "", 1),
    ("console.log('next')", "next\n"),
)
program_row(
    "deno_serve",
    "A server of `Deno.serve` answers in its run, and lives on after it.",
    DENO,
    (
        (
            "const server = Deno.serve({ port: 0, hostname: '127.0.0.1', onListen() {} },\n"
            "  () => new Response('served'))\n"
            "const { port } = server.addr\n"
            "console.log(await (await fetch(`http://127.0.0.1:${port}/`)).text())"
        ),
        "served\n",
    ),
    ("console.log(await (await fetch(`http://127.0.0.1:${port}/`)).text())", "served\n"),
    ("await server.shutdown()", ""),
)
program_row(
    "deno_permissions",
    "A permission that was revoked stays so: `ffi`, and what a program revokes by itself.",
    DENO,
    (
        (
            "console.log((await Deno.permissions.query({ name: 'ffi' })).state)\n"
            "console.log((await Deno.permissions.request({ name: 'ffi' })).state)"
        ),
        "prompt\ndenied\n",
    ),
    ("Deno.dlopen('libc.so.6', {})", "", 1),
)


@row(leaves_nothing=True, languages=DENO)
def deno_error_texts(session: SessionClient) -> None:
    """The text of an uncaught error is that of plain Deno, with the user's own line."""
    answer = session.run("const first = 1\nthrow new RangeError('out of it')")
    check(answer, exit_code=1, stdout="")
    assert answer["stderr"].startswith("error: Uncaught"), answer
    assert "RangeError: out of it" in answer["stderr"], answer
    assert ":2:7" in answer["stderr"], answer
